"""Attention with linear biases, ALiBi (Press et al. 2022): the further back a key, the lower its score."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers.masks import Tensor


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8 h / H) for h = 1 .. H: the geometric sequence of Press et al. 2022, section 3, for any number of heads."""
    positive_integer("num_heads", num_heads)
    return [2.0 ** (-8.0 * head / num_heads) for head in range(1, num_heads + 1)]


def alibi_biases(num_heads: int, num_queries: int | Tensor, num_keys: int | Tensor, start: int | Tensor = 0) -> Tensor:
    """slope_h (s - t), to be added to the scaled score of query t and key s: Press et al. 2022, fig. 3.

    Args:
        num_heads: H.
        num_queries: T; query i stands at position start + i.
        num_keys: S; key s stands at position s. Those after the query are the mask's to hide.
        start: position of the first query, a scalar, or (B,) with one a row.

    Returns:
        float32 (H, T, S), or (B, H, T, S) when `start` has an entry a row.

    Raises:
        ValueError: if `num_heads` isn't a whole number of at least 1.
    """
    steps = ops.arange(num_queries, dtype="float32")  # (T,)
    query = ops.expand_dims(ops.cast(start, "float32"), -1) + steps  # (T,) or (B, T)
    return biases_between(num_heads, query, ops.arange(num_keys, dtype="float32"))


def biases_between(num_heads: int, query_position: Tensor, key_position: Tensor) -> Tensor:
    """`alibi_biases` of any positions: queries (..., T) and keys (..., S) -> float32 (..., H, T, S)."""
    slopes = ops.reshape(ops.convert_to_tensor(alibi_slopes(num_heads), "float32"), (num_heads, 1, 1))
    query, key = ops.cast(query_position, "float32"), ops.cast(key_position, "float32")
    distance = ops.expand_dims(key, -2) - ops.expand_dims(query, -1)  # (..., T, S)
    return slopes * ops.expand_dims(distance, -3)


@keras.saving.register_keras_serializable("keras_transformer")
class LinearBiases(keras.layers.Layer):
    """`alibi_biases` for as many queries as x (B, T, D) has: made once, used in each layer of a decoder.

    Args:
        num_heads: H.
    """

    def __init__(self, num_heads: int, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        positive_integer("num_heads", num_heads)
        self.num_heads = num_heads

    def call(self, x: Tensor, *, start: int | Tensor = 0, num_keys: int | Tensor | None = None) -> Tensor:
        """(B, T, D) -> (H, T, S), or (B, H, T, S) for a `start` (B,); S = T unless given. float32 always."""
        length = ops.shape(x)[1]
        return alibi_biases(self.num_heads, length, length if num_keys is None else num_keys, start)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "num_heads": self.num_heads}
