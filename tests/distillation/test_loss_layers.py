"""Losses that own weights in a Distiller: built before the first batch where shapes are known, never saved with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    RecordedTeacher,
    SeveralTeachers,
    cache_teacher,
    contrastive,
    hidden_cosine,
    hidden_states,
    patient_states,
    soft_targets,
)

SOFT = LossTerm("soft", 1.0, soft_targets(2.0))
HIDDEN = [("hidden", "hidden")]


def graph_of(model):
    return [*map(id, model.layers), *(id(layer.output) for layer in model.layers), *map(id, model.outputs)]


def test_projections_are_there_before_the_first_batch_and_the_callers_models_are_untouched(classifier):
    student, teacher = classifier(units=5), classifier(units=11)
    before = graph_of(student), graph_of(teacher)
    loss = hidden_states(HIDDEN)
    distiller = Distiller(student, teacher, [SOFT, LossTerm("hidden", 1.0, loss)])
    assert [weight.shape for weight in loss.trainable_weights] == [(5, 11)]
    assert len(distiller.trainable_weights) == len(student.trainable_weights) + 1
    assert (graph_of(student), graph_of(teacher)) == before


def test_projections_of_pooled_rows_and_of_models_with_a_mask_are_there_too(tagger):
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(13, 7, mask_zero=True, name="tokens")(token_ids)
    teacher = keras.Model(token_ids, keras.layers.Dense(5, name="logits")(x))
    loss = hidden_cosine([("tokens", "tokens"), ("logits", "logits")])
    Distiller(tagger(), teacher, [LossTerm("hidden", 1.0, loss)])
    assert [weight.shape for weight in loss.weights] == [(3, 7)]


def test_training_goes_on_from_saved_weights_in_a_new_distiller(classifier, rows, tmp_path):
    student, teacher = classifier(units=5), classifier(units=11)

    def made():
        learned = {"hidden": hidden_states(HIDDEN), "near": contrastive("hidden", "hidden")}
        terms = [SOFT, *(LossTerm(name, 1.0, loss) for name, loss in learned.items())]
        distiller = Distiller(keras.models.clone_model(student), teacher, terms)
        distiller.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        return distiller

    options = {"batch_size": 23, "shuffle": False, "verbose": 0}
    first = made()
    first.fit(rows[0], epochs=2, **options)
    first.save_weights(tmp_path / "all.weights.h5")
    second = made()
    second.optimizer.build(second.trainable_variables)
    second.load_weights(tmp_path / "all.weights.h5")
    assert second.fit(rows[0], **options).history == first.fit(rows[0], **options).history


def test_widths_that_cannot_be_compared_are_told_when_the_distiller_is_made(tagger, fingerprint):
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Embedding(13, 7, name="tokens")(token_ids)
    teacher = keras.Model(token_ids, keras.layers.Dense(5, name="logits")(x))
    with pytest.raises(ValueError, match=r"\('tokens', 'tokens'\) has width 3 on the student's side and 7 on the teac"):
        Distiller(tagger(), teacher, [LossTerm("patient", 1.0, patient_states([("tokens", "tokens")]))])
    pooled = keras.Model(token_ids, keras.layers.GlobalAveragePooling1D(name="pooled")(x))
    with pytest.raises(ValueError, match=r"\('tokens', 'pooled'\) can't be compared: .*None, 3\) and .*\(None, 7\)"):
        Distiller(tagger(), pooled, [LossTerm("hidden", 1.0, hidden_states([("tokens", "pooled")]))])


def test_a_tap_that_a_model_does_not_have_is_told_when_the_distiller_is_made(classifier):
    for pair, model in ((("hiden", "hidden"), "pupil"), (("hidden", "hiden"), "master")):
        with pytest.raises(ValueError, match=rf"'{model}' has no tap 'hiden'.*Did you mean 'hidden'"):
            Distiller(classifier(name="pupil"), classifier(name="master"), [LossTerm("h", 1.0, hidden_states([pair]))])


class Subclassed(keras.Model):
    """Has no graph: its shapes are known with the first batch."""

    def __init__(self, units):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(units), keras.layers.Dense(3)

    def call(self, x):
        return self.head(self.hidden(x))

    def taps(self, inputs, training):
        hidden = self.hidden(inputs)
        return self.head(hidden), {"hidden": hidden}


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_models_without_a_graph_make_the_projection_with_the_first_batch(rows, run_eagerly):
    student, teacher = Subclassed(5), Subclassed(11)
    loss = hidden_states(HIDDEN)
    distiller = Distiller(student, teacher, [SOFT, LossTerm("hidden", 1.0, loss)])
    assert not loss.built
    distiller.compile(keras.optimizers.Adam(0.05), run_eagerly=run_eagerly)
    history = distiller.fit(rows[0], epochs=5, batch_size=23, verbose=0).history
    assert [weight.shape for weight in loss.trainable_weights] == [(5, 11)]
    assert history["hidden"][-1] < history["hidden"][0]
    assert len(distiller.optimizer.variables) == 2 * len(distiller.trainable_weights) + 2


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_projection_is_float32_whatever_the_policies(classifier, rows, dtype):
    keras.config.set_dtype_policy(dtype)
    student, teacher = classifier(units=5, dtype=dtype), classifier(units=11, dtype=dtype)
    loss = hidden_states(HIDDEN)
    distiller = Distiller(student, teacher, [SOFT, LossTerm("hidden", 1.0, loss)])
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    before = loss.weights[0].numpy()
    history = distiller.fit(rows[0], epochs=3, verbose=0).history
    assert loss.compute_dtype == "float32"
    assert np.isfinite(history["hidden"]).all()
    assert history["hidden"][-1] < history["hidden"][0]
    assert not np.array_equal(before, loss.weights[0])


def teacher_of_kind(kind, classifier, data, folder):
    """A teacher, the taps of it to compare with, and the data with what it needs."""
    if kind == "several":
        return SeveralTeachers([classifier(units=11), classifier(units=13)]), ["0/hidden", "1/hidden"], data
    cached = cache_teacher(classifier(units=11), data, folder / "cache", taps=["hidden"])
    return cached, ["hidden"], cached.attach(data)


@pytest.mark.parametrize("kind", ["cached", "several"])
def test_projections_to_any_teacher_are_there_before_the_first_batch_and_go_into_a_file(
    classifier, rows, tmp_path, kind
):
    data = tf.data.Dataset.from_tensor_slices(rows).batch(9)
    teacher, taps, batches = teacher_of_kind(kind, classifier, data, tmp_path)
    student = classifier(units=5)

    def made():
        loss = hidden_states([("hidden", tap) for tap in taps])
        distiller = Distiller(keras.models.clone_model(student), teacher, [SOFT, LossTerm("hidden", 1.0, loss)])
        distiller.compile("sgd", run_eagerly=True)
        return distiller, loss

    first, loss = made()
    assert [weight.shape for weight in loss.weights] == [(5, 11), (5, 13)][: len(taps)]
    first.fit(batches, shuffle=False, verbose=0)
    first.save_weights(tmp_path / "all.weights.h5")
    second, _ = made()
    second.load_weights(tmp_path / "all.weights.h5")
    assert len(second.weights) == len(student.weights) + len(taps)
    for one, two in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_file_is_not_loaded_while_weights_that_it_holds_are_yet_to_be_made(classifier, rows, tmp_path):
    teacher, path = classifier(units=11), tmp_path / "all.weights.h5"
    hidden = keras.Model(teacher.input, teacher.get_layer("hidden").output)(rows[0]).numpy()
    x = {"features": rows[0], "teacher_logits": teacher(rows[0]).numpy(), "teacher_tap/hidden": hidden}

    def made():
        terms = [SOFT, LossTerm("hidden", 1.0, hidden_states(HIDDEN))]
        distiller = Distiller(classifier(units=5), RecordedTeacher(["hidden"]), terms)
        distiller.compile("sgd", run_eagerly=True)
        return distiller

    first, second = made(), made()
    first.save_weights(path)
    second.load_weights(path)  # no weight of a loss was there, and none is lost
    first.fit(x, verbose=0)
    first.save_weights(path)
    with pytest.raises(
        ValueError, match=r"holds 5 weights and this Distiller has 4: .*'hidden_states'.*evaluate on one batch"
    ):
        second.load_weights(path)
    second.evaluate(x, verbose=0)
    second.load_weights(path)
    np.testing.assert_array_equal(*(each.loss_layers[0].projections[0].kernel for each in (first, second)))


def test_weights_that_come_after_the_optimizers_own_are_told_with_the_way_out(classifier, rows):
    distiller = Distiller(Subclassed(5), Subclassed(11), [SOFT, LossTerm("hidden", 1.0, hidden_states(HIDDEN))])
    distiller.compile("sgd", run_eagerly=True)
    distiller.student(rows[0])
    distiller.optimizer.build(distiller.trainable_variables)
    with pytest.raises(ValueError, match=r"'hidden_states' made its weights with a batch.*what cache_teacher returns"):
        distiller.fit(rows[0], verbose=0)


@pytest.mark.parametrize(("first", "second"), [((5, 11), (6, 11)), ((5, 5), (6, 11)), ((5, 5), (5, 1))])
def test_a_loss_of_other_models_is_refused_when_the_distiller_is_made(classifier, first, second):
    loss = hidden_states(HIDDEN)
    Distiller(*(classifier(units=units) for units in first), [LossTerm("hidden", 1.0, loss)])
    message = (
        rf"\('hidden', 'hidden'\) has widths {second[0]} and {second[1]}, and this hidden_states was built for "
        rf"{first[0]} and {first[1]}.*call hidden_states\(...\) again"
    )
    with pytest.raises(ValueError, match=message):
        Distiller(*(classifier(units=units) for units in second), [LossTerm("hidden", 1.0, loss)])


def test_a_loss_goes_on_in_another_distiller_of_the_same_widths(classifier, rows):
    loss = hidden_states(HIDDEN)
    Distiller(classifier(units=5), classifier(units=11), [LossTerm("hidden", 1.0, loss)])
    kernel = loss.weights[0].numpy()
    distiller = Distiller(classifier(units=5), classifier(units=11), [SOFT, LossTerm("hidden", 1.0, loss)])
    np.testing.assert_array_equal(loss.weights[0], kernel)
    distiller.compile("sgd", run_eagerly=True)
    distiller.fit(rows[0], verbose=0)
    assert not np.array_equal(loss.weights[0], kernel)
