"""What writes texts with a `.tflite` file, one text after the other. Imports neither TensorFlow nor Keras."""

from collections.abc import Sequence
from pathlib import Path

from keras_transformer.checks import UserError
from keras_transformer.data.continuations import beginnings, new_tokens
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.export.attachments import Attachments
from keras_transformer.export.lite_steps import LiteSteps
from keras_transformer.export.numpy_decoding import beam, greedy, sample
from keras_transformer.generation.writer import (
    GREEDY,
    Decoding,
    LogLikelihood,
    Progress,
    Writer,
    foresees_no_text,
    log_likelihood,
)
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE


class LiteTranslator(Writer):
    """A translator in a `.tflite` file. Threads may share it; they take turns.

    Args:
        steps: runs the file.
        tokenizer: of sources and targets.
        max_length: of a source, which is cut there, and of a translation unless the caller says so.
    """

    task = TRANSLATE

    def __init__(self, steps: LiteSteps, tokenizer: ReversibleTokenizer, max_length: int) -> None:
        self.steps, self.tokenizer, self.max_length = steps, tokenizer, max_length

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return the translation of each text.

        Raises:
            UserError: if more tokens are asked for than the file has room for.
        """
        return [self.tokenizer.decode(ids) for ids in self._translated(texts, decoding, first)]

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the ids that `write` chooses for each text, see `Writer`."""
        return self._translated(texts, decoding, 0)

    def _translated(self, texts: Sequence[str], decoding: Decoding, first: int) -> list[list[int]]:
        most = decoding.max_tokens or self.steps.room
        if most > self.steps.room:
            raise UserError(
                f"--max-tokens {most}: the file has room for {self.steps.room} word pieces of a translation. "
                f"Use {self.steps.room} or less, or the run folder, which makes room as it goes."
            )
        sources = self.tokenizer.encode(texts, self.max_length)
        return _written(self.steps, sources, self.tokenizer.end_id, most, decoding, first)

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Raise UserError: only a language model foresees texts by themselves."""
        raise foresees_no_text(self.task)


class LiteContinuer(Writer):
    """A language model in a `.tflite` file. Threads may share it; they take turns.

    Args:
        steps: runs the file.
        tokenizer: of the texts.
        max_length: the most tokens that the model reads, what it writes included.
    """

    task = LANGUAGE_MODEL

    def __init__(self, steps: LiteSteps, tokenizer: ReversibleTokenizer, max_length: int) -> None:
        self.steps, self.tokenizer, self.max_length = steps, tokenizer, max_length

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return each text with what comes after it: half of `max_length` tokens unless the caller says so.

        Of a text that leaves no room for them the model reads the end.
        """
        whole, written = self._continued(texts, decoding, first)
        return [self.tokenizer.decode([*text, *ids]) for text, ids in zip(whole, written, strict=True)]

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the ids that `write` adds to each text, see `Writer`."""
        return self._continued(texts, decoding, 0)[1]

    def _continued(
        self, texts: Sequence[str], decoding: Decoding, first: int
    ) -> tuple[list[list[int]], list[list[int]]]:
        """The ids of each text, and those that come after it."""
        most = new_tokens(self.max_length, decoding.max_tokens)
        whole, prompts = beginnings(self.tokenizer, texts, self.max_length - most)
        return whole, _written(self.steps, prompts, self.tokenizer.end_id, most, decoding, first)

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Return how well the model foresees the texts, see `writer.log_likelihood`."""
        return log_likelihood(self.steps.logits, self.tokenizer, texts, self.max_length, progress)


def load(path: Path, attached: Attachments, threads: int | None = None, xnnpack: bool = True) -> Writer:
    """Return what writes with the `.tflite` file at `path`, whose attachments were read already.

    Raises:
        ModelFileError: if LiteRT can't use the file, or its tokenizer isn't one that ids become texts with.
    """
    tokenizer = ReversibleTokenizer.from_json(attached.tokenizer_json)
    make = LiteTranslator if attached.settings.task == TRANSLATE else LiteContinuer
    return make(LiteSteps(path, threads, xnnpack), tokenizer, attached.settings.max_length)


def _written(
    steps: LiteSteps, prompts: Sequence[list[int]], end_id: int, max_tokens: int, decoding: Decoding, first: int
) -> list[list[int]]:
    """The ids that `decoding` chooses after each prompt; what is drawn has a seed of its own, from `first` on."""
    return [
        _chosen(steps, prompt, end_id, max_tokens, decoding, decoding.seed + place)
        for place, prompt in enumerate(prompts, first)
    ]


def _chosen(
    steps: LiteSteps, prompt: list[int], end_id: int, max_tokens: int, decoding: Decoding, seed: int
) -> list[int]:
    begun = steps.begin(prompt)
    if decoding.draws:
        return sample(
            steps.step,
            begun,
            end_id=end_id,
            max_tokens=max_tokens,
            seed=seed,
            temperature=decoding.temperature or 1.0,
            top_k=decoding.top_k,
            top_p=decoding.top_p,
        )
    width = decoding.beam or 1
    if width > 1:
        return beam(steps.step, begun, end_id=end_id, max_tokens=max_tokens, width=width)
    return greedy(steps.step, begun, end_id=end_id, max_tokens=max_tokens)
