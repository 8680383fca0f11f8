"""A decoder's memory between two steps: tensors in, tensors out, the batch the first axis of each."""

from typing import NamedTuple

from keras import ops

from keras_transformer.layers import KeyValues
from keras_transformer.layers.masks import Tensor


class DecoderState(NamedTuple):
    """What is known of the tokens so far. A smaller `position` takes the last ones back."""

    position: Tensor  # (B,) int32, tokens that the caches hold
    caches: tuple[KeyValues, ...]  # of the self-attention, one a layer, (B, G, room, d)
    memory: tuple[KeyValues, ...] = ()  # of the cross-attention, one a layer, (B, G, S, d)
    memory_mask: Tensor | tuple[()] = ()  # (B, S) bool, True at the source's real tokens


class Prompted(NamedTuple):
    """Where the generation of new tokens starts."""

    logits: Tensor  # (B, V) float32, of the first new token
    state: DecoderState


def reordered(state: DecoderState, rows: Tensor) -> DecoderState:
    """Row rows[i] becomes row i, one of the same text: so the source's memory, which they share, stays as it is."""
    caches = tuple(KeyValues(*(ops.take(part, rows, axis=0) for part in cache)) for cache in state.caches)
    return state._replace(position=ops.take(state.position, rows, axis=0), caches=caches)
