"""Chains of teachers, and two students that teach each other, against the same steps written out."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    MutualLearner,
    Needs,
    SeveralTeachers,
    distil_chain,
    needing,
    soft_targets,
    true_labels,
)

TERMS = [LossTerm("true_labels", 1.0, true_labels), LossTerm("soft_targets", 1.0, soft_targets(1.0))]


def learner(students, terms=TERMS, **options):
    model = MutualLearner(students, terms)
    model.compile(options.pop("optimizer", keras.optimizers.SGD(0.5)), **{"run_eagerly": True, **options})
    return model


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def numpy_losses(own, peer, labels, weights):
    """Equation 4 or 5 of the paper by loops in float64: (cross-entropy, divergence), each a weighted mean."""
    sums, counts = np.zeros(2), np.zeros(2)
    for q, p, label, weight in zip(softmax(own), softmax(peer), labels, weights, strict=True):
        if label != -1:
            sums[0] -= weight * np.log(q[label])
            counts[0] += weight
        sums[1] += weight * sum(p[c] * np.log(p[c] / q[c]) for c in range(len(q)))
        counts[1] += weight
    return sums / counts


def test_both_losses_are_those_of_the_loop_with_weights_and_unlabelled_rows(classifier, rows):
    x, labels = rows
    labels = np.where(np.arange(len(x)) % 3, labels, -1)
    weights = np.random.default_rng(3).uniform(0, 2, len(x)).astype("float32")
    students = [classifier(name="small"), classifier(units=11, dropout=0.5, name="large")]
    logs = learner(students, metrics=["accuracy"]).evaluate(
        x, labels, sample_weight=weights, batch_size=len(x), return_dict=True, verbose=0
    )
    logits = [student(x).numpy().astype("float64") for student in students]
    total = 0
    for own, peer, name in ((*logits, "small"), (*logits[::-1], "large")):
        want = numpy_losses(own, peer, labels, weights)
        np.testing.assert_allclose([logs[f"{name}_true_labels"], logs[f"{name}_soft_targets"]], want, rtol=1e-5)
        np.testing.assert_allclose(logs[f"{name}_loss"], want.sum(), rtol=1e-5)
        known = labels != -1
        np.testing.assert_allclose(logs[f"{name}_accuracy"], np.mean(own.argmax(-1)[known] == labels[known]), rtol=1e-6)
        total += want.sum()
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)
    assert len(logs) == 9


def test_a_step_moves_each_student_as_if_the_other_were_a_fixed_teacher(classifier, rows):
    x, labels = rows
    students = [classifier(name="small"), classifier(units=11, name="large")]
    alone = []
    for student, peer in (students, students[::-1]):
        copy, frozen = keras.models.clone_model(student), keras.models.clone_model(peer)
        copy.set_weights(student.get_weights())
        frozen.set_weights(peer.get_weights())
        distiller = Distiller(copy, frozen, TERMS)
        distiller.compile(keras.optimizers.SGD(0.5), run_eagerly=True)
        distiller.fit(x, labels, batch_size=len(x), verbose=0)
        alone.append(copy)
    learner(students).fit(x, labels, batch_size=len(x), verbose=0)
    for together, copy in zip(students, alone, strict=True):
        for got, want in zip(together.get_weights(), copy.get_weights(), strict=True):
            np.testing.assert_allclose(got, want, atol=1e-6)


def test_two_students_learn_in_a_graph_and_the_history_names_them(classifier, rows):
    x, labels = rows
    students = [classifier(name="small"), classifier(units=11, name="large")]
    model = learner(
        students,
        metrics=["accuracy"],
        run_eagerly=False,
        jit_compile=False,
        optimizer=keras.optimizers.Adam(0.05),
    )
    history = model.fit(x, labels, epochs=20, batch_size=8, validation_data=rows, verbose=0).history
    parts = ["loss", "true_labels", "soft_targets", "accuracy"]
    names = ["loss", *(f"{student}_{part}" for student in ("small", "large") for part in parts)]
    assert sorted(history) == sorted([*names, *(f"val_{name}" for name in names)])
    for student, name in zip(students, ("small", "large"), strict=True):
        right = np.mean(np.argmax(student(x), -1) == labels)
        np.testing.assert_allclose(history[f"val_{name}_accuracy"][-1], right, rtol=1e-6)
        assert right > 0.9
    np.testing.assert_allclose(history["loss"], np.add(history["small_loss"], history["large_loss"]), rtol=1e-6)
    assert history["small_true_labels"][-1] < history["small_true_labels"][0]  # anew in each epoch
    got = model.predict(x, verbose=0)
    np.testing.assert_allclose(got["large"], students[1](x), atol=1e-5)


class Counting(keras.layers.Layer):
    calls = 0

    def call(self, x):
        Counting.calls += 1
        return x


def test_each_student_runs_once_a_step_and_taps_reach_both_sides(rows):
    def model(name):
        inputs = keras.Input((7,))
        return keras.Model(inputs, keras.layers.Dense(3, name="logits")(Counting(name="count")(inputs)), name=name)

    @needing(student_taps=["logits"], teacher_taps=["count"])
    def gap(labels, student, teacher):
        assert list(teacher.taps) == list(student.taps) == ["logits", "count"]
        return ops.mean(student.taps["logits"], -1) - ops.mean(teacher.taps["count"], -1)

    trained = learner([model("a"), model("b")], [*TERMS, LossTerm("gap", 0.0, gap)])
    for run in (trained.fit, trained.evaluate):
        Counting.calls = 0
        run(*rows, batch_size=len(rows[0]), verbose=0)
        assert Counting.calls == 2


def test_equal_students_teach_each_other_nothing(classifier, rows):
    students = [classifier(name="a"), classifier(name="b")]
    students[1].set_weights(students[0].get_weights())
    logs = learner(students, TERMS[1:]).evaluate(*rows, return_dict=True, verbose=0)
    assert logs["loss"] == logs["a_soft_targets"] == logs["b_soft_targets"] == 0


def test_students_in_float16_are_trained_with_a_scaled_loss(classifier, rows):
    students = [classifier(name="a"), classifier(name="b", dtype="mixed_float16")]
    model = learner(students, optimizer="adam")
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(model.fit(*rows, verbose=0).history["loss"]).all()


def test_what_can_not_be_learned_together_is_refused(classifier):
    class Owning(keras.layers.Layer):
        needs = Needs()

    first, second = classifier(name="a"), classifier(name="b")
    with pytest.raises(ValueError, match=r"students has 1: mutual learning takes two"):
        MutualLearner([first], TERMS)
    with pytest.raises(ValueError, match=r"Both students are called 'a'.*another name="):
        MutualLearner([first, classifier(name="a")], TERMS)
    with pytest.raises(ValueError, match=r"LossTerm 'own' owns weights, which two students can't share"):
        MutualLearner([first, second], [LossTerm("own", 1.0, Owning())])
    with pytest.raises(ValueError, match=r"Save its students: student.save\(path\)"):
        MutualLearner([first, second], TERMS).get_config()


def fit_on(rows, met):
    def fit_one(teacher, student):
        met.append((teacher.name, student.name))
        distiller = Distiller(student, teacher, TERMS[1:])
        distiller.compile(keras.optimizers.Adam(0.03), run_eagerly=True)
        distiller.fit(rows[0], epochs=3, batch_size=23, verbose=0)

    return fit_one


def test_a_teacher_assistant_learns_first_and_then_teaches(classifier, rows):
    large, middle, small = (classifier(units=units, name=f"m{units}") for units in (17, 11, 5))
    met = []
    fit_one = fit_on(rows, met)
    seen = []

    def watching(teacher, student):
        seen.append([weight.copy() for weight in teacher.get_weights()])
        fit_one(teacher, student)

    before = middle.get_weights()
    assert distil_chain([large, middle, small], watching) == [middle, small]
    assert met == [("m17", "m11"), ("m11", "m5")]
    assert not np.array_equal(seen[1][0], before[0])  # trained before it taught
    np.testing.assert_array_equal(seen[1][0], middle.get_weights()[0])  # and not while it did


def test_born_again_generations_make_an_ensemble(classifier, rows):
    generations = [classifier(name=f"g{number}") for number in range(3)]
    students = distil_chain(generations, fit_on(rows, []))
    ensemble = SeveralTeachers(students).reader(())(tf.constant(rows[0])).logits
    np.testing.assert_allclose(ensemble, (students[0](rows[0]) + students[1](rows[0])) / 2, atol=1e-6)


def test_a_chain_of_one_or_with_a_model_twice_is_refused(classifier):
    model = classifier(name="m")
    with pytest.raises(ValueError, match=r"models has 1: a chain needs a teacher and a student"):
        distil_chain([model], print)
    with pytest.raises(
        ValueError, match=r"models\[2\], 'm', stands twice.*clone_model\(model\), .* copy.set_weights\("
    ):
        distil_chain([model, classifier(), model], print)
