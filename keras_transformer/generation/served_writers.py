"""What writes texts with a SavedModel: it has the loop, the tokenizer and its limits inside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_transformer.checks import UserError
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.well_formed import well_formed
from keras_transformer.export.attachments import Attachments
from keras_transformer.generation.writer import (
    GREEDY,
    Decoding,
    LogLikelihood,
    Progress,
    foresees_no_text,
    log_likelihood,
)
from keras_transformer.tasks import LANGUAGE_MODEL

BATCH_SIZE = 32


class ServedWriter:
    """A SavedModel that writes, asked by the signature that TensorFlow Serving answers with.

    Args:
        loaded: what `tf.saved_model.load` returned; kept, since its signatures die with it.
        attached: tokenizer and settings of the model.
    """

    def __init__(self, loaded: Any, attached: Attachments) -> None:
        self._loaded, self._text = loaded, loaded.signatures["serving_default"]
        self.task, self.max_length = attached.settings.task, attached.settings.max_length
        self.tokenizer = ReversibleTokenizer.from_json(attached.tokenizer_json)

    def write(self, texts: Sequence[str], decoding: Decoding = GREEDY, first: int = 0) -> list[str]:
        """Return the translation of each text, or the text with its continuation.

        Raises:
            UserError: if anything but greedy decoding, or another number of tokens, is asked for.
        """
        if decoding.draws or (decoding.beam or 1) > 1 or decoding.max_tokens is not None:
            raise UserError(
                "a SavedModel writes greedily and as many tokens as was decided when it was written. Leave out --beam, "
                "--temperature, --top-p, --top-k and --max-tokens, or give the run folder or a .tflite file."
            )
        found: list[str] = []
        for start in range(0, len(texts), BATCH_SIZE):
            batch = [well_formed(text) for text in texts[start : start + BATCH_SIZE]]
            found += [output.decode() for output in self._text(text=tf.constant(batch))["output"].numpy()]
        return found

    def log_likelihood(self, texts: Sequence[str], progress: Progress | None = None) -> LogLikelihood:
        """Return how well the model foresees the texts, see `writer.log_likelihood`.

        Raises:
            UserError: if it is no language model.
        """
        if self.task != LANGUAGE_MODEL:
            raise foresees_no_text(self.task)
        return log_likelihood(self._logits, self.tokenizer, texts, self.max_length, progress)

    def _logits(self, token_ids: Sequence[int]) -> np.ndarray:
        return self._loaded.signatures["tokens"](token_ids=tf.constant([token_ids], tf.int32))["logits"].numpy()[0]


def load(folder: Path, attached: Attachments) -> ServedWriter:
    """Return what writes with the SavedModel in `folder`, whose attachments were read already."""
    return ServedWriter(tf.saved_model.load(str(folder)), attached)
