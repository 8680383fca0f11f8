"""What an export has to know of a model that writes texts: how it is asked, and what Keras itself writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.checks import UserError, one_of
from keras_transformer.data.continuations import WHOLE, beginnings, new_tokens
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.export.attachments import Attachments, Part
from keras_transformer.export.keras_runner import SINGLE, computes_in_float32, with_policy
from keras_transformer.export.numpy_decoding import up_to_end
from keras_transformer.export.preparation import settings
from keras_transformer.export.requirements import Limits, check_examples, limits
from keras_transformer.export.writing_parity import Logits
from keras_transformer.models.decoder_state import reordered
from keras_transformer.models.decoding import Step, beam, greedy
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE

MOST_TEXTS = 64  # that an export is proved with: each has many tokens
MOST_TOKENS = 64  # of each
BATCH_SIZE = 32
LEAST_ROOM = 2  # a step is fed a token that has a place before it
ALPHA = 0.6  # of the length penalty by which a search ranks

Inputs = dict[str, np.ndarray]


class Writing(Protocol):
    """A model that writes, with its tokenizer."""

    @property
    def model(self) -> Any:
        """In float32, with `prompt` and `step`."""

    @property
    def tokenizer(self) -> ReversibleTokenizer:
        """Of what is read and written."""

    @property
    def max_length(self) -> int:
        """Ids that it has room for."""

    @property
    def task(self) -> str:
        """What it was trained for."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Of the ids that the whole model takes."""

    @property
    def most(self) -> int:
        """The most tokens that it writes unless asked for another number."""

    @property
    def most_asked(self) -> int:
        """The most tokens that it can be asked for."""

    @property
    def longest_prompt(self) -> int:
        """The most ids that it reads, if it is to write `most`."""

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that it reads of each text."""

    def begin(self, token_ids: Any) -> Any:
        """Ids (B, T), 0 = padding at the end -> logits (B, V) of the first new token and a state with room."""

    def whole(self, prompt: Sequence[int], written: Sequence[int]) -> Inputs:
        """The inputs (1, T) of the whole model, whose last len(written) logits are those of the written tokens."""

    def output(self, text: str, written: Sequence[int]) -> str:
        """What comes out for `text`, if these tokens were written."""


@dataclass(frozen=True)
class Translating:
    """A `Seq2Seq`: the source is read, the target is written."""

    model: Any
    tokenizer: ReversibleTokenizer
    max_length: int

    task = TRANSLATE
    input_names = ("source_ids", "target_ids")

    @property
    def most(self) -> int:
        """As many as the longest target that it was trained on."""
        return self.max_length

    @property
    def most_asked(self) -> int:
        """No more than that."""
        return self.max_length

    @property
    def longest_prompt(self) -> int:
        """As many as the longest source that it was trained on."""
        return self.max_length

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the sources."""
        return self.tokenizer.encode(texts, self.max_length)

    def begin(self, token_ids: Any) -> Any:
        """Read the sources and the start token."""
        return self.model.prompt(token_ids, self.max_length, self.tokenizer.start_id)

    def whole(self, prompt: Sequence[int], written: Sequence[int]) -> Inputs:
        """Source, and target moved on by one."""
        target = [self.tokenizer.start_id, *written[:-1]]
        return {"source_ids": np.array([prompt], np.int32), "target_ids": np.array([target], np.int32)}

    def output(self, text: str, written: Sequence[int]) -> str:
        """The translation."""
        return self.tokenizer.decode(written)


@dataclass(frozen=True)
class Continuing:
    """A `CausalLM`: a text is read and goes on."""

    model: Any
    tokenizer: ReversibleTokenizer
    max_length: int

    task = LANGUAGE_MODEL
    input_names = ("token_ids",)

    @property
    def most(self) -> int:
        """Half of the room."""
        return new_tokens(self.max_length, None)

    @property
    def most_asked(self) -> int:
        """All but one, which it has to start from."""
        return self.max_length - 1

    @property
    def longest_prompt(self) -> int:
        """The other half."""
        return self.max_length - self.most

    def prompts(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of the texts, or of their ends."""
        return beginnings(self.tokenizer, texts, self.longest_prompt).prompts

    def begin(self, token_ids: Any) -> Any:
        """Read the texts."""
        return self.model.prompt(token_ids, self.max_length)

    def whole(self, prompt: Sequence[int], written: Sequence[int]) -> Inputs:
        """The text as it goes on."""
        return {"token_ids": np.array([[*prompt, *written[:-1]]], np.int32)}

    def output(self, text: str, written: Sequence[int]) -> str:
        """The text with its continuation."""
        (whole,) = self.tokenizer.encode([text], WHOLE)
        return self.tokenizer.decode([*whole, *written])


class PreparedWriting(NamedTuple):
    """A model ready for export, with what it writes for the examples."""

    writing: Writing
    limits: Limits  # of ids, and of how many it reads in a row
    texts: list[str]
    prompts: list[list[int]]
    written: list[list[int]]  # Keras' greedy ids

    @property
    def pairs(self) -> list[tuple[list[int], list[int]]]:
        """Each prompt with what Keras writes for it."""
        return list(zip(self.prompts, self.written, strict=True))

    def attachments(self, form: str, parts: dict[str, Part]) -> Attachments:
        """Return what travels with the exported model."""
        writing = self.writing
        known = settings(writing.model, writing.task, form, writing.max_length, self.limits, parts)
        return Attachments(writing.tokenizer.to_json(), [], known)


def prepare_writing(
    model: keras.Model, tokenizer: ReversibleTokenizer, task: str, max_length: int, examples: Sequence[str]
) -> PreparedWriting:
    """Check that model, tokenizer and examples belong together, and let the model write on the examples.

    Raises:
        UserError: for a tokenizer whose ids can't become a text again, or a `max_length` of 1.
        ValueError: if they don't belong together, or `task` isn't one that writes.
    """
    one_of("task", task, (TRANSLATE, LANGUAGE_MODEL))
    check_examples(examples)
    if not isinstance(tokenizer, ReversibleTokenizer):
        raise UserError(
            f"the tokenizer is a {type(tokenizer).__name__}, and a model that writes texts needs one whose ids become "
            "a text again without loss. Train with a ReversibleTokenizer."
        )
    allowed = limits(model, tokenizer, max_length)
    if max_length < LEAST_ROOM:
        raise UserError(
            f"max_length={max_length} leaves no room to write in: a first token and one more are the least. "
            f"Use max_length={LEAST_ROOM} or more."
        )
    single = model if computes_in_float32(model) else with_policy(model, SINGLE)
    writing = writing_of(single, tokenizer, task, max_length)
    texts = list(examples[:MOST_TEXTS])
    prompts = writing.prompts(texts)
    return PreparedWriting(writing, allowed, texts, prompts, _written(writing, prompts))


def writing_of(model: Any, tokenizer: ReversibleTokenizer, task: str, max_length: int) -> Writing:
    """How a model is asked that was trained for `task`."""
    if task == TRANSLATE:
        return Translating(model, tokenizer, max_length)
    return Continuing(model, tokenizer, max_length)


def greedy_ids(writing: Writing, token_ids: Any, max_tokens: int, limits: Any | None = None) -> Any:
    """Greedy decoding of prompts (B, T): at most `max_tokens`, and `limits` (B,) of each. See `models.decoding`."""
    end_id = writing.tokenizer.end_id
    return greedy(_step(writing), writing.begin(token_ids), end_id=end_id, max_tokens=max_tokens, limits=limits)


def found_by_beam(writing: Writing, token_ids: Any, max_tokens: int, width: int, limits: Any | None = None) -> Any:
    """The `width` best texts of a beam search from prompts (B, T), see `models.decoding.beam`."""
    return beam(
        _step(writing),
        writing.begin(token_ids),
        end_id=writing.tokenizer.end_id,
        max_tokens=max_tokens,
        width=width,
        alpha=ALPHA,
        num_best=width,
        reorder=reordered,
        limits=limits,
    )


def searched_scores(writing: Writing, prompts: Sequence[Sequence[int]], width: int) -> np.ndarray:
    """The score (N,) of the best text that Keras' own search finds for each prompt, of `writing.most` tokens."""
    search = tf.function(
        lambda token_ids: found_by_beam(writing, token_ids, writing.most, width).score[:, 0],
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
        autograph=False,
    ).get_concrete_function()
    return search(tf.constant(writing.tokenizer.pad([list(prompt) for prompt in prompts]))).numpy()


def _step(writing: Writing) -> Step:
    """The model's step, for rows that end at different places: one that has ended stays within its own room."""

    def step(token_ids: Any, state: Any) -> Any:
        within = state._replace(position=tf.minimum(state.position, writing.max_length - 1))
        return writing.model.step(token_ids, within)

    return step


def whole_function(writing: Writing, batch: int | None = None) -> Any:
    """Return a tf.function: the ids of the whole model (N, T), by name -> dict of `logits` (N, T, V) float32."""

    @tf.function(autograph=False)
    def tokens(**token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": tf.cast(writing.model(token_ids, training=False), tf.float32)}

    return tokens.get_concrete_function(
        **{name: tf.TensorSpec((batch, None), tf.int32, name) for name in writing.input_names}
    )


def whole_logits(writing: Writing) -> Logits:
    """Return what gives Keras' logits (T, V) for T written tokens, in one pass over the whole."""
    function = whole_function(writing)

    def logits(prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        inputs = {name: tf.constant(ids) for name, ids in writing.whole(prompt, written).items()}
        return function(**inputs)["logits"].numpy()[0, -len(written) :]

    return logits


def _written(writing: Writing, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Keras' greedy ids for each prompt, in batches of like length."""
    most = min(writing.most, MOST_TOKENS)
    graph = tf.function(
        lambda token_ids: greedy_ids(writing, token_ids, most).token_ids,
        input_signature=[tf.TensorSpec((None, None), tf.int32)],
        autograph=False,
    ).get_concrete_function()
    found: list[list[int]] = [[] for _ in prompts]
    order = np.argsort([len(prompt) for prompt in prompts], kind="stable").tolist()
    for start in range(0, len(order), BATCH_SIZE):
        rows = order[start : start + BATCH_SIZE]
        batch = writing.tokenizer.pad([prompts[row] for row in rows])
        for row, ids in zip(rows, graph(tf.constant(batch)).numpy(), strict=True):
            found[row] = up_to_end(ids, writing.tokenizer.end_id)
    return found
