"""Score a model in any form on labelled texts. Imports no TensorFlow: the predictor does, if it needs to."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_transformer.checks import UserError, positive_integer
from keras_transformer.data.text import Table, label_ids
from keras_transformer.files import ModelFileError
from keras_transformer.training.metrics import ClassificationScores, classification_scores

if TYPE_CHECKING:
    from keras_transformer.serving import Predictor


def evaluate(
    predictor: "Predictor",
    table: Table,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> ClassificationScores:
    """Accuracy, macro recall and macro F1 of `predictor` on the rows of `table`.

    Args:
        predictor: what `serving.load` gave.
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
