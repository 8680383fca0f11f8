"""The batches and the clock that every library of `encoder_rounds.py` shares. NumPy alone."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def batch(size: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """(B, T) ids without padding and (B,) labels, the same for all."""
    draw = np.random.default_rng(0)
    ids = draw.integers(1, size["vocab_size"], (size["batch"], size["length"]), dtype="int32")
    return ids, draw.integers(0, size["num_classes"], size["batch"], dtype="int32")


def timed_steps(step: Callable[[], Any], count: int) -> dict[str, Any]:
    """Milliseconds of each of `count` calls."""
    spent = []
    for _ in range(count):
        start = time.perf_counter()
        step()
        spent.append(1000 * (time.perf_counter() - start))
    return {"ms": spent}


def matmul_rate(product: Callable[[], Any], width: int, seconds: float = 2.0) -> dict[str, Any]:
    """Billions of operations a second of a square product: the best of what fits into `seconds`."""
    product()
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        start = time.perf_counter()
        product()
        best = max(best, 2 * width**3 / (time.perf_counter() - start) / 1e9)
    return {"gflops": best}
