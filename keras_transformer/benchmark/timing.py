"""How long answers take: all models in turn on one text before the next text, warmed up, without garbage collection."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from keras_transformer.checks import positive_integer


class Latency(NamedTuple):
    """How long one text, or one token, takes at batch 1, in milliseconds, over all texts and rounds."""

    p50_ms: float
    p95_ms: float
    mean_ms: float
    calls: int  # that were timed

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> "Latency":
        """Sum up the times of all calls."""
        import numpy as np

        p50, p95 = np.percentile(milliseconds, [50, 95])
        return cls(float(p50), float(p95), float(np.mean(milliseconds)), len(milliseconds))

    @property
    def per_second(self) -> float:
        """Texts, or tokens, a second when they come one after the other."""
        return 1000.0 / self.mean_ms


def latency(
    predictors: Mapping[str, Callable[[list[str]], object]],
    texts: Sequence[str],
    rounds: int = 5,
    warmup: int = 1,
) -> dict[str, Latency]:
    """Time each predictor on each text alone, see `milliseconds`. For figures that can be compared: `in_one_thread`."""
    timed = milliseconds(predictors, texts, rounds, warmup)
    return {name: Latency.of(each) for name, each in timed.items()}


def milliseconds(
    predictors: Mapping[str, Callable[[list[str]], object]],
    texts: Sequence[str],
    rounds: int = 5,
    warmup: int = 1,
) -> dict[str, list[float]]:
    """Time each predictor on each text alone, all predictors in turn on one text before the next text.

    The turns rotate, so that whatever slows the machine down for a while slows all of them, and none profits from
    always running after the same one.

    Args:
        predictors: name -> function that takes a list of one text and answers; tokenising belongs to it.
        texts: what is asked.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted: they trace functions and fill caches.

    Returns:
        Name -> the time of each call: all texts in their order, round after round.

    Raises:
        ValueError: if there is no predictor, no text or no round.
    """
    positive_integer("rounds", rounds)
    if not predictors or not texts:
        raise ValueError(
            f"{len(predictors)} predictors and {len(texts)} texts: one of each is the least. "
            "Use for example texts=SAMPLE_TEXTS."
        )
    names = list(predictors)
    times: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for turn, text in enumerate([text for _ in range(warmup + rounds) for text in texts]):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                before = time.perf_counter_ns()
                predictors[name]([text])
                times[name].append((time.perf_counter_ns() - before) / 1e6)
    return {name: spent[warmup * len(texts) :] for name, spent in times.items()}


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a call would be counted as the model's."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
