"""The encoder (Vaswani et al. 2017, section 3.1), with the norm after each part (paper, BERT) or before it (GPT-2)."""

from typing import Any, NamedTuple

import keras

from keras_transformer.checks import fraction, positive, positive_integer
from keras_transformer.layers.activations import activation_name
from keras_transformer.layers.attention import MultiHeadAttention
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts
from keras_transformer.layers.recomputing import check_recomputing, hidden_recomputed


class Encoded(NamedTuple):
    """What one encoder layer gives: its output, and the parts that a teacher is asked for."""

    hidden: Tensor  # (B, T, D)
    attention: Tensor | tuple[()]  # (B, H, T, T), or () where nobody asked for it
    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, H, T, d)
    value: Tensor  # (B, H, T, d)


@keras.saving.register_keras_serializable("keras_transformer")
class EncoderLayer(keras.layers.Layer):
    """Self-attention and a feed-forward part, each with a residual connection, dropout and a LayerNorm.

    Post-norm, x <- LN(x + part(x)), is Vaswani et al. 2017, section 3.1, and BERT. Pre-norm, x <- x + part(LN(x)), is
    Xiong et al. 2020, fig. 1(b), and GPT-2; a stack of those wants one more LayerNorm at its end, as `Encoder` has.

    Args:
        model_dim: width D.
        num_heads: number of heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward part.
        dropout: rate on attention weights and on the output of each part, while training.
        activation: a Keras activation for the feed-forward part.
        norm_first: True for pre-norm.
        epsilon: added to the variance in each LayerNorm; BERT has 1e-12.
        head_dim: width of one head; None = D / H.
        ranks: of its factorised dense products, see `part_ranks`: {"feed_forward/inner": 32}; None = none.
        block_size: number of keys to attend to at a time, see `MultiHeadAttention`; None = chosen by the lengths.

    Raises:
        ValueError: for a number out of range, or heads that don't divide the width.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        norm_first: bool = False,
        epsilon: float = 1e-12,
        head_dim: int | None = None,
        ranks: Ranks | None = None,
        block_size: int | None = None,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        fraction("dropout", dropout)
        self.model_dim, self.num_heads, self.inner_dim = model_dim, num_heads, inner_dim
        self.dropout, self.norm_first, self.epsilon = dropout, norm_first, epsilon
        policy = self.dtype_policy
        self.ranks = dict(ranks) if ranks else None
        part_ranks = ranks_of_parts(ranks, ("attention", "feed_forward"))
        self.attention = MultiHeadAttention(
            model_dim,
            num_heads,
            dropout,
            head_dim,
            ranks=part_ranks["attention"],
            block_size=block_size,
            name="attention",
            dtype=policy,
        )
        self.head_dim, self.block_size = self.attention.head_dim, block_size
        self.feed_forward = FeedForward(
            model_dim, inner_dim, activation, ranks=part_ranks["feed_forward"], name="feed_forward", dtype=policy
        )
        self.activation = self.feed_forward.activation
        self.attention_norm = layer_norm("attention_norm", epsilon, policy)
        self.feed_forward_norm = layer_norm("feed_forward_norm", epsilon, policy)
        self.residual_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=policy)

    def build(self, input_shape: tuple) -> None:
        """Make the weights of both parts."""
        self.attention.build(input_shape, input_shape)
        for part in (self.attention_norm, self.feed_forward, self.feed_forward_norm):
            part.build(input_shape)

    def call(
        self, x: Tensor, *, attention_mask: Tensor | None = None, with_weights: bool = True, training: bool = False
    ) -> Encoded:
        """(B, T, D) -> `Encoded`, whose `hidden` has the shape of the input; without weights also in blocks."""
        normed = self.attention_norm(x) if self.norm_first else x
        attended = self.attention(
            normed, normed, attention_mask=attention_mask, with_weights=with_weights, training=training
        )
        x = x + self.residual_dropout(attended.context, training=training)
        if self.norm_first:
            inner = self.feed_forward(self.feed_forward_norm(x), training=training)
            hidden = x + self.residual_dropout(inner, training=training)
        else:
            x = self.attention_norm(x)
            inner = self.feed_forward(x, training=training)
            hidden = self.feed_forward_norm(x + self.residual_dropout(inner, training=training))
        return Encoded(hidden, attended.attention, attended.query, attended.key, attended.value)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "model_dim": self.model_dim,
            "num_heads": self.num_heads,
            "inner_dim": self.inner_dim,
            "dropout": self.dropout,
            "activation": activation_name(self.activation),
            "norm_first": self.norm_first,
            "epsilon": self.epsilon,
            "head_dim": self.head_dim,
            "ranks": self.ranks and dict(self.ranks),
            "block_size": self.block_size,
        }
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_transformer")
class Encoder(keras.layers.Layer):
    """A stack of `num_layers` encoder layers: (B, T, D) -> (B, T, D). Pre-norm stacks end with a LayerNorm.

    Args: as `EncoderLayer`, and `num_layers`; with `recompute_layers`, training keeps the input of each layer alone and
        runs the layers a second time for the gradients, which then takes about 4/3 of the time.
    """

    def __init__(
        self,
        num_layers: int,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        norm_first: bool = False,
        epsilon: float = 1e-12,
        head_dim: int | None = None,
        ranks: Ranks | None = None,
        block_size: int | None = None,
        recompute_layers: bool = False,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("num_layers", num_layers)
        check_recomputing(recompute_layers, self.dtype_policy)
        self.recompute_layers = recompute_layers
        self.num_layers, self.model_dim, self.num_heads = num_layers, model_dim, num_heads
        self.inner_dim, self.dropout, self.norm_first, self.epsilon = inner_dim, dropout, norm_first, epsilon
        self.ranks, self.block_size = dict(ranks) if ranks else None, block_size
        part_ranks = ranks_of_parts(ranks, [f"layer_{index}" for index in range(num_layers)])
        self.encoder_layers = [
            EncoderLayer(
                model_dim,
                num_heads,
                inner_dim,
                dropout,
                activation,
                norm_first,
                epsilon,
                head_dim,
                part_ranks[f"layer_{index}"],
                block_size,
                name=f"layer_{index}",
                dtype=self.dtype_policy,
            )
            for index in range(num_layers)
        ]
        self.activation, self.head_dim = self.encoder_layers[0].activation, self.encoder_layers[0].head_dim
        self.final_norm = layer_norm("final_norm", epsilon, self.dtype_policy) if norm_first else None

    def build(self, input_shape: tuple) -> None:
        """Make the weights of each layer."""
        for layer in self.encoder_layers:
            layer.build(input_shape)
        if self.final_norm is not None:
            self.final_norm.build(input_shape)

    def call(self, x: Tensor, *, attention_mask: Tensor | None = None, training: bool = False) -> Tensor:
        """(B, T, D) -> (B, T, D), the same mask in each layer."""
        options = {"attention_mask": attention_mask, "with_weights": False, "training": training}
        for layer in self.encoder_layers:
            again = self.recompute_layers and training
            x = hidden_recomputed(layer, {"x": x}, **options) if again else layer(x, **options).hidden
        return x if self.final_norm is None else self.final_norm(x)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "num_layers": self.num_layers,
            "recompute_layers": self.recompute_layers,
            "model_dim": self.model_dim,
            "num_heads": self.num_heads,
            "inner_dim": self.inner_dim,
            "dropout": self.dropout,
            "activation": activation_name(self.activation),
            "norm_first": self.norm_first,
            "epsilon": self.epsilon,
            "head_dim": self.head_dim,
            "ranks": self.ranks and dict(self.ranks),
            "block_size": self.block_size,
        }
        return {**super().get_config(), **own}


def layer_norm(name: str, epsilon: float, policy: Any) -> keras.layers.LayerNormalization:
    """Return a LayerNorm; Keras keeps its sums in float32 under a half-precision policy.

    Raises:
        ValueError: if `epsilon` isn't finite and above 0.
    """
    positive("epsilon", epsilon, example=1e-12)
    return keras.layers.LayerNormalization(epsilon=epsilon, name=name, dtype=policy)
