"""Attention masks as pure functions: boolean, True = may attend, joined with `ops.logical_and`."""

from typing import Any

from keras import KerasTensor, ops

from keras_transformer.checks import positive_integer

Tensor = Any
"""A tensor of the running backend, a numpy array, or a KerasTensor while a graph is built."""


def padding_mask(token_ids: Tensor, pad_id: int = 0) -> Tensor:
    """True at real tokens: (B, S) ids -> (B, 1, S), ready to join with a causal mask."""
    return ops.expand_dims(ops.not_equal(token_ids, pad_id), 1)


def causal_mask(length: int | Tensor) -> Tensor:
    """True where position t may attend to position s <= t. Shape (1, T, T)."""
    steps = ops.arange(length)
    return ops.expand_dims(ops.expand_dims(steps, 1) >= ops.expand_dims(steps, 0), 0)


def sliding_window_mask(length: int | Tensor, window: int) -> Tensor:
    """Causal, and no further back than the `window` last positions, the query's own among them. Shape (1, T, T).

    Beltagy et al. 2020, section 3.1, for a decoder: True where t - window < s <= t.

    Raises:
        ValueError: if `window` isn't a whole number of at least 1.
    """
    positive_integer("window", window)
    steps = ops.arange(length)
    first = ops.expand_dims(ops.expand_dims(steps, 1) - window < ops.expand_dims(steps, 0), 0)
    return ops.logical_and(causal_mask(length), first)


def prefix_mask(prefix_lengths: Tensor, length: int | Tensor) -> Tensor:
    """Causal, but each position sees the whole prefix of its row: (B,) lengths -> (B, T, T).

    The prefix language model of Raffel et al. 2020, fig. 4.
    """
    lengths = ops.expand_dims(ops.cast(prefix_lengths, "int32"), 1)  # (B, 1)
    inside = ops.expand_dims(ops.arange(length, dtype="int32"), 0) < lengths  # (B, T)
    return ops.logical_or(causal_mask(length), ops.expand_dims(inside, 1))


def cache_mask(position: Tensor, length: int | Tensor, room: int | Tensor) -> Tensor:
    """True where new token k of a row, at position[b] + k, may attend to place s of its cache: s <= position[b] + k.

    Args:
        position: (B,) integers, the positions already known.
        length: number of new tokens K.
        room: number of places S.

    Returns:
        (B, K, S).
    """
    query = ops.expand_dims(ops.cast(position, "int32"), 1) + ops.arange(length, dtype="int32")  # (B, K)
    return ops.expand_dims(query, 2) >= ops.arange(room, dtype="int32")


def require_boolean(name: str, mask: Tensor) -> None:
    """Raise TypeError unless `mask` is boolean. Numbers could mean weights, an additive bias or ids: say which."""
    dtype = getattr(mask.dtype, "name", mask.dtype)
    if dtype != "bool":
        raise TypeError(
            f"{name} has dtype {dtype}: a mask is boolean, True = may attend. "
            f"Use for example {name}=token_ids != 0, or ops.cast(mask, 'bool')."
        )


def with_head_axis(mask: Tensor, scores_shape: tuple) -> Tensor:
    """Bring a mask of shape (B, S), (B, T, S) or (B, 1, T, S) to one that broadcasts against scores (B, H, T, S).

    Raises:
        TypeError: if `mask` isn't boolean.
        ValueError: if its shape can't broadcast against the scores; the message names both shapes.
    """
    if not isinstance(mask, KerasTensor):
        mask = ops.convert_to_tensor(mask)
    require_boolean("attention_mask", mask)
    rank = len(mask.shape)
    if rank == 2:
        mask = ops.expand_dims(ops.expand_dims(mask, 1), 1)  # (B, 1, 1, S)
    elif rank == 3:
        mask = ops.expand_dims(mask, 1)  # (B, 1, T, S)
    if len(mask.shape) != 4 or not _broadcasts(mask.shape, scores_shape):
        raise ValueError(
            f"attention_mask of shape {tuple(mask.shape)} can't broadcast against scores (B, H, T, S) of shape "
            f"{tuple(scores_shape)}. Pass (B, S) for keys, (B, T, S) for pairs, or (B, 1, T, S)."
        )
    return mask


def _broadcasts(mask_shape: tuple, scores_shape: tuple) -> bool:
    pairs = zip(mask_shape, scores_shape, strict=True)
    return all(ours is None or theirs is None or ours in (1, theirs) for ours, theirs in pairs)
