"""What a student writes at its present weights in the place of a batch's targets, for `OnPolicyDistiller`.

Tokens are drawn from softmax(logits / temperature) without id 0, which is padding, until end_id or until the batch has
no more room. B rows, S source tokens, T target tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive_integer
from keras_transformer.layers.masks import Tensor
from keras_transformer.models.causal_lm import CausalLM
from keras_transformer.models.decoder_state import DecoderState, Prompted
from keras_transformer.models.sampling import check_filters, sample
from keras_transformer.models.seq2seq import Seq2Seq
from keras_transformer.models.token_loop import Step


@dataclass(frozen=True)
class OwnTargets:
    """A `Seq2Seq` writes the targets of a batch {"source_ids" (B, S), "target_ids" (B, T)}.

    `write` leaves the sources as they are, and makes "target_ids" begin with `start_id` and go on with what was drawn
    but the last token, as data have it: position t is real where a token t was drawn, `end_id` included. So the
    model's own mask shows just the tokens of the student, and `counted` has nothing to add.

    Args:
        start_id: what a target begins with.
        end_id: what ends a target; nothing is drawn after it.
        max_tokens: the most tokens that a row gets; None = T, which each batch then must know beforehand: batches of
            several lengths, such as those of `PairBatches`, need a number.
        temperature: of the draws, above 0. The paper has 1.

    Raises:
        ValueError: if a number is out of its range.
    """

    start_id: int
    end_id: int
    max_tokens: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive_integer("start_id", self.start_id)
        _check_common(self.end_id, self.max_tokens, self.temperature)

    def write(self, student: keras.Model, inputs: Mapping[str, Tensor], seed: Tensor) -> dict[str, Tensor]:
        """`inputs` with "target_ids" out of the student's own tokens, of the same shape; empty rows stay empty.

        Raises:
            TypeError: if the student is no `Seq2Seq`.
            ValueError: if `inputs` lacks an entry, T isn't known and there is no `max_tokens`, or the student doesn't
                know `end_id`.
        """
        target_ids = _named(inputs, "target_ids", self)
        source_ids = _named(inputs, "source_ids", self)
        _check_student(student, Seq2Seq, self)
        room = _most_tokens(target_ids.shape[1], self)
        length = tf.shape(target_ids)[1]
        prompted = student.prompt(source_ids, room, self.start_id)
        own = _drawn(student, prompted, seed, self, room, length)[:, :length]
        own = tf.pad(own, [[0, 0], [0, length - tf.shape(own)[1]]])  # (B, T)
        before = tf.pad(own[:, :-1], [[0, 0], [1, 0]], constant_values=self.start_id)
        has_target = tf.reduce_any(tf.not_equal(target_ids, 0), axis=1, keepdims=True)  # (B, 1)
        read = tf.where(tf.logical_and(has_target, tf.not_equal(own, 0)), before, 0)
        return {**inputs, "target_ids": tf.cast(read, target_ids.dtype)}

    def counted(self, inputs: Mapping[str, Tensor]) -> None:
        """None: all tokens that the mask shows are the student's own."""


@dataclass(frozen=True)
class OwnContinuations:
    """A `CausalLM` goes on where the first `prompt_length` tokens of each row of token ids (B, T) end.

    `write` puts what was drawn behind them, without `end_id`, and 0 after it. A row of fewer tokens is gone on with
    where they end; a row without any stays empty. `counted` are the positions whose logits are of a token to be drawn:
    from the prompt's last token on; the mask ends them with the student's last token, which foresees the end.

    Args:
        prompt_length: tokens that stay, at least 1 and less than T.
        end_id: what ends a text; nothing is drawn after it. In the prompt it is a token as any other.
        max_tokens: the most tokens that a row gets; None = T - prompt_length, which each batch then must know
            beforehand.
        temperature: of the draws, above 0. The paper has 1.

    Raises:
        ValueError: if a number is out of its range.
    """

    prompt_length: int
    end_id: int
    max_tokens: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        positive_integer("prompt_length", self.prompt_length)
        _check_common(self.end_id, self.max_tokens, self.temperature)

    def write(self, student: keras.Model, inputs: Any, seed: Tensor) -> Any:
        """`inputs`, ids (B, T) or a dict that has them as "token_ids", with the student's own after the prompt.

        Raises:
            TypeError: if the student is no `CausalLM`.
            ValueError: if there are no token ids, no room after the prompt, T isn't known and there is no
                `max_tokens`, or the student doesn't know `end_id`.
        """
        token_ids = self._token_ids(inputs)
        _check_student(student, CausalLM, self)
        most = _most_tokens(self._room(token_ids.shape[1]), self)
        length = tf.shape(token_ids)[1]
        prompted = student.prompt(token_ids[:, : self.prompt_length], self.prompt_length + most)
        own = _drawn(student, prompted, seed, self, most, length - self.prompt_length)  # (B, most)
        known = self._known(token_ids)  # (B, 1)
        place = tf.range(length) - known  # (B, T), among the own tokens; below 0 in the prompt
        drawn = tf.gather(own, tf.clip_by_value(place, 0, most - 1), batch_dims=1)  # (B, T)
        is_text = tf.logical_and(tf.logical_and(place < most, known > 0), tf.not_equal(drawn, self.end_id))
        drawn = tf.cast(tf.where(is_text, drawn, 0), token_ids.dtype)
        written = tf.where(place < 0, token_ids, drawn)
        return {**inputs, "token_ids": written} if isinstance(inputs, Mapping) else written

    def counted(self, inputs: Any) -> Tensor:
        """(B, T) bool, of a batch before or after it was written: True from the last token of the prompt on."""
        token_ids = self._token_ids(inputs)
        return tf.range(tf.shape(token_ids)[1]) >= self._known(token_ids) - 1

    def _token_ids(self, inputs: Any) -> Tensor:
        return _named(inputs, "token_ids", self) if isinstance(inputs, Mapping) else inputs

    def _room(self, length: int | None) -> int | None:
        if length is not None and length <= self.prompt_length:
            raise ValueError(
                f"prompt_length={self.prompt_length} leaves a row of {length} tokens no room for the student's own. "
                f"Use prompt_length={max(length - 1, 1)} or less, or longer rows."
            )
        return None if length is None else length - self.prompt_length

    def _known(self, token_ids: Tensor) -> Tensor:
        """(B, 1) int32: tokens of each row's prompt, up to the last that isn't padding."""
        prompt = token_ids[:, : self.prompt_length]
        places = tf.range(1, tf.shape(prompt)[1] + 1)
        return tf.reduce_max(tf.where(tf.not_equal(prompt, 0), places, 0), axis=1, keepdims=True)


def _drawn(
    student: Any,
    prompted: Prompted,
    seed: Tensor,
    rule: OwnTargets | OwnContinuations,
    most: int,
    limit: Tensor,
) -> Tensor:
    """(B, most) int32: `end_id` included, 0 after it. After `limit` tokens a row ends, so that the loop can end too."""
    foresees = _without_padding(student.step, prompted.state.position + limit, rule.end_id)
    decoded = sample(
        foresees,
        prompted._replace(logits=_only(_is_token(prompted.logits), prompted.logits)),
        end_id=rule.end_id,
        max_tokens=most,
        seed=seed,
        temperature=rule.temperature,
    )
    return decoded.token_ids


def _without_padding(step: Step, last_position: Tensor, end_id: int) -> Step:
    """`step` that foresees no padding, and nothing but `end_id` once a row's cache has reached `last_position` (B,)."""

    def foresee(token_ids: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        logits, state = step(token_ids, state)
        is_end = tf.equal(tf.range(logits.shape[-1]), end_id)
        full = tf.expand_dims(state.position >= last_position, 1)  # (B, 1)
        return _only(tf.where(full, is_end, _is_token(logits)), logits), state

    return foresee


def _is_token(logits: Tensor) -> Tensor:
    """(V,) bool: every id but padding."""
    return tf.not_equal(tf.range(logits.shape[-1]), 0)


def _only(allowed: Tensor, logits: Tensor) -> Tensor:
    """Logits (B, V) in float32, -inf where an id isn't allowed: whatever the temperature, it isn't drawn."""
    return tf.where(allowed, tf.cast(logits, tf.float32), -np.inf)


def _most_tokens(room: int | None, rule: OwnTargets | OwnContinuations) -> int:
    """How many tokens are drawn at most: a loop's buffers have a size that is known beforehand."""
    if room is None and rule.max_tokens is None:
        raise ValueError(
            f"{type(rule).__name__} has max_tokens=None, and the batches' length is known only one by one. Give "
            f"{type(rule).__name__}(..., max_tokens=...): the most tokens that the student writes in a row."
        )
    return min(number for number in (room, rule.max_tokens) if number is not None)


def _named(inputs: Any, name: str, rule: OwnTargets | OwnContinuations) -> Tensor:
    if isinstance(inputs, Mapping) and name in inputs:
        return inputs[name]
    given = sorted(inputs) if isinstance(inputs, Mapping) else f"one {type(inputs).__name__} without names"
    other = " For a CausalLM use OwnContinuations." if isinstance(rule, OwnTargets) else ""
    raise ValueError(
        f"{type(rule).__name__} needs {name!r} in the batch's inputs, which have {given}. "
        f"Pass x as a dict with {name!r}.{other}"
    )


def _check_student(
    student: keras.Model, kind: type[Seq2Seq] | type[CausalLM], rule: OwnTargets | OwnContinuations
) -> None:
    name = type(rule).__name__
    if not isinstance(student, kind):
        raise TypeError(
            f"{name} lets a {kind.__name__} write, and the student {student.name!r} is a {type(student).__name__}. "
            "Use OwnTargets for a Seq2Seq, OwnContinuations for a CausalLM; other models don't write."
        )
    if rule.end_id >= student.vocab_size:
        raise ValueError(
            f"{name} has end_id={rule.end_id}, and the student {student.name!r} knows the ids 0 to "
            f"{student.vocab_size - 1}. Give the end_id of its tokenizer."
        )


def _check_common(end_id: int, max_tokens: int | None, temperature: float) -> None:
    positive_integer("end_id", end_id)
    if max_tokens is not None:
        positive_integer("max_tokens", max_tokens)
    check_filters(temperature, None, None, None)
