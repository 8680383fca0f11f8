"""Losses that own weights in a Distiller: built before the first batch where shapes are known, never saved with it."""

import keras
import numpy as np
import pytest

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
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
