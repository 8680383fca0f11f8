"""A row of weight 0 and a masked token move no weight, whatever stands in them."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    MutualLearner,
    Outputs,
    RecordedTeacher,
    contrastive,
    hidden_states,
    similarity_preserving,
    soft_targets,
    teacher_values,
    true_labels,
    true_values,
)
from keras_transformer.distillation.uncounted import defused, defused_inputs, defused_outputs
from keras_transformer.distillation.weighing import term_mean

ROW = 3
TERMS = (LossTerm("true_labels", 0.5, true_labels), LossTerm("soft_targets", 0.5, soft_targets(2.0)))


def one_uncounted(rows):
    weight = np.random.default_rng(2).uniform(0.5, 2, rows).astype("float32")
    weight[ROW] = 0
    return weight


def with_row(array, value):
    changed = np.array(array)
    changed[ROW] = value
    return changed


def live(student, other, x, bad):
    hidden = LossTerm("hidden", 0.1, hidden_states([("hidden", "hidden")]))
    return Distiller(student, other, [*TERMS, hidden]), with_row(x, bad)


def recorded(student, other, x, bad):
    batch = {"features": with_row(x, bad), "teacher_logits": with_row(other(x), bad)}
    return Distiller(student, RecordedTeacher(), TERMS), batch


def mutual(student, other, x, bad):
    return MutualLearner([student, other], TERMS), with_row(x, bad)


@pytest.mark.parametrize(
    ("make", "bad", "run_eagerly"),
    [*itertools.product([live, recorded, mutual], [np.nan, np.inf, -3e38], [True]), (live, np.nan, False)],
)
def test_a_row_of_weight_zero_moves_no_weight_whatever_its_features(classifier, rows, make, bad, run_eagerly):
    x, labels = rows
    start = classifier(name="student"), classifier(units=11, name="other")
    after = []
    for value in (0.0, bad):
        keras.utils.set_random_seed(5)
        student, other = (keras.models.clone_model(model) for model in start)
        for copy, model in zip((student, other), start, strict=True):
            copy.set_weights(model.get_weights())
        model, batch = make(student, other, x, value)
        model.compile(keras.optimizers.SGD(0.5), run_eagerly=run_eagerly)
        weight = one_uncounted(len(x))
        history = model.fit(batch, labels, sample_weight=weight, shuffle=False, batch_size=9, verbose=0).history
        after.append([history["loss"], *model.get_weights()])
    for zero, other in zip(*after, strict=True):
        assert np.isfinite(zero).all()
        np.testing.assert_allclose(other, zero, atol=1e-6)


def gradients_of(loss, tap, weight):
    taps = {"pooled": tf.constant(tap)}
    teacher = Outputs(tf.zeros((len(tap), 3)), {"pooled": tf.constant(tap[:, ::-1].copy())})
    with tf.GradientTape() as tape:
        tape.watch(taps)
        student = Outputs(tf.zeros((len(tap), 3)), taps)
        sides = [defused_outputs(side, tf.constant(weight)) for side in (student, teacher)]
        mean = term_mean(LossTerm("term", 1.0, loss), None, *sides, tf.constant(weight)).mean
    return mean.numpy(), tape.gradient(mean, taps)["pooled"].numpy()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e25, 3e38])
@pytest.mark.parametrize("name", ["hidden_states", "contrastive", "similarity_preserving"])
def test_what_a_row_of_weight_zero_gives_is_not_in_the_gradient(name, bad):
    tap = np.random.default_rng(1).normal(size=(5, 7)).astype("float32")
    losses = {"hidden_states": hidden_states([("pooled", "pooled")]), "contrastive": contrastive()}
    weight, loss = one_uncounted(5), losses.get(name, similarity_preserving())
    want = gradients_of(loss, with_row(tap, 0.0), weight)
    got = gradients_of(loss, with_row(tap, bad), weight)
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    counted = np.arange(5) != ROW
    np.testing.assert_allclose(got[1][counted], want[1][counted], rtol=1e-5, atol=1e-7)
    assert not got[1][ROW].any()


def test_a_row_of_weight_zero_stays_the_other_end_of_a_pair():
    tap = np.random.default_rng(1).normal(size=(5, 7)).astype("float32")
    weight = one_uncounted(5)
    one, two = (gradients_of(contrastive(), with_row(tap, value), weight)[0] for value in (tap[0], -tap[0]))
    assert abs(one - two) > 1e-2


def test_only_what_does_harm_and_does_not_count_is_replaced():
    x = np.array([[np.nan, 1.0, 1e16], [np.inf, -2.0, 1e16], [3.0, -np.inf, 0.5]], "float32")
    want = np.array([[np.nan, 1.0, 1e16], [0.0, -2.0, 0.0], [3.0, 0.0, 0.5]], "float32")
    for dtype in ("float32", "bfloat16"):
        got = defused(tf.cast(x, dtype), tf.constant([True, False, False]))
        assert got.dtype == dtype
        np.testing.assert_allclose(tf.cast(got, "float32"), want, rtol=1e-2)


def test_inputs_that_are_no_floats_of_a_row_each_pass_as_they_are():
    ids, bias, scale = tf.constant([[1], [2]]), tf.constant([[np.nan]]), tf.constant(np.nan)
    x = {"ids": ids, "bias": bias, "scale": scale, "x": tf.constant([[np.nan, 1.0], [np.nan, 2.0]])}
    for weight in ([1.0, 0.0], [[1.0, 0.0, 0.5], [0.0, 0.0, 0.0]]):
        got = defused_inputs(x, tf.constant(weight))
        assert got["ids"] is ids
        assert got["bias"] is bias
        assert got["scale"] is scale
        np.testing.assert_array_equal(got["x"], [[np.nan, 1.0], [0.0, 2.0]])
    assert defused_inputs(x, None) is x


@pytest.mark.parametrize("bad", [np.nan, 3e38])
@pytest.mark.parametrize("loss", [true_values, teacher_values])
def test_values_of_masked_tokens_are_not_in_the_gradient(loss, bad):
    random, mask = np.random.default_rng(4), np.array([[True, True, False], [True, False, False]])
    values, labels, teacher = (random.normal(size=(2, 3, 5)).astype("float32") for _ in range(3))
    target = labels if loss is true_values else teacher
    want = np.where(mask[..., None], 2 * (values - target) / 5 / mask.sum(), 0)
    values[~mask], teacher[~mask] = bad, -bad
    logits = tf.constant(values)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        student, other = Outputs(logits, {}, tf.constant(mask)), Outputs(tf.constant(teacher))
        mean = term_mean(LossTerm("values", 1.0, loss), tf.constant(labels), student, other, None).mean
    np.testing.assert_allclose(tape.gradient(mean, logits), want, rtol=1e-5)
