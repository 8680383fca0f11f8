"""Keras models that write texts: one graph for each way of choosing tokens, batches of texts of like length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transformer.data.continuations import beginnings, new_tokens, windows
from keras_transformer.data.epochs import rounded_up
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.translation_room import translation_room
from keras_transformer.export.numpy_decoding import up_to_end
from keras_transformer.generation.writer import GREEDY, Decoding, LogLikelihood, Progress, Writer, foresees_no_text
from keras_transformer.layers.masks import Tensor
from keras_transformer.models import CausalLM, Prompted, Seq2Seq
from keras_transformer.models.branches import Branches, follow
from keras_transformer.models.decoder_state import DecoderState, reordered
from keras_transformer.models.decoding import beam, greedy, sample
from keras_transformer.models.generating import Generating
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE
from keras_transformer.training.token_losses import token_cross_entropy

MOST_TEXTS, MOST_ROWS = 64, 256  # a batch: a search has a row for each of its beginnings
MOST_BRANCHES = 8  # not fine-tuned: 4 gain by sharing a cache, and each branch looks at the places of all
MOST_SCORED_TOKENS = 4096  # a batch: each has logits over the whole vocabulary
LENGTH_MULTIPLE = 16  # of a prompt: each length is a graph of its own

TokenIds = Sequence[Sequence[int]]


class Translator(Writer):
    """A `Seq2Seq` with its tokenizer.

    Args:
        model: in float32.
        tokenizer: of sources and targets.
        max_length: of a source, which is cut there, and of a translation unless the caller says so.
        jit_compile: True to compile the writing with XLA: that takes a while for each new shape of batch, and each
            token takes less (`benchmarks/results/decode.md`). Worth it for many texts or long ones. The words are the
            same, but for drawn ones: a seed gives others then.
    """

    task = TRANSLATE

    def __init__(
        self, model: Seq2Seq, tokenizer: ReversibleTokenizer, max_length: int, *, jit_compile: bool = False
    ) -> None:
        self.model, self.tokenizer, self.max_length, self.jit_compile = model, tokenizer, max_length, jit_compile
        self._graphs: dict[Decoding, Callable[..., Tensor]] = {}

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return the translation of each text."""
        source_ids = self.tokenizer.encode(texts, self.max_length)
        return [self.tokenizer.decode(ids) for ids in self.translate(source_ids, decoding, first)]

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the ids that `write` chooses for each text, see `Writer`."""
        return self.translate(self.tokenizer.encode(texts, self.max_length), decoding)

    def translate(self, source_ids: TokenIds, decoding: Decoding = GREEDY, first: int = 0) -> list[list[int]]:
        """Return the ids of each translation; those of one that ended within the limit have the end as their last.

        Raises:
            UserError: if more tokens are asked for than there is room for.
        """
        graph = self._graph(replace(decoding, seed=0))
        found: list[list[int]] = [[] for _ in source_ids]
        for rows in like_lengths(source_ids, texts_at_once(decoding, fill=self.jit_compile)):
            batch = self.tokenizer.pad([source_ids[row] for row in rows], self._length(source_ids, rows))
            written = _run(graph, batch, decoding.seed + first + rows[0], fill=self.jit_compile)
            for row, ids in zip(rows, written, strict=True):
                found[row] = ids[ids != 0].tolist()
        return found

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Raise UserError: only a language model foresees texts by themselves."""
        raise foresees_no_text(self.task)

    def _length(self, source_ids: TokenIds, rows: Sequence[int]) -> int:
        longest = max(len(source_ids[row]) for row in rows)
        return rounded_up(longest, LENGTH_MULTIPLE) if self.jit_compile else longest

    def _graph(self, decoding: Decoding) -> Callable[..., Tensor]:
        if decoding not in self._graphs:
            model, ends = self.model, self.tokenizer
            most = translation_room(self.max_length, decoding.max_tokens)

            def translations(source_ids: Tensor, seed: Tensor) -> Tensor:
                return chosen_tokens(
                    model,
                    lambda more: model.prompt(source_ids, 1 + more, ends.start_id),
                    decoding,
                    end_id=ends.end_id,
                    max_tokens=most,
                    seed=seed,
                )

            self._graphs[decoding] = _as_graph(translations, None, self.jit_compile)
        return self._graphs[decoding]


class Continuer(Writer):
    """A `CausalLM` with its tokenizer.

    Args:
        model: in float32.
        tokenizer: of the texts.
        max_length: the most tokens that the model reads, what it writes included.
        jit_compile: as `Translator`.
    """

    task = LANGUAGE_MODEL

    def __init__(
        self, model: CausalLM, tokenizer: ReversibleTokenizer, max_length: int, *, jit_compile: bool = False
    ) -> None:
        self.model, self.tokenizer, self.max_length, self.jit_compile = model, tokenizer, max_length, jit_compile
        self._graphs: dict[tuple[Decoding, int], Callable[..., Tensor]] = {}
        self._score = tf.function(
            lambda token_ids, labels: tf.reduce_sum(token_cross_entropy(labels, model(token_ids, training=False))),
            input_signature=[tf.TensorSpec((None, None), tf.int32)] * 2,
            autograph=False,
        )

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return each text with what comes after it: half of `max_length` tokens unless the caller says so.

        Of a text that leaves no room for them the model reads the end.
        """
        most = new_tokens(self.max_length, decoding.max_tokens)
        whole, prompts = beginnings(self.tokenizer, texts, self.max_length - most)
        written = self._continued(prompts, most, decoding, first)
        return [self.tokenizer.decode([*text, *ids]) for text, ids in zip(whole, written, strict=True)]

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the ids that `write` adds to each text, see `Writer`."""
        most = new_tokens(self.max_length, decoding.max_tokens)
        prompts = beginnings(self.tokenizer, texts, self.max_length - most).prompts
        return self._continued(prompts, most, decoding, 0)

    def _continued(self, prompts: TokenIds, most: int, decoding: Decoding, first: int) -> list[list[int]]:
        """The ids, at most `most`, that come after each prompt."""
        decoding, longest = replace(decoding, max_tokens=most), self.max_length - most
        found: list[list[int]] = [[] for _ in prompts]
        for rows in like_lengths(prompts, texts_at_once(decoding, fill=self.jit_compile)):
            length = min(longest, rounded_up(max(len(prompts[row]) for row in rows), LENGTH_MULTIPLE))
            batch = self.tokenizer.pad([prompts[row] for row in rows], length)
            graph = self._graph(replace(decoding, seed=0), length)
            written = _run(graph, batch, decoding.seed + first + rows[0], fill=self.jit_compile)
            for row, ids in zip(rows, written, strict=True):
                found[row] = up_to_end(ids, self.tokenizer.end_id)
        return found

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Sum of -log p over the tokens of each text and its end, each text by itself.

        The tokens beyond `max_length` are foreseen from those since the last multiple of it.
        """
        runs, total, tokens, done = windows(self.tokenizer, texts, self.max_length), 0.0, 0, 0
        for rows in like_lengths(runs, max(1, MOST_SCORED_TOKENS // self.max_length)):
            token_ids = self.tokenizer.pad([runs[row][:-1] for row in rows])
            labels = self.tokenizer.pad([runs[row][1:] for row in rows])
            total += float(self._score(token_ids, labels))
            tokens += int((labels != 0).sum())
            done += len(rows)
            if progress is not None:
                progress(done * len(texts) // len(runs) - (done - len(rows)) * len(texts) // len(runs))
        return LogLikelihood(total, tokens)

    def _graph(self, decoding: Decoding, length: int) -> Callable[..., Tensor]:
        if (decoding, length) not in self._graphs:
            model, end_id, most = self.model, self.tokenizer.end_id, decoding.max_tokens or 1

            def continuations(token_ids: Tensor, seed: Tensor) -> Tensor:
                return chosen_tokens(
                    model,
                    lambda more: model.prompt(token_ids, length + more),
                    decoding,
                    end_id=end_id,
                    max_tokens=most,
                    seed=seed,
                )

            self._graphs[decoding, length] = _as_graph(continuations, length, self.jit_compile)
        return self._graphs[decoding, length]


def chosen_tokens(
    model: Generating,
    prompt: Callable[[int], Prompted],
    decoding: Decoding,
    *,
    end_id: int,
    max_tokens: int,
    seed: Tensor,
) -> Tensor:
    """The ids (B, max_tokens) int32 that `decoding` chooses, 0 after the end; its own seed and limit aren't read.

    `prompt` reads what comes before, and leaves room for so many more tokens.
    """
    limits: dict[str, Any] = {"end_id": end_id, "max_tokens": max_tokens}
    fed = max_tokens - 1  # the last one isn't
    if decoding.draws:
        temperature = decoding.temperature or 1.0
        filters: dict[str, Any] = {"temperature": temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
        return sample(model.step, prompt(fed), seed=seed, **filters, **limits).token_ids
    if (decoding.beam or 1) > 1:
        return _searched(model, prompt, decoding.beam or 1, fed, limits)
    return greedy(model.step, prompt(fed), **limits).token_ids


def _searched(
    model: Generating, prompt: Callable[[int], Prompted], width: int, fed: int, limits: dict[str, Any]
) -> Tensor:
    """The best texts of a beam search, (B, max_tokens): narrow ones on one cache a text, wide ones on one a row."""
    if width > MOST_BRANCHES:
        return beam(model.step, prompt(fed), width=width, reorder=reordered, **limits).token_ids[:, 0]

    def fork(state: DecoderState, width: int) -> Branches:
        return model.branch(state, width, fed)

    return beam(model.step_branches, prompt(0), width=width, fork=fork, reorder=follow, **limits).token_ids[:, 0]


def texts_at_once(decoding: Decoding, *, fill: bool = False) -> int:
    """How many texts share a batch; one that is drawn has a seed of its own, and so a batch.

    A power of two, if batches are to be filled up to one.
    """
    most = 1 if decoding.draws else max(1, min(MOST_TEXTS, MOST_ROWS // (decoding.beam or 1)))
    return 1 << (most.bit_length() - 1) if fill else most


def like_lengths(token_ids: TokenIds, most: int) -> Iterator[list[int]]:
    """Yield the places of all rows, at most `most` of about one length at a time."""
    order = np.argsort([len(ids) for ids in token_ids], kind="stable").tolist()
    for start in range(0, len(order), most):
        yield order[start : start + most]


def _as_graph(
    function: Callable[[Tensor, Tensor], Tensor], length: int | None, jit_compile: bool
) -> Callable[..., Tensor]:
    """`function` of ids (B, length) and a seed as one graph for all batches."""
    signature = [tf.TensorSpec((None, length), tf.int32), tf.TensorSpec((), tf.int64)]
    return tf.function(function, input_signature=signature, autograph=False, jit_compile=jit_compile)


def _run(graph: Callable[..., Tensor], token_ids: np.ndarray, seed: int, *, fill: bool) -> np.ndarray:
    """What `graph` writes for each row.

    With `fill` it sees a power of two of rows, copies of the last below the others, so that few shapes are compiled. A
    copy ends when its row ends; one of padding alone might go on to the last token.
    """
    rows = len(token_ids)
    wanted = 1 << (rows - 1).bit_length() if fill else rows
    return graph(np.pad(token_ids, ((0, wanted - rows), (0, 0)), mode="edge"), seed).numpy()[:rows]
