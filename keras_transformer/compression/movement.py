"""Pruning by where weights go in training, not by where they are: movement pruning."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.compression.held_masks import HeldMasks
from keras_transformer.compression.prunable_kernels import Which
from keras_transformer.compression.pruning import ScheduledPruning
from keras_transformer.compression.sparsity_schedules import cubic_sparsity
from keras_transformer.layers.masks import Tensor

UpdateStep = Callable[[Tensor, Any, Tensor], None]


class MovementPruning(ScheduledPruning):
    """The weights that training moves towards zero become zero (Sanh et al. 2020, section 4).

    Each step adds -rate * dL/dW' * W to the score of a weight, with W' = W * mask, which the model computes with: their
    straight-through estimate. The weights of highest score stay. One that is dropped keeps its value
    out of sight and goes on collecting its score, so it may come back until `end`; from there on the masks stay, and
    what is left of training is the cool-down.

    The score is taken in `optimizer.update_step`, the one place where Keras has the gradient without loss scale,
    averaged over accumulated batches and clipped, beside the weight before the step and the rate. (The change of a
    weight over a step would be the gradient for plain SGD only.) So it is exact with every optimizer, in float16 and
    under XLA. Weights that are out of sight get no update, and no weight decay.

    Scores begin with the first step that this callback sees, so the mask is the better the later `begin` is. They are
    in no file of Keras: only `training.checkpoints.resumable_fit` can take up a run that was killed, and with
    BackupAndRestore it starts with scores of zero (past `begin`, it refuses to).

    Args:
        sparsity: share of zeros in the end, in [0, 1).
        begin: the first step that prunes.
        end: the step that prunes last; what comes after it is the cool-down.
        every: steps from one choice to the next; 1 in the paper. Choosing sorts all scores outside the compiled step.
        across_tensors: True to rank the scores of all tensors together. Then a tensor may lose everything.
        which: see `prunable_kernels`.
        name: the key in the logs.

    Raises:
        ValueError: as `cubic_sparsity`; if `every` or `end` isn't at least 1; when `fit` starts, if the optimizer has
            made steps past `begin` and there are no scores.
    """

    def __init__(
        self,
        sparsity: float,
        *,
        begin: int = 0,
        end: int,
        every: int = 1,
        across_tensors: bool = False,
        which: Which = None,
        name: str = "sparsity",
    ) -> None:
        schedule = cubic_sparsity(sparsity, begin, end)
        positive_integer("end", end)  # before the first step all scores are the same
        shared: dict[str, Any] = {"across_tensors": across_tensors, "which": which, "name": name}
        super().__init__(schedule, begin=begin, end=end, every=every, **shared)
        self._scores: list[keras.Variable] = []
        self._hidden: list[keras.Variable] = []

    @property
    def resumed_variables(self) -> list[keras.Variable]:
        """The masks, the scores, and the values of the weights that are out of sight."""
        return [*super().resumed_variables, *self._scores, *self._hidden]

    def make_masks(self, kernels: list[keras.Variable]) -> HeldMasks:
        """Make the scores and the values out of sight beside the masks."""
        self._scores, self._hidden = (
            [keras.Variable(np.zeros(kernel.shape, "float32"), trainable=False, name=name) for kernel in kernels]
            for name in ("score", "hidden")
        )
        return super().make_masks(kernels)

    def masks_at(self, due: int) -> list[np.ndarray]:
        """Keep those of the highest score, and bring those that come back into sight."""
        for weight, mask, hidden in zip(self.held.weights, self.held.masks, self._hidden, strict=True):
            hidden.assign(ops.where(mask, weight, hidden))
            weight.assign(hidden)
        return self.ranked([score.numpy() for score in self._scores], self.schedule(due))

    def check_start(self, step: int) -> None:
        """Refuse to prune by scores that were never taken."""
        if step > self.begin and not any(score.numpy().any() for score in self._scores):
            raise self.late_start(step)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Hold the masks, and take the scores inside the compiled step."""
        super().on_train_begin(logs)
        optimizer = _innermost(self.model.optimizer)
        vars(optimizer).pop("update_step", None)  # of a fit that ended with an exception
        optimizer.update_step = self._scored(optimizer.update_step)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave the zeros in place, and the optimizer as it was."""
        vars(_innermost(self.model.optimizer)).pop("update_step", None)
        super().on_train_end(logs)

    def _scored(self, update_step: UpdateStep) -> UpdateStep:
        places = {weight.value.ref(): place for place, weight in enumerate(self.held.weights)}
        parts = list(zip(self.held.masks, self._hidden, self._scores, strict=True))

        def score_and_update(gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
            place = places.get(variable.ref())
            if place is not None:
                mask, hidden, score = parts[place]
                gradient = tf.convert_to_tensor(gradient)  # that of a table comes as slices
                whole = ops.where(mask, ops.cast(variable, "float32"), hidden)
                score.assign_sub(ops.cast(learning_rate, "float32") * ops.cast(gradient, "float32") * whole)
                gradient = ops.where(mask, gradient, ops.zeros_like(gradient))
            update_step(gradient, variable, learning_rate)

        return score_and_update


def _innermost(optimizer: Any) -> Any:
    """The optimizer that steps, without the one that scales the loss for float16."""
    return getattr(optimizer, "inner_optimizer", optimizer)
