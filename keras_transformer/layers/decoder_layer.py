"""One layer of a decoder (Vaswani et al. 2017, section 3.1): for a whole sequence, and for new tokens on a cache."""

from typing import Any, NamedTuple

import keras
from keras import ops

from keras_transformer.checks import fraction
from keras_transformer.layers.activations import activation_name
from keras_transformer.layers.attention import Attended, MultiHeadAttention
from keras_transformer.layers.cache import KeyValues, write
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.feed_forward import FeedForward
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts
from keras_transformer.layers.rotary import rotate


class DecoderOutputs(NamedTuple):
    """What one decoder layer gives: its output, and the parts that a teacher is asked for."""

    hidden: Tensor  # (B, T, D)
    attention: Tensor | tuple[()]  # (B, H, T, T), or () where nobody asked for it
    query: Tensor  # (B, H, T, d)
    key: Tensor  # (B, G, T, d)
    value: Tensor  # (B, G, T, d)
    cross_attention: Tensor | tuple[()]  # (B, H, T, S), or () where there is none


class Extended(NamedTuple):
    """What new tokens give: their output, and the cache with them in it or, beside a cache, what belongs there."""

    hidden: Tensor  # (B, K, D)
    cache: KeyValues  # (B, G, S, d), or (B, G, 1, d) of the one token


@keras.saving.register_keras_serializable("keras_transformer")
class DecoderLayer(keras.layers.Layer):
    """Masked self-attention, attention to a memory where asked for, and a feed-forward part.

    Each has a residual connection, dropout and a LayerNorm: after it (Vaswani et al. 2017, section 3.1) or before it
    (GPT-2; Xiong et al. 2020, fig. 1(b)). Nothing is masked unless `attention_mask` says so: see `causal_mask`.

    Args:
        model_dim: width D.
        num_heads: number of heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward part.
        dropout: rate on attention weights and on the output of each part, while training.
        activation: a Keras activation for the feed-forward part, or "gelu_tanh".
        norm_first: True for pre-norm.
        epsilon: added to the variance in each LayerNorm; GPT-2 has 1e-5.
        head_dim: width of one head; None = D / H.
        num_key_value_heads: number G of key and value heads of both attentions; None = H.
        cross_attention: True for attention to a memory, the encoder's output, between the other two parts.
        ranks: of its factorised dense products, see `part_ranks`: {"feed_forward/inner": 32}; None = none.
        block_size: number of keys to attend to at a time, see `MultiHeadAttention`; None = chosen by the lengths.

    Raises:
        ValueError: for a number out of range, or heads that don't divide the width or each other.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        dropout: float = 0.1,
        activation: str = "gelu",
        norm_first: bool = False,
        epsilon: float = 1e-5,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        cross_attention: bool = False,
        ranks: Ranks | None = None,
        block_size: int | None = None,
        **layer_options: Any,
    ) -> None:
        # Rotations and biases must come in as they are: half precision would blur far positions.
        super().__init__(autocast=False, **layer_options)
        fraction("dropout", dropout)
        self.model_dim, self.num_heads, self.inner_dim = model_dim, num_heads, inner_dim
        self.dropout, self.norm_first, self.epsilon = dropout, norm_first, epsilon
        policy = self.dtype_policy
        heads: dict[str, Any] = {
            "head_dim": head_dim,
            "num_key_value_heads": num_key_value_heads,
            "block_size": block_size,
            "dtype": policy,
        }
        self.ranks = dict(ranks) if ranks else None
        attentions = ("attention", "cross_attention") if cross_attention else ("attention",)
        part_ranks = ranks_of_parts(ranks, (*attentions, "feed_forward"))
        self.attention = MultiHeadAttention(
            model_dim, num_heads, dropout, ranks=part_ranks["attention"], name="attention", **heads
        )
        self.attention_norm = layer_norm("attention_norm", epsilon, policy)
        self.cross_attention: Any = None
        self.cross_norm: Any = None
        if cross_attention:
            self.cross_attention = MultiHeadAttention(
                model_dim, num_heads, dropout, ranks=part_ranks["cross_attention"], name="cross_attention", **heads
            )
            self.cross_norm = layer_norm("cross_attention_norm", epsilon, policy)
        self.feed_forward = FeedForward(
            model_dim, inner_dim, activation, ranks=part_ranks["feed_forward"], name="feed_forward", dtype=policy
        )
        self.feed_forward_norm = layer_norm("feed_forward_norm", epsilon, policy)
        self.residual_dropout = keras.layers.Dropout(dropout, name="dropout", dtype=policy)
        self.head_dim, self.activation = self.attention.head_dim, self.feed_forward.activation
        self.num_key_value_heads, self.block_size = self.attention.num_key_value_heads, block_size

    def build(self, x_shape: tuple, memory_shape: tuple | None = None) -> None:
        """Make the weights of each part; a memory may have a width of its own."""
        self.attention.build(x_shape, x_shape)
        if self.cross_attention is not None:
            self.cross_attention.build(x_shape, memory_shape or x_shape)
            self.cross_norm.build(x_shape)
        for part in (self.attention_norm, self.feed_forward, self.feed_forward_norm):
            part.build(x_shape)

    def call(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        attention_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        rotation: Tensor | None = None,
        score_bias: Tensor | None = None,
        causal: bool = False,
        linear_biases: bool = False,
        with_weights: bool = True,
        training: bool = False,
    ) -> DecoderOutputs:
        """Run on whole sequences.

        Args:
            x: (B, T, D).
            memory: (B, S, D), for a layer with cross-attention.
            attention_mask: of x to itself, (B or 1, T, T) bool.
            memory_mask: of x to the memory, (B, S) bool.
            rotation: (T, d) or (B, T, d) float32, see `rotary_table`; turns the self-attention's queries and keys.
            score_bias: (H, T, T) or (B, H, T, T) float32, see `alibi_biases`; added to the self-attention's scores.
            causal: True to add a `causal_mask` to the self-attention, without T x T numbers where it goes in blocks.
            linear_biases: True to add `alibi_biases` to the self-attention in the same way.
            with_weights: False where they aren't used: then long sequences are attended to in blocks.
            training: True for dropout.

        Raises:
            ValueError: if a memory is missing, or given to a layer that has no use for it.
        """
        self._check_memory(memory)
        x = ops.cast(x, self.compute_dtype)
        query, known = self._projected(x, rotation)
        attended = self.attention.attend(
            query,
            known,
            attention_mask=attention_mask,
            score_bias=score_bias,
            causal=causal,
            linear_biases=linear_biases,
            with_weights=with_weights,
            training=training,
        )
        remembered = None if memory is None else self.remember(ops.cast(memory, self.compute_dtype))
        hidden, crossed = self._rest(x, attended.context, remembered, memory_mask, with_weights, training)
        cross_weights = () if crossed is None else crossed.attention
        return DecoderOutputs(hidden, attended.attention, *attended[2:], cross_weights)

    def remember(self, memory: Tensor) -> KeyValues:
        """Keys and values of a memory (B, S, D) for the cross-attention: computed once, for all tokens to come.

        Raises:
            ValueError: if the layer has no cross-attention.
        """
        self._check_memory(memory)
        return self.cross_attention.project_memory(memory)

    def extend(
        self,
        x: Tensor,
        cache: KeyValues,
        position: Tensor,
        *,
        attention_mask: Tensor,
        memory: KeyValues | None = None,
        memory_mask: Tensor | None = None,
        rotation: Tensor | None = None,
        score_bias: Tensor | None = None,
        beside: bool = False,
    ) -> Extended:
        """Run on K new tokens of each row, whose keys and values go into the cache; no dropout.

        Args:
            x: (B, K, D).
            cache: room for S positions; those before `position` are known.
            position: (B,) int32, where each row's new tokens start.
            attention_mask: (B, K, S) bool, see `cache_mask`.
            memory: what `remember` gave, for a layer with cross-attention.
            memory_mask: (B, its length) bool.
            rotation: (B, K, d) float32.
            score_bias: (B, H, K, S) float32.
            beside: True to leave the cache as it is, of one new token (K = 1), which `attention_mask` then leaves
                out: its key and value are given back, for a caller that puts them into their place itself.

        Raises:
            ValueError: if a memory is missing, or given to a layer that has no use for it; if more than one token is
                to be run beside a cache.
        """
        self._check_memory(memory)
        x = ops.cast(x, self.compute_dtype)
        query, new = self._projected(x, rotation)
        masks = {"attention_mask": attention_mask, "score_bias": score_bias}
        if beside:
            _check_alone(x)
            context, kept = self.attention.attend_beside(query, cache, new, **masks), new
        else:
            kept = write(cache, new, position)
            context = self.attention.attend(query, kept, **masks).context
        hidden, _ = self._rest(x, context, memory, memory_mask, with_weights=True, training=False)
        return Extended(hidden, kept)

    def _projected(self, x: Tensor, rotation: Tensor | None) -> tuple[Tensor, KeyValues]:
        normed = self._before(self.attention_norm, x)
        query, known = self.attention.project_query(normed), self.attention.project_memory(normed)
        if rotation is None:
            return query, known
        return rotate(query, rotation), known._replace(key=rotate(known.key, rotation))

    def _rest(
        self,
        x: Tensor,
        context: Tensor,
        memory: KeyValues | None,
        memory_mask: Tensor | None,
        with_weights: bool,
        training: bool,
    ) -> tuple[Tensor, Attended | None]:
        """What follows the self-attention -> the layer's output, and what the cross-attention gave."""
        x = self._after(self.attention_norm, x, context, training)
        crossed = None
        if memory is not None:
            query = self.cross_attention.project_query(self._before(self.cross_norm, x))
            crossed = self.cross_attention.attend(
                query, memory, attention_mask=memory_mask, with_weights=with_weights, training=training
            )
            x = self._after(self.cross_norm, x, crossed.context, training)
        inner = self.feed_forward(self._before(self.feed_forward_norm, x), training=training)
        return self._after(self.feed_forward_norm, x, inner, training), crossed

    def _before(self, norm: keras.layers.Layer, x: Tensor) -> Tensor:
        return norm(x) if self.norm_first else x

    def _after(self, norm: keras.layers.Layer, x: Tensor, output: Tensor, training: bool) -> Tensor:
        total = x + self.residual_dropout(output, training=training)
        return total if self.norm_first else norm(total)

    def _check_memory(self, memory: Tensor | KeyValues | None) -> None:
        if (memory is None) != (self.cross_attention is None):
            got, fix = ("no memory", "Pass the encoder's output") if memory is None else ("a memory", "Pass none")
            raise ValueError(
                f"{self.name} was made with cross_attention={self.cross_attention is not None} and was given {got}. "
                f"{fix}, or build the layer with cross_attention={memory is not None}."
            )

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
            "num_key_value_heads": self.num_key_value_heads,
            "cross_attention": self.cross_attention is not None,
            "ranks": self.ranks and dict(self.ranks),
            "block_size": self.block_size,
        }
        return {**super().get_config(), **own}


def _check_alone(x: Tensor) -> None:
    if x.shape[1] != 1:
        raise ValueError(
            f"{x.shape[1]} new tokens a row beside a cache: they would not see each other there. "
            "Pass one, (B, 1, D), or use beside=False."
        )
