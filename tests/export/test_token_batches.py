"""Rows of ids go through a model in batches of like length, and come back in order."""

import numpy as np
import pytest

from keras_transformer.data.tokenizer import SPECIAL_PIECES, WordPiece
from keras_transformer.export.token_batches import run_in_batches

TOKENIZER = WordPiece(SPECIAL_PIECES)
ROWS = [[5, 6, 7], [9], [8, 4, 3, 2, 1], [7, 7], [2, 3, 5]]


class Recorder:
    """A model whose two logits are the sum of a row's ids and the number of the real ones."""

    def __init__(self):
        self.batches = []

    def __call__(self, token_ids):
        self.batches.append(token_ids)
        return np.stack([token_ids.sum(1), (token_ids != 0).sum(1)], axis=1).astype(np.float32)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_answers_come_back_in_the_order_of_the_rows(batch_size):
    logits = run_in_batches(Recorder(), ROWS, TOKENIZER, num_classes=2, batch_size=batch_size)
    np.testing.assert_array_equal(logits, [[18, 3], [9, 1], [18, 5], [14, 2], [10, 3]])
    assert logits.dtype == np.float32


def test_rows_of_like_length_share_a_batch():
    run = Recorder()
    run_in_batches(run, ROWS, TOKENIZER, num_classes=2, batch_size=2)
    assert [batch.shape for batch in run.batches] == [(2, 2), (2, 3), (1, 5)]
    assert all(batch.dtype == np.int32 for batch in run.batches)


def test_one_row_at_a_time_is_never_padded():
    run = Recorder()
    run_in_batches(run, ROWS, TOKENIZER, num_classes=2, batch_size=1)
    assert all((batch != 0).all() for batch in run.batches)


def test_a_model_of_one_length_gets_that_length():
    run = Recorder()
    run_in_batches(run, ROWS, TOKENIZER, num_classes=2, batch_size=4, length=7)
    assert [batch.shape for batch in run.batches] == [(4, 7), (1, 7)]


def test_no_row_gives_no_logits_and_runs_nothing():
    run = Recorder()
    assert run_in_batches(run, [], TOKENIZER, num_classes=2, batch_size=4).shape == (0, 2)
    assert run.batches == []
