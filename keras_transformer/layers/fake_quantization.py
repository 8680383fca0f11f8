"""Fake quantisation: float32 numbers where an integer kernel would see them, with a gradient that passes through.

Jacob et al. 2018, section 3 and eq. 12: x -> s (clip(round(x / s) + z) - z), with a scale s and a zero point z. The
rounding has a gradient of zero almost everywhere, so that of the identity is taken for it (Bengio et al. 2013,
straight-through); what is cut off at the end of a range gets none.
"""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import fraction
from keras_transformer.layers.masks import Tensor

SMALLEST_WIDTH = 1e-9
"""Of a range: a scale is never zero."""
STEPS, LOWEST_STEP = 255.0, -128.0
"""An int8 has so many steps, and counts them from here."""


def fake_quantize_weights(weights: Tensor, bits: int, axis: int | tuple[int, ...] | None = 0) -> Tensor:
    """Weights as symmetric integers hold them: s round(w / s), s = max |w| / (2^(bits - 1) - 1).

    Args:
        weights: float32, any shape.
        bits: of an integer; 8 has the steps -127 to 127, 4 those from -7 to 7.
        axis: those that share one scale; 0 for a kernel (inputs, outputs) with a scale an output channel, None for one
            scale in all.

    Returns:
        The shape of `weights`. The gradient is that of the identity: nothing is cut off.
    """
    largest = float(2 ** (bits - 1) - 1)
    bound = ops.max(ops.abs(weights), axis=axis, keepdims=True)
    scale = ops.maximum(bound, SMALLEST_WIDTH) / largest
    return _straight_through(weights, ops.round(weights / scale) * scale)


def fake_quantize(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Activations as asymmetric int8 numbers hold them: eq. 12 of Jacob et al. 2018, with zero on a step.

    The range is widened to have 0 in it, then s = (high - low) / 255 and z = round(-128 - low / s).

    Args:
        x: float32, any shape.
        low: the range's lower end, broadcastable to `x`.
        high: its upper end.

    Returns:
        The shape of `x`. The gradient is 1 where `x` lies in the range, 0 where it was cut off; none for the ends.
    """
    low, high = ops.stop_gradient(ops.minimum(low, 0.0)), ops.stop_gradient(ops.maximum(high, 0.0))
    scale = ops.maximum(high - low, SMALLEST_WIDTH) / STEPS
    zero = ops.round(LOWEST_STEP - low / scale)
    steps = ops.clip(ops.round(x / scale), LOWEST_STEP - zero, LOWEST_STEP + STEPS - zero)
    # Zero's step moves both ends by up to half a step: the largest number must not lose its gradient by that.
    return _straight_through(ops.clip(x, low, high), steps * scale)


def fake_quantize_rows(x: Tensor) -> Tensor:
    """Activations as int8 numbers whose range is taken anew from each row, as kernels do that get float32.

    Args:
        x: (..., D) float32.

    Returns:
        The shape of `x`, with the gradient of the identity.
    """
    return fake_quantize(x, ops.min(x, axis=-1, keepdims=True), ops.max(x, axis=-1, keepdims=True))


def _straight_through(x: Tensor, moved: Tensor) -> Tensor:
    return x + ops.stop_gradient(moved - x)


@keras.saving.register_keras_serializable("keras_transformer")
class MovingRange(keras.layers.Layer):
    """Fake int8 activations, in a range that follows the batches: Jacob et al. 2018, section 3.1.

    While training, low <- m low + (1 - m) min(x), and high alike; the first batch gives its own. Then they stay, and
    are part of the weights. Before the first batch nothing is quantised.

    Args:
        momentum: m, at least 0 and below 1; the nearer to 1, the less a single batch counts.
    """

    def __init__(self, momentum: float = 0.99, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        fraction("momentum", momentum)
        self.momentum = momentum

    def build(self, input_shape: tuple) -> None:
        """Make the two ends, and the number that says whether they were seen."""
        self.low, self.high, self.seen = (
            self.add_weight(shape=(), initializer="zeros", trainable=False, aggregation="mean", name=name)
            for name in ("low", "high", "seen")
        )

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """Any shape -> the same."""
        if not training:
            return ops.where(self.seen > 0, fake_quantize(x, self.low, self.high), x)
        kept = self.momentum * self.seen  # 0 at the first batch
        self.low.assign(kept * self.low + (1.0 - kept) * ops.min(x))
        self.high.assign(kept * self.high + (1.0 - kept) * ops.max(x))
        self.seen.assign(ops.ones(()))
        return fake_quantize(x, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum}
