"""Runs a teacher over the examples of a data set that a cache doesn't hold yet."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.checks import UserError
from keras_transformer.distillation.cache_parts import RecordedOutput
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.recordings import Layout, Recordings, Rows
from keras_transformer.distillation.teachers import (
    LONE_INPUT,
    RECORDED_LOGITS,
    RECORDED_MASK,
    RECORDED_TAP,
    Teacher,
    is_recorded,
    teacher_of,
)
from keras_transformer.distillation.top_k import TOP_K_IDS, keep_top_k


class Recorder(NamedTuple):
    """A teacher made ready to be recorded."""

    layout: Layout
    run: Callable[[Any], dict[str, tf.Tensor]]  # a batch's inputs -> what is kept of them


def recorder_of(
    teacher: keras.Model | Teacher,
    element_spec: Any,
    taps: tuple[str, ...],
    top_k: int | None,
    temperatures: tuple[float, ...],
    id_column: str | None,
) -> Recorder:
    """Trace the teacher's forward pass on batches of `element_spec` and say what of it is kept.

    An axis whose size the trace doesn't know is the token axis.

    Raises:
        TypeError: if the teacher has no fingerprint.
        ValueError: for an unknown tap, or a `top_k` that leaves no rest.
    """
    source = teacher_of(teacher)
    if not hasattr(source, "fingerprint"):
        raise TypeError(
            f"teacher={teacher!r} has no fingerprint() to tell it from another. Pass a keras.Model, or give it one: "
            "a string that changes whenever its outputs do."
        )
    spec = keras.utils.unpack_x_y_sample_weight(element_spec)[0]
    named = named_inputs(spec)
    read = source.reader(taps)
    signature = tf.nest.map_structure(lambda tensor: tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype), spec)

    @tf.function(input_signature=[signature])
    def run(x: Any) -> dict[str, tf.Tensor]:
        outputs = read(_without(x, id_column))
        return _kept(outputs, top_k, temperatures)

    shapes = run.get_concrete_function().structured_outputs
    outputs = [RecordedOutput(name, spec.dtype.name, tuple(spec.shape[1:])) for name, spec in shapes.items()]
    if all(len(output.shape) < 2 for output in outputs):  # nothing is kept a token
        outputs = [output for output in outputs if output.name != RECORDED_MASK]
    inputs = sorted(name for name in named if not is_recorded(name) and name != id_column)
    lengths = [name for name in inputs if len(named[name].shape) > 1 and named[name].shape[1] is None]
    layout = Layout(
        teacher=source.fingerprint(),
        taps=taps,
        top_k=top_k,
        temperatures=temperatures if top_k else (),
        id_column=id_column,
        inputs=(id_column,) if id_column else tuple(inputs),
        length_input=lengths[0] if lengths else None,
        outputs=tuple(outputs),
    )
    return Recorder(layout, run)


def _kept(outputs: Outputs, top_k: int | None, temperatures: tuple[float, ...]) -> dict[str, tf.Tensor]:
    """What is stored of a forward pass, by the names and dtypes in which it will travel."""
    kept = {RECORDED_LOGITS: tf.cast(outputs.logits, tf.float32)}
    for name, tap in outputs.taps.items():
        kept[RECORDED_TAP + name] = tf.cast(tap, tf.float16)
    if top_k:
        classes = outputs.logits.shape[-1]
        if top_k > classes - 2:
            raise ValueError(f"top_k={top_k} of {classes} classes leaves no rest to sum up. Leave top_k out.")
        cut = keep_top_k(outputs.logits, top_k, temperatures)
        kept[RECORDED_LOGITS] = cut.logits
        kept[RECORDED_TAP + TOP_K_IDS] = cut.ids
        kept |= {RECORDED_TAP + name: rest for name, rest in cut.rests.items()}
    if outputs.mask is not None:
        kept[RECORDED_MASK] = tf.cast(outputs.mask, tf.bool)
    return kept


def unrecorded(recorder: Recorder, recordings: Recordings, data: tf.data.Dataset) -> Iterator[Rows]:
    """What the teacher says of each example that isn't recorded yet; it runs on no batch without one."""
    in_this_part: set[bytes] = set()
    parts = len(recordings.parts)
    for element in data:
        x = keras.utils.unpack_x_y_sample_weight(element)[0]
        inputs = {name: tensor.numpy() for name, tensor in named_inputs(x).items()}
        if len(recordings.parts) > parts:
            in_this_part.clear()
            parts = len(recordings.parts)
        keys = recordings.keys(inputs)
        new = recordings.missing(keys)
        for row in np.flatnonzero(new):
            new[row] = keys[row] not in in_this_part
            in_this_part.add(keys[row])
        if new.any():
            outputs = {name: value.numpy()[new] for name, value in recorder.run(x).items()}
            _check_outputs(recorder.layout, outputs, inputs)
            yield Rows(keys[new], recordings.lengths(inputs)[new], outputs)


def _check_outputs(layout: Layout, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> None:
    length = inputs[layout.length_input].shape[1] if layout.length_input else None
    for output in layout.outputs:
        values, name = outputs[output.name], output.name.removeprefix(RECORDED_TAP)
        if any(size is None and real != length for size, real in zip(output.shape, values.shape[1:], strict=True)):
            raise ValueError(
                f"The teacher's {name!r} has shape {values.shape} where the texts have {length} tokens: an axis of a "
                "changing length must be that of the texts. Leave it out, or give inputs of a fixed length."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"The teacher's {name!r} isn't finite as {output.dtype}: it holds NaN, or values beyond "
                f"{np.finfo(output.dtype).max:.3g}. Leave it out, or mend the teacher."
            )


def named_inputs(x: Any) -> dict[str, Any]:
    """The inputs of a batch by name; one array without a name is called "inputs"."""
    named = dict(x) if isinstance(x, Mapping) else {LONE_INPUT: x}
    if not all(isinstance(value, tf.Tensor | tf.TensorSpec) for value in named.values()):
        kinds = {name: type(value).__name__ for name, value in named.items()}
        raise UserError(f"x holds {kinds}: a teacher cache takes an array, or a dict of arrays by name. Make it one.")
    return named


def _without(x: Any, id_column: str | None) -> Any:
    """A batch's inputs as the teacher takes them."""
    if not isinstance(x, Mapping):
        return x
    return {name: value for name, value in x.items() if name != id_column and not is_recorded(name)}
