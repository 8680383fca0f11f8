"""The turn of a residual stream that keeps the most of it in fewer channels."""

import math
from typing import NamedTuple

import numpy as np
from keras import ops

from keras_transformer.layers.positions import sinusoidal_positions


class Moments:
    """Second moments of what flows at several places of a stream of width D, each place counting the same.

    LayerNorm takes the mean over the channels away, so it is taken away here.
    """

    def __init__(self, model_dim: int) -> None:
        self.model_dim = model_dim
        self._sums: dict[str, np.ndarray] = {}

    def add(self, place: str, vectors: np.ndarray) -> None:
        """Add what flows at a place at N tokens, (N, D)."""
        centred = _centred(vectors.astype("float64"))
        self._sums[place] = self._sums.get(place, 0.0) + centred.T @ centred

    def mean(self) -> np.ndarray:
        """(D, D) float64 of trace 1."""
        return np.mean([total / np.trace(total) for total in self._sums.values()], axis=0)


class Stream(NamedTuple):
    """How the stream x (D,) of a wide model looks in a narrow one of width S: size * basis x."""

    basis: np.ndarray  # (S, D): orthonormal rows, turned so that what they give has the mean 0, as x without its own
    size: float  # sqrt(S / D): each channel keeps its size
    norm: float  # times the narrow model's LayerNorm is basis times the wide one's

    def read(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel (S, n) that reads the normed stream, for one of (D, n)."""
        return self.norm * self.basis @ kernel

    def write(self, kernel: np.ndarray) -> np.ndarray:
        """The kernel (n, S) or bias (S,) that adds to the stream, for one of (n, D) or (D,)."""
        return self.size * kernel @ self.basis.T


def narrowed(moments: Moments, table: np.ndarray, width: int, sinusoids: int | None = None) -> Stream:
    """The stream of a model of `width` channels S that loses least.

    A vector without its mean has one direction less than channels, so S - 1 principal directions go into S channels.
    They are those of the mean of the moments and of the token table, which tied logits read with the same basis.

    Args:
        moments: of the wide model at work.
        table: (V, D) its token table.
        width: S, at most D.
        sinusoids: so many positions of the wide model's sinusoids are laid as near as a turn can to the narrow one's
            (the orthogonal Procrustes problem, Schönemann 1966); None = there are none, and any turn will do.
    """
    wide = moments.model_dim
    flowing, rows = moments.mean(), _centred(table.astype("float64"))
    total = flowing + rows.T @ rows / (rows**2).sum()
    # The direction of the mean holds nothing, as others may too: this sets it apart as the last.
    directions = np.linalg.eigh(total - np.full((wide, wide), 1.0 / wide))[1][:, ::-1][:, : width - 1].T  # (S - 1, D)
    size = math.sqrt(width / wide)
    turn = _without_mean(width)  # (S, S - 1)
    if sinusoids is not None:
        theirs, ours = (ops.convert_to_numpy(sinusoidal_positions(sinusoids, dim)) for dim in (wide, width))
        left, _, right = np.linalg.svd((size * theirs @ directions.T).T @ (ours @ turn))
        turn = turn @ (left @ right).T
    kept = np.einsum("sd,de,se->", directions, flowing, directions)
    return Stream(turn @ directions, size, math.sqrt(kept * wide / width))


def _without_mean(width: int) -> np.ndarray:
    """(S, S - 1) orthonormal columns, each of which sums to 0."""
    return np.linalg.svd(np.eye(width) - 1.0 / width)[0][:, : width - 1]


def _centred(vectors: np.ndarray) -> np.ndarray:
    return vectors - vectors.mean(axis=-1, keepdims=True)
