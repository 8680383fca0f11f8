"""What each rank of a dense kernel would lose, and its factors of any rank, out of one singular value decomposition.

The loss of factors A B in the place of a kernel W (D, F) is weighted by a metric M (D, D) of its inputs:

    ||W - A B||_M^2 = tr((W - A B)^T M (W - A B)) = ||S (W - A B)||_F^2    with S^T S = M

By Eckart and Young 1936 it is least, among all factors of rank r, where S A B is the nearest matrix of rank r to S W,
and then it is the sum of the squares of the singular values of S W behind the first r. With V (F, r) the leading right
singular vectors of S W that is reached by A B = W V V^T, for which S need not be inverted.

M = 1 is the plain SVD. M = X^T X over inputs X (N, D) makes the loss that of the outputs, ||X W - X A B||_F^2: Chen et
al. 2021 (DRONE), section 3; Wang et al. 2024 (SVD-LLM), section 3.1, with the Cholesky factor of X^T X for S. M =
diag(f), with the Fisher information of each row summed up, is Hsu et al. 2022 (FWSVD).
"""

from typing import NamedTuple

import numpy as np

from keras_transformer.compression.low_rank import Factors
from keras_transformer.layers.low_rank_dense import check_rank

RIDGE = 1e-12
"""Of the metric's mean, added to its diagonal: inputs that never occurred don't become zero rows."""


class Spectrum(NamedTuple):
    """A kernel and what is known of its factors in one metric."""

    kernel: np.ndarray  # (D, F)
    energies: np.ndarray  # (k,) squares of the singular values of S W, going down; k = min(D, F); float64
    right: np.ndarray  # (k, F) right singular vectors of S W

    @property
    def weights(self) -> int:
        """Weights of the kernel as it is, D F."""
        return self.kernel.size

    def weights_of(self, rank: int) -> int:
        """Weights of its factors, r (D + F)."""
        return rank * sum(self.kernel.shape)

    @property
    def ranks_that_pay(self) -> range:
        """The ranks, from 1, whose factors have fewer weights than the kernel; there may be none."""
        return range(1, (self.weights - 1) // sum(self.kernel.shape) + 1)

    def errors(self) -> np.ndarray:
        """||W - A B||_M / ||W||_M for the ranks 0 to k: (k + 1,), from 1 down to 0. Zeros for a kernel of zeros."""
        total = self.energies.sum()
        if total == 0:
            return np.zeros(len(self.energies) + 1)
        tails = np.append(np.cumsum(self.energies[::-1])[::-1], 0.0)  # summed from the smallest
        return np.sqrt(tails / tails[0])

    def factors(self, rank: int) -> Factors:
        """Return the best factors of this rank, (D, r) and (r, F), in the dtype of the kernel.

        A column of the left and the row of the right that it meets have one norm, so that neither moves faster than
        the other where they are trained, and integers fit both alike.

        Raises:
            ValueError: if the rank is below 1 or above min(D, F).
        """
        check_rank("kernel", rank, self.kernel.shape)
        right = self.right[:rank].astype("float64")
        left = self.kernel.astype("float64") @ right.T  # (D, r)
        norms = np.linalg.norm(left, axis=0)
        # A direction that the kernel lacks keeps its row, or nothing could be learned there.
        scales = np.sqrt(np.where(norms > 0, norms, 1.0))
        dtype = self.kernel.dtype
        return Factors((left / scales).astype(dtype), (right * scales[:, None]).astype(dtype))


def spectrum(kernel: np.ndarray, metric: np.ndarray | None = None) -> Spectrum:
    """Decompose a kernel, in float64.

    Args:
        kernel: (D, F).
        metric: M, what counts among the inputs: (D, D) symmetric and positive semidefinite, see `input_moments`; (D,)
            its diagonal, see `row_fisher`; None = all rows alike.

    Raises:
        ValueError: if the kernel isn't a matrix, or the metric has another shape, something below 0, NaN or infinity,
            or nothing above 0.
    """
    if kernel.ndim != 2:
        raise ValueError(f"a kernel of shape {kernel.shape} has no rank. Give a matrix (inputs, outputs).")
    scaled = kernel.astype("float64")
    if metric is not None:
        scaled = _root(np.asarray(metric, dtype="float64"), len(kernel)) @ scaled
    _, values, right = np.linalg.svd(scaled, full_matrices=False)
    return Spectrum(kernel, values**2, right.astype(kernel.dtype))


def _root(metric: np.ndarray, inputs: int) -> np.ndarray:
    """S with S^T S = M, made regular by a trace of the unit matrix."""
    if metric.shape not in ((inputs,), (inputs, inputs)):
        raise ValueError(
            f"a metric of shape {metric.shape} doesn't fit a kernel with {inputs} inputs. "
            f"Give ({inputs},) or ({inputs}, {inputs}) of the same layer."
        )
    mean = np.mean(metric if metric.ndim == 1 else np.diagonal(metric))
    if not (np.isfinite(metric).all() and mean > 0):
        raise ValueError(
            f"a metric with the mean {mean} says nothing about what counts: it must be finite, and above 0 somewhere. "
            "Look at the batches that it was made of."
        )
    if metric.ndim == 1:
        values, directions = metric, np.eye(inputs)
    else:
        values, directions = np.linalg.eigh(metric)
    if values.min() < -1e-6 * mean * inputs:
        raise ValueError(
            f"a metric that goes down to {values.min()} is none: squares aren't. Give X^T X, or squared slopes."
        )
    return np.sqrt(np.maximum(values, 0.0) + RIDGE * mean)[:, None] * directions.T
