"""Greedy decoding, drawing and beam search of one text in plain numpy: what `models.decoding` does with TensorFlow.

A `.tflite` file gives logits for one token at a time; which token comes next is decided here. No step changes the state
that it was given, so several beginnings may go on from the same one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

State = Any
"""What is known of a text so far; only `Step` looks into it."""


class Begun(NamedTuple):
    """A text so far."""

    logits: np.ndarray  # (V,) float32, of the next token
    state: State


Step = Callable[[int, State], Begun]
"""(token id, state) -> the text with that token."""


class _Hypothesis(NamedTuple):
    token_ids: list[int]
    log_prob: float
    begun: Begun  # before its last token, until it is stepped on

    def score(self, alpha: float) -> float:
        return self.log_prob / _length_penalty(len(self.token_ids), alpha)


def greedy(step: Step, begun: Begun, *, end_id: int, max_tokens: int) -> list[int]:
    """The likeliest token each time, the lowest id among equals, until `end_id`, which is kept, or `max_tokens`."""
    return _decoded(step, begun, lambda logits: int(np.argmax(logits)), end_id, max_tokens)


def sample(
    step: Step,
    begun: Begun,
    *,
    end_id: int,
    max_tokens: int,
    seed: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> list[int]:
    """Draw tokens until `end_id`, which is kept, or `max_tokens`. The same seed gives the same text.

    The order of the filters is that of `models.decoding.sample`: temperature, top-k, top-p. The generator is numpy's,
    so a seed gives another text than there.
    """
    random = np.random.default_rng(seed)

    def choose(logits: np.ndarray) -> int:
        token_ids, probability = candidates(logits, temperature, top_k, top_p)
        return int(random.choice(token_ids, p=probability))

    return _decoded(step, begun, choose, end_id, max_tokens)


def candidates(
    logits: np.ndarray, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The ids that the filters leave, likeliest first, and their probabilities in float64; the likeliest always stays.

    Args:
        logits: (V,).
        temperature: above 0; logits are divided by it.
        top_k: so many ids (Fan et al. 2018, section 5.1); None = all.
        top_p: the fewest ids whose probabilities add up to it or more (Holtzman et al. 2020, section 3.1); None = all.
    """
    order = np.argsort(-logits, kind="stable")[:top_k]
    scores = logits[order].astype(np.float64)
    with np.errstate(over="ignore"):  # a tiny temperature gives -inf at worst: the highest is 0
        weights = np.exp((scores - scores[0]) / temperature)
    probability = weights / weights.sum()
    if top_p is not None:
        kept = np.cumsum(probability) - probability < top_p
        kept[0] = True
        order, probability = order[kept], probability[kept] / probability[kept].sum()
    return order, probability


def beam(step: Step, begun: Begun, *, end_id: int, max_tokens: int, width: int, alpha: float = 0.6) -> list[int]:
    """The text with the highest log_prob / ((5 + L) / 6)^alpha that a search with `width` beginnings finds.

    The search is that of `models.decoding.beam`: what ends leaves the beam, which is narrower by one from then on, and
    it stops when no beginning could still win, were all its next tokens certain. It takes `width` steps a token.
    """
    running, finished = [_Hypothesis([], 0.0, begun)], list[_Hypothesis]()
    for length in range(1, max_tokens + 1):
        reached = _best_extensions(running, width - len(finished), width)
        finished += [one for one in reached if one.token_ids[-1] == end_id]
        running = [one for one in reached if one.token_ids[-1] != end_id]
        to_beat = max((one.score(alpha) for one in finished), default=-np.inf)
        reachable = max((one.log_prob for one in running), default=-np.inf) / _length_penalty(max_tokens, alpha)
        if to_beat >= reachable:
            running = []
        if not running or length == max_tokens:
            break
        running = [one._replace(begun=step(one.token_ids[-1], one.begun.state)) for one in running]
    return max([*finished, *running], key=lambda one: one.score(alpha)).token_ids


def up_to_end(token_ids: np.ndarray, end_id: int) -> list[int]:
    """The ids (T,) of a row up to its end, which is kept: what TensorFlow's loop fills up with 0 behind it."""
    found: list[int] = token_ids.tolist()
    return found[: found.index(end_id) + 1] if end_id in found else found


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """x - log(sum(exp(x))) over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _decoded(step: Step, begun: Begun, choose: Callable[[np.ndarray], int], end_id: int, max_tokens: int) -> list[int]:
    found = [choose(begun.logits)]
    while found[-1] != end_id and len(found) < max_tokens:
        begun = step(found[-1], begun.state)
        found.append(choose(begun.logits))
    return found


def _best_extensions(running: list[_Hypothesis], most: int, width: int) -> list[_Hypothesis]:
    """The `most` likeliest ways to add a token, the first come among equals."""
    reached = []
    for one in running:
        log_prob = one.log_prob + log_softmax(one.begun.logits)
        for token_id in np.argsort(-one.begun.logits, kind="stable")[:width]:
            reached.append(_Hypothesis([*one.token_ids, int(token_id)], float(log_prob[token_id]), one.begun))
    return sorted(reached, key=lambda one: -one.log_prob)[:most]


def _length_penalty(length: int, alpha: float) -> float:
    """((5 + L) / 6)^alpha, eq. 14 of Wu et al. 2016."""
    return ((5 + length) / 6) ** alpha
