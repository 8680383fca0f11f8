"""One cache for all beginnings of a text, so that a beam search moves nothing from one beginning to another.

A search that keeps a cache a beginning copies whole caches each time that one beginning becomes two. Here the W
beginnings of a text are W queries on one cache: it holds the prompt once, then W places for each new token, and each
beginning has a mask of the places that are its own past. To go on from another beginning is to take over its mask.
In return each query is compared with the places of all: W times the products of attention. That is little beside the
other layers where the search is narrow, and more than copying costs where it is wide.

Letters: B texts, W branches a text, G heads, S places, d width of a head, P places of the prompt.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_transformer.layers import KeyValues
from keras_transformer.layers.cache import with_room
from keras_transformer.layers.masks import Tensor
from keras_transformer.models.decoder_state import DecoderState


class Branches(NamedTuple):
    """What is known of the W beginnings of each text."""

    position: Tensor  # (B,) int32, tokens of each beginning so far, the prompt's among them
    place: Tensor  # (B,) int32, where the next tokens go: that of branch w to place + w
    visible: Tensor  # (B, W, S) bool, the places that hold a branch's past
    key_position: Tensor  # (B, S) int32, where in its text the token of each place stands
    caches: tuple[KeyValues, ...]  # of the self-attention, one a layer, (B, G, S, d)
    memory: tuple[KeyValues, ...]  # of the cross-attention, one a layer, the same for all branches of a text
    memory_mask: Tensor | tuple[()]


def branch(state: DecoderState, width: int, more: int) -> Branches:
    """Let each text of `state` go on in `width` ways, with room for `more` tokens of each.

    The rest of the room that `state` has stays unused: give `prompt` no more than the prompt needs.
    """
    known = state.caches[0].key.shape[2]  # P
    room = known + width * more
    places = tf.range(room)  # (S,)
    position = tf.convert_to_tensor(state.position)
    new = tf.expand_dims(position, 1) + (places - known) // width  # (B, S)
    seen = tf.expand_dims(tf.logical_and(places < known, places < tf.expand_dims(position, 1)), 1)  # (B, 1, S)
    return Branches(
        position=position,
        place=tf.fill(tf.shape(position), known),
        visible=tf.repeat(seen, width, axis=1),
        key_position=tf.where(places < known, places, new),
        caches=tuple(with_room(cache, room) for cache in state.caches),
        memory=state.memory,
        memory_mask=state.memory_mask,
    )


def follow(state: Branches, rows: Tensor) -> Branches:
    """Branch i of all texts in a row, (B W,), goes on from branch rows[i], one of the same text."""
    _, width, room = state.visible.shape
    past = tf.gather(tf.reshape(state.visible, (-1, room)), rows)
    return state._replace(visible=tf.reshape(past, (-1, width, room)))


def own_places(state: Branches) -> Tensor:
    """(B, W, S) bool, True where the next token of each branch goes."""
    width, room = state.visible.shape[1:]
    own = tf.expand_dims(state.place, 1) + tf.range(width)  # (B, W)
    return tf.equal(tf.expand_dims(own, 2), tf.range(room))
