"""Where a teacher's outputs come from: a model that runs, or what was computed before and travels in the batch."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import keras

from keras_transformer.distillation.fingerprints import model_fingerprint
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.taps import with_taps

RECORDED_LOGITS = "teacher_logits"
"""The key of a batch's inputs under which a recorded teacher's logits travel."""
RECORDED_MASK = "teacher_mask"
"""The same for its mask, (B, T) bool; it may be absent."""
RECORDED_TAP = "teacher_tap/"
"""What stands before the name of a recorded tap."""
OPERATIONS_THAT_KEEP_VALUES = {"Cast", "Reshape", "StopGradient"}
"""Names of the classes that stand for these functions of keras.ops in a graph."""
LONE_INPUT = "inputs"
"""The key of the inputs themselves, where they are one array without a name."""


class Teacher(Protocol):
    """What the Distiller asks of a teacher; no Layer, so that Keras can't take its weights for ours."""

    def student_inputs(self, inputs: Any) -> Any:
        """Return the batch's inputs without what belongs to the teacher alone."""
        ...

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """Return the function from a batch's inputs to the teacher's outputs, or raise ValueError.

        One that knows its shapes before the first batch has `symbolic_outputs()`, as `TappedModel` does.
        """
        ...


class LiveTeacher:
    """A Keras model that runs on each batch with `training=False`; it needn't be frozen.

    Raises:
        ValueError: if the model ends in a softmax.
    """

    def __init__(self, model: keras.Model) -> None:
        refuse_probabilities("teacher", model)
        self.model = model

    def fingerprint(self) -> str:
        """See `model_fingerprint`."""
        return model_fingerprint(self.model)

    def student_inputs(self, inputs: Any) -> Any:
        """Teacher and student see the same inputs."""
        return inputs

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """One forward pass with `training=False`, taps included."""
        return with_taps(self.model, tap_names)


class RecordedTeacher:
    """A teacher whose outputs were computed once and travel in the batch: x = {..., "teacher_logits": (B, C)}.

    >>> x = {"token_ids": token_ids, "teacher_logits": teacher.predict(token_ids)}
    >>> Distiller(student, RecordedTeacher(), terms).fit(x, labels)

    A tap travels as "teacher_tap/NAME", the mask as "teacher_mask". Inputs that are one array without a name stand
    under "inputs", and the student gets them as that array. `cache_teacher` fills such batches from the disk.

    Args:
        taps: the names of the taps that each batch holds.
        known: shapes and dtypes of what is recorded, by its key in a batch. A loss with weights then makes them before
            the first batch, as replicas and `load_weights` want it; None = with the first batch.
    """

    def __init__(self, taps: Iterable[str] = (), known: Mapping[str, keras.KerasTensor] | None = None) -> None:
        self.taps, self.known = tuple(taps), known

    def student_inputs(self, inputs: Any) -> Any:
        """All inputs but what was recorded of the teacher."""
        if not isinstance(inputs, Mapping):
            return inputs
        own = {name: value for name, value in inputs.items() if not is_recorded(name)}
        return own[LONE_INPUT] if list(own) == [LONE_INPUT] else own

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """Read logits, taps and mask out of the batch.

        Raises:
            ValueError: if a term asks for a tap that isn't recorded; the function, if the batch lacks something.
        """
        if unknown := [name for name in tap_names if name not in self.taps]:
            held = f"the taps {list(self.taps)}" if self.taps else "logits alone"
            raise ValueError(
                f"RecordedTeacher holds {held} and a term asks it for the taps {unknown}. Record them too "
                "(cache_teacher(..., taps=[...])), give the teacher model itself, or leave that term out."
            )
        return BatchReader(tap_names, self.known)


@dataclass(frozen=True)
class BatchReader:
    """Reads a teacher's outputs out of a batch's inputs."""

    tap_names: tuple[str, ...]
    known: Mapping[str, keras.KerasTensor] | None = None  # what each batch will hold; None = only a batch tells

    def __call__(self, inputs: Any) -> Outputs:
        """Read logits, taps and mask."""
        return _recorded(inputs, self.tap_names)

    def symbolic_outputs(self) -> Outputs | None:
        """Shapes and dtypes of what a call gives, as `TappedModel` has them."""
        return None if self.known is None else _recorded(self.known, self.tap_names)


def refuse_probabilities(side: str, model: keras.Model) -> None:
    """Raise ValueError if `model` ends in a softmax; `side` is "teacher" or "student".

    Log-probabilities pass: they are logits, up to one number a row.
    """
    if _is_softmax(_maker_of_output(model)):
        raise ValueError(
            f"The {side} {model.name!r} ends in a softmax: losses take logits, since probabilities have "
            "lost the small classes to rounding. Build it with activation=None in its last layer."
        )


def _is_softmax(operation: Any) -> bool:
    activation = getattr(operation, "activation", None)
    if activation is keras.activations.softmax or isinstance(activation, keras.layers.Softmax):
        return True
    if isinstance(operation, keras.Layer):
        return isinstance(operation, keras.layers.Softmax)
    return type(operation).__name__ == "Softmax"  # keras.ops.softmax in a graph; Keras exports no name for it


def _maker_of_output(model: keras.Model, place: int = 0) -> Any:
    """The operation whose values the model gives; None = it has no layers."""
    if getattr(model, "inputs", None) is None:  # no graph: the layer that was made last
        return model.layers[-1] if model.layers else None
    return _maker_of(model.outputs[place])


def _maker_of(tensor: keras.KerasTensor) -> Any:
    """The operation that made the values of a graph's tensor: within nested models, and behind what keeps values."""
    node_owner, node, place = tensor._keras_history
    operation = node_owner.layer if isinstance(node_owner, keras.layers.Wrapper) else node_owner
    if isinstance(operation, keras.Model):
        return _maker_of_output(operation, place)
    if not _keeps_values(operation):
        return operation
    return _maker_of(node_owner._inbound_nodes[node].input_tensors[0])


def _keeps_values(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.linear
    if isinstance(operation, keras.Layer):
        return isinstance(operation, keras.layers.Identity | keras.layers.Reshape)
    return type(operation).__name__ in OPERATIONS_THAT_KEEP_VALUES


def is_recorded(name: str) -> bool:
    """Whether an entry of a batch's inputs is an output of the teacher."""
    return name in (RECORDED_LOGITS, RECORDED_MASK) or name.startswith(RECORDED_TAP)


def teacher_of(teacher: keras.Model | Teacher) -> Teacher:
    """Wrap a Keras model as a teacher; pass any other teacher through.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(teacher, keras.Model):
        return LiveTeacher(teacher)
    if not (hasattr(teacher, "reader") and hasattr(teacher, "student_inputs")) or isinstance(teacher, type):
        raise TypeError(
            f"teacher={teacher!r} is no teacher: pass a keras.Model, or RecordedTeacher() "
            f"with its logits in the batch as x[{RECORDED_LOGITS!r}]."
        )
    return teacher


def _recorded(inputs: Any, tap_names: tuple[str, ...]) -> Outputs:
    there: Iterable[str] = inputs if isinstance(inputs, Mapping) else ()
    for name in (RECORDED_LOGITS, *(RECORDED_TAP + tap for tap in tap_names)):
        if name not in there:
            raise ValueError(
                f"RecordedTeacher finds no {name!r} in the batch, which has {sorted(there) or 'no names'}. "
                f"Pass x as a dict with {name!r}, for validation data too."
            )
    taps = {name: inputs[RECORDED_TAP + name] for name in tap_names}
    return Outputs(inputs[RECORDED_LOGITS], taps, inputs.get(RECORDED_MASK))
