"""What a decoder remembers of the positions before: keys and values as plain tensors, with room for more.

Entries at or after a row's position are garbage that no mask lets through, so to take tokens back is to use a
smaller position.
"""

from typing import NamedTuple

from keras import ops

from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.per_token import leading_lengths


class KeyValues(NamedTuple):
    """Keys and values of one attention, G heads of them; S positions, or room for so many."""

    key: Tensor  # (B, G, S, d)
    value: Tensor  # (B, G, S, d)


def empty_key_values(batch: int | Tensor, num_heads: int, room: int, head_dim: int, dtype: str) -> KeyValues:
    """Room for `room` positions and nothing in it: zeros of shape (B, G, S, d)."""
    shape = (batch, num_heads, room, head_dim)
    return KeyValues(ops.zeros(shape, dtype), ops.zeros(shape, dtype))


def with_room(known: KeyValues, room: int) -> KeyValues:
    """Lengthen the T positions of `known` to `room`, with zeros at the end: (B, G, T, d) -> (B, G, S, d)."""
    return KeyValues(_lengthened(known.key, room), _lengthened(known.value, room))


def write(cache: KeyValues, new: KeyValues, position: Tensor) -> KeyValues:
    """Put K new positions of each row at its own place.

    The result is a new cache and the given one stays as it is: a scatter copies all S places, in a loop too. `where`
    over all places is slower still.

    Args:
        cache: (B, G, S, d).
        new: (B, G, K, d), of the same dtype.
        position: (B,) int32; row b takes the places position[b] .. position[b] + K - 1.

    Returns:
        A cache of the same shape. A place beyond S - 1 is the backend's error where its kernels check it.
    """
    key_rows = _flat_places(cache.key, new.key, position)  # (B * G * K, 1)
    return KeyValues(_scattered(cache.key, new.key, key_rows), _scattered(cache.value, new.value, key_rows))


def _lengthened(x: Tensor, room: int) -> Tensor:
    _, num_heads, _, head_dim = x.shape
    batch, _, length, _ = ops.shape(x)
    rest = ops.zeros((batch, num_heads, room - length, head_dim), x.dtype)
    # The reshape tells the length where the graph lost it.
    return ops.reshape(ops.concatenate([x, rest], axis=2), (-1, num_heads, room, head_dim))


def _flat_places(cache: Tensor, new: Tensor, position: Tensor) -> Tensor:
    """Rows of the cache, seen as a matrix (B * G * S, d), that the new positions take."""
    batch, num_heads, room, _ = ops.shape(cache)
    first = ops.reshape(ops.arange(batch * num_heads) * room, (-1, num_heads, 1))  # (B, G, 1)
    steps = ops.expand_dims(ops.cast(position, "int32"), 1) + ops.arange(ops.shape(new)[2])  # (B, K)
    return ops.reshape(first + ops.expand_dims(steps, 1), (-1, 1))


def _scattered(cache: Tensor, new: Tensor, rows: Tensor) -> Tensor:
    flat = ops.reshape(cache, (-1, cache.shape[-1]))
    updated = ops.scatter_update(flat, rows, ops.reshape(new, (-1, cache.shape[-1])))
    return ops.reshape(updated, (*leading_lengths(cache), cache.shape[-1]))
