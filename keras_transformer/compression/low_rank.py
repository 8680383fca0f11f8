"""Low-rank factors of a matrix, plain or weighted by how often each row is used."""

from typing import NamedTuple

import numpy as np

from keras_transformer.checks import positive_integer


class Factors(NamedTuple):
    """left @ right is the matrix of the given rank that is nearest to the one factorised."""

    left: np.ndarray  # (V, rank)
    right: np.ndarray  # (rank, D)


def factorise(matrix: np.ndarray, rank: int, row_weights: np.ndarray | None = None) -> Factors:
    """Minimise sum_v w_v ||matrix_v - (left right)_v||^2 over all factors of the given rank, by SVD.

    Eckart and Young 1936 with rows scaled by sqrt(w): `right` holds the leading right singular vectors of the scaled
    matrix, and `left` the projection of each row on them, which is optimal for each row by itself.

    Args:
        matrix: (V, D), factorised in float64.
        rank: width of the factors, at most min(V, D).
        row_weights: (V,) at least 0: a token's count makes frequent rows exact. None = all alike.

    Returns:
        Factors in the dtype of `matrix`.

    Raises:
        ValueError: if `rank` is above min(V, D), or the weights don't have an entry a row.
    """
    positive_integer("rank", rank)
    if rank > min(matrix.shape):
        raise ValueError(
            f"rank={rank} is above the {min(matrix.shape)} that a matrix of shape {matrix.shape} can have. "
            f"Use rank={min(matrix.shape)} or less."
        )
    weights = np.ones(len(matrix)) if row_weights is None else np.asarray(row_weights, dtype="float64")
    if weights.shape != (len(matrix),) or (weights < 0).any():
        raise ValueError(
            f"row_weights of shape {weights.shape} must be one number of at least 0 for each of {len(matrix)} rows. "
            "Use counts of the rows, or None."
        )
    exact = matrix.astype("float64")
    scaled = exact * np.sqrt(weights)[:, None]
    # The right singular vectors are the eigenvectors of a (D, D) matrix: far cheaper than the SVD of a tall one.
    _, vectors = np.linalg.eigh(scaled.T @ scaled)
    right = vectors[:, ::-1][:, :rank].T  # (rank, D)
    return Factors((exact @ right.T).astype(matrix.dtype), right.astype(matrix.dtype))
