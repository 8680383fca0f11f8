"""A language model in GPT-2's layout (Radford et al. 2019, section 2.3), with newer positions and heads as options."""

from pathlib import Path
from typing import Any, Self

import keras
from keras import ops

from keras_transformer.checks import fraction, one_of, positive_integer
from keras_transformer.layers import (
    DecoderLayer,
    LearnedPositions,
    LinearBiases,
    PositionalEncoding,
    RotaryPositions,
    TokenEmbedding,
)
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, ranks_of_parts
from keras_transformer.models.configuration import argument, config_of, model_of
from keras_transformer.models.decoder_stack import stack_of
from keras_transformer.models.decoder_state import DecoderState, Prompted
from keras_transformer.models.generating import Generating
from keras_transformer.pretrained import gpt2

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi")


@keras.saving.register_keras_serializable("keras_transformer")
class CausalLM(Generating):
    """Token ids (B, T) int32, 0 = padding at the end of a row -> float32 logits (B, T, V) of each next token.

    The graph is Functional, so `summary`, `get_layer` and `.keras` files work as ever. `tap_tensors` names what it
    computes on the way: `embeddings`, `mask` (the real tokens), and for each layer `decoder/0/hidden`,
    `.../attention`, `.../query`, `.../key`, `.../value`.

    `prompt`, `extend` and `step` run the same layers on an explicit cache, token by token.

    Args:
        vocab_size: number of token ids V.
        num_layers: decoder layers.
        model_dim: width D.
        num_heads: heads H; divides D unless `head_dim` is given.
        inner_dim: width F of the feed-forward parts.
        max_length: longest sequence that learned positions have rows for; the others know no longest.
        embedding_dim: width of a factorised token table, see `TokenEmbedding`; None = D, no factor.
        dropout: rate while training, on embeddings, attention weights and each part's output.
        activation: of the feed-forward parts; GPT-2 has "gelu_tanh".
        norm_first: True for pre-norm layers and a final LayerNorm, as GPT-2.
        epsilon: of each LayerNorm.
        positions: "learned" (GPT-2), "sinusoidal", "rotary" or "alibi".
        head_dim: width of one head; None = D / H.
        num_key_value_heads: heads G of keys and values, a divisor of H; None = H.
        tie_embeddings: True to take the token table for the logits, too; False for a projection of their own.
        ranks: of factorised dense products, by path: {"decoder_0/attention/query": 32}; None = none. See `compression`.

    Raises:
        ValueError: for a number out of range, heads that don't divide the width or each other, an unknown kind of
            positions, or rotary positions with heads of an odd width.
    """

    def __init__(
        self,
        vocab_size: int,
        num_layers: int,
        model_dim: int,
        num_heads: int,
        inner_dim: int,
        *,
        max_length: int = 1024,
        embedding_dim: int | None = None,
        dropout: float = 0.1,
        activation: str = "gelu_tanh",
        norm_first: bool = True,
        epsilon: float = 1e-5,
        positions: str = "learned",
        head_dim: int | None = None,
        num_key_value_heads: int | None = None,
        tie_embeddings: bool = True,
        ranks: Ranks | None = None,
        name: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Check the numbers, build the graph, keep the arguments for the config."""
        positive_integer("num_layers", num_layers)
        positive_integer("max_length", max_length)
        fraction("dropout", dropout)
        one_of("positions", positions, POSITIONS)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        tokens = TokenEmbedding(vocab_size, model_dim, embedding_dim, name="tokens", dtype=policy)
        options = {
            "dropout": dropout,
            "activation": activation,
            "norm_first": norm_first,
            "epsilon": epsilon,
            "head_dim": head_dim,
            "num_key_value_heads": num_key_value_heads,
            "dtype": policy,
        }
        names = [f"decoder_{index}" for index in range(num_layers)]
        part_ranks = ranks_of_parts(ranks, [*names, *([] if tie_embeddings else ["logits"])])
        layers = tuple(
            DecoderLayer(model_dim, num_heads, inner_dim, ranks=part_ranks[name], name=name, **options)
            for name in names
        )
        place = _positions(positions, max_length, layers[0], policy)
        stack = stack_of(layers, tokens, place, tied=tie_embeddings, ranks=part_ranks.get("logits", {}))
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        outputs = stack.whole(token_ids)
        super().__init__(token_ids, stack.logits(outputs.hidden), name=name)
        self.dtype_policy = policy  # `compile` scales the loss when it says mixed_float16
        self.stack = stack
        self.tap_tensors: dict[str, Tensor] = {"mask": ops.not_equal(token_ids, 0), **stack.taps(outputs)}
        self._arguments: dict[str, Any] = {
            "vocab_size": vocab_size,
            "num_layers": num_layers,
            "model_dim": model_dim,
            "num_heads": num_heads,
            "inner_dim": inner_dim,
            "max_length": max_length,
            "embedding_dim": embedding_dim,
            "dropout": dropout,
            "activation": activation,
            "norm_first": norm_first,
            "epsilon": epsilon,
            "positions": positions,
            "head_dim": layers[0].head_dim,
            "num_key_value_heads": layers[0].num_key_value_heads,
            "tie_embeddings": tie_embeddings,
            "ranks": dict(ranks) if ranks else None,
        }

    @classmethod
    def from_pretrained(
        cls, folder: Path | str, *, dropout: float = 0.1, name: str | None = None, dtype: Any = None
    ) -> Self:
        """Build the model that a Hugging Face folder of a GPT-2 describes, with its weights.

        Id 0 is a piece of the released GPT-2's vocabulary ("!") and padding here. The weights take it as a token like
        any other; `prompt` takes it for padding at the end of a row only, the losses everywhere.

        Args:
            folder: holds `config.json` and `model.safetensors`.
            dropout: rate while training.
            name: of the model.
            dtype: a Keras dtype policy; None = the global one.

        Raises:
            ModelFileError: if a file or tensor is missing, extra, of another shape or cut short.
        """
        model = cls(dropout=dropout, name=name, dtype=dtype, **gpt2.read_config(folder)._asdict())
        gpt2.load_weights(model, folder)
        return model

    def call(
        self, inputs: Tensor | dict[str, Tensor], training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Token ids (B, T), or a dict that has them as "token_ids" -> logits (B, T, V). `mask` isn't used."""
        token_ids = inputs["token_ids"] if isinstance(inputs, dict) else inputs
        return super().call(token_ids, training=training)

    def prompt(self, token_ids: Tensor, room: int) -> Prompted:
        """Read the start of each text.

        Args:
            token_ids: (B, T) int32; rows may differ in length, with 0 at their end. A 0 before a row's last other id
                counts as a token. Each row has a token: one of padding alone gives logits that mean nothing.
            room: positions S of the cache: the prompt's and those of the new tokens.

        Returns:
            The logits after each row's last real token, and the state with the real tokens in it.

        Raises:
            ValueError: if the prompt is empty or doesn't fit into `room`, or `room` not into the learned positions.
        """
        token_ids = ops.convert_to_tensor(token_ids, "int32")
        self.stack.check_room(room, token_ids.shape[1])
        outputs = self.stack.whole(token_ids)
        places = ops.expand_dims(ops.arange(ops.shape(token_ids)[1], dtype="int32"), 0)  # (1, T)
        position = ops.max(ops.where(ops.not_equal(token_ids, 0), places + 1, 0), axis=1)  # (B,)
        is_last = ops.equal(places, ops.expand_dims(ops.maximum(position - 1, 0), 1))  # (B, T)
        last = ops.sum(ops.where(ops.expand_dims(is_last, 2), outputs.hidden, 0), axis=1, keepdims=True)  # (B, 1, D)
        state = DecoderState(position, self.stack.filled_caches(outputs, room))
        return Prompted(ops.squeeze(self.stack.logits(last), 1), state)

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


def _positions(kind: str, max_length: int, layer: DecoderLayer, policy: Any) -> keras.layers.Layer:
    if kind == "learned":
        return LearnedPositions(max_length, name="positions", dtype=policy)
    if kind == "sinusoidal":
        return PositionalEncoding(name="positions", dtype=policy)
    if kind == "rotary":
        return RotaryPositions(layer.head_dim, name="positions", dtype=policy)
    return LinearBiases(layer.num_heads, name="positions", dtype=policy)
