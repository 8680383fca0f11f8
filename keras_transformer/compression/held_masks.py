"""Zeros that stay zeros while a model trains: a mask for each weight, applied inside the compiled step."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from keras_transformer.layers.masks import Tensor


class HeldMasks:
    """Masks of some weights, True where a weight is in use, and the zeros that they hold.

    The optimizer calls the constraint of a weight at the end of each step, inside the compiled function; so momentum,
    weight decay and moving averages can't lift a zero, however many steps Keras makes at once.

    Args:
        weights: of a built model; all are in use at first.
    """

    def __init__(self, weights: Sequence[keras.Variable]) -> None:
        self.weights = list(weights)
        self.masks = [
            keras.Variable(np.ones(weight.shape, bool), trainable=False, dtype="bool", name="mask")
            for weight in self.weights
        ]

    def hold(self) -> None:
        """Give each weight a constraint that applies its mask after the one that it has."""
        self.release()
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.constraint = _Held(mask, weight.constraint)

    def release(self) -> None:
        """Take the constraints off again; the zeros stay until something is trained."""
        for weight, mask in zip(self.weights, self.masks, strict=True):
            if isinstance(weight.constraint, _Held) and weight.constraint.mask is mask:
                weight.constraint = weight.constraint.before

    def choose(self, masks: Sequence[np.ndarray]) -> None:
        """Take new masks, and set what they drop to zero."""
        for mask, chosen in zip(self.masks, masks, strict=True):
            mask.assign(chosen)
        self.apply()

    def apply(self) -> None:
        """Set to zero what the masks drop."""
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.assign(_masked(mask, weight))

    def values(self) -> list[np.ndarray]:
        """The weights as they are."""
        return [np.asarray(weight.numpy(), dtype="float32") for weight in self.weights]

    def sparsity(self) -> float:
        """Share of all these weights that the masks drop."""
        kept = sum(int(np.count_nonzero(mask.numpy())) for mask in self.masks)
        return 1.0 - kept / sum(mask.numpy().size for mask in self.masks)


class _Held:
    """The constraint `before`, if there was one, and then the mask."""

    def __init__(self, mask: keras.Variable, before: Callable[[Tensor], Tensor] | None) -> None:
        self.mask, self.before = mask, before

    def __call__(self, weight: Tensor) -> Tensor:
        return _masked(self.mask, weight if self.before is None else self.before(weight))


def _masked(mask: Tensor, weight: Tensor) -> Tensor:
    # A product would leave negative zeros, which cost bytes in a compressed file, and NaN where a weight is infinite.
    return ops.where(mask, weight, ops.zeros_like(weight))
