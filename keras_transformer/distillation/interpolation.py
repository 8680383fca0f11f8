"""Pull a student's weights towards its teacher's, where their shapes are equal."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer


def interpolate(
    student: keras.Model, teacher: keras.Model, alpha: float, pairs: Iterable[tuple[str, str]] | None = None
) -> None:
    """Assign w <- w + alpha (v - w) to each weight w of the student, v being the teacher's.

    alpha is the teacher's share: 0 leaves the student as it is, 0.5 takes the mean, 1 copies the teacher to the last
    bit. Batch statistics are interpolated too, frozen weights as well; whole numbers have to be equal. The teacher
    isn't changed.

    Args:
        student: changed in place.
        teacher: read.
        alpha: from 0 to 1.
        pairs: names of layers, (student's, teacher's), as `named_pairs(layer_map, "encoder_{}")` gives them; None =
            the models as wholes, which then have the same weights in the same order.

    Raises:
        ValueError: if alpha is out of range, a layer isn't there, or two weights differ in shape; then nothing was
            changed.
    """
    _check_alpha(alpha)
    for ours, theirs in _weight_pairs(student, teacher, pairs):
        _move(ours, theirs, alpha)


class Interpolation(keras.callbacks.Callback):
    """`interpolate` whenever the optimizer has made another `every` steps.

    Over n times the student keeps (1 - alpha)^n of its distance, were it not for the training between. The steps are
    counted by the optimizer, so a run that goes on from restored optimizer weights keeps the rhythm.

    Args:
        student: the model that is trained; inside a Distiller, `distiller.student`.
        teacher: read.
        alpha: the teacher's share, from 0 to 1.
        every: steps of the optimizer from one time to the next; a multiple of `steps_per_execution`, since Keras
            calls no callback in between.
        pairs: as `interpolate`.

    Raises:
        ValueError: as `interpolate`, at once; when `fit` starts, if `every` is no multiple of `steps_per_execution`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model,
        alpha: float,
        every: int,
        pairs: Iterable[tuple[str, str]] | None = None,
    ) -> None:
        super().__init__()
        _check_alpha(alpha)
        positive_integer("every", every)
        self.alpha, self.every, self.weight_pairs = alpha, every, _weight_pairs(student, teacher, pairs)
        self.last_step = 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check that callbacks are called often enough."""
        steps = self.model.steps_per_execution
        if self.every % steps:
            raise ValueError(
                f"every={self.every} is no multiple of steps_per_execution={steps}, and Keras calls no callback within "
                f"an execution. Use for example every={steps * -(-self.every // steps)}."
            )

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Note the step: with gradient accumulation a batch may make none."""
        self.last_step = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Interpolate if this batch completed a multiple of `every` steps."""
        if int(self.model.optimizer.iterations) // self.every > self.last_step // self.every:
            for ours, theirs in self.weight_pairs:
                _move(ours, theirs, self.alpha)


def _move(ours: keras.Variable, theirs: keras.Variable, alpha: float) -> None:
    if "float" not in ours.dtype:
        return
    target = ops.cast(theirs, ours.dtype)
    # w + 1 (v - w) may miss v by its rounding.
    ours.assign(target if alpha == 1 else ours + alpha * (target - ours))


def _weight_pairs(
    student: keras.Model, teacher: keras.Model, pairs: Iterable[tuple[str, str]] | None
) -> list[tuple[keras.Variable, keras.Variable]]:
    if pairs is None:
        return _matched(student, teacher)
    matched = []
    for ours, theirs in pairs:
        matched += _matched(student.get_layer(ours), teacher.get_layer(theirs))
    return matched


def _matched(ours: keras.layers.Layer, theirs: keras.layers.Layer) -> list[tuple[keras.Variable, keras.Variable]]:
    if len(ours.weights) != len(theirs.weights):
        raise ValueError(
            f"the student's {ours.name!r} has {len(ours.weights)} weights and the teacher's {theirs.name!r} has "
            f"{len(theirs.weights)}: each needs its partner. Give pairs of layers that are built alike."
        )
    for one, two in zip(ours.weights, theirs.weights, strict=True):
        if tuple(one.shape) != tuple(two.shape):
            raise ValueError(
                f"the student's {one.path!r} has shape {tuple(one.shape)} and the teacher's {two.path!r} "
                f"{tuple(two.shape)}: only equal shapes can be interpolated. Give pairs of layers of one size."
            )
        if "float" not in one.dtype and bool(ops.any(ops.not_equal(one, two))):
            raise ValueError(
                f"the student's {one.path!r} holds other whole numbers than the teacher's {two.path!r}: there is "
                "nothing between them. Leave that layer out of the pairs."
            )
    return list(zip(ours.weights, theirs.weights, strict=True))


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(
            f"alpha={alpha!r} must be from 0, the student stays, to 1, it becomes the teacher. "
            "Use for example alpha=0.1."
        )
