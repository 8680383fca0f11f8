"""Learned weights: the loss and its gradient by a float64 loop, what the optimum is, and what the logs show."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    UncertaintyWeighting,
    soft_targets,
    true_labels,
)

WEIGHTS = {"true_labels": 0.3, "soft_targets": 2.5}
TERMS = [
    LossTerm("true_labels", WEIGHTS["true_labels"], true_labels),
    LossTerm("soft_targets", WEIGHTS["soft_targets"], soft_targets(2.0)),
]


def learned(student, teacher, terms=TERMS, optimizer=None, **options):
    distiller = Distiller(student, teacher, terms, weighing=UncertaintyWeighting())
    distiller.compile(optimizer or keras.optimizers.SGD(0.05), **{"run_eagerly": True, **options})
    return distiller


def constant(name, value, weight=1.0):
    return LossTerm(name, weight, lambda labels, student, teacher: 0 * student.logits[:, 0] + value)


def test_the_loss_and_its_gradients_are_the_formula_by_a_float64_loop(classifier, rows):
    """d/ds_k = 1 - exp(-s_k) mean_k; the student's gradient is that of the sum with the weights exp(-s_k)."""
    x, labels = rows
    distiller = learned(classifier(), classifier(units=11))
    s = np.array([0.7, -1.9])
    distiller.weighing.log_variances.assign(s)
    with tf.GradientTape(persistent=True) as tape:
        student = distiller.student_outputs(x, training=True)
        teacher = distiller.teacher_outputs(x)
        weighed = distiller.weigh_terms(labels, student, teacher, None)
        plain = sum(math.exp(-s_k) * value.mean for s_k, value in zip(s, weighed.means, strict=True))
    means = [float(value.mean) for value in weighed.means]
    want = sum(math.exp(-s_k) * mean + s_k for s_k, mean in zip(s, means, strict=True))
    np.testing.assert_allclose(float(weighed.loss), want, rtol=1e-5)
    slope = tape.gradient(weighed.loss, distiller.weighing.log_variances.value)
    wanted = [1 - math.exp(-s_k) * mean for s_k, mean in zip(s, means, strict=True)]
    np.testing.assert_allclose(tf.convert_to_tensor(slope), wanted, rtol=1e-4)
    ours, theirs = (tape.gradient(loss, distiller.student.trainable_weights) for loss in (weighed.loss, plain))
    for one, two in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-7)


def test_training_starts_with_the_weights_of_the_terms(classifier, rows):
    student, teacher = classifier(), classifier(units=11)
    fixed = Distiller(student, teacher, TERMS)
    fixed.compile(run_eagerly=True)
    want = fixed.evaluate(*rows, return_dict=True, verbose=0)
    got = learned(student, teacher).evaluate(*rows, return_dict=True, verbose=0)
    for name, weight in WEIGHTS.items():
        np.testing.assert_allclose(got[f"{name}_weight"], weight, rtol=1e-6)
        assert got[name] == want[name]
    penalty = -sum(math.log(weight) for weight in WEIGHTS.values())
    np.testing.assert_allclose(got["loss"], want["loss"] + penalty, rtol=1e-5)


def test_each_weight_goes_to_one_over_its_terms_mean(classifier, rows):
    distiller = learned(
        classifier(), classifier(), [constant("large", 7.0), constant("small", 0.2)], keras.optimizers.SGD(0.2)
    )
    for _ in range(60):
        logs = distiller.train_on_batch(*rows, return_dict=True)
    np.testing.assert_allclose([logs["large_weight"], logs["small_weight"]], [1 / 7, 5.0], rtol=1e-2)


def test_the_weights_are_in_the_history_and_go_on_from_saved_ones(classifier, rows, tmp_path):
    distiller = learned(classifier(), classifier(units=11), run_eagerly=False)
    history = distiller.fit(*rows, batch_size=5, epochs=3, verbose=0, validation_data=rows).history
    for name in WEIGHTS:
        assert len(set(history[f"{name}_weight"])) == 3
        assert f"val_{name}_weight" in history
    distiller.save_weights(tmp_path / "state.weights.h5")
    again = learned(classifier(), distiller.teacher.model)
    again.load_weights(tmp_path / "state.weights.h5")
    np.testing.assert_array_equal(again.weighing.log_variances, distiller.weighing.log_variances)
    assert not any("log_variances" in weight.path for weight in distiller.student.weights)


def test_a_term_that_counts_nothing_leaves_its_weight_alone(classifier, rows):
    """An unlabelled batch says nothing about the labels' uncertainty; s -> -infinity would be its optimum."""
    x, labels = rows
    distiller = learned(classifier(), classifier(units=11))
    before = distiller.weighing.log_variances.numpy()
    distiller.train_on_batch(x, np.full_like(labels, -1))
    after = distiller.weighing.log_variances.numpy()
    assert after[0] == before[0]
    assert after[1] != before[1]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_leaves_the_weights_in_float32_and_finite(classifier, rows, policy):
    distiller = learned(classifier(dtype=policy), classifier(units=11))
    assert distiller.weighing.log_variances.dtype == "float32"
    logs = distiller.fit(*rows, batch_size=5, verbose=0).history
    assert all(math.isfinite(logs[name][-1]) for name in ("loss", "true_labels_weight", "soft_targets_weight"))


def test_one_weighting_serves_one_distiller(classifier):
    weighing = UncertaintyWeighting()
    Distiller(classifier(), classifier(), TERMS, weighing=weighing)
    with pytest.raises(ValueError, match=r"'uncertainty' already holds .* Give each Distiller"):
        Distiller(classifier(), classifier(), TERMS, weighing=weighing)


@pytest.mark.parametrize("weight", [0.0, "variable"])
def test_a_weight_that_can_not_be_learned_is_refused_by_the_name_of_its_term(classifier, weight):
    weight = keras.Variable(1.0) if weight == "variable" else weight
    with pytest.raises(ValueError, match=r"LossTerm 'true_labels': weight=.* can't be learned.*Use weight=1.0"):
        learned(classifier(), classifier(), [LossTerm("true_labels", weight, true_labels)])
