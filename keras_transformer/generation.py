"""Load a model that writes texts, and say how it chooses its words. Imports no TensorFlow before a model needs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from keras_transformer import bundle
from keras_transformer.checks import UserError, positive, positive_integer
from keras_transformer.data.saved_tokenizers import reversible_pieces
from keras_transformer.files import ModelFileError
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE

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

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Return how well the model foresees the texts, each from its beginning.

        Raises:
            UserError: if it is no language model.
        """
        ...


def load(path: Path | str) -> Writer:
    """Load a run folder of a translator or a language model.

    Raises:
        ModelFileError: if it is none, or damaged. The message names it.
    """
    if Path(path).is_file():
        raise ModelFileError(f"{path}: is a file, and texts are written by a run folder. Give the folder.")
    task = bundle.read(path).manifest.task
    if task not in (TRANSLATE, LANGUAGE_MODEL):
        raise ModelFileError(
            f"{path}: was trained for {task!r}, and it takes {TRANSLATE!r} or {LANGUAGE_MODEL!r} to write texts. "
            "Ask a classifier with `keras-transformer predict`."
        )
    from keras_transformer import keras_writers

    loaded = bundle.load(path, task=task)
    make = keras_writers.Translator if task == TRANSLATE else keras_writers.Continuer
    return make(loaded.model, reversible_pieces(loaded.tokenizer, path), loaded.manifest.max_length)
