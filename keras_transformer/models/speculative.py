"""Speculative decoding: a small model proposes, the big one checks several tokens in one call."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.models.token_loop import (
    PAD_ID,
    Decoded,
    Prompted,
    State,
    Step,
    Tensor,
    best_token,
    check_limits,
    log_probability,
    same_shapes,
)

Extend = Callable[[Tensor, State], tuple[Tensor, State]]
"""(token_ids (B, K) int32, state) -> (logits (B, K, V), the state K positions further)."""


class Speculated(NamedTuple):
    """What was decoded, and what it took."""

    decoded: Decoded
    target_calls: Tensor  # () int32, calls of the target's `extend`; its prompt isn't counted


class _Running(NamedTuple):
    target_calls: Tensor  # () int32
    token_ids: Tensor  # (B, T) int32
    count: Tensor  # (B,) int32, tokens a row has
    log_prob: Tensor  # (B,) float32
    last: Tensor  # (B,) int32, the newest token, which neither model has read yet
    ended: Tensor  # (B,) bool
    draft: State
    target: State


def speculative(
    draft_step: Step,
    draft_prompted: Prompted,
    target_extend: Extend,
    target_prompted: Prompted,
    *,
    end_id: int,
    max_tokens: int,
    num_drafted: int = 4,
) -> Speculated:
    """Decode greedily as the target would, with fewer calls of it: Leviathan et al. 2023, algorithm 1, argmax case.

    Each round the draft proposes `num_drafted` tokens, one at a time. One call of the target says what it would
    have chosen after each of them; they count up to the first that differs, and the target's own choice there
    is one token more. So a round gives 1 to num_drafted + 1 tokens. Each row goes at its own pace. The tokens are
    the target's, whatever the draft says; where two logits of the target are equal but for rounding, `extend` may
    choose another of them than `step`.

    Args:
        draft_step: see `Step`.
        draft_prompted: the draft after the same prompt; its logits aren't used.
        target_extend: see `Extend`.
        target_prompted: the target after the prompt.
        end_id: the id that ends a row.
        max_tokens: the most tokens a row gets, end_id included.
        num_drafted: proposals a round.

    Both states are named tuples with a field `position` (B,) int32, and setting it back to an earlier position
    forgets what was read since. They need room for max_tokens + num_drafted positions after the prompt.

    Raises:
        ValueError: if an argument isn't a whole number of at least 1.
        TypeError: if a state has no position.
    """
    check_limits(end_id, max_tokens)
    positive_integer("num_drafted", num_drafted)
    for name, prompted in (("draft_prompted", draft_prompted), ("target_prompted", target_prompted)):
        _require_position(name, prompted.state)

    size = target_prompted.logits.shape[-1]

    def body(running: _Running) -> tuple[_Running]:
        drafted, draft = _propose(draft_step, running.last, running.draft, num_drafted)
        read = tf.concat([tf.expand_dims(running.last, 1), drafted], axis=1)  # (B, D + 1)
        logits, target = target_extend(read, running.target)
        logits = tf.reshape(tf.cast(logits, tf.float32), (-1, num_drafted + 1, size))  # (B, D + 1, V)
        chosen = best_token(logits)  # (B, D + 1)
        kept = _kept(drafted, chosen, max_tokens - running.count, running.ended, end_id)
        after = _take(running, chosen, log_probability(logits, chosen), kept, end_id)
        taken = after.count - running.count  # what both models have read and may keep
        after = after._replace(
            draft=draft._replace(position=running.draft.position + taken),
            target=target._replace(position=running.target.position + taken),
        )
        return (same_shapes(after, running),)

    def goes_on(running: _Running) -> Tensor:
        return tf.logical_not(tf.reduce_all(running.ended))

    first = _first(target_prompted, draft_prompted, end_id, max_tokens)
    (done,) = tf.while_loop(goes_on, body, (first,))
    return Speculated(Decoded(done.token_ids, done.log_prob), done.target_calls)


def _first(target: Prompted, draft: Prompted, end_id: int, max_tokens: int) -> _Running:
    """The first token is the target's own: its prompt already told it."""
    logits = tf.cast(target.logits, tf.float32)  # (B, V)
    states = (tf.nest.map_structure(tf.convert_to_tensor, side.state) for side in (draft, target))
    nothing = tf.zeros_like(logits[:, 0], tf.int32)
    empty = _Running(
        target_calls=tf.constant(-1),
        token_ids=tf.fill([tf.shape(logits)[0], max_tokens], PAD_ID),
        count=nothing,
        log_prob=tf.zeros_like(logits[:, 0]),
        last=nothing,
        ended=tf.zeros_like(nothing, tf.bool),
        draft=next(states),
        target=next(states),
    )
    token = tf.expand_dims(best_token(logits), 1)  # (B, 1)
    everything = tf.ones_like(token, tf.bool)
    return same_shapes(
        _take(empty, token, log_probability(tf.expand_dims(logits, 1), token), everything, end_id), empty
    )


def _propose(step: Step, last: Tensor, state: State, num_drafted: int) -> tuple[Tensor, State]:
    """(B, D) ids, and the state in which the draft has read them all: they may all be right."""
    drafted = []
    for _ in range(num_drafted):
        logits, state = step(last, state)
        last = best_token(tf.cast(logits, tf.float32))
        drafted.append(last)
    _, state = step(last, state)
    return tf.stack(drafted, axis=1), state


def _kept(drafted: Tensor, chosen: Tensor, room: Tensor, ended: Tensor, end_id: int) -> Tensor:
    """(B, D + 1) bool: which of the target's choices count. They are the first ones of each row.

    A choice counts where all proposals before it agree with the target, none of those was the end, and the
    row has room for it.
    """
    stops = tf.logical_or(tf.not_equal(drafted, chosen[:, :-1]), tf.equal(drafted, end_id))  # (B, D)
    stopped = tf.cumsum(tf.cast(stops, tf.int32), axis=1)
    stopped = tf.concat([tf.zeros_like(stopped[:, :1]), stopped], axis=1)  # (B, D + 1)
    fits = tf.range(chosen.shape[1]) < tf.expand_dims(room, 1)
    return tf.logical_and(tf.logical_and(tf.equal(stopped, 0), fits), tf.logical_not(tf.expand_dims(ended, 1)))


def _take(running: _Running, chosen: Tensor, log_prob: Tensor, kept: Tensor, end_id: int) -> _Running:
    """Put the kept ones of `chosen` (B, K) behind the tokens of each row."""
    taken = tf.reduce_sum(tf.cast(kept, tf.int32), axis=1)  # (B,)
    max_tokens = running.token_ids.shape[1]
    place = tf.range(max_tokens) - tf.expand_dims(running.count, 1)  # (B, T), which choice stands there
    is_new = tf.logical_and(place >= 0, place < tf.expand_dims(taken, 1))
    new = tf.gather(chosen, tf.clip_by_value(place, 0, chosen.shape[1] - 1), batch_dims=1)
    last = tf.gather(chosen, tf.maximum(taken - 1, 0), batch_dims=1)
    count = running.count + taken
    over = tf.logical_or(tf.equal(last, end_id), tf.equal(count, max_tokens))
    return running._replace(
        target_calls=running.target_calls + 1,
        token_ids=tf.where(is_new, new, running.token_ids),
        count=count,
        log_prob=running.log_prob + tf.reduce_sum(tf.where(kept, log_prob, 0.0), axis=1),
        last=tf.where(running.ended, PAD_ID, last),
        ended=tf.logical_or(running.ended, over),
    )


def _require_position(name: str, state: State) -> None:
    if not hasattr(state, "position") or not hasattr(state, "_replace"):
        raise TypeError(
            f"{name}.state is a {type(state).__name__} without a position to set back: refused proposals couldn't be "
            "forgotten. Use the state of a CausalLM or Seq2Seq, or a named tuple with a field position (B,) int32."
        )
