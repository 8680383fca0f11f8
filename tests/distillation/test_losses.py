"""The losses on logits against float64 loops, at temperatures and logits where float32 is short of digits."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from keras_transformer.distillation import Outputs, soft_targets, true_labels
from keras_transformer.distillation.terms import needs_of

TEMPERATURES = [0.5, 1.0, 4.0, 20.0, 100.0, 1e4]


def numpy_log_softmax(row):
    shifted = [float(value) - float(max(row)) for value in row]
    total = sum(np.exp(value) for value in shifted)
    return np.array([value - np.log(total) for value in shifted])


def numpy_soft_targets(teacher, student, temperature):
    """T^2 sum_i p_i (log p_i - log q_i), by loops; log1p and expm1 keep float64 exact where p is close to q."""
    out = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(*out.shape):
        log_p = numpy_log_softmax(teacher[index].astype("float64") / temperature)
        log_q = numpy_log_softmax(student[index].astype("float64") / temperature)
        for p, ratio in zip(np.exp(log_p), log_q - log_p, strict=True):
            out[index] += temperature**2 * p * (np.expm1(ratio) - ratio)
    return out


def numpy_soft_targets_gradient(teacher, student, temperature):
    """d/d student of T^2 KL is T (q - p)."""
    out = np.zeros(teacher.shape)
    for index in np.ndindex(*teacher.shape[:-1]):
        p = np.exp(numpy_log_softmax(teacher[index].astype("float64") / temperature))
        q = np.exp(numpy_log_softmax(student[index].astype("float64") / temperature))
        out[index] = temperature * (q - p)
    return out


def value_and_gradient(loss, teacher, student, labels=None):
    logits = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = loss(labels, Outputs(logits), Outputs(tf.constant(teacher)))
    return value.numpy(), tf.cast(tape.gradient(value, logits), "float32").numpy()


def logits(shape, limit, seed):
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype("float32")


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("limit", [1.0, 10.0, 60.0, 80.0])
def test_soft_targets_and_their_gradient_match_the_float64_loops(temperature, limit):
    teacher, student = logits((29, 7), limit, seed=1), logits((29, 7), limit, seed=2)
    value, gradient = value_and_gradient(soft_targets(temperature), teacher, student)
    np.testing.assert_allclose(value, numpy_soft_targets(teacher, student, temperature), rtol=1e-3, atol=1e-12)
    want = numpy_soft_targets_gradient(teacher, student, temperature)
    np.testing.assert_allclose(gradient, want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


def test_near_and_far_log_ratios_are_exact_to_float32():
    """The series for small ratios, the closed form for large ones, and both in one row, meet without a step."""
    teacher = logits((401, 3), 1.0, seed=1)
    student = teacher + np.linspace(0, 1, 401, dtype="float32")[:, None] * np.array([[0.6, -0.5, 0.1]], "float32")
    value, _ = value_and_gradient(soft_targets(1.0), teacher[1:], student[1:])
    np.testing.assert_allclose(value, numpy_soft_targets(teacher, student, 1.0)[1:], rtol=1e-4)
    np.testing.assert_allclose(value[100:], numpy_soft_targets(teacher, student, 1.0)[101:], rtol=4e-6)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2), (5, 1, 3), (2, 3, 11)])
def test_soft_targets_give_one_value_a_row_or_token(shape):
    teacher, student = logits(shape, 3, seed=1), logits(shape, 3, seed=2)
    value, _ = value_and_gradient(soft_targets(2.0), teacher, student)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, numpy_soft_targets(teacher, student, 2.0), rtol=1e-5)


def test_a_case_by_hand():
    # p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 log 3/2 + 1/4 log 1/2
    teacher, student = np.log([[3.0, 1.0]]).astype("float32"), np.zeros((1, 2), "float32")
    value, gradient = value_and_gradient(soft_targets(1.0), teacher, student)
    np.testing.assert_allclose(value, [0.75 * np.log(1.5) + 0.25 * np.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.25, 0.25]], rtol=1e-6)


def test_keras_kl_divergence_agrees_where_it_is_right():
    teacher, student = logits((17, 5), 3, seed=1), logits((17, 5), 3, seed=2)
    p, q = keras.ops.softmax(teacher / 2), keras.ops.softmax(student / 2)
    value, _ = value_and_gradient(soft_targets(2.0), teacher, student)
    np.testing.assert_allclose(value, 4 * keras.losses.kl_divergence(p, q), rtol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_any_float_dtype_is_computed_in_float32(dtype, temperature):
    teacher = tf.cast(logits((13, 5), 60, seed=1), dtype)
    student = tf.cast(logits((13, 5), 60, seed=2), dtype)
    value, gradient = value_and_gradient(soft_targets(temperature), teacher, student)
    want = numpy_soft_targets(tf.cast(teacher, "float64").numpy(), tf.cast(student, "float64").numpy(), temperature)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-12)
    assert np.isfinite(gradient).all()


def test_a_confidently_wrong_student_has_the_full_gradient():
    # keras.distillation: 16.1 and zero gradient, because it clips probabilities at 1e-7
    value, gradient = value_and_gradient(
        soft_targets(1.0), np.array([[80.0, 0, -80]], "float32"), np.array([[-80.0, 0, 80]], "float32")
    )
    np.testing.assert_allclose(value, [160.0], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1.0, 0.0, 1.0]], atol=1e-6)


def test_the_gradient_keeps_its_size_as_the_temperature_grows():
    teacher, student = logits((31, 5), 5, seed=1), logits((31, 5), 5, seed=2)
    norms = [np.linalg.norm(value_and_gradient(soft_targets(t), teacher, student)[1]) for t in (50.0, 500.0, 5e3, 1e4)]
    np.testing.assert_allclose(norms, norms[0], rtol=0.05)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_equal_logits_give_exactly_zero(temperature):
    same = logits((37, 11), 80, seed=3)
    np.testing.assert_array_equal(value_and_gradient(soft_targets(temperature), same, same)[0], np.zeros(37))


@pytest.mark.parametrize("temperature", [0.5, 20.0, 1e4])
def test_eager_graph_and_xla_agree(temperature):
    def loss(teacher, student):
        return soft_targets(temperature)(None, Outputs(student), Outputs(teacher))

    teacher, student = logits((37, 11), 80, seed=3), logits((37, 11), 80, seed=4)
    for jit in (False, True):
        compiled = tf.function(loss, jit_compile=jit)
        np.testing.assert_allclose(compiled(teacher, student), loss(teacher, student), rtol=1e-5)
        np.testing.assert_allclose(compiled(teacher, teacher), np.zeros(37), atol=1e-9 if jit else 0)


row_of_logits = arrays.arrays("float32", (2, 5), elements=st.floats(-80, 80, width=32))
temperatures = st.sampled_from(TEMPERATURES)


@settings(max_examples=40, deadline=None)
@given(row_of_logits, row_of_logits, temperatures)
def test_soft_targets_are_finite_and_never_negative(teacher, student, temperature):
    value, gradient = value_and_gradient(soft_targets(temperature), teacher, student)
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()
    assert (value >= 0).all()
    want = numpy_soft_targets(teacher, student, temperature)
    # Below float32's resolution of the logits themselves no digits can be asked for.
    np.testing.assert_allclose(value, want, rtol=1e-3, atol=1e-9 * max(1.0, np.abs(teacher - student).max()) ** 2)


@settings(max_examples=40, deadline=None)
@given(row_of_logits, st.floats(-100, 100, width=32), temperatures)
def test_a_shift_of_all_logits_changes_nothing(teacher, shift, temperature):
    value, _ = value_and_gradient(soft_targets(temperature), teacher, teacher + np.float32(shift))
    np.testing.assert_allclose(value, np.zeros(2), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(row_of_logits, row_of_logits, st.permutations(range(5)))
def test_the_order_of_classes_changes_nothing(teacher, student, order):
    value, _ = value_and_gradient(soft_targets(4.0), teacher, student)
    permuted, _ = value_and_gradient(soft_targets(4.0), teacher[:, order], student[:, order])
    np.testing.assert_allclose(permuted, value, rtol=1e-4, atol=1e-5)


def numpy_true_labels(student, labels):
    out = np.zeros(labels.shape)
    for index in np.ndindex(*labels.shape):
        out[index] = -numpy_log_softmax(student[index].astype("float64"))[labels[index]]
    return out


@pytest.mark.parametrize("shape", [(17, 3), (2, 5, 7)])
@pytest.mark.parametrize("limit", [1.0, 80.0, 1e4])
def test_true_labels_match_the_float64_loops(shape, limit):
    student = logits(shape, limit, seed=4)
    labels = np.random.default_rng(5).integers(0, shape[-1], shape[:-1])
    value, gradient = value_and_gradient(true_labels, student, student, labels)
    np.testing.assert_allclose(value, numpy_true_labels(student, labels), rtol=1e-5, atol=1e-6)
    assert np.isfinite(gradient).all()


def test_true_labels_are_finite_at_unlabelled_rows():
    student = logits((3, 5), 80, seed=4)
    value, gradient = value_and_gradient(true_labels, student, student, np.array([-1, 2, -1]))
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


def test_true_labels_say_that_they_need_labels_and_soft_targets_do_not():
    assert needs_of(true_labels).labels
    assert not needs_of(soft_targets(2.0)).labels


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_out_of_range_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature=\S+ must be .*above 0. Use for example temperature=1\."):
        soft_targets(temperature)


def test_unequal_classes_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) and the teacher's \(2, 5\).*Give the student 5 classes"):
        soft_targets(2.0)(None, Outputs(np.zeros((2, 3))), Outputs(np.zeros((2, 5))))


def test_labels_that_are_no_integers_are_refused():
    with pytest.raises(ValueError, match=r"dtype float32: .* class numbers as integers.*astype\('int32'\)"):
        true_labels(np.zeros(2, "float32"), Outputs(np.zeros((2, 3))), Outputs(np.zeros((2, 3))))


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"labels have shape \(2, 1\) .* \(2, 3\): .*Reshape the labels"):
        true_labels(np.zeros((2, 1), "int32"), Outputs(np.zeros((2, 3))), Outputs(np.zeros((2, 3))))
