"""Which units of a feed-forward part matter most."""

import numpy as np


def unit_importance(activations: np.ndarray, outer_kernel: np.ndarray) -> np.ndarray:
    """mean |a_f| * ||W_2[f]||: how much unit f adds to the output on average.

    Args:
        activations: (N, F) inner activations of N real tokens.
        outer_kernel: (F, D) the kernel that they go through.

    Returns:
        (F,) float64, at least 0.

    Raises:
        ValueError: if the two don't agree on F.
    """
    if activations.shape[-1] != outer_kernel.shape[0]:
        raise ValueError(
            f"activations of shape {activations.shape} and a kernel of shape {outer_kernel.shape} don't agree on the "
            "number of units. Pass the inner activations of the same feed-forward part."
        )
    return np.abs(activations, dtype="float64").mean(axis=0) * np.linalg.norm(outer_kernel.astype("float64"), axis=1)
