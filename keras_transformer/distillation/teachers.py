"""Where a teacher's outputs come from: a model that runs, or logits that were computed before."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import keras

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.taps import with_taps

RECORDED_LOGITS = "teacher_logits"
"""The key of a batch's inputs under which a recorded teacher's logits travel."""


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
    """A Keras model that runs on each batch with `training=False`; it needn't be frozen."""

    def __init__(self, model: keras.Model) -> None:
        self.model = model

    def student_inputs(self, inputs: Any) -> Any:
        """Teacher and student see the same inputs."""
        return inputs

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """One forward pass with `training=False`, taps included."""
        return with_taps(self.model, tap_names)


class RecordedTeacher:
    """A teacher whose logits were computed once and travel in the batch: x = {..., "teacher_logits": (B, C)}.

    >>> x = {"token_ids": token_ids, "teacher_logits": teacher.predict(token_ids)}
    >>> Distiller(student, RecordedTeacher(), terms).fit(x, labels)
    """

    def student_inputs(self, inputs: Any) -> Any:
        """All inputs but the teacher's logits."""
        if not isinstance(inputs, Mapping):
            return inputs
        return {name: value for name, value in inputs.items() if name != RECORDED_LOGITS}

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """Read the logits out of the batch.

        Raises:
            ValueError: if a term asks for taps; the function, if the batch has no teacher logits.
        """
        if tap_names:
            raise ValueError(
                f"RecordedTeacher holds logits alone and a term asks it for the taps {list(tap_names)}. "
                "Give the teacher model itself, or leave that term out."
            )
        return _recorded


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


def _recorded(inputs: Any) -> Outputs:
    there: Iterable[str] = inputs if isinstance(inputs, Mapping) else ()
    if RECORDED_LOGITS not in there:
        raise ValueError(
            f"RecordedTeacher finds no {RECORDED_LOGITS!r} in the batch, which has "
            f"{sorted(there) or 'no names'}. Pass x as a dict with {RECORDED_LOGITS!r}, for validation data "
            "too."
        )
    return Outputs(inputs[RECORDED_LOGITS], {})
