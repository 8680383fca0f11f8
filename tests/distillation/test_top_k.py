"""Soft targets over the kept classes and the rest: the merged divergence, its bound, and its way over the disk."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    cache_teacher,
    soft_targets,
    top_k_soft_targets,
)
from keras_transformer.distillation.top_k import keep_top_k

CLASSES = 13


def numpy_merged(teacher, student, count, temperature):
    """T^2 KL after all but the teacher's `count` largest classes became one, by loops in float64."""
    out = np.zeros(teacher.shape[:-1])
    for index in np.ndindex(*out.shape):
        z, s = teacher[index].astype("float64") / temperature, student[index].astype("float64") / temperature
        p, q = (np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in (z, s))
        kept = sorted(range(len(z)), key=lambda place: -z[place])[:count]
        others = [place for place in range(len(z)) if place not in kept]
        pairs = [(p[place], q[place]) for place in kept] + [(p[others].sum(), q[others].sum())]
        out[index] = temperature**2 * sum(a * np.log(a / b) for a, b in pairs)
    return out


def recorded(teacher, count, temperatures):
    cut = keep_top_k(tf.constant(teacher), count, temperatures)
    return Outputs(cut.logits, {"top_k/ids": cut.ids, **cut.rests})


def value_and_gradient(teacher, student, count, temperature):
    logits = tf.constant(student)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        value = top_k_soft_targets(temperature)(None, Outputs(logits), recorded(teacher, count, [0.7, temperature]))
    return value.numpy(), tf.cast(tape.gradient(value, logits), "float32").numpy()


def logits(shape, limit, seed):
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype("float32")


@pytest.mark.parametrize("shape", [(17, CLASSES), (2, 5, CLASSES)])
@pytest.mark.parametrize("count", [1, 4, CLASSES - 2])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 100.0])
def test_the_value_is_that_of_the_loop(shape, count, temperature):
    teacher, student = logits(shape, 5, seed=1), logits(shape, 5, seed=2)
    value, gradient = value_and_gradient(teacher, student, count, temperature)
    assert value.dtype == np.float32
    np.testing.assert_allclose(value, numpy_merged(teacher, student, count, temperature), rtol=1e-3, atol=1e-6)
    step = 1e-3 * np.sign(gradient[0]) / temperature  # along the gradient's signs the value grows by |gradient|_1
    moved = numpy_merged(teacher, student + np.float64(step), count, temperature)[0]
    back = numpy_merged(teacher, student - np.float64(step), count, temperature)[0]
    np.testing.assert_allclose(np.sum(moved - back), np.sum(gradient[0] * 2 * step), rtol=2e-3, atol=1e-8)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.5, 1.0, 2.0, 20.0]), st.integers(1, CLASSES - 2))
def test_it_is_a_lower_bound_that_grows_with_k_and_is_never_negative(seed, temperature, count):
    teacher, student = logits((3, CLASSES), 8, seed), logits((3, CLASSES), 8, seed + 1)
    whole = soft_targets(temperature)(None, Outputs(student), Outputs(teacher)).numpy()
    value, gradient = value_and_gradient(teacher, student, count, temperature)
    room = 1e-5 * (1 + whole)
    assert (value >= 0).all()
    assert (value <= whole + room).all()
    if count > 1:
        assert (value_and_gradient(teacher, student, count - 1, temperature)[0] <= value + room).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_student_equal_to_its_teacher_loses_exactly_nothing(temperature):
    same = logits((37, CLASSES), 60, seed=3)
    value, gradient = value_and_gradient(same, same, 4, temperature)
    np.testing.assert_array_equal(value, np.zeros(37))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_rest_of_almost_no_mass_is_finite_in_any_dtype(dtype):
    teacher = np.zeros((1, CLASSES), "float32")
    teacher[0, :2] = 80
    value, gradient = value_and_gradient(
        tf.cast(teacher, dtype).numpy(), tf.cast(teacher[:, ::-1].copy(), dtype).numpy(), 2, 1.0
    )
    np.testing.assert_allclose(value, [80 - np.log(2) + np.log(2)], rtol=1e-3)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("jit", [False, True])
def test_it_runs_in_graphs_and_under_xla(jit):
    teacher, student = logits((3, 5, CLASSES), 5, seed=1), logits((3, 5, CLASSES), 5, seed=2)
    outputs = recorded(teacher, 4, [2.0])
    compiled = tf.function(lambda s: top_k_soft_targets(2.0)(None, Outputs(s), outputs), jit_compile=jit)
    np.testing.assert_allclose(compiled(student), numpy_merged(teacher, student, 4, 2.0), rtol=1e-4)


@pytest.fixture
def ids():
    random = np.random.default_rng(3)
    ids = random.integers(1, 13, (7, 11)).astype("int32")
    ids[1, 4:] = 0
    return ids


def test_a_cached_language_model_teaches_by_its_top_k(tagger, ids, tmp_path):
    teacher, student = tagger(tags=CLASSES), tagger(tags=CLASSES)
    data = tf.data.Dataset.from_tensor_slices(ids).batch(3)
    cached = cache_teacher(teacher, data, tmp_path / "cache", top_k=4, temperatures=[1.0, 2.0])
    distiller = Distiller(student, cached, [LossTerm("soft", 1.0, top_k_soft_targets(2.0))])
    distiller.compile("sgd", run_eagerly=True)
    real = ids != 0
    want = numpy_merged(teacher(ids).numpy(), student(ids).numpy(), 4, 2.0)[real].mean()
    other = tf.data.Dataset.from_tensor_slices(ids[::-1]).batch(5)
    got = distiller.evaluate(cached.attach(other), verbose=0, return_dict=True)["soft"]
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_a_temperature_that_was_not_recorded_and_whole_soft_targets_are_refused(tagger, ids, tmp_path):
    teacher = tagger(tags=CLASSES)
    data = tf.data.Dataset.from_tensors(ids)
    cached = cache_teacher(teacher, data, tmp_path / "cache", top_k=4, temperatures=[1.0])
    with pytest.raises(ValueError, match=r"holds the taps \['top_k/ids', 'top_k/rest/1.0'\] .* \['top_k/rest/3.0'\]"):
        Distiller(tagger(tags=CLASSES), cached, [LossTerm("soft", 1.0, top_k_soft_targets(3.0))])
    distiller = Distiller(tagger(tags=CLASSES), cached, [LossTerm("soft", 1.0, soft_targets(1.0))])
    distiller.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"\(7, 11, 13\) and the teacher's \(7, 11, 4\) can't be compared"):
        distiller.evaluate(cached.attach(data), verbose=0)


@pytest.mark.parametrize(
    ("temperature", "message"), [(0.0, "above 0"), (keras.Variable(2.0), "the rest's mass is recorded at fixed")]
)
def test_a_temperature_that_can_not_be_is_refused(temperature, message):
    with pytest.raises(ValueError, match=message):
        top_k_soft_targets(temperature)
