"""Vectors brought to length 1, and the distance that is left between two of them."""

from keras import ops

from keras_transformer.layers.masks import Tensor

SMALLEST_SQUARE = 1e-12
"""Squared length below which a vector counts as zero: its direction would be rounding, its gradient without bound."""


def unit_vectors(x: Tensor) -> Tensor:
    """x / ||x||_2 along the last axis, for float32 x; a zero vector stays zero, with a finite gradient."""
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.where(square > SMALLEST_SQUARE, square, 1.0))


def direction_distance(left: Tensor, right: Tensor) -> Tensor:
    """||left / ||left|| - right / ||right||||^2 = 2 (1 - cos), for float32 (..., D) -> (...); exactly 0 if equal."""
    return ops.sum(ops.square(unit_vectors(left) - unit_vectors(right)), axis=-1)
