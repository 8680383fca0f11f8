"""What writes texts, how it is told to choose its words, and what it can say of a text. Imports no TensorFlow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from keras_transformer.checks import UserError, positive, positive_integer
from keras_transformer.data.continuations import windows
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.export.numpy_decoding import log_softmax

Progress = Callable[[int], None]
"""Called with the number of texts that were just done."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How each token is chosen: the likeliest (greedy), by a beam search, or drawn.

    Args:
        beam: width of a beam search; 1 is greedy.
        temperature: draw, from the distribution at this temperature, above 0.
        top_p: draw, from the smallest set of likeliest tokens whose probabilities add up to this, 0..1.
        top_k: draw, from so many likeliest tokens.
        max_tokens: the most that are written, the end included; None = as many as the model suggests.
        seed: of what is drawn.

    Raises:
        UserError: if both a beam and drawing are asked for.
        ValueError: if a number is out of its range. Names are those of the command line.
    """

    beam: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_tokens: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, number in (("--beam", self.beam), ("--top-k", self.top_k), ("--max-tokens", self.max_tokens)):
            if number is not None:
                positive_integer(name, number)
        if self.temperature is not None:
            positive("--temperature", self.temperature, example=0.8)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p={self.top_p!r} must be above 0 and at most 1. Use for example --top-p=0.9.")
        if self.beam is not None and self.draws:
            drawing = next(f"{name} {value}" for name, value in self._filters() if value is not None)
            raise UserError(
                f"--beam {self.beam} with {drawing}: a beam search looks for the likeliest text, and the other draws "
                "one. Give one of them."
            )

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn, and not the likeliest taken."""
        return any(value is not None for _, value in self._filters())

    def _filters(self) -> list[tuple[str, Any]]:
        return [("--temperature", self.temperature), ("--top-p", self.top_p), ("--top-k", self.top_k)]


GREEDY = Decoding()


class LogLikelihood(NamedTuple):
    """How well a language model foresees texts."""

    negative: float  # -log p in nats, summed over the tokens
    tokens: int  # the end of each text included


class Writer(Protocol):
    """A model with its tokenizer: texts in, texts out."""

    task: str

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return the translation of each text, or the text with its continuation.

        Each drawn text has a seed of its own, `decoding.seed` + its place: `first` for the first one. So what is
        drawn doesn't depend on the texts beside it.
        """
        ...

    def predict(self, texts: Sequence[str]) -> list[str]:
        """Return `write(texts)`: whatever `serving.load` gives has a `predict`."""
        return self.write(texts)

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the new ids that `write` makes of each text; an end, where it came, is the last."""
        ...

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Return how well the model foresees the texts, each from its beginning.

        Raises:
            UserError: if it is no language model.
        """
        ...


def foresees_no_text(task: str) -> UserError:
    """The error of `log_likelihood` for a model that isn't of language alone."""
    return UserError(f"a model for {task!r} foresees no text by itself. Give a language model.")


def log_likelihood(
    logits: Callable[[Sequence[int]], np.ndarray],
    tokenizer: ReversibleTokenizer,
    texts: Sequence[str],
    max_length: int,
    progress: Progress | None = None,
) -> LogLikelihood:
    """Sum of -log p over the tokens of each text and its end, each text by itself.

    Args:
        logits: ids (T,) of a text -> logits (T, V) after each of them.
        tokenizer: of the texts.
        texts: what is to be foreseen.
        max_length: tokens beyond it are foreseen from those since the last multiple of it.
        progress: called after each text.
    """
    total, tokens = 0.0, 0
    for text in texts:
        for run in windows(tokenizer, [text], max_length):
            log_prob = log_softmax(logits(run[:-1]))  # (T, V)
            total -= float(log_prob[np.arange(len(run) - 1), run[1:]].sum())
            tokens += len(run) - 1
        if progress is not None:
            progress(1)
    return LogLikelihood(total, tokens)
