"""From token ids to logits through a decoder: the same layers for whole sequences, for prompts and for single steps."""

from dataclasses import dataclass
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers import (
    CausalMask,
    DecoderLayer,
    DecoderOutputs,
    KeyValues,
    LearnedPositions,
    LinearBiases,
    RotaryPositions,
    TokenEmbedding,
    empty_key_values,
)
from keras_transformer.layers.cache import with_room
from keras_transformer.layers.decoder import extend_layers
from keras_transformer.layers.encoder import layer_norm
from keras_transformer.layers.integer_policy import policy_of_outputs
from keras_transformer.layers.linear_biases import biases_between
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.part_ranks import Ranks, dense
from keras_transformer.models.branches import Branches, branch, own_places
from keras_transformer.models.decoder_state import DecoderState


class Placed(NamedTuple):
    """Embedded tokens that know where they stand, in one of three ways."""

    x: Tensor  # (B, T, D), with positions added if they are learned or sinusoidal
    rotation: Tensor | None  # (T, d) or (B, T, d) float32, of rotary positions
    score_bias: Tensor | None  # (H, T, S) or (B, H, T, S) float32, of ALiBi


class WholeOutputs(NamedTuple):
    """What a run over whole sequences gives."""

    embeddings: Tensor  # (B, T, D), positions added
    layers: tuple[DecoderOutputs, ...]
    hidden: Tensor  # (B, T, D), before the final norm


@dataclass(frozen=True)
class DecoderStack:
    """The layers of a decoder from the token table to the logits; it owns none of them, the model does."""

    tokens: TokenEmbedding
    positions: keras.layers.Layer
    dropout: keras.layers.Layer
    causal_mask: CausalMask
    layers: tuple[DecoderLayer, ...]
    final_norm: keras.layers.Layer | None
    output: keras.layers.Layer | None  # hidden state -> float32 logits; None = the token table, tied

    def whole(self, token_ids: Tensor, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> WholeOutputs:
        """Run on whole sequences (B, T), which may be KerasTensors: then this builds the graph of a model."""
        placed = self._placed(token_ids, start=0)
        x = self.dropout(placed.x)
        mask = self.causal_mask(token_ids)
        found = []
        for layer in self.layers:
            outputs = layer(
                x,
                memory,
                attention_mask=mask,
                memory_mask=memory_mask,
                rotation=placed.rotation,
                score_bias=placed.score_bias,
            )
            x = outputs.hidden
            found.append(outputs)
        return WholeOutputs(placed.x, tuple(found), x)

    def logits(self, hidden: Tensor) -> Tensor:
        """(B, T, D), before the final norm -> (B, T, V) float32."""
        normed = hidden if self.final_norm is None else self.final_norm(hidden)
        return self.tokens(normed, as_logits=True) if self.output is None else self.output(normed)

    def taps(self, outputs: WholeOutputs) -> dict[str, Tensor]:
        """Names for what a run over whole sequences gives: `embeddings`, `decoder/0/hidden` and so on."""
        taps = {"embeddings": outputs.embeddings}
        for index, layer in enumerate(outputs.layers):
            parts = layer._asdict().items()
            taps |= {f"decoder/{index}/{part}": tensor for part, tensor in parts if not isinstance(tensor, tuple)}
        return taps

    def extend(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read K more tokens of each row, (B, K) -> logits (B, K, V) after each of them, and the state with them."""
        hidden, caches = self._extended(token_ids, state)
        position = state.position + ops.shape(token_ids)[1]
        return self.logits(hidden), state._replace(position=position, caches=caches)

    def step(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read one more token of each row, (B,) -> logits (B, V) of the next, and the state with it."""
        logits, state = self.extend(ops.expand_dims(token_ids, 1), state)
        return ops.squeeze(logits, 1), state

    def step_beside(self, token_ids: Tensor, state: DecoderState) -> tuple[Tensor, tuple[KeyValues, ...]]:
        """As `step`, but the state stays as it is: what belongs to place `position` of the caches is given back.

        (B,) -> logits (B, V) of the next token, and a key and a value (B, G, 1, d) for each layer.
        """
        hidden, own = self._extended(ops.expand_dims(token_ids, 1), state, beside=True)
        return ops.squeeze(self.logits(hidden), 1), own

    def branch(self, state: DecoderState, width: int, more: int) -> Branches:
        """Let each text go on in `width` ways, with room for `more` tokens of each; see `models.branches`.

        Raises:
            ValueError: if the model hasn't learned so many positions.
        """
        self.check_room(state.caches[0].key.shape[2] + more, None)
        return branch(state, width, more)

    def step_branches(self, token_ids: Tensor, state: Branches) -> tuple[Tensor, Branches]:
        """Read one more token of each branch of each text, (B W,) -> logits (B W, V), and the state with it."""
        width = state.visible.shape[1]
        start = ops.repeat(state.position, width)  # (B W,): all branches of a text are equally long
        token_ids = ops.expand_dims(token_ids, 1)
        visible = ops.logical_or(state.visible, own_places(state))
        if isinstance(self.positions, LinearBiases):
            queries = ops.reshape(start, (-1, width))
            bias = biases_between(self.positions.num_heads, queries, state.key_position)  # (B, H, W, S)
            placed = Placed(self.tokens(token_ids), None, bias)
        else:
            placed = self._placed(token_ids, start=start)
        hidden, caches = extend_layers(
            self.layers,
            ops.reshape(placed.x, (-1, width, placed.x.shape[-1])),
            state.caches,
            state.place,
            attention_mask=visible,
            memory=state.memory,
            memory_mask=state.memory_mask if state.memory else None,
            rotation=_by_branches(placed.rotation, width),
            score_bias=placed.score_bias,
        )
        logits = self.logits(hidden)  # (B, W, V)
        after = state._replace(position=state.position + 1, place=state.place + width, visible=visible, caches=caches)
        return ops.reshape(logits, (-1, logits.shape[-1])), after

    def empty_caches(self, batch: int | Tensor, room: int) -> tuple[KeyValues, ...]:
        """Room for `room` positions in each layer and nothing in it."""
        return tuple(
            empty_key_values(batch, layer.num_key_value_heads, room, layer.head_dim, layer.compute_dtype)
            for layer in self.layers
        )

    def filled_caches(self, outputs: WholeOutputs, room: int) -> tuple[KeyValues, ...]:
        """The keys and values of a run over whole sequences, with `room` positions."""
        return tuple(with_room(KeyValues(layer.key, layer.value), room) for layer in outputs.layers)

    def check_room(self, room: int, length: int | None) -> None:
        """Raise ValueError unless `room` holds a prompt of `length` tokens, at least one, and has enough positions."""
        positive_integer("room", room)
        if length == 0:
            raise ValueError(
                "a prompt of 0 tokens gives nothing to foresee from. "
                "Begin each text with a token, for example the one that ended the text before."
            )
        if length is not None and length > room:
            raise ValueError(
                f"a prompt of {length} tokens doesn't fit into room={room}. "
                f"Use room={length} plus the number of new tokens, or cut the prompt to {room} tokens."
            )
        if isinstance(self.positions, LearnedPositions) and room > self.positions.max_length:
            longest = self.positions.max_length
            raise ValueError(
                f"room={room} is more than the max_length={longest} positions that the model has learned. "
                f"Use room={longest} or less, or build the model with max_length={room}."
            )

    def _extended(
        self, token_ids: Tensor, state: DecoderState, beside: bool = False
    ) -> tuple[Tensor, tuple[KeyValues, ...]]:
        room = ops.shape(state.caches[0].key)[2]
        placed = self._placed(token_ids, start=state.position, room=room)
        return extend_layers(
            self.layers,
            placed.x,
            state.caches,
            state.position,
            memory=state.memory,
            memory_mask=state.memory_mask if state.memory else None,
            rotation=placed.rotation,
            score_bias=placed.score_bias,
            beside=beside,
        )

    def _placed(self, token_ids: Tensor, start: int | Tensor, room: int | Tensor | None = None) -> Placed:
        x = self.tokens(token_ids)
        if isinstance(self.positions, RotaryPositions):
            return Placed(x, self.positions(x, start=start), None)
        if isinstance(self.positions, LinearBiases):
            return Placed(x, None, self.positions(x, start=start, num_keys=room))
        return Placed(self.positions(x, start=start), None, None)


def _by_branches(rotation: Tensor | None, width: int) -> Tensor | None:
    """(B W, 1, d) -> (B, W, d)."""
    return None if rotation is None else ops.reshape(rotation, (-1, width, rotation.shape[-1]))


def stack_of(
    layers: tuple[DecoderLayer, ...],
    tokens: TokenEmbedding,
    positions: keras.layers.Layer,
    *,
    tied: bool,
    ranks: Ranks,
) -> DecoderStack:
    """Put what stands before and after the decoder layers around them, by their own numbers.

    Logits are float32 whatever the policy: losses and softmax start from them. `ranks` are those of their own product,
    where they have one.
    """
    first = layers[0]
    policy = first.dtype_policy
    output = None
    if not tied:
        output = dense(tokens.vocab_size, ranks, use_bias=False, name="logits", dtype=policy_of_outputs(policy))
    return DecoderStack(
        tokens=tokens,
        positions=positions,
        dropout=keras.layers.Dropout(first.dropout, name="embeddings_dropout", dtype=policy),
        causal_mask=CausalMask(name="causal_mask", dtype=policy),
        layers=layers,
        final_norm=layer_norm("final_norm", first.epsilon, policy) if first.norm_first else None,
        output=output,
    )
