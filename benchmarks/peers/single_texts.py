"""Time one text after the other, the same way in every library."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def timed_calls(answer: Callable[[np.ndarray], Any], token_ids: list[list[int]]) -> dict[str, Any]:
    """Seconds of `answer`, ids (1, T) int64 -> logits (1, C), for each row alone; and the logits."""
    seconds, logits = [], []
    for ids in token_ids:
        row = np.array([ids], np.int64)
        start = time.perf_counter()
        found = answer(row)
        seconds.append(time.perf_counter() - start)
        logits.append(np.asarray(found)[0].tolist())
    return {"seconds": seconds, "logits": logits}
