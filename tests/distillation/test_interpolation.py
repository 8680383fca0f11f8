"""Student <- student + alpha (teacher - student): the sign, the range, what fits, and the callback's rhythm."""

import keras
import numpy as np
import pytest

from keras_transformer.distillation import (
    Distiller,
    Interpolation,
    LossTerm,
    interpolate,
    named_pairs,
    true_labels,
    uniform,
)
from keras_transformer.models import TextClassifier


def encoder(num_layers, seed, **options):
    keras.utils.set_random_seed(seed)
    arguments = {"model_dim": 6, "num_heads": 2, "inner_dim": 5, "max_length": 7, **options}
    return TextClassifier(13, 3, num_layers, **arguments)


def values(model):
    return [value.copy() for value in model.get_weights()]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_alpha_is_the_share_of_the_teacher(classifier, alpha):
    student, teacher = classifier(), classifier()
    before, target = values(student), values(teacher)
    interpolate(student, teacher, alpha)
    for ours, was, theirs in zip(values(student), before, target, strict=True):
        want = (1 - alpha) * was.astype("float64") + alpha * theirs.astype("float64")
        np.testing.assert_allclose(ours, want, rtol=1e-6, atol=1e-7)
        if alpha in (0.0, 1.0):
            np.testing.assert_array_equal(ours, theirs if alpha else was)
    for one, two in zip(values(teacher), target, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_pair_of_equal_models_stays_as_it_is_whatever_alpha(classifier):
    student = classifier()
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    interpolate(student, twin, 0.37)
    for ours, theirs in zip(values(student), values(twin), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_only_the_layers_in_the_pairs_move():
    student, teacher = encoder(2, seed=3), encoder(5, seed=5)
    before = {weight.path: weight.numpy() for weight in student.weights}
    interpolate(student, teacher, 1.0, named_pairs(uniform(student, teacher), "encoder_{}"))
    for ours, theirs in ((0, 2), (1, 4)):
        pair = (student.get_layer(f"encoder_{ours}"), teacher.get_layer(f"encoder_{theirs}"))
        for one, two in zip(*map(values, pair), strict=True):
            np.testing.assert_array_equal(one, two)
    for weight in student.weights:
        if not weight.path.startswith("encoder_"):
            np.testing.assert_array_equal(weight, before[weight.path])


def test_batch_statistics_move_and_a_teacher_in_bfloat16_does():
    def normed(dtype=None):
        inputs = keras.Input((3,))
        return keras.Model(inputs, keras.layers.BatchNormalization(dtype=dtype)(inputs))

    student, teacher = normed(), normed("bfloat16")
    assert teacher.weights[2].dtype == "bfloat16"
    teacher.weights[2].assign([1.0, 2.0, 4.0])
    interpolate(student, teacher, 0.25)
    np.testing.assert_array_equal(student.weights[2], [0.25, 0.5, 1.0])


def test_what_does_not_fit_is_refused_by_both_names_and_nothing_is_changed(classifier):
    student, teacher = classifier(name="small"), classifier(classes=5, name="large")
    before = values(student)
    message = r"student's 'logits/kernel' has shape \(5, 3\) and the teacher's 'logits/kernel' \(5, 5\): only equal"
    with pytest.raises(ValueError, match=message):
        interpolate(student, teacher, 0.5)
    for one, two in zip(values(student), before, strict=True):
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match=r"'dropout' has 0 weights and the teacher's 'hidden' has 2"):
        interpolate(student, teacher, 0.5, [("dropout", "hidden")])
    with pytest.raises(ValueError, match="No such layer: nowhere"):
        interpolate(student, teacher, 0.5, [("nowhere", "hidden")])


def test_maps_of_pieces_must_be_equal():
    student, teacher = (encoder(1, seed, kept_pieces=7) for seed in (3, 5))
    interpolate(student, teacher, 0.5)
    teacher.get_layer("tokens").piece_row.assign(np.arange(13) % 5)
    with pytest.raises(ValueError, match=r"'tokens/piece_row' holds other whole numbers .* Leave that layer out"):
        interpolate(student, teacher, 0.5)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(classifier, alpha):
    for call in (lambda *models: interpolate(*models, alpha), lambda *models: Interpolation(*models, alpha, every=1)):
        with pytest.raises(
            ValueError, match=r"alpha=.* must be from 0, the student stays, to 1, it becomes the teacher"
        ):
            call(classifier(), classifier())


def pulled(classifier, every, alpha=0.25, epochs=1, optimizer=None, **options):
    """Train at learning rate 0 beside the callback -> what share of the distance to the teacher is left."""
    student, teacher = classifier(), classifier()
    before, target = values(student)[0], values(teacher)[0]
    distiller = Distiller(student, teacher, [LossTerm("true_labels", 1.0, true_labels)])
    distiller.compile(keras.optimizers.SGD(0.0, **(optimizer or {})), **options)
    x, labels = np.ones((23, 7), "float32"), np.zeros(23, "int32")
    callbacks = [Interpolation(student, teacher, alpha, every)]
    distiller.fit(x, labels, batch_size=5, epochs=epochs, verbose=0, callbacks=callbacks)
    return np.median((values(student)[0] - target) / (before - target))


@pytest.mark.parametrize(
    ("every", "times", "options"),
    [
        (1, 10, {}),
        (3, 3, {}),
        (7, 1, {}),
        (11, 0, {}),
        (2, 5, {"steps_per_execution": 2}),
        (2, 2, {"optimizer": {"gradient_accumulation_steps": 2}}),
    ],
)
def test_the_callback_pulls_every_so_many_steps(classifier, every, times, options):
    """Ten batches in two epochs; five updates where two batches make one."""
    np.testing.assert_allclose(pulled(classifier, every, epochs=2, **options), 0.75**times, rtol=1e-4)


@pytest.mark.parametrize(
    ("every", "options", "message"),
    [
        (0, {}, "every=0 must be a whole number of at least 1"),
        (3, {"steps_per_execution": 2}, r"every=3 is no multiple of steps_per_execution=2.*every=4"),
    ],
)
def test_a_rhythm_that_can_not_be_kept_is_refused(classifier, every, options, message):
    with pytest.raises(ValueError, match=message):
        pulled(classifier, every, **options)
