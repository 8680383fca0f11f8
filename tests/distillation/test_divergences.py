"""The divergences of on-policy distillation against float64 loops, their limits, and how they train on tokens."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    jensen_shannon,
    reverse_targets,
    soft_targets,
)
from keras_transformer.models import CausalLM

LOG_2 = np.log(2.0)


def numpy_probabilities(row, temperature):
    scaled = [float(value) / temperature for value in row]
    powers = [np.exp(value - max(scaled)) for value in scaled]
    return [power / sum(powers) for power in powers]


def numpy_kl(one, other):
    return sum(p * np.log(p / q) for p, q in zip(one, other, strict=True) if p > 0)


def numpy_reverse(p, q):
    return numpy_kl(q, p)


def numpy_jensen_shannon(beta):
    def divergence(p, q):
        mixed = [beta * one + (1 - beta) * other for one, other in zip(p, q, strict=True)]
        return beta * numpy_kl(p, mixed) + (1 - beta) * numpy_kl(q, mixed)

    return divergence


def values(loss, teacher, student):
    return np.asarray(loss(None, Outputs(tf.constant(student)), Outputs(tf.constant(teacher))))


def logits(shape, limit, seed):
    return np.random.default_rng(seed).uniform(-limit, limit, shape).astype("float32")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("limit", [0.1, 3.0, 40.0])
@pytest.mark.parametrize("beta", [None, 0.1, 0.5, 0.9])
def test_they_match_the_float64_loops(temperature, limit, beta):
    """Token by token, in (B, T, V); at logits 80 apart as at 0.2."""
    loss = reverse_targets(temperature) if beta is None else jensen_shannon(beta, temperature)
    oracle = numpy_reverse if beta is None else numpy_jensen_shannon(beta)
    teacher, student = logits((3, 5, 7), limit, seed=1), logits((3, 5, 7), limit, seed=2)
    found = values(loss, teacher, student)
    assert (found.shape, found.dtype) == ((3, 5), np.float32)
    for place in np.ndindex(3, 5):
        sides = [numpy_probabilities(side[place], temperature) for side in (teacher, student)]
        assert found[place] == pytest.approx(temperature**2 * oracle(*sides), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("loss", [reverse_targets(2.0), jensen_shannon(0.3, 2.0)])
def test_equal_sides_are_at_no_distance_and_gradients_stay_finite(loss):
    same = logits((11, 7), 60.0, seed=3)
    np.testing.assert_allclose(values(loss, same, same + 5.0), 0.0, atol=1e-6)
    student = tf.constant(-same)
    with tf.GradientTape() as tape:
        tape.watch(student)
        value = loss(None, Outputs(student), Outputs(tf.constant(same)))
    assert np.isfinite(value.numpy()).all()
    assert np.isfinite(tape.gradient(value, student).numpy()).all()


def test_jensen_shannon_is_symmetric_at_one_half_and_never_above_log_2():
    one, other = logits((13, 7), 30.0, seed=4), logits((13, 7), 30.0, seed=5)
    there, back = values(jensen_shannon(), one, other), values(jensen_shannon(), other, one)
    np.testing.assert_allclose(there, back, rtol=1e-4)
    assert there.max() <= LOG_2 + 1e-6
    assert there.max() > 0.9 * LOG_2


@pytest.mark.parametrize(("beta", "limit"), [(1e-4, soft_targets(1.0)), (1 - 1e-4, reverse_targets(1.0))])
def test_the_ends_of_jensen_shannon_are_the_two_other_divergences(beta, limit):
    """Divided by the smaller share it goes over into one of them."""
    teacher, student = logits((13, 7), 2.0, seed=6), logits((13, 7), 2.0, seed=7)
    found = values(jensen_shannon(beta), teacher, student) / min(beta, 1 - beta)
    np.testing.assert_allclose(found, values(limit, teacher, student), rtol=5e-3)


def test_the_reverse_divergence_leaves_out_what_a_student_cannot_say():
    """One student for two answers of its teacher: forward it covers both, in reverse it takes one."""
    teacher = np.log(np.array([[0.499, 0.002, 0.499]], "float32"))
    both, one = (np.log(np.array([row], "float32")) for row in ([0.3, 0.4, 0.3], [0.9, 0.05, 0.05]))
    forward, reverse = soft_targets(1.0), reverse_targets(1.0)
    assert values(forward, teacher, both) < values(forward, teacher, one)
    assert values(reverse, teacher, both) > values(reverse, teacher, one)


@pytest.mark.parametrize("loss", [reverse_targets(1.0), jensen_shannon(0.5)])
def test_a_student_language_model_comes_near_its_teacher_and_padding_counts_nothing(loss):
    keras.utils.set_random_seed(9)
    teacher, student = (CausalLM(19, 1, dim, 2, 11, max_length=8, dropout=0.0) for dim in (8, 6))
    teacher.set_weights([np.random.default_rng(1).normal(scale=0.6, size=w.shape) for w in teacher.get_weights()])
    token_ids = np.random.default_rng(2).integers(1, 19, (16, 7)).astype("int32")
    distiller = Distiller(student, teacher, [LossTerm("divergence", 1.0, loss)])
    distiller.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    history = distiller.fit(token_ids, epochs=25, batch_size=16, verbose=0).history["divergence"]
    assert history[-1] < 0.4 * history[0]
    whole = distiller.evaluate(token_ids, verbose=0, return_dict=True)["divergence"]
    padded = np.pad(token_ids, [(0, 0), (0, 1)])
    assert distiller.evaluate(padded, verbose=0, return_dict=True)["divergence"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: reverse_targets(0.0), r"temperature=0\.0 must be finite and above 0"),
        (lambda: jensen_shannon(0.0), r"beta=0\.0 must be above 0 and below 1.* instead of 0 use soft_targets"),
        (lambda: jensen_shannon(1.0), r"beta=1\.0 .* instead of 1 reverse_targets"),
        (lambda: jensen_shannon(0.5, -1), "temperature=-1 must be finite and above 0"),
    ],
)
def test_numbers_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("loss", [reverse_targets(1.0), jensen_shannon(0.5)])
def test_sides_with_other_vocabularies_are_refused(loss):
    with pytest.raises(ValueError, match="needs the same classes in the same order on both sides"):
        values(loss, logits((2, 5), 1.0, 1), logits((2, 7), 1.0, 2))
