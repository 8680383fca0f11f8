"""A stack of decoder layers (Vaswani et al. 2017, section 3.1), and the causal mask as a layer."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers.activations import activation_name
from keras_transformer.layers.cache import KeyValues
from keras_transformer.layers.decoder_layer import DecoderLayer
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.masks import Tensor, cache_mask, causal_mask
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts
from keras_transformer.layers.recomputing import check_recomputing, hidden_recomputed


@keras.saving.register_keras_serializable("keras_transformer")
class CausalMask(keras.layers.Layer):
    """`causal_mask` for as many positions as x has, in graphs that learn the length only when they run."""

    def call(self, x: Tensor) -> Tensor:
        """(B, T) or (B, T, D) -> (1, T, T) bool."""
        return causal_mask(ops.shape(x)[1])

    def get_config(self) -> dict[str, Any]:
        """Return name, dtype and trainable; Keras can't guess them when `dtype` is a policy object."""
        return super().get_config()


def extend_layers(
    decoder_layers: Sequence[DecoderLayer],
    x: Tensor,
    caches: Sequence[KeyValues],
    position: Tensor,
    *,
    attention_mask: Tensor | None = None,
    memory: Sequence[KeyValues] = (),
    memory_mask: Tensor | None = None,
    rotation: Tensor | None = None,
    score_bias: Tensor | None = None,
    beside: bool = False,
) -> tuple[Tensor, tuple[KeyValues, ...]]:
    """Run K new tokens of each row, x (B, K, D), through the layers, each on its own cache.

    Each attends to what its row has in the cache before `position`, to the new tokens up to itself, and to the memory.

    Args:
        decoder_layers: in order.
        x: (B, K, D).
        caches: one a layer, with room for S positions.
        position: (B,) int32, where each row's new tokens start.
        attention_mask: (B, K, S) bool, which places of the cache each new token attends to, its own among them, where
            that isn't all up to itself.
        memory: one a layer, see `DecoderLayer.remember`; none without cross-attention.
        memory_mask: (B, length of the memory) bool.
        rotation: (B, K, d) float32, see `rotary_table`.
        score_bias: (B, H, K, S) float32, see `alibi_biases`.
        beside: True to leave the caches as they are, of one new token; see `DecoderLayer.extend`.

    Returns:
        The hidden state (B, K, D), and the caches with the new tokens in them or, beside them, what belongs there.
    """
    if attention_mask is None:
        last = position - 1 if beside else position  # that the first new token sees in the cache
        attention_mask = cache_mask(last, ops.shape(x)[1], ops.shape(caches[0].key)[2])  # (B, K, S)
    kept = []
    for index, layer in enumerate(decoder_layers):
        x, cache = layer.extend(
            x,
            caches[index],
            position,
            attention_mask=attention_mask,
            memory=memory[index] if memory else None,
            memory_mask=memory_mask,
            rotation=rotation,
            score_bias=score_bias,
            beside=beside,
        )
        kept.append(cache)
    return x, tuple(kept)


@keras.saving.register_keras_serializable("keras_transformer")
class Decoder(keras.layers.Layer):
    """A stack of `num_layers` decoder layers: (B, T, D) -> (B, T, D). Pre-norm stacks end with a LayerNorm.

    Args: as `DecoderLayer`, and `num_layers`; with `recompute_layers`, training keeps the input of each layer alone and
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
        epsilon: float = 1e-5,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        cross_attention: bool = False,
        ranks: Ranks | None = None,
        block_size: int | None = None,
        recompute_layers: bool = False,
        **layer_options: Any,
    ) -> None:
        super().__init__(autocast=False, **layer_options)
        positive_integer("num_layers", num_layers)
        check_recomputing(recompute_layers, self.dtype_policy)
        self.recompute_layers = recompute_layers
        self.num_layers, self.model_dim, self.num_heads = num_layers, model_dim, num_heads
        self.inner_dim, self.dropout, self.norm_first, self.epsilon = inner_dim, dropout, norm_first, epsilon
        self.ranks, self.block_size = dict(ranks) if ranks else None, block_size
        part_ranks = ranks_of_parts(ranks, [f"layer_{index}" for index in range(num_layers)])
        self.decoder_layers = [
            DecoderLayer(
                model_dim,
                num_heads,
                inner_dim,
                dropout,
                activation,
                norm_first,
                epsilon,
                head_dim,
                num_key_value_heads,
                cross_attention,
                part_ranks[f"layer_{index}"],
                block_size,
                name=f"layer_{index}",
                dtype=self.dtype_policy,
            )
            for index in range(num_layers)
        ]
        first = self.decoder_layers[0]
        self.activation, self.head_dim = first.activation, first.head_dim
        self.num_key_value_heads, self.cross_attention = first.num_key_value_heads, cross_attention
        self.final_norm = layer_norm("final_norm", epsilon, self.dtype_policy) if norm_first else None

    def build(self, x_shape: tuple, memory_shape: tuple | None = None) -> None:
        """Make the weights of each layer."""
        for layer in self.decoder_layers:
            layer.build(x_shape, memory_shape)
        if self.final_norm is not None:
            self.final_norm.build(x_shape)

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
        training: bool = False,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); masks, rotation and biases as `DecoderLayer`, the same in each layer."""
        options = {
            "attention_mask": attention_mask,
            "memory_mask": memory_mask,
            "causal": causal,
            "linear_biases": linear_biases,
            "with_weights": False,
            "training": training,
        }
        for layer in self.decoder_layers:
            tensors = {"x": x, "memory": memory, "rotation": rotation, "score_bias": score_bias}
            again = self.recompute_layers and training
            x = hidden_recomputed(layer, tensors, **options) if again else layer(**tensors, **options).hidden
        return x if self.final_norm is None else self.final_norm(x)

    def remember(self, memory: Tensor) -> tuple[KeyValues, ...]:
        """Keys and values of a memory (B, S, D), one a layer: computed once, for all tokens to come."""
        return tuple(layer.remember(memory) for layer in self.decoder_layers)

    def extend(
        self, x: Tensor, caches: Sequence[KeyValues], position: Tensor, **attending: Any
    ) -> tuple[Tensor, tuple[KeyValues, ...]]:
        """Run K new tokens of each row, as `extend_layers`, and the final norm."""
        hidden, kept = extend_layers(self.decoder_layers, x, caches, position, **attending)
        return hidden if self.final_norm is None else self.final_norm(hidden), kept

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
            "num_key_value_heads": self.num_key_value_heads,
            "cross_attention": self.cross_attention,
            "ranks": self.ranks and dict(self.ranks),
            "block_size": self.block_size,
        }
        return {**super().get_config(), **own}
