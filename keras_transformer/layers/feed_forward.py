"""The position-wise feed-forward part (Vaswani et al. 2017, section 3.3)."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.layers.activations import activation_name, activation_named
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, dense, ranks_of_parts
from keras_transformer.layers.per_token import as_matrix, leading_lengths


@keras.saving.register_keras_serializable("keras_transformer")
class FeedForward(keras.layers.Layer):
    """activation(x W_1 + b_1) W_2 + b_2, eq. 2 of Vaswani et al. 2017, on each position by itself.

    Args:
        model_dim: width D of the output.
        inner_dim: width F between the two products.
        activation: a Keras activation, or "gelu_tanh", which GPT-2 has; the paper has "relu", BERT the exact "gelu".
        dropout: rate applied to the inner activations while training; the paper and BERT have none here.
        ranks: of its factorised dense products, see `part_ranks`: {"inner": 32}; None = none.
    """

    def __init__(
        self,
        model_dim: int,
        inner_dim: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        ranks: Ranks | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("model_dim", model_dim)
        positive_integer("inner_dim", inner_dim)
        fraction("dropout", dropout)
        self.model_dim, self.inner_dim, self.dropout = model_dim, inner_dim, dropout
        self.activation = activation_named(activation)
        self.ranks = dict(ranks) if ranks else None
        part_ranks = ranks_of_parts(ranks, ("inner", "outer"))
        self.inner = dense(
            inner_dim, part_ranks["inner"], activation=self.activation, name="inner", dtype=self.dtype_policy
        )
        self.inner_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=self.dtype_policy)
        self.outer = dense(model_dim, part_ranks["outer"], name="outer", dtype=self.dtype_policy)

    def build(self, input_shape: tuple) -> None:
        """Make both products."""
        self.inner.build(input_shape)
        self.outer.build((*input_shape[:-1], self.inner_dim))

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        """(B, T, any width) -> (B, T, D)."""
        inner = self.inner_dropout(self.inner(as_matrix(x)), training=training)  # (B * T, F)
        return ops.reshape(self.outer(inner), (*leading_lengths(x), self.model_dim))  # (B, T, D)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "model_dim": self.model_dim,
            "inner_dim": self.inner_dim,
            "activation": activation_name(self.activation),
            "dropout": self.dropout,
            "ranks": self.ranks and dict(self.ranks),
        }
        return {**super().get_config(), **own}
