"""Ours: how long models that write take for a text each, in every form, in one process with one thread."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from keras_transformer import benchmark, generation
from keras_transformer.generation import Decoding

PACKAGES = ("tensorflow", "ai-edge-litert")


def latency(paths: dict[str, str], texts: Sequence[str], max_tokens: int, rounds: int) -> dict[str, Any]:
    """Median milliseconds of one text of at most `max_tokens` new tokens, greedy, by the name of each path."""
    decoding = Decoding(max_tokens=max_tokens)
    ways = {name: partial(generation.load(path).write, decoding=decoding) for name, path in paths.items()}
    return {name: one.p50_ms for name, one in benchmark.latency(ways, texts, rounds).items()}


def answers() -> dict[str, Callable[..., dict[str, Any]]]:
    """What can be asked. From here on the process has one core."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    return {"latency": latency}
