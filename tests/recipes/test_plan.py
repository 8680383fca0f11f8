"""Defaults that follow the data."""

import numpy as np
import pytest

from keras_transformer.checks import UserError
from keras_transformer.data.text import Pairs, Table
from keras_transformer.models import TINY, CausalLM, Seq2Seq, TextClassifier
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


def test_the_operations_of_a_language_model_count_the_logits():
    dim, inner, vocabulary = 12, 31, 53
    model = CausalLM(vocabulary, 2, dim, 2, inner, max_length=9)
    kernels = 2 * (4 * dim * dim + 2 * dim * inner) + vocabulary * dim
    assert cost.forward_operations(model, [5, 7]) == 2 * kernels * 12 + 4 * dim * 2 * (25 + 49)


def test_the_operations_of_a_translator_are_split_between_source_and_target():
    dim, inner, vocabulary = 12, 31, 53
    model = Seq2Seq(vocabulary, 2, dim, 2, inner, num_decoder_layers=3)
    encoder = 2 * (4 * dim * dim + 2 * dim * inner)
    decoder = 3 * (8 * dim * dim + 2 * dim * inner) + vocabulary * dim
    products = 2 * (25 + 49) + 3 * (9 + 121) + 3 * (5 * 3 + 7 * 11)
    assert cost.pair_operations(model, [5, 7], [3, 11]) == 2 * (encoder * 12 + decoder * 14) + 4 * dim * products


def hold_out_pairs(texts):
    """Of pairs whose targets are as alike as their sources."""
    return plan.held_out_pairs(Pairs(texts, [f"{text} {text}" for text in texts]))


@pytest.mark.parametrize("hold_out", [plan.held_out_texts, hold_out_pairs])
def test_texts_that_are_alike_are_held_out_together(hold_out):
    """Whichever of the groups is chosen: each of them has five texts that differ in one word, in case or in digits."""
    letters = [chr(97 + row // 26) + chr(97 + row % 26) for row in range(97)]
    texts = [f"Can you open {letter}x {letter}y {name}" for letter in letters for name in ("a", "b", "B", "b 5", "")]
    measures = hold_out(texts)
    assert measures.sum() in range(45, 60)
    assert {int(group.sum()) for group in measures.reshape(97, 5)} == {0, 5}
    assert (hold_out(texts) == measures).all()


@pytest.mark.parametrize("hold_out", [plan.held_out_texts, hold_out_pairs])
def test_texts_that_are_all_alike_are_drawn(hold_out):
    assert hold_out([f"file {row}" for row in range(40)]).sum() == 4


@pytest.mark.parametrize("hold_out", [plan.held_out_texts, hold_out_pairs])
def test_a_text_that_is_trained_on_measures_nothing(hold_out):
    """Also where all are alike but for digits, so that they are drawn."""
    for others in ("file", "text with five words and"):
        texts = [f"{others} again"] * 50 + [f"{others} {row}" for row in range(50)]
        measures = hold_out(texts)
        assert not measures[:50].any()
        assert 1 <= measures.sum() <= 10


@pytest.mark.parametrize("hold_out", [plan.held_out_texts, lambda texts: plan.held_out_pairs(Pairs(texts, texts))])
def test_three_texts_are_too_few(hold_out):
    with pytest.raises(UserError, match=r"has 3 (texts|pairs): some train and some measure, so it takes at least 4"):
        hold_out(["a", "b", "c"])


def test_the_steps_of_small_data_have_fewer_tokens():
    def tokens(total, **given):
        return plan.token_schedule(plan.TRANSLATING, 100, total, 64, longest=80, **given).batch_size

    assert [tokens(total) for total in (100, 100_000, 10_000_000)] == [512, 2000, 4096]
    assert plan.token_schedule(plan.TRANSLATING, 100, 100, 64, longest=1024).batch_size == 1024
    assert tokens(100, batch_size=7) == 560


def test_wide_models_learn_more_slowly():
    rates = [plan.token_schedule(plan.CONTINUING, 9, 9, dim, longest=9).learning_rate for dim in (128, 256, 512)]
    assert rates == [1e-3, 1e-3, 5e-4]


def test_minutes_take_epochs_away_and_then_rows(model):
    lengths = [20] * 1000
    speed = 1e9
    each = cost.BACKWARD * cost.forward_seconds(cost.forward_operations(model, lengths), speed)
    assert plan.affordable(each, 1000, 5, None) == plan.Affordable(5, 1000, pytest.approx(5 * each))
    assert plan.affordable(each, 1000, 5, 2.5 * each / 60).epochs == 2
    half = plan.affordable(each, 1000, 5, 0.5 * each / 60)
    assert (half.epochs, half.rows) == (1, 500)


def test_what_is_done_once_counts_too():
    assert plan.affordable(60.0, 100, 5, 10, once=120.0) == plan.Affordable(5, 100, 420.0)
    assert plan.affordable(60.0, 100, 5, 4, once=120.0) == plan.Affordable(2, 100, 240.0)
    assert plan.affordable(60.0, 100, 5, 1.5, once=120.0) == plan.Affordable(1, 50, 90.0)


@pytest.mark.parametrize(("seconds", "said"), [(40, "40 s"), (720, "12 min"), (12_240, "3.4 h")])
def test_durations_are_said_as_people_say_them(seconds, said):
    assert plan.duration(seconds) == said


def test_the_probe_tells_a_speed_that_a_processor_can_have():
    assert 1e8 < cost.operations_per_second("float32") < 1e14
    assert np.isfinite(cost.operations_per_second("mixed_bfloat16"))
