"""From one vector a token to one vector a text, padding left out."""

from typing import Any

import keras
from keras import ops

from keras_transformer.layers.masks import Tensor, require_boolean
from keras_transformer.layers.part_ranks import Ranks, dense, ranks_of_parts


@keras.saving.register_keras_serializable("keras_transformer")
class MeanPooling(keras.layers.Layer):
    """Mean of the hidden states of real tokens, in float32; zeros for a text that is all padding.

    Raises:
        TypeError: when called with a `real` that isn't boolean.
    """

    def call(self, hidden: Tensor, *, real: Tensor) -> Tensor:
        """`hidden` (B, T, D) and boolean `real` (B, T), True at real tokens -> (B, D)."""
        require_boolean("real", real)
        real = ops.expand_dims(real, -1)  # (B, T, 1)
        # A product with 0 would let infinity through.
        total = ops.sum(ops.where(real, ops.cast(hidden, "float32"), 0.0), axis=1)  # (B, D)
        count = ops.maximum(ops.sum(ops.cast(real, "float32"), axis=1), 1.0)  # (B, 1)
        return ops.cast(total / count, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return name, dtype and trainable; Keras can't guess them when `dtype` is a policy object."""
        return super().get_config()


@keras.saving.register_keras_serializable("keras_transformer")
class FirstTokenPooling(keras.layers.Layer):
    """BERT's pooler: tanh(h_0 W + b) of the first token, [CLS] (Devlin et al. 2019, section 3).

    Args:
        ranks: of its factorised dense products, see `part_ranks`: {"dense": 32}; None = none.
    """

    def __init__(self, ranks: Ranks | None = None, **layer_options: Any) -> None:
        super().__init__(**layer_options)
        ranks_of_parts(ranks, ("dense",))
        self.ranks = dict(ranks) if ranks else None

    def build(self, input_shape: tuple) -> None:
        """Make the product, as wide as its input."""
        ranks = ranks_of_parts(self.ranks, ("dense",))["dense"]
        self.dense = dense(input_shape[-1], ranks, activation="tanh", name="dense", dtype=self.dtype_policy)
        self.dense.build((input_shape[0], input_shape[-1]))

    def call(self, hidden: Tensor) -> Tensor:
        """`hidden` (B, T, D) -> (B, D)."""
        return self.dense(hidden[:, 0])

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "ranks": self.ranks and dict(self.ranks)}
