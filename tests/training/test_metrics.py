"""Scores against scikit-learn and against cases that a reader can count by hand."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, recall_score

from keras_transformer.training.metrics import classification_scores


def test_a_case_counted_by_hand():
    #  class 0: 3 rows, 2 found, 3 predicted; class 1: 2 rows, 1 found, 2 predicted
    scores = classification_scores(labels=[0, 0, 0, 1, 1], predicted=[0, 0, 1, 0, 1])
    assert scores.accuracy == pytest.approx(3 / 5)
    assert scores.recall == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert scores.f1 == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert scores.n == 5


def test_a_rare_class_weighs_as_much_as_a_frequent_one():
    scores = classification_scores(labels=[0] * 98 + [1, 1], predicted=[0] * 100)
    assert scores.accuracy == pytest.approx(0.98)
    assert scores.recall == pytest.approx(0.5)


def test_a_class_that_was_only_predicted_counts_as_zero():
    scores = classification_scores(labels=[0, 0], predicted=[0, 7])
    assert scores.recall == pytest.approx((1 / 2 + 0) / 2)
    assert scores.f1 == pytest.approx((2 / 3 + 0) / 2)


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=37)


@settings(deadline=None)
@given(rows)
def test_scores_agree_with_scikit_learn_on_any_rows(pairs):
    labels, predicted = (list(column) for column in zip(*pairs, strict=True))
    scores = classification_scores(labels, predicted)
    options = {"average": "macro", "zero_division": 0}
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.recall == pytest.approx(recall_score(labels, predicted, **options))
    assert scores.f1 == pytest.approx(f1_score(labels, predicted, **options))


def test_the_order_of_the_rows_does_not_matter():
    rng = np.random.default_rng(3)
    labels, predicted, order = rng.integers(0, 5, 101), rng.integers(0, 5, 101), rng.permutation(101)
    assert classification_scores(labels, predicted) == classification_scores(labels[order], predicted[order])


@pytest.mark.parametrize("labels", [[], [[0, 1]], 3])
def test_what_is_no_row_of_classes_is_refused(labels):
    with pytest.raises(ValueError, match=r"^labels has shape .*at least one row\. Use for example labels="):
        classification_scores(labels, [0, 1])


def test_unequal_lengths_are_refused_with_both_numbers():
    with pytest.raises(ValueError, match="labels has 3 rows and predicted has 2: they must be of one length"):
        classification_scores([0, 1, 1], [0, 1])


@pytest.mark.parametrize("predicted", [[0.9, 0.1], [-1, 0]])
def test_scores_and_unlabelled_rows_are_refused(predicted):
    with pytest.raises(ValueError, match=r"predicted holds .* from .* to .*Leave out unlabelled rows"):
        classification_scores([0, 1], predicted)


def test_the_metrics_need_neither_tensorflow_nor_keras():
    code = (
        "import sys; from keras_transformer.training import metrics; "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
