"""The Transformer of Vaswani et al. 2017: an encoder for the source, a decoder for the target, one table for both."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import keras
from keras import ops

from keras_transformer.checks import fraction, positive_integer
from keras_transformer.layers import DecoderLayer, EncoderLayer, PositionalEncoding, TokenEmbedding
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts
from keras_transformer.models.configuration import argument, config_of, model_of
from keras_transformer.models.decoder_stack import DecoderStack, stack_of
from keras_transformer.models.decoder_state import DecoderState, Prompted
from keras_transformer.models.generating import Generating


class EncodedSource(NamedTuple):
    """What the encoder side makes of a source."""

    memory: Tensor  # (B, S, D)
    real: Tensor  # (B, S) bool, True at real tokens
    taps: dict[str, Tensor]  # `encoder/0/hidden` and so on, `source_embeddings`


@dataclass(frozen=True)
class EncoderStack:
    """The layers of the encoder side, which shares the token table with the decoder; the model owns them all."""

    shared: DecoderStack
    layers: tuple[EncoderLayer, ...]
    final_norm: keras.layers.Layer | None

    def encode(self, source_ids: Tensor) -> EncodedSource:
        """Run on source ids (B, S), which may be a KerasTensor: then this builds the graph of a model."""
        real = ops.not_equal(source_ids, 0)  # (B, S)
        x = self.shared.positions(self.shared.tokens(source_ids))
        taps = {"source_embeddings": x}
        x = self.shared.dropout(x)
        for index, layer in enumerate(self.layers):
            encoded = layer(x, attention_mask=real)
            taps |= {f"encoder/{index}/{part}": tensor for part, tensor in encoded._asdict().items()}
            x = encoded.hidden
        return EncodedSource(x if self.final_norm is None else self.final_norm(x), real, taps)


@keras.saving.register_keras_serializable("keras_transformer")
class Seq2Seq(Generating):
    """{"source_ids" (B, S), "target_ids" (B, T)} int32, 0 = padding at the end -> float32 logits (B, T, V).

    `target_ids` is the target moved one to the right, so that it begins with the start token and logits t are those
    of target token t. One vocabulary, and one token table for source, target and, if tied, logits (section 3.4).

    The graph is Functional, so `summary`, `get_layer` and `.keras` files work as ever. `tap_tensors` names what it
    computes on the way: `embeddings` (of the target), `source_embeddings`, `mask` (the target's real tokens), for
    each encoder layer `encoder/0/hidden`, `.../attention`, `.../query`, `.../key`, `.../value`, and for each decoder
    layer the same below `decoder/0`, with `.../cross_attention`.

    `prompt`, `extend` and `step` run the same layers on an explicit cache, token by token.

    Args:
        vocab_size: number of token ids V.
        num_layers: encoder layers, and decoder layers unless `num_decoder_layers` is given.
        model_dim: width D.
        num_heads: heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward parts.
        num_decoder_layers: decoder layers; None = `num_layers`.
        embedding_dim: width of a factorised token table, see `TokenEmbedding`; None = D, no factor.
        dropout: rate while training, on embeddings, attention weights and each part's output.
        activation: of the feed-forward parts; the paper has "relu".
        norm_first: True for pre-norm layers, and a LayerNorm at the end of encoder and decoder.
        epsilon: of each LayerNorm.
        head_dim: width of one head; None = D / H.
        num_key_value_heads: heads G of the decoder's keys and values, a divisor of H; None = H.
        tie_embeddings: True to take the token table for the logits, too; False for a projection of their own.
        ranks: of factorised dense products, by path: {"decoder_0/attention/query": 32}; None = none. See `compression`.

    Raises:
        ValueError: for a number out of range, or heads that don't divide the width or each other.
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        *,
        num_decoder_layers: int | None = None,
        embedding_dim: int | None = None,
        dropout: float = 0.1,
        activation: str = "relu",
        norm_first: bool = False,
        epsilon: float = 1e-5,
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        tie_embeddings: bool = True,
        ranks: Ranks | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Check the numbers, build the graph, keep the arguments for the config."""
        num_decoder_layers = num_layers if num_decoder_layers is None else num_decoder_layers
        for label, value in (("num_layers", num_layers), ("num_decoder_layers", num_decoder_layers)):
            positive_integer(label, value)
        fraction("dropout", dropout)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        sizes = (model_dim, num_heads, inner_dim)
        parts = {"dropout": dropout, "activation": activation, "norm_first": norm_first, "epsilon": epsilon}
        options: dict[str, Any] = {**parts, "head_dim": head_dim, "dtype": policy}
        ours = [f"encoder_{index}" for index in range(num_layers)]
        theirs = [f"decoder_{index}" for index in range(num_decoder_layers)]
        part_ranks = ranks_of_parts(ranks, [*ours, *theirs, *([] if tie_embeddings else ["logits"])])
        encoder_layers = tuple(EncoderLayer(*sizes, ranks=part_ranks[name], name=name, **options) for name in ours)
        options |= {"num_key_value_heads": num_key_value_heads, "cross_attention": True}
        decoder = tuple(DecoderLayer(*sizes, ranks=part_ranks[name], name=name, **options) for name in theirs)
        scale = math.sqrt(model_dim)
        tokens = TokenEmbedding(vocab_size, model_dim, embedding_dim, scale=scale, name="tokens", dtype=policy)
        positions = PositionalEncoding(name="positions", dtype=policy)
        stack = stack_of(decoder, tokens, positions, tied=tie_embeddings, ranks=part_ranks.get("logits", {}))
        encoder_norm = layer_norm("encoder_norm", epsilon, policy) if norm_first else None
        encoder = EncoderStack(stack, encoder_layers, encoder_norm)

        source_ids = keras.Input((None,), dtype="int32", name="source_ids")
        target_ids = keras.Input((None,), dtype="int32", name="target_ids")
        source = encoder.encode(source_ids)
        target = stack.whole(target_ids, source.memory, source.real)
        inputs = {"source_ids": source_ids, "target_ids": target_ids}
        super().__init__(inputs, stack.logits(target.hidden), name=name)
        self.dtype_policy = policy  # `compile` scales the loss when it says mixed_float16
        self.stack, self.encoder = stack, encoder
        mask = ops.not_equal(target_ids, 0)
        self.tap_tensors: dict[str, Tensor] = {"mask": mask, **source.taps, **stack.taps(target)}
        self._arguments: dict[str, Any] = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "model_dim": model_dim,
            "num_heads": num_heads,
            "inner_dim": inner_dim,
            "num_decoder_layers": num_decoder_layers,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "activation": activation,
            "norm_first": norm_first,
            "epsilon": epsilon,
            "head_dim": decoder[0].head_dim,
            "num_key_value_heads": decoder[0].num_key_value_heads,
            "tie_embeddings": tie_embeddings,
            "ranks": dict(ranks) if ranks else None,
        }

    def call(
        self, inputs: dict[str, Tensor], training: bool | None = None, mask: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Dict of source_ids (B, S) and target_ids (B, T), and more if need be -> logits. `mask` isn't used."""
        chosen = {name: inputs[name] for name in ("source_ids", "target_ids")}
        return super().call(chosen, training=training)

    def prompt(self, source_ids: Tensor, room: int, start_id: int) -> Prompted:
        """Read the source of each row and the start token.

        Args:
            source_ids: (B, S) int32; rows may differ in length, with 0 at their end.
            room: positions of the cache: the start token's and those of the new tokens but the last.
            start_id: what a target begins with; never 0, which is padding.

        Returns:
            The logits of the first target token, and the state with the start token in it.

        Raises:
            ValueError: if `room` or `start_id` isn't a whole number of at least 1.
        """
        positive_integer("start_id", start_id)
        self.stack.check_room(room, length=1)
        source_ids = ops.convert_to_tensor(source_ids, "int32")
        source = self.encoder.encode(source_ids)
        batch = ops.shape(source_ids)[0]
        state = DecoderState(
            position=ops.zeros((batch,), "int32"),
            caches=self.stack.empty_caches(batch, room),
            memory=tuple(layer.remember(source.memory) for layer in self.stack.layers),
            memory_mask=source.real,
        )
        return Prompted(*self.step(ops.full((batch,), start_id, dtype="int32"), state))

    def __getattr__(self, name: str) -> Any:
        """Offer each constructor argument under its own name."""
        return argument(self, name)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments, and the names of the layers that are frozen."""
        return config_of(self, self._arguments)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Self:
        """Build the model from what `get_config` returned."""
        return model_of(cls, config)
