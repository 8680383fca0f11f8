"""Which weights go: pure functions from numbers to boolean masks, True where a weight stays."""

import math
from collections.abc import Sequence

import numpy as np


def zeros_of(sparsity: float, elements: int) -> int:
    """How many of so many elements go: the whole number nearest to their product, and a half goes up."""
    return math.floor(sparsity * elements + 0.5)


def largest_of_each(values: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Masks that let the smallest values of each array go, `zeros_of(sparsity, size)` to the element.

    Which of several equal values go isn't said, but it is the same ones each time.
    """
    return [_without_smallest(value.ravel(), zeros_of(sparsity, value.size)).reshape(value.shape) for value in values]


def largest_of_all(values: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    """Masks that let the smallest values of all arrays together go: one array may lose all, another none.

    The number of those that go is `zeros_of(sparsity, size of all)`, to the element.
    """
    joined = np.concatenate([value.ravel() for value in values])
    stays = _without_smallest(joined, zeros_of(sparsity, joined.size))
    ends = np.cumsum([value.size for value in values])[:-1]
    return [part.reshape(value.shape) for part, value in zip(np.split(stays, ends), values, strict=True)]


def largest_of_groups(values: np.ndarray, kept: int, out_of: int, axes: Sequence[int] = (0,)) -> np.ndarray:
    """N:M: a mask that keeps the `kept` largest of every `out_of` neighbours along some axes (Mishra et al. 2021).

    Of equal values the earlier stays.

    Args:
        values: of any rank.
        kept: N.
        out_of: M, which divides the number of places along `axes`.
        axes: those that a product sums over, read as one in this order: 0 of a dense kernel (inputs, outputs).
    """
    moved = np.moveaxis(values, axes, range(len(axes)))
    groups = moved.reshape(-1, out_of, math.prod(moved.shape[len(axes) :]))  # (groups, M, outputs)
    order = np.argsort(-groups, axis=1, kind="stable")
    stays = np.zeros(groups.shape, dtype=bool)
    np.put_along_axis(stays, order[:, :kept], values=True, axis=1)
    return np.moveaxis(stays.reshape(moved.shape), range(len(axes)), axes)


def _without_smallest(flat: np.ndarray, count: int) -> np.ndarray:
    stays = np.ones(flat.size, dtype=bool)
    if count:
        stays[np.argpartition(flat, count - 1)[:count]] = False
    return stays
