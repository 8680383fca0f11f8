"""Beam search: keep the likeliest beginnings of each row, and rank what ends by its length.

Letters: B rows, W width, V vocabulary, T = max_tokens, N results a row, K = min(W, V).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.models.token_loop import (
    PAD_ID,
    Prompted,
    State,
    Step,
    Tensor,
    check_limits,
    log_total,
    put_column,
    same_shapes,
)

Reorder = Callable[[State, Tensor], State]
"""(state, rows (M,) int32) -> the state whose row i is the given state's row rows[i]."""


Fork = Callable[[State, int], State]
"""(state of B texts, W) -> the state of W hypotheses of each, as `step` and `reorder` take it."""


class Beams(NamedTuple):
    """Several texts a row, best first. Where a row has fewer than N, the rest is padding with a score of -inf."""

    token_ids: Tensor  # (B, N, T) int32, end_id included, 0 after it
    log_prob: Tensor  # (B, N) float32, sum over the tokens kept
    score: Tensor  # (B, N) float32, log_prob / length_penalty


class Hypotheses(NamedTuple):
    """W places of each row. A place is finished, or running, or empty: then its log_prob is -inf."""

    token_ids: Tensor  # (B, W, T) int32
    log_prob: Tensor  # (B, W) float32
    length: Tensor  # (B, W) int32
    finished: Tensor  # (B, W) bool


class _Search(NamedTuple):
    end_id: int
    max_tokens: int
    alpha: float
    num_best: int
    limits: Tensor | None = None  # (B,) int32


class _Running(NamedTuple):
    index: Tensor  # () int32, tokens chosen so far
    groups: tuple[Hypotheses, ...]
    last: Tensor  # (B * W,) int32
    state: State


def length_penalty(length: Tensor, alpha: float) -> Tensor:
    """((5 + L) / 6)^alpha, eq. 14 of Wu et al. 2016; L counts the tokens of the hypothesis, its end included."""
    return tf.pow((5.0 + tf.cast(length, tf.float32)) / 6.0, alpha)


def gather_rows(state: State, rows: Tensor) -> State:
    """Row rows[i] of each tensor of `state` becomes row i."""
    return tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), state)


def repeat_rows(state: State, width: int) -> State:
    """Each row of each tensor of `state`, `width` times."""
    return gather_rows(state, tf.repeat(tf.range(tf.shape(tf.nest.flatten(state)[0])[0]), width))


def beam(
    step: Step,
    prompted: Prompted,
    *,
    end_id: int,
    max_tokens: int,
    width: int,
    alpha: float = 0.6,
    num_best: int = 1,
    fork: Fork = repeat_rows,
    reorder: Reorder = gather_rows,
    limits: Tensor | None = None,
) -> Beams:
    """Search for the texts with the highest log_prob / ((5 + L) / 6)^alpha, L the length of each text itself.

    A hypothesis that ends leaves the beam, which is narrower by one from then on (Sutskever et al. 2014,
    section 3.2), and never changes again. A row stops when no beginning is left, or when none of them could still
    come among the `num_best`, were all its next tokens certain. A width of 1 is greedy decoding, for every alpha.

    Args:
        step: see `Step`; it is called with B * W rows, those of one text side by side.
        prompted: logits (B, V) of the first token, and the state of B rows, with room for max_tokens - 1 more.
        end_id: the id that ends a hypothesis.
        max_tokens: the most tokens a hypothesis gets, end_id included.
        width: beginnings that are kept.
        alpha: at least 0; 0 ranks by log_prob, which favours short texts.
        num_best: results a row, at most `width`.
        fork: makes the state of W hypotheses a text out of the prompt's. The default repeats all of it;
            `branch` of our models shares prompt and source among them; its `reorder` is `models.branches.follow`, its
            `step` the models' `step_branches`.
        reorder: takes rows of a state. The default gathers each tensor. What is the same for all hypotheses of a
            text, such as an encoded source, may stay as it is: rows are taken only from the same text.
        limits: (B,) int32, a number of at least 1 for each text, where it is less than max_tokens.

    Raises:
        ValueError: if an argument is out of its range; the message names the range.
    """
    positive_integer("num_best", num_best)
    positive_integer("width", width)
    if num_best > width:
        raise ValueError(
            f"num_best={num_best} is more than width={width}: a beam ends with at most `width` texts. "
            f"Use width={num_best}, or num_best={width}."
        )
    search = _checked(end_id, max_tokens, alpha, num_best)._replace(limits=limits)
    (group,) = _run(step, prompted, search, (fork, reorder), width, num_groups=1, diversity=0.0)
    return _best(group, search)


def diverse_beam(
    step: Step,
    prompted: Prompted,
    *,
    end_id: int,
    max_tokens: int,
    width: int,
    num_groups: int,
    diversity: float = 0.5,
    alpha: float = 0.6,
    fork: Fork = repeat_rows,
    reorder: Reorder = gather_rows,
) -> Beams:
    """Diverse beam search with the Hamming term: Vijayakumar et al. 2018, section 3, algorithm 1.

    The beam is cut into groups. At each position the groups choose one after the other; a candidate's rank falls by
    `diversity` for each time that an earlier group chose the same token there. `log_prob` and `score` leave that
    term out. The first group is a plain beam search of width / num_groups.

    Returns:
        The best text of each group, in the order of the groups: N = num_groups.

    Raises:
        ValueError: if an argument is out of its range, or width can't be cut into equal groups.
    """
    positive_integer("width", width)
    positive_integer("num_groups", num_groups)
    if width % num_groups:
        raise ValueError(
            f"width={width} can't be cut into num_groups={num_groups} equal groups: {width} % {num_groups} = "
            f"{width % num_groups}. Use width={num_groups * (width // num_groups + 1)}."
        )
    if not 0 <= diversity < np.inf:
        raise ValueError(f"diversity={diversity!r} must be finite and at least 0. Use for example diversity=0.5.")
    search = _checked(end_id, max_tokens, alpha, num_best=1)
    groups = _run(step, prompted, search, (fork, reorder), width // num_groups, num_groups, diversity)
    best = [_best(group, search) for group in groups]
    return Beams(*(tf.concat(part, axis=1) for part in zip(*best, strict=True)))


def _checked(end_id: int, max_tokens: int, alpha: float, num_best: int) -> _Search:
    check_limits(end_id, max_tokens)
    if not 0 <= alpha < np.inf:
        raise ValueError(
            f"alpha={alpha!r} must be finite and at least 0: below 0 the search couldn't know when to stop. "
            "Use for example alpha=0.6, or alpha=0 to rank by log-probability alone."
        )
    return _Search(end_id, max_tokens, float(alpha), num_best)


def _run(
    step: Step,
    prompted: Prompted,
    search: _Search,
    moving: tuple[Fork, Reorder],
    width: int,
    num_groups: int,
    diversity: float,
) -> tuple[Hypotheses, ...]:
    """The groups after the search; each has `width` places."""
    total = width * num_groups
    fork, reorder = moving

    def advance(index: Tensor, groups: tuple[Hypotheses, ...], logits: Tensor) -> tuple[tuple, Tensor, Tensor]:
        """Add a token to each group: logits (B, total, V) -> groups, rows (B * total,) they come from, last ids."""
        chosen = tf.zeros_like(logits[:, 0])  # (B, V)
        after, parents = [], []
        for number, group in enumerate(groups):
            own = logits[:, number * width : (number + 1) * width]  # (B, W, V)
            group, parent, token = _extend(group, own, chosen * diversity, index, search)
            if number + 1 < num_groups:
                chosen = chosen + _token_counts(group, token, logits.shape[-1], index)
            after.append((group, token))
            parents.append(parent + number * width)
        first_row = tf.expand_dims(tf.range(tf.shape(logits)[0]) * total, 1)
        rows = tf.reshape(first_row + tf.concat(parents, axis=1), (-1,))
        last = tf.reshape(tf.concat([token for _, token in after], axis=1), (-1,))
        return tuple(group for group, _ in after), rows, last

    def body(running: _Running) -> tuple[_Running]:
        logits, state = step(running.last, running.state)
        logits = tf.reshape(tf.cast(logits, tf.float32), (-1, total, first.shape[-1]))
        groups, rows, last = advance(running.index, running.groups, logits)
        return (same_shapes(_Running(running.index + 1, groups, last, reorder(state, rows)), running),)

    def goes_on(running: _Running) -> Tensor:
        alive = [tf.reduce_any(_is_running(group)) for group in running.groups]
        return tf.logical_and(running.index < search.max_tokens, tf.reduce_any(tf.stack(alive)))

    first = tf.cast(prompted.logits, tf.float32)  # (B, V)
    start = tuple(_empty(first, width, search.max_tokens) for _ in range(num_groups))
    repeated = tf.repeat(tf.expand_dims(first, 1), total, axis=1)  # (B, total, V)
    groups, _, last = advance(tf.constant(0), start, repeated)
    begun = _Running(tf.constant(1), same_shapes(groups, start), last, fork(prompted.state, total))
    return tf.while_loop(goes_on, body, (begun,))[0].groups


def _empty(first: Tensor, width: int, max_tokens: int) -> Hypotheses:
    """One running place without tokens, the others empty, so that the prompt isn't continued W times alike."""
    log_prob = tf.tile(tf.constant([[0.0] + [-np.inf] * (width - 1)]), (tf.shape(first)[0], 1))
    none = tf.zeros_like(log_prob, tf.int32)
    token_ids = tf.tile(tf.expand_dims(none, -1), (1, 1, max_tokens))
    return Hypotheses(token_ids, log_prob, none, tf.zeros_like(log_prob, tf.bool))


def _is_running(group: Hypotheses) -> Tensor:
    return tf.logical_and(tf.logical_not(group.finished), group.log_prob > -np.inf)


def _extend(
    group: Hypotheses, logits: Tensor, malus: Tensor, index: Tensor, search: _Search
) -> tuple[Hypotheses, Tensor, Tensor]:
    """Each place takes a finished hypothesis of the group, or a running one and a token: (group, parents, tokens).

    `malus` (B, V) lowers the rank of a token, not its log-probability.
    """
    width, size = logits.shape[1], logits.shape[2]
    shown = logits - tf.expand_dims(malus, 1)
    ranked, token_ids = tf.math.top_k(shown, k=min(width, size))  # (B, W, K)
    base = tf.where(_is_running(group), group.log_prob, -np.inf) - log_total(logits)
    rank = tf.expand_dims(base, -1) + ranked
    reached = tf.expand_dims(base, -1) + tf.gather(logits, token_ids, batch_dims=2)
    # A finished hypothesis keeps a place whatever the others reach; first come, so that equals keep their order.
    own = tf.where(group.finished, np.inf, -np.inf)
    priority, choice = tf.math.top_k(tf.concat([own, _flat(rank)], axis=1), k=width)  # (B, W)
    log_prob = tf.gather(tf.concat([group.log_prob, _flat(reached)], axis=1), choice, batch_dims=1)
    tokens = tf.gather(tf.concat([tf.zeros_like(own, tf.int32), _flat(token_ids)], axis=1), choice, batch_dims=1)
    parent = tf.where(choice < width, choice, (choice - width) // min(width, size))
    kept = tf.equal(priority, np.inf)
    before = Hypotheses(*(tf.gather(part, parent, batch_dims=1) for part in group))
    log_prob = tf.where(priority > -np.inf, log_prob, -np.inf)
    ends = tf.equal(tokens, search.end_id)
    if search.limits is not None:
        ends = tf.logical_or(ends, tf.expand_dims(index + 1 >= search.limits, 1))
    after = Hypotheses(
        token_ids=tf.where(tf.expand_dims(kept, -1), before.token_ids, put_column(before.token_ids, index, tokens)),
        log_prob=log_prob,
        length=tf.where(kept, before.length, index + 1),
        finished=tf.logical_or(kept, tf.logical_and(ends, log_prob > -np.inf)),
    )
    return _without_hopeless(after, search), parent, tokens


def _without_hopeless(group: Hypotheses, search: _Search) -> Hypotheses:
    """Empty the running places of a row where none of them can still come among the best.

    A log-probability only falls and the penalty only grows, so log_prob / length_penalty(T) is the most that a
    running hypothesis can reach.
    """
    running = _is_running(group)
    reachable = tf.where(running, group.log_prob / length_penalty(search.max_tokens, search.alpha), -np.inf)
    finished = tf.where(group.finished, _score(group, search.alpha), -np.inf)
    to_beat = tf.math.top_k(finished, k=search.num_best).values[:, -1]
    hopeless = tf.logical_and(running, tf.expand_dims(to_beat >= tf.reduce_max(reachable, axis=1), 1))
    return group._replace(log_prob=tf.where(hopeless, -np.inf, group.log_prob))


def _score(group: Hypotheses, alpha: float) -> Tensor:
    return group.log_prob / length_penalty(group.length, alpha)


def _best(group: Hypotheses, search: _Search) -> Beams:
    score, places = tf.math.top_k(_score(group, search.alpha), k=search.num_best)  # (B, N)
    log_prob = tf.gather(group.log_prob, places, batch_dims=1)
    token_ids = tf.gather(group.token_ids, places, batch_dims=1)
    return Beams(tf.where(tf.expand_dims(log_prob > -np.inf, -1), token_ids, PAD_ID), log_prob, score)


def _token_counts(group: Hypotheses, tokens: Tensor, size: int, index: Tensor) -> Tensor:
    """(B, V) float32: how many hypotheses of the group chose each token at this position."""
    chose = tf.logical_and(group.log_prob > -np.inf, tf.equal(group.length, index + 1))  # (B, W)
    hits = tf.equal(tf.expand_dims(tokens, -1), tf.range(size))  # (B, W, V)
    return tf.reduce_sum(tf.cast(tf.logical_and(hits, tf.expand_dims(chose, -1)), tf.float32), axis=1)


def _flat(parts: Any) -> Tensor:
    """(B, W, K) -> (B, W * K)."""
    return tf.reshape(parts, (-1, parts.shape[1] * parts.shape[2]))
