"""The teacher and the texts of a search: those that train, those that choose between candidates, those that measure."""

from dataclasses import dataclass

import numpy as np

from keras_transformer import bundle
from keras_transformer.budget_search.settings import SearchSettings
from keras_transformer.budget_search.shapes import Corpus
from keras_transformer.data.batching import UNLABELLED
from keras_transformer.data.saved_tokenizers import word_pieces
from keras_transformer.data.text import Table, label_ids, read_table
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import plan
from keras_transformer.recipes.fitting import record_logits
from keras_transformer.recipes.student import Rankings
from keras_transformer.tasks import CLASSIFY
from keras_transformer.training.metrics import classification_scores


@dataclass(frozen=True)
class Material:
    """What a search works with."""

    loaded: bundle.Bundle
    tokenizer: WordPiece
    corpus: Corpus  # all texts that train
    labels: np.ndarray  # (N,) of the corpus, UNLABELLED where there is none
    choosing: Table
    measuring: Table

    @property
    def teacher(self) -> TextClassifier:
        """The model to compress."""
        return self.loaded.model

    def accuracy(self, model: TextClassifier, table: Table) -> float:
        """Share of the table's rows that the Keras model gets right."""
        logits = record_logits(model, self.tokenizer.encode(table.texts, self.corpus.max_length))
        truth = label_ids(table.labels or [], self.loaded.labels)
        return classification_scores(truth, logits.argmax(axis=1)).accuracy


def read(settings: SearchSettings) -> Material:
    """Load the teacher and the tables, and divide the rows.

    Of `--data` a tenth measures (none where `--test` does), and a tenth of the rest chooses.

    Raises:
        UserError: for a teacher that is no classifier, or a mistake in a table.
    """
    loaded = bundle.load(settings.teacher, task=CLASSIFY)
    tokenizer, max_length = word_pieces(loaded.tokenizer, settings.teacher), loaded.manifest.max_length
    table = read_table(settings.data, settings.text_column, settings.label_column)
    if settings.test is None:
        parts = plan.split(table)
        table, measuring = parts.training, parts.held_out
    else:
        measuring = read_table(settings.test, settings.text_column, settings.label_column)
    parts = plan.split(table)
    more = read_table(settings.unlabelled, settings.text_column, None).texts if settings.unlabelled else []
    texts = [*parts.training.texts, *more]
    known = label_ids(parts.training.labels or [], loaded.labels)
    label_ids(measuring.labels or [], loaded.labels)  # a class that the teacher doesn't know is told before the work
    ids = tokenizer.encode(texts, max_length)
    always = (tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id)
    return Material(
        loaded=loaded,
        tokenizer=tokenizer,
        corpus=Corpus(ids, Rankings(loaded.model, ids), always, max_length),
        labels=np.concatenate([known, np.full(len(more), UNLABELLED, "int32")]),
        choosing=parts.held_out,
        measuring=measuring,
    )
