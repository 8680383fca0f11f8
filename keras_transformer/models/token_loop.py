"""The loop that greedy decoding and sampling share: choose a token, feed it, until every row has ended.

Letters: B rows, V vocabulary, T = max_tokens. Id 0 is padding. TensorFlow's own loop, so that the same code runs
eagerly, in a `tf.function` and in an exported graph.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import tensorflow as tf

from keras_transformer.checks import positive_integer

Tensor = Any
State = Any
"""A nest of tensors, each with the batch as its first axis, that keeps its shapes from step to step."""

Step = Callable[[Tensor, State], tuple[Tensor, State]]
"""(token_ids (B,) int32, state) -> (logits (B, V) of the next token, state)."""

Choose = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]
"""(logits (B, V) float32, index of the new token, what is carried) -> (token_ids (B,) int32, what is carried)."""

PAD_ID = 0


class Prompted(Protocol):
    """A model that has read its prompt or its source."""

    @property
    def logits(self) -> Tensor:
        """(B, V) of the first new token."""

    @property
    def state(self) -> State:
        """What the first `step` takes."""


class Decoded(NamedTuple):
    """One text a row, and how likely the model finds it."""

    token_ids: Tensor  # (B, T) int32, end_id included, 0 after it
    log_prob: Tensor  # (B,) float32, sum over the tokens kept, by the model's own distribution


class _Running(NamedTuple):
    index: Tensor  # () int32, tokens chosen so far
    token_ids: Tensor  # (B, T) int32
    log_prob: Tensor  # (B,) float32
    last: Tensor  # (B,) int32, what the next step is fed
    ended: Tensor  # (B,) bool
    carried: Any
    state: State


def check_limits(end_id: int, max_tokens: int) -> None:
    """Raise ValueError unless `end_id` and `max_tokens` are whole numbers of at least 1: 0 is padding."""
    positive_integer("end_id", end_id)
    positive_integer("max_tokens", max_tokens)


def decode(
    step: Step,
    prompted: Prompted,
    choose: Choose,
    carried: Any,
    *,
    end_id: int,
    max_tokens: int,
    limits: Tensor | None = None,
) -> Decoded:
    """Let `choose` pick each token of each row, until end_id, `max_tokens`, or the row's own of `limits` (B,) int32.

    `step` is called once less than the longest row has tokens. A row that has ended is fed padding, and its
    answers are read no more.

    Raises:
        ValueError: if end_id or max_tokens isn't a whole number of at least 1.
    """
    check_limits(end_id, max_tokens)
    logits = tf.cast(prompted.logits, tf.float32)
    nobody = tf.zeros_like(logits[:, 0], tf.bool)
    start = _Running(
        index=tf.constant(0),
        token_ids=tf.fill([tf.shape(logits)[0], max_tokens], PAD_ID),
        log_prob=tf.zeros_like(logits[:, 0]),
        last=tf.zeros_like(logits[:, 0], tf.int32),
        ended=nobody,
        carried=carried,
        state=tf.nest.map_structure(tf.convert_to_tensor, prompted.state),
    )

    def body(running: _Running) -> tuple[_Running]:
        new_logits, state = step(running.last, running.state)
        new_logits = same_shapes(tf.cast(new_logits, tf.float32), logits)
        after = _choose_next(new_logits, running._replace(state=state), choose, end_id, limits)
        return (same_shapes(after, running),)

    def goes_on(running: _Running) -> Tensor:
        return tf.logical_and(running.index < max_tokens, tf.logical_not(tf.reduce_all(running.ended)))

    first = same_shapes(_choose_next(logits, start, choose, end_id, limits), start)
    (done,) = tf.while_loop(goes_on, body, (first,))
    return Decoded(done.token_ids, done.log_prob)


def _choose_next(logits: Tensor, running: _Running, choose: Choose, end_id: int, limits: Tensor | None) -> _Running:
    chosen, carried = choose(logits, running.index, running.carried)
    token = tf.where(running.ended, PAD_ID, chosen)
    ended = tf.logical_or(running.ended, tf.equal(token, end_id))
    if limits is not None:
        ended = tf.logical_or(ended, running.index + 1 >= limits)
    return _Running(
        index=running.index + 1,
        token_ids=put_column(running.token_ids, running.index, token),
        log_prob=running.log_prob + tf.where(running.ended, 0.0, log_probability(logits, chosen)),
        last=token,
        ended=ended,
        carried=carried,
        state=running.state,
    )


def best_token(logits: Tensor) -> Tensor:
    """The likeliest id, the lowest among equals: (..., V) -> (...) int32."""
    return tf.argmax(logits, axis=-1, output_type=tf.int32)


def log_total(logits: Tensor) -> Tensor:
    """log sum exp over the vocabulary, which a logit needs to become a log-probability: (..., V) -> (...) float32."""
    highest = tf.reduce_max(logits, axis=-1, keepdims=True)
    return tf.squeeze(highest, -1) + tf.math.log(tf.reduce_sum(tf.exp(logits - highest), axis=-1))


def log_probability(logits: Tensor, token_ids: Tensor) -> Tensor:
    """log softmax of the given ids: logits (..., V) float32 and ids (...) -> (...) float32."""
    return tf.gather(logits, token_ids, batch_dims=len(token_ids.shape)) - log_total(logits)


def put_column(token_ids: Tensor, index: Tensor, column: Tensor) -> Tensor:
    """`token_ids` (..., T) with the ids (...) at place `index` of the last axis."""
    places = tf.range(token_ids.shape[-1])
    return tf.where(tf.equal(places, index), tf.expand_dims(column, -1), token_ids)


def same_shapes(after: Any, before: Any) -> Any:
    """`after`, known to have the shapes of `before`: a loop in a graph refuses what it can't prove to keep its shape.

    Raises:
        ValueError: if a step changed the shape of its state or of its logits.
    """
    after = tf.nest.map_structure(tf.convert_to_tensor, after)
    for new, old in zip(tf.nest.flatten(after), tf.nest.flatten(before), strict=True):
        if not new.shape.is_compatible_with(old.shape):
            raise ValueError(
                f"a step gave back a tensor of shape {tuple(new.shape)} for one of shape {tuple(old.shape)}: "
                "logits and state keep their shapes while tokens are added. "
                "Give the state room for all tokens from the start."
            )
        new.set_shape(old.shape)
    return after
