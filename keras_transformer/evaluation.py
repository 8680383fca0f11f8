"""Score a model in any form on texts with known answers. Imports no TensorFlow: the model does, if it needs to."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from keras_transformer.checks import UserError, positive_integer
from keras_transformer.data.spaceless_scripts import bleu_tokenizer
from keras_transformer.data.text import Pairs, Table, label_ids
from keras_transformer.data.text_pieces import normalized
from keras_transformer.files import ModelFileError
from keras_transformer.generation import GREEDY, Decoding, Progress, Writer
from keras_transformer.scores import TranslationScores, perplexities, translation_scores
from keras_transformer.training.metrics import ClassificationScores, classification_scores

if TYPE_CHECKING:
    from keras_transformer.serving import Predictor


class LanguageScores(NamedTuple):
    """How well a language model foresees texts; 1 is certainty. Tokens are the model's, words and bytes anyone's.

    Words and bytes are those of the texts as the model reads them, `text_pieces.normalized`: white space that it
    needn't foresee counts for nothing. None = more than a number can hold, as per "word" of texts without spaces.
    """

    perplexity: float | None  # per token: exp(-log p / tokens), the end of each text being one
    perplexity_word: float | None  # per word, as white space separates them
    perplexity_byte: float | None  # per byte of UTF-8
    bits_per_byte: float
    n: int  # number of texts


def evaluate(
    predictor: "Predictor",
    table: Table,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> ClassificationScores:
    """Accuracy, macro recall and macro F1 of `predictor` on the rows of `table`.

    Args:
        predictor: what `serving.load_classifier` gave.
        table: texts with a label each.
        batch_size: texts a call; those of a batch are of about one length, so that little is padding.
        progress: called with the number of texts that were just answered.

    Raises:
        UserError: if the table has no labels, or one that the model doesn't know.
        ModelFileError: if the model answers with NaN.
    """
    positive_integer("batch_size", batch_size)
    if table.labels is None:
        raise UserError(f"the table has {len(table)} texts and no labels. Name its column of labels.")
    truth = label_ids(table.labels, predictor.labels)
    return classification_scores(truth, _answers(predictor, table.texts, batch_size, progress))


def _answers(
    predictor: "Predictor", texts: Sequence[str], batch_size: int, progress: Callable[[int], None] | None
) -> np.ndarray:
    """(N,) class numbers, in the order of `texts`."""
    by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    answers = np.empty(len(texts), np.int64)
    for start in range(0, len(texts), batch_size):
        rows = by_length[start : start + batch_size]
        scores = np.asarray(predictor.predict([texts[row] for row in rows]).scores)  # (B, C)
        if not np.isfinite(scores).all():
            wrong = rows[int(np.argmin(np.isfinite(scores).all(axis=1)))]
            raise ModelFileError(
                f"the model answers {texts[wrong][:60]!r} with NaN, so its weights are damaged. "
                "Take an older file, or train again."
            )
        answers[rows] = scores.argmax(axis=1)
        if progress is not None:
            progress(len(rows))
    return answers


def evaluate_translations(
    writer: Writer,
    pairs: Pairs,
    decoding: Decoding = GREEDY,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> TranslationScores:
    """BLEU and chrF of what `writer` makes of the sources, against the targets, as texts.

    BLEU counts words, or characters where the targets' script has no spaces: `bleu_tokenizer`.

    Args:
        writer: what `generation.load` gave for a translator.
        pairs: sources with their true translations.
        decoding: how tokens are chosen.
        batch_size: texts a call; those of a batch are of about one length.
        progress: called with the number of texts that were just translated.

    Raises:
        UserError: if sacrebleu isn't installed; said before the model works.
    """
    positive_integer("batch_size", batch_size)
    require_sacrebleu()
    by_length = sorted(range(len(pairs)), key=lambda row: len(pairs.sources[row]))
    translations = [""] * len(pairs)
    for start in range(0, len(pairs), batch_size):
        rows = by_length[start : start + batch_size]
        written = writer.write([pairs.sources[row] for row in rows], decoding, first=start)
        for row, translation in zip(rows, written, strict=True):
            translations[row] = translation
        if progress is not None:
            progress(len(rows))
    return translation_scores(translations, pairs.targets, bleu_tokenizer(pairs.targets))


def evaluate_language(writer: Writer, texts: Sequence[str], progress: Progress | None = None) -> LanguageScores:
    """Perplexity of `writer`, a language model, on `texts`, each read from its beginning.

    Raises:
        ModelFileError: if the model answers with NaN.
    """
    found = writer.log_likelihood(texts, progress)
    if not np.isfinite(found.negative):
        raise ModelFileError(
            "the model answers with NaN, so its weights are damaged. Train again, or take an older file."
        )
    each = perplexities(found.negative, found.tokens, [normalized(text) for text in texts])
    token, word, byte = (value if math.isfinite(value) else None for value in (each.token, each.word, each.byte))
    return LanguageScores(token, word, byte, each.bits_per_byte, len(texts))


def require_sacrebleu() -> None:
    """Raise UserError, which says what to install, where BLEU can't be counted: long jobs ask before they start."""
    translation_scores(["a"], ["a"])
