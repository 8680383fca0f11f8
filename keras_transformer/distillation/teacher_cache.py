"""A teacher that runs once: its outputs on disk, found by example, streamed into the batches of later epochs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.checks import UserError, positive, positive_integer
from keras_transformer.data.batching import Batches
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.recorder import named_inputs, recorder_of, unrecorded
from keras_transformer.distillation.recordings import MANIFEST, Recordings
from keras_transformer.distillation.teachers import RECORDED_TAP, RecordedTeacher, Teacher
from keras_transformer.files import ModelFileError


def cache_teacher(
    teacher: keras.Model | Teacher,
    dataset: tf.data.Dataset | Batches,
    folder: Path | str,
    *,
    taps: Iterable[str] = (),
    top_k: int | None = None,
    temperatures: Sequence[float] = (1.0,),
    id_column: str | None = None,
) -> "CachedTeacher":
    """Run the teacher once on each example of `dataset` and keep its outputs in `folder`.

    >>> teacher = cache_teacher(model, batches, "cache", taps=["encoder/5/hidden"])
    >>> Distiller(student, teacher, terms).fit(teacher.attach(batches.dataset(0, epochs)))

    An example is known by a hash of its inputs without padding, see `example_keys`: shuffling, other batch sizes and
    other padding find it again, and one that occurs twice is stored once. Inputs of floats that are padded to
    different lengths, and ids whose padding isn't 0, can't be known so: name an `id_column`.

    Logits are kept in float32; taps in float16, without padding; the mask where anything is kept a token. Memory
    stays bounded whatever the size of the data. What is in `folder` already isn't computed again: a second call
    with the same data runs no teacher, one after a kill goes on where the last part ended (ten minutes of work, or
    1 GiB, are lost at most), one with more data adds to it. One call at a time may record into a folder: a second
    one is refused, where the system has file locks (not on Windows).

    Args:
        teacher: a Keras model, or a `Teacher` with a method `fingerprint()`, such as `SeveralTeachers`.
        dataset: batches of x, (x, y) or (x, y, sample_weight), x being an array or a dict of arrays; it has an end.
        folder: where the cache is, or is to be.
        taps: of the teacher, for losses that need them.
        top_k: keep only so many logits of each row or token, and the log of the mass of the others: for large
            vocabularies, with the loss `top_k_soft_targets`. None = keep all.
        temperatures: those at which the others' mass is kept.
        id_column: the entry of x with a number or string for each example, (B,), which takes the hash's place. It
            must be an example's own for ever: a changed text under an old id goes unnoticed.

    Raises:
        UserError: if `folder` holds the outputs of another teacher, other taps or settings, or isn't a cache; if
            somebody else is recording into it, or it can't be written.
        ModelFileError: if a file of the cache is damaged.
        ValueError: if the data set never ends, an output isn't finite or is too large for float16, or `top_k`
            is more than the classes less 2.
        TypeError: if the teacher has no fingerprint.
    """
    data = dataset.dataset() if isinstance(dataset, Batches) else dataset
    if data.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("dataset never ends, and the teacher is to see each example once. Give it without repeat().")
    if top_k is not None:
        positive_integer("top_k", top_k)
    for temperature in temperatures:
        positive("temperatures", temperature, example=1.0)
    recorder = recorder_of(teacher, data.element_spec, tuple(taps), top_k, tuple(temperatures), id_column)
    with Recordings.adding(Path(folder), recorder.layout) as recordings:
        rows = unrecorded(recorder, recordings, data)
        while recordings.add_part(rows):
            pass
        recordings.end()
    return CachedTeacher(recordings)


class CachedTeacher:
    """A `Teacher` whose outputs are read from a folder that `cache_teacher` has filled.

    `attach` puts them into the batches; the Distiller takes them out again. No teacher model is needed any more:

    >>> teacher = CachedTeacher.load("cache")
    >>> Distiller(student, teacher, terms).fit(teacher.attach(dataset))
    """

    def __init__(self, recordings: Recordings) -> None:
        self.recordings = recordings
        outputs = recordings.layout.outputs
        known = {output.name: keras.KerasTensor((None, *output.shape), output.dtype) for output in outputs}
        taps = [name.removeprefix(RECORDED_TAP) for name in known if name.startswith(RECORDED_TAP)]
        self._recorded = RecordedTeacher(taps, known)

    @classmethod
    def load(cls, folder: Path | str) -> "CachedTeacher":
        """Open a cache whose recording came to its end; each of its files is read once, to check its sha256.

        Raises:
            ModelFileError: if there is none, it is damaged, or its recording was cut short; the message names the
                file.
        """
        recordings = Recordings(Path(folder))
        if not recordings.complete:
            raise ModelFileError(
                f"{Path(folder) / MANIFEST}: the recording was cut short after {recordings.rows} examples. Call "
                "cache_teacher with the same teacher, data and folder: it goes on where it stopped."
            )
        return cls(recordings)

    def __len__(self) -> int:
        """How many different examples are recorded."""
        return self.recordings.rows

    def attach(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Add the recorded outputs to the inputs of each batch, as `RecordedTeacher` names them.

        x becomes a dict, if it wasn't one, with the array under "inputs"; the id column is taken out. Works on
        batches in any order and of any size, of training and of validation data. The disk is read ahead of the
        training step. For `resumable_fit` give `lambda *epochs: teacher.attach(batches.dataset(*epochs))`.

        Args:
            dataset: batches of x, (x, y) or (x, y, sample_weight), of examples that were recorded.

        Raises:
            UserError: if x lacks an entry that the examples are known by. While the data set runs, TensorFlow's
                InvalidArgumentError with our message in it: if an example isn't recorded.
        """
        names = set(named_inputs(keras.utils.unpack_x_y_sample_weight(dataset.element_spec)[0]))
        layout = self.recordings.layout
        if lacking := [name for name in layout.inputs if name not in names]:
            raise UserError(
                f"{self.recordings.folder}: examples are known by {list(layout.inputs)} and the batches have "
                f"{sorted(names)}. Add {lacking} to x, as it was when they were recorded."
            )

        def join(*element: Any) -> Any:
            x, *rest = element
            joined = self._joined(named_inputs(x))
            return (joined, *rest) if isinstance(dataset.element_spec, tuple) else joined

        # One thread reads ahead; more would wait for Python's lock and take the training step's cores.
        return dataset.map(join).prefetch(tf.data.AUTOTUNE)

    def student_inputs(self, inputs: Any) -> Any:
        """All inputs but what was recorded of the teacher."""
        return self._recorded.student_inputs(inputs)

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """Read logits, taps and mask out of the batch; see `RecordedTeacher`."""
        return self._recorded.reader(tap_names)

    def _joined(self, inputs: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        recordings, layout = self.recordings, self.recordings.layout
        names = list(dict.fromkeys([*layout.inputs, *([layout.length_input] if layout.length_input else [])]))

        @tf.autograph.experimental.do_not_convert
        def read(*arrays: np.ndarray) -> list[np.ndarray]:
            return recordings.read(dict(zip(names, arrays, strict=True)))

        kinds = [tf.as_dtype(output.dtype) for output in layout.outputs]
        values = tf.numpy_function(read, [inputs[name] for name in names], kinds)
        joined = {name: value for name, value in inputs.items() if name != layout.id_column}
        for output, value in zip(layout.outputs, values, strict=True):
            value.set_shape((inputs[names[0]].shape[0], *output.shape))
            joined[output.name] = value
        return joined
