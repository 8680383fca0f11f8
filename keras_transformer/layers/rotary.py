"""Rotary positions (Su et al. 2021): queries and keys are turned by their position, so that products see distances."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive, positive_integer
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.per_token import leading_lengths
from keras_transformer.layers.positions import WAVELENGTH_BASE


def rotary_table(length: int | Tensor, head_dim: int, start: int | Tensor = 0, base: float = WAVELENGTH_BASE) -> Tensor:
    """cos and sin of m / base^(2i/d) at positions m = start, start + 1, ...: Su et al. 2021, eq. 15 and 34.

    Args:
        length: number of positions T.
        head_dim: width d of a head, an even number.
        start: the first position, a scalar, or (B,) with a first position a row.
        base: of the wavelengths; the paper has 10,000.

    Returns:
        (T, d), or (B, T, d) when `start` has an entry a row: d/2 cosines and then d/2 sines. float32, as angles
        must be: bfloat16 can't tell position 256 from 257.

    Raises:
        ValueError: if `head_dim` isn't an even whole number above 0, or `base` not above 0.
    """
    _check(head_dim, base)
    steps = ops.arange(length, dtype="float32")  # (T,)
    position = ops.expand_dims(ops.cast(start, "float32"), -1) + steps  # (T,) or (B, T)
    frequency = ops.convert_to_tensor([base ** (-pair / head_dim) for pair in range(0, head_dim, 2)], "float32")
    angle = ops.expand_dims(position, -1) * frequency  # (..., T, d / 2)
    return ops.concatenate([ops.cos(angle), ops.sin(angle)], axis=-1)  # (..., T, d)


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn each pair (x_2i, x_2i+1) of a query or key by the angle of its position: Su et al. 2021, eq. 34.

    Args:
        x: (B, H, T, d), any float dtype; the products are float32.
        rotation: (T, d) or (B, T, d) of `rotary_table`.

    Returns:
        (B, H, T, d), dtype of `x`.
    """
    if len(rotation.shape) == 3:
        rotation = ops.expand_dims(rotation, 1)  # (B, 1, T, d)
    cos, sin = ops.split(rotation, 2, axis=-1)  # (..., T, d / 2)
    pairs = ops.reshape(ops.cast(x, "float32"), (*leading_lengths(x), x.shape[-1] // 2, 2))
    even, odd = ops.unstack(pairs, 2, axis=-1)  # (B, H, T, d / 2)
    turned = ops.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)  # (B, H, T, d / 2, 2)
    return ops.cast(ops.reshape(turned, (*leading_lengths(x), x.shape[-1])), x.dtype)


@keras.saving.register_keras_serializable("keras_transformer")
class RotaryPositions(keras.layers.Layer):
    """`rotary_table` for as many positions as x (B, T, D) has: made once, used in each layer of a decoder.

    Args:
        head_dim: width d of a head, an even number.
        base: of the wavelengths.

    Raises:
        ValueError: if `head_dim` isn't an even whole number above 0, or `base` not above 0.
    """

    def __init__(self, head_dim: int, base: float = WAVELENGTH_BASE, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        _check(head_dim, base)
        self.head_dim, self.base = head_dim, base

    def call(self, x: Tensor, *, start: int | Tensor = 0) -> Tensor:
        """(B, T, D) -> (T, d), or (B, T, d) for a `start` (B,); float32 whatever the policy."""
        return rotary_table(ops.shape(x)[1], self.head_dim, start, self.base)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "head_dim": self.head_dim, "base": self.base}


def _check(head_dim: int, base: float) -> None:
    positive_integer("head_dim", head_dim)
    positive("base", base, example=WAVELENGTH_BASE)
    if head_dim % 2:
        raise ValueError(
            f"head_dim={head_dim} is odd: rotary positions turn channels in pairs. "
            f"Use head_dim={head_dim + 1}, or a num_heads that leaves an even model_dim / num_heads."
        )
