"""Where a token stands: sinusoidal (Vaswani et al. 2017, section 3.5) and learned positions."""

import math
from numbers import Integral
from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers.masks import Tensor

WAVELENGTH_BASE = 10_000.0  # Vaswani et al. 2017, section 3.5


def sinusoidal_positions(
    length: int | Tensor, model_dim: int, dtype: str = "float32", start: int | Tensor = 0
) -> Tensor:
    """Table PE(p, 2i) = sin(p / 10000^(2i/D)), PE(p, 2i+1) = cos of the same: Vaswani et al. 2017, section 3.5.

    Args:
        length: number of positions T; there is no longest one.
        model_dim: width D; an odd width ends with a sine.
        dtype: of the result. The angles are float32 whatever it is.
        start: the first position, a scalar, or (B,) with a first position a row.

    Returns:
        (T, D), or (B, T, D) when `start` has an entry a row.

    Raises:
        ValueError: if `model_dim` isn't a whole number of at least 1.
    """
    positive_integer("model_dim", model_dim)
    steps = ops.arange(length, dtype="float32")  # (T,)
    position = ops.expand_dims(ops.cast(start, "float32"), -1) + steps  # (T,) or (B, T)
    # Angles stay float32: bfloat16 has 8 significant bits, so positions 256 and 257 would coincide.
    frequency = ops.convert_to_tensor(
        [WAVELENGTH_BASE ** (-channel / model_dim) for channel in range(0, model_dim, 2)], "float32"
    )  # (ceil(D / 2),)
    angle = ops.expand_dims(position, -1) * frequency  # (..., T, ceil(D / 2))
    pairs = ops.stack([ops.sin(angle), ops.cos(angle)], axis=-1)  # (..., T, ceil(D / 2), 2)
    rows = ops.shape(position)
    table = ops.reshape(pairs, (*rows, 2 * math.ceil(model_dim / 2)))
    return ops.cast(table[..., :model_dim], dtype)  # (..., T, D)


@keras.saving.register_keras_serializable("keras_transformer")
class PositionalEncoding(keras.layers.Layer):
    """x + PE, the fixed sinusoids of Vaswani et al. 2017, section 3.5. Any length, any width, no weights."""

    def call(self, x: Tensor, *, start: int | Tensor = 0) -> Tensor:
        """Add positions start, start + 1, ... to x (B, T, D); `start` is a scalar or (B,)."""
        length = ops.shape(x)[1]
        return x + sinusoidal_positions(length, x.shape[-1], self.compute_dtype, start)

    def get_config(self) -> dict[str, Any]:
        """Return name, dtype and trainable; Keras can't guess them when `dtype` is a policy object."""
        return super().get_config()


@keras.saving.register_keras_serializable("keras_transformer")
class LearnedPositions(keras.layers.Layer):
    """x + a learned row for each position, as in BERT and GPT-2.

    Args:
        max_length: number of rows; a longer input is an error, never clamped.

    Raises:
        ValueError: when called with more than `max_length` positions, or a `start` before or beyond them. Where
            the length is known only while a graph runs, the backend's own error; so too for a tensor `start`, where
            XLA has none and -1 is the last row: whoever steps on checks the positions beforehand.
    """

    def __init__(self, max_length: int, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        positive_integer("max_length", max_length)
        self.max_length = max_length

    def build(self, input_shape: tuple) -> None:
        """Make the table (max_length, D)."""
        self.table = self.add_weight(
            shape=(self.max_length, input_shape[-1]),
            initializer=keras.initializers.TruncatedNormal(stddev=0.02),
            name="table",
            autocast=False,  # cast the few rows added, not the whole table
        )

    def call(self, x: Tensor, *, start: int | Tensor = 0) -> Tensor:
        """Add rows start, start + 1, ... of the table to x (B, T, D); `start` is a scalar or (B,)."""
        rows = self._rows(x, int(start)) if isinstance(start, Integral) else self._rows_from(x, start)
        return x + ops.cast(rows, self.compute_dtype)

    def _rows(self, x: Tensor, start: int) -> Tensor:
        """(T, D), the same for each row of the batch."""
        if start < 0:
            raise ValueError(f"start={start} must be at least 0, the first row of the table. Use for example start=0.")
        length = x.shape[1]
        if length is not None and start + length > self.max_length:
            raise ValueError(
                f"{length} positions from {start} on don't fit a table of max_length={self.max_length}. "
                f"Shorten the input to {max(self.max_length - start, 0)} positions, "
                f"or build the layer with max_length={start + length}."
            )
        # Unlike table[start:stop], `ops.slice` fails beyond the table; one row too few would be broadcast.
        return ops.slice(self.table, (start, 0), (ops.shape(x)[1], x.shape[-1]))

    def _rows_from(self, x: Tensor, start: Tensor) -> Tensor:
        """(T, D), or (B, T, D) for a `start` (B,)."""
        position = ops.expand_dims(start, -1) + ops.arange(ops.shape(x)[1], dtype=start.dtype)  # (T,) or (B, T)
        return ops.take(self.table, position, axis=0)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "max_length": self.max_length}
