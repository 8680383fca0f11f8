"""Defaults that follow the data."""

import numpy as np
import pytest

from keras_transformer.checks import UserError
from keras_transformer.data.text import Table
from keras_transformer.models import TINY, TextClassifier
from keras_transformer.recipes import plan
from keras_transformer.training import cost


def table(rows):
    return Table([f"text {row}" for row in range(rows)], [str(row % 2) for row in range(rows)])


@pytest.mark.parametrize(("rows", "held_out"), [(4, 1), (10, 1), (53, 5), (1000, 100), (50_000, 2000)])
def test_a_tenth_is_kept_back_and_two_thousand_rows_at_most(rows, held_out):
    parts = plan.split(table(rows))
    assert len(parts.held_out) == held_out
    assert sorted(parts.training.texts + parts.held_out.texts) == sorted(table(rows).texts)


def test_labels_stay_with_their_texts():
    parts = plan.split(table(37))
    for part in (parts.training, parts.held_out):
        assert [str(int(text.split()[1]) % 2) for text in part.texts] == part.labels


def test_the_same_rows_are_kept_back_each_time():
    assert plan.split(table(101)).held_out == plan.split(table(101)).held_out


def test_three_rows_are_too_few_to_train_and_to_measure():
    with pytest.raises(UserError, match=r"has 3 labelled rows.*at least 4"):
        plan.split(table(3))


@pytest.mark.parametrize("rows", range(12, 61))
def test_a_class_of_one_row_stays_to_be_trained_on(rows):
    rare = Table(table(rows).texts, ["rare", *table(rows).labels[1:]])
    parts = plan.split(rare)
    assert "rare" in parts.training.labels
    assert "rare" not in parts.held_out.labels
    assert sorted(parts.training.texts + parts.held_out.texts) == sorted(rare.texts)


def test_classes_of_one_row_each_leave_nothing_to_measure():
    with pytest.raises(UserError, match=r"each of the 5 classes has one row.*Add rows"):
        plan.split(Table(list("abcde"), list("vwxyz")))


def test_the_length_covers_95_of_100_texts_in_steps_of_8():
    ids = [[1] * length for length in range(1, 101)]
    assert plan.covering_length(ids, most=512) == 96
    assert plan.covering_length(ids, most=50) == 50
    assert plan.covering_length([[1, 2, 3]], most=512) == 8


@pytest.mark.parametrize(("rows", "epochs"), [(100, 8), (4000, 4), (100_000, 2)])
def test_small_data_comes_round_more_often(rows, epochs):
    assert plan.schedule(plan.FINE_TUNING, rows, max_length=64).epochs == epochs


def test_long_texts_come_in_smaller_batches():
    assert plan.schedule(plan.FINE_TUNING, 100, max_length=128).batch_size == 32
    assert plan.schedule(plan.FINE_TUNING, 100, max_length=256).batch_size == 16


def test_what_the_user_says_goes():
    given = plan.schedule(plan.FINE_TUNING, 100, 64, epochs=3, batch_size=7, learning_rate=1e-3)
    assert (given.epochs, given.batch_size, given.learning_rate) == (3, 7, 1e-3)


def test_the_learning_rate_climbs_then_falls_to_nothing():
    rate = plan.schedule(plan.FINE_TUNING, 100, 64, learning_rate=2e-4).optimizer(steps=200)._learning_rate
    assert float(rate(0)) == 0.0
    assert float(rate(20)) == pytest.approx(2e-4)
    assert float(rate(110)) == pytest.approx(1e-4, rel=1e-3)
    assert float(rate(200)) == pytest.approx(0.0, abs=1e-9)


@pytest.fixture(scope="module")
def model():
    return TextClassifier(101, 3, max_length=32, **TINY.arguments())


def test_the_operations_of_a_forward_pass_are_those_counted_by_hand(model):
    dim, inner = 128, 512
    kernels = 2 * (4 * dim * dim + 2 * dim * inner) + dim * 3
    assert cost.forward_operations(model, [5, 7]) == 2 * kernels * 12 + 4 * dim * 2 * (25 + 49)


def test_minutes_take_epochs_away_and_then_rows(model):
    lengths = [20] * 1000
    speed = 1e9
    each = cost.training_seconds(model, lengths, 1, speed)
    assert plan.affordable(model, lengths, 5, None, speed) == plan.Affordable(5, 1000, pytest.approx(5 * each))
    assert plan.affordable(model, lengths, 5, 2.5 * each / 60, speed).epochs == 2
    half = plan.affordable(model, lengths, 5, 0.5 * each / 60, speed)
    assert (half.epochs, half.rows) == (1, 500)


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (720, "12 min"), (12_240, "3.4 h")])
def test_durations_are_said_as_people_say_them(seconds, said):
    assert plan.duration(seconds) == said


def test_the_probe_tells_a_speed_that_a_processor_can_have():
    assert 1e8 < cost.operations_per_second("float32") < 1e14
    assert np.isfinite(cost.operations_per_second("mixed_bfloat16"))
