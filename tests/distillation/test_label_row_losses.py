"""Multi-label and regression losses against float64 loops, unlabelled rows included."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    soft_multi_labels,
    teacher_values,
    true_multi_labels,
    true_values,
)
from keras_transformer.distillation.terms import needs_of
from keras_transformer.distillation.weighing import term_mean

SHAPES = [(1, 1), (7, 5), (2, 5, 3)]


def numpy_log_sigmoid(z):
    return -math.log1p(math.exp(-z)) if z > 0 else z - math.log1p(math.exp(z))


def numpy_soft_multi_labels(teacher, student, temperature):
    """T^2 sum_c [p log(p / q) + (1 - p) log((1 - p) / (1 - q))], exact where p is close to q."""
    out = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(*teacher.shape):
        t, s = float(teacher[index]) / temperature, float(student[index]) / temperature
        for sign in (1, -1):
            ratio = numpy_log_sigmoid(sign * s) - numpy_log_sigmoid(sign * t)
            out[index[:-1]] += temperature**2 * math.exp(numpy_log_sigmoid(sign * t)) * (math.expm1(ratio) - ratio)
    return out


def numpy_true_multi_labels(labels, logits):
    out = np.zeros(labels.shape[:-1])
    for index in np.ndindex(*labels.shape):
        out[index[:-1]] -= numpy_log_sigmoid(float(logits[index]) if labels[index] else -float(logits[index]))
    return out


def numpy_squared_error(left, right):
    out = np.zeros(left.shape[:-1])
    for index in np.ndindex(*left.shape):
        out[index[:-1]] += (float(left[index]) - float(right[index])) ** 2 / left.shape[-1]
    return out


def value_and_gradient(loss, student, teacher=None, labels=None):
    logits = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, Outputs(logits), Outputs(teacher))
    return value.numpy(), tf.cast(tape.gradient(value, logits), "float32").numpy()


def uniform(shape, limit, seed):
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype("float32")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0, 1e4])
@pytest.mark.parametrize("limit", [1.0, 10.0, 80.0])
def test_soft_multi_labels_and_their_gradient_match_the_float64_loops(temperature, limit):
    teacher, student = uniform((13, 5), limit, seed=1), uniform((13, 5), limit, seed=2)
    value, gradient = value_and_gradient(soft_multi_labels(temperature), student, teacher)
    np.testing.assert_allclose(value, numpy_soft_multi_labels(teacher, student, temperature), rtol=1e-3)
    p, q = (1 / (1 + np.exp(-z.astype("float64") / temperature)) for z in (teacher, student))
    want = temperature * (q - p)
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    same, _ = value_and_gradient(soft_multi_labels(temperature), teacher, teacher)
    np.testing.assert_array_equal(same, np.zeros(13))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_each_loss_gives_a_value_a_row_or_token_in_float32_whatever_comes_in(shape, dtype):
    teacher, student = tf.cast(uniform(shape, 60, 1), dtype), tf.cast(uniform(shape, 60, 2), dtype)
    t, s = (tf.cast(side, "float64").numpy() for side in (teacher, student))
    hard = np.random.default_rng(3).integers(0, 2, shape)
    cases = {
        "soft": (soft_multi_labels(2.0), None, numpy_soft_multi_labels(t, s, 2.0)),
        "true": (true_multi_labels, hard, numpy_true_multi_labels(hard, s)),
        "true bool": (true_multi_labels, hard.astype(bool), numpy_true_multi_labels(hard, s)),
        "teacher values": (teacher_values, None, numpy_squared_error(t, s)),
        "true values": (true_values, t, numpy_squared_error(t, s)),
    }
    for name, (loss, labels, want) in cases.items():
        value, gradient = value_and_gradient(loss, student, teacher, labels)
        assert value.dtype == np.float32, name
        np.testing.assert_allclose(value, want, rtol=1e-4, err_msg=name)
        assert np.isfinite(gradient).all(), name


def test_a_confidently_wrong_logit_costs_its_size_and_has_the_full_gradient():
    far = np.array([[1e4, -80.0]], "float32")
    value, gradient = value_and_gradient(true_multi_labels, far, labels=np.array([[0, 1]]))
    np.testing.assert_allclose(value, [1e4 + 80], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1.0, -1.0]], rtol=1e-6)


def test_keras_binary_crossentropy_agrees_up_to_its_mean_over_classes():
    logits, labels = uniform((7, 5), 3, 1), np.random.default_rng(2).integers(0, 2, (7, 5))
    value, _ = value_and_gradient(true_multi_labels, logits, labels=labels)
    theirs = keras.losses.binary_crossentropy(labels.astype("float32"), logits, from_logits=True)
    np.testing.assert_allclose(value, 5 * theirs, rtol=1e-5)


def test_values_of_one_column_take_labels_without_it():
    labels, outputs = uniform((7,), 3, 1), uniform((7, 1), 3, 2)
    value, _ = value_and_gradient(true_values, outputs, labels=labels)
    np.testing.assert_allclose(value, (labels - outputs[:, 0]) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (true_multi_labels, np.array([[1, 0], [-1, 1], [1, 1]])),
        (true_multi_labels, np.array([[1, 0], [np.nan, np.nan], [1, 1]], "float32")),
        (true_values, np.array([[0.5, 2.0], [7.0, np.nan], [-1.0, 3.0]], "float32")),
    ],
)
def test_unlabelled_rows_are_left_out_and_leave_value_and_gradient_finite(loss, labels):
    student = uniform((3, 2), 3, 1)
    value, gradient = value_and_gradient(loss, student, labels=labels)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    mean, count = term_mean(LossTerm("term", 1.0, loss), labels, Outputs(student), Outputs(None), None)
    oracle = numpy_true_multi_labels if loss is true_multi_labels else numpy_squared_error
    known = [0, 2]
    np.testing.assert_allclose(mean, np.mean(oracle(labels[known], student[known])), rtol=1e-5)
    assert float(count) == 2


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_a_student_fits_through_the_distiller_where_half_of_the_rows_lack_a_label(classifier, rows, kind):
    student, teacher, x = classifier(), classifier(units=11), rows[0]
    target = teacher.predict(x, verbose=0)
    if kind == "multi_label":
        terms, metrics = [true_multi_labels, soft_multi_labels(2.0)], [keras.metrics.BinaryAccuracy(threshold=0.0)]
        labels = (target > 0).astype("int32")
        labels[::2, 1] = -1
    else:
        terms, metrics = [true_values, teacher_values], ["mae"]
        labels = target.copy()
        labels[::2, 1] = np.nan
    distiller = Distiller(student, teacher, [LossTerm("true", 0.5, terms[0]), LossTerm("soft", 0.5, terms[1])])
    distiller.compile(keras.optimizers.Adam(0.1), metrics=metrics, run_eagerly=True)
    before = distiller.evaluate(x, labels, return_dict=True, verbose=0)
    distiller.fit(x, labels, batch_size=len(x), epochs=12, verbose=0)
    after = distiller.evaluate(x, labels, return_dict=True, verbose=0)
    assert after["true"] < 0.7 * before["true"]
    assert after["loss"] < 0.9 * before["loss"]
    known, outputs = slice(1, None, 2), student.predict(x, verbose=0)
    if kind == "multi_label":
        want = np.mean((outputs[known] > 0) == labels[known])
    else:
        want = np.mean(np.abs(outputs[known] - labels[known]))
    np.testing.assert_allclose(after["binary_accuracy" if kind == "multi_label" else "mae"], want, rtol=1e-5)


def test_true_labels_and_values_need_labels_and_the_teachers_do_not():
    assert needs_of(true_multi_labels).labels
    assert needs_of(true_values).labels
    assert not needs_of(teacher_values).labels
    assert not needs_of(soft_multi_labels(2.0)).labels


def test_shapes_that_do_not_fit_are_refused_with_both():
    two, three = Outputs(np.zeros((2, 3))), Outputs(np.zeros((2, 5)))
    with pytest.raises(ValueError, match=r"labels have shape \(2,\) and the student's logits \(2, 3\): true_multi"):
        true_multi_labels(np.zeros(2, "int32"), two, two)
    with pytest.raises(ValueError, match=r"labels have shape \(2,\) and the student's logits \(2, 3\): true_values"):
        true_values(np.zeros(2, "float32"), two, two)
    for loss in (teacher_values, soft_multi_labels(2.0)):
        with pytest.raises(ValueError, match=r"\(2, 3\) and the teacher's \(2, 5\).*Give the student 5 outputs"):
            loss(None, two, three)


def test_whole_numbers_are_refused_as_values_because_minus_one_would_be_unlabelled():
    with pytest.raises(ValueError, match=r"dtype int64: true_values takes floats, NaN = unlabelled.*astype\('float32'"):
        true_values(np.zeros((2, 1), "int64"), Outputs(np.zeros((2, 1))), Outputs(None))


def test_a_temperature_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"temperature=0 must be .*above 0"):
        soft_multi_labels(0)
