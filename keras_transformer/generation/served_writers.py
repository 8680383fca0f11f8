"""What writes texts with a SavedModel: it has the loop, the tokenizer and its limits inside."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transformer.checks import UserError
from keras_transformer.data.continuations import beginnings, new_tokens
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.well_formed import well_formed
from keras_transformer.export.attachments import Attachments
from keras_transformer.export.numpy_decoding import up_to_end
from keras_transformer.export.requirements import check_lengths
from keras_transformer.export.signature_names import DEFAULT, GENERATE, GENERATE_TOKENS, SEARCH, TOKENS
from keras_transformer.generation.writer import (
    GREEDY,
    Decoding,
    LogLikelihood,
    Progress,
    Writer,
    foresees_no_text,
    log_likelihood,
)
from keras_transformer.tasks import LANGUAGE_MODEL

BATCH_SIZE = 32
DRAWS_NONE = (
    "a SavedModel draws no texts: it takes the likeliest pieces, or searches. Leave out --temperature, --top-p and "
    "--top-k, or give the run folder or a .tflite file."
)


class ServedWriter(Writer):
    """A SavedModel that writes, asked by the signature that TensorFlow Serving answers with.

    Args:
        loaded: what `tf.saved_model.load` returned; kept, since its signatures die with it.
        attached: tokenizer and settings of the model.
    """

    def __init__(self, loaded: Any, attached: Attachments) -> None:
        self._loaded, self._signatures = loaded, loaded.signatures
        self.task, self.max_length = attached.settings.task, attached.settings.max_length
        self.tokenizer = ReversibleTokenizer.from_json(attached.tokenizer_json)

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return the translation of each text, or the text with its continuation.

        Raises:
            UserError: if texts are to be drawn, with more tokens than there is room for, or with another width of beam
                than the file has.
        """
        ask = self._asked(decoding)
        found: list[str] = []
        for start in range(0, len(texts), BATCH_SIZE):
            batch = [well_formed(text).encode() for text in texts[start : start + BATCH_SIZE]]
            check_lengths(batch)
            found += [output.decode() for output in ask(tf.constant(batch)).numpy()]
        return found

    def new_token_ids(self, texts: Sequence[str], decoding: Decoding = GREEDY) -> list[list[int]]:
        """Return the ids that `write` adds to each text, see `Writer`.

        Raises:
            UserError: if texts are to be drawn, searched or cut: it gives ids of whole greedy ones alone.
        """
        if decoding.draws:
            raise UserError(DRAWS_NONE)
        if (decoding.beam or 1) > 1 or decoding.max_tokens is not None:
            raise UserError(
                "a SavedModel tells the pieces of its greedy texts alone. Leave out --beam and --max-tokens, or give "
                "the run folder or a .tflite file."
            )
        ask = self._signatures[GENERATE_TOKENS]
        found = []
        for prompt in self._prompts(texts):
            written = ask(token_ids=tf.constant([prompt], tf.int32))["token_ids"].numpy()[0]
            found.append(up_to_end(written, self.tokenizer.end_id))
        return found

    def _prompts(self, texts: Sequence[str]) -> list[list[int]]:
        if self.task != LANGUAGE_MODEL:
            return self.tokenizer.encode(texts, self.max_length)
        most = new_tokens(self.max_length, None)
        return beginnings(self.tokenizer, texts, self.max_length - most).prompts

    def _asked(self, decoding: Decoding) -> Callable[[tf.Tensor], tf.Tensor]:
        """What gives the answers (N,) to texts (N,)."""
        if decoding.draws:
            raise UserError(DRAWS_NONE)
        width = decoding.beam or 1
        if width == 1 and decoding.max_tokens is None:
            return lambda texts: self._signatures[DEFAULT](text=texts)["output"]
        most = self._most(decoding.max_tokens)
        if not {GENERATE, SEARCH} <= set(self._signatures):
            raise UserError(
                "this SavedModel is of an older version and takes neither --max-tokens nor --beam. Write it again with "
                "`keras-transformer export`."
            )
        if width == 1:
            return lambda texts: self._limited(GENERATE, texts, most)
        searched = self._signatures[SEARCH].structured_outputs["output"].shape[1]
        if width != searched:
            raise UserError(
                f"--beam {width}: this SavedModel searches with --beam {searched}, as was decided when it was written. "
                f"Use that, or the run folder or a .tflite file."
            )
        return lambda texts: self._limited(SEARCH, texts, most)[:, 0]

    def _limited(self, name: str, texts: tf.Tensor, most: int) -> tf.Tensor:
        return self._signatures[name](text=texts, max_tokens=tf.fill(tf.shape(texts), most))["output"]

    def _most(self, asked: int | None) -> int:
        if self.task == LANGUAGE_MODEL:
            return new_tokens(self.max_length, asked)
        if asked is not None and asked > self.max_length:
            raise UserError(
                f"--max-tokens {asked}: the SavedModel has room for {self.max_length} word pieces of a translation. "
                f"Use {self.max_length} or less, or the run folder, which makes room as it goes."
            )
        return asked or self.max_length

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Return how well the model foresees the texts, see `writer.log_likelihood`.

        Raises:
            UserError: if it is no language model.
        """
        if self.task != LANGUAGE_MODEL:
            raise foresees_no_text(self.task)
        return log_likelihood(self._logits, self.tokenizer, texts, self.max_length, progress)

    def _logits(self, token_ids: Sequence[int]) -> np.ndarray:
        return self._signatures[TOKENS](token_ids=tf.constant([token_ids], tf.int32))["logits"].numpy()[0]


def load(folder: Path, attached: Attachments) -> ServedWriter:
    """Return what writes with the SavedModel in `folder`, whose attachments were read already."""
    return ServedWriter(tf.saved_model.load(str(folder)), attached)
