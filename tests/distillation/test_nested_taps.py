"""Taps reach into models that are layers of models, to any depth; it stays one pass of an unchanged model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.distillation import Distiller, LossTerm, needing, soft_targets, with_taps
from keras_transformer.distillation.taps import select_inputs

IDS = np.array([[3, 5, 0], [7, 0, 0]], "int32")
X = np.random.default_rng(3).normal(size=(5, 7)).astype("float32")


class Counting(keras.layers.Layer):
    """Identity that counts how often Python runs it."""

    calls = 0

    def call(self, x):
        Counting.calls += 1
        return x


def innermost(**options):
    inputs = keras.Input((11,))
    x = keras.layers.Dense(2, "tanh", name="narrow", **options)(inputs)
    return keras.Model(inputs, Counting(name="count")(x), name="inner")


def nested_model(name="outer", seen_first=False, **options):
    """Functional in Sequential in Functional: paths hidden, block, block/wide, block/inner, block/inner/narrow."""
    inner = innermost(**options)
    if seen_first:  # now `output` of it and of each of its layers belongs to another graph
        other = keras.Input((11,))
        keras.Model(other, keras.layers.Dense(1)(inner(other)))
    block = keras.Sequential([keras.layers.Dense(11, name="wide"), keras.layers.Dropout(0.5), inner], name="block")
    inputs = keras.Input((7,), name="features")
    x = keras.layers.Dense(5, name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(block(x)), name=name)


def by_hand(model):
    """The same numbers, layer by layer."""
    block = model.get_layer("block")
    inner = block.get_layer("inner")
    found = {"hidden": model.get_layer("hidden")(X)}
    found["block/wide"] = block.get_layer("wide")(found["hidden"])
    found["block/inner/narrow"] = inner.get_layer("narrow")(found["block/wide"])
    found["block/inner"] = found["block"] = found["block/inner/narrow"]
    return found


@pytest.mark.parametrize("seen_first", [False, True])
def test_a_path_names_a_layer_inside_nested_models_of_either_kind(seen_first):
    model = nested_model(seen_first=seen_first)
    want = by_hand(model)
    tapped = with_taps(model, want)
    Counting.calls = 0
    got = tapped(X)
    assert Counting.calls == 1
    assert list(got.taps) == list(want)
    for name, value in want.items():
        np.testing.assert_array_equal(got.taps[name], value, err_msg=name)
    np.testing.assert_array_equal(got.logits, model(X))


def test_an_input_can_be_tapped():
    got = with_taps(nested_model(), ["features", "block/inner"])(X)
    np.testing.assert_array_equal(got.taps["features"], X)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_graph_and_xla_give_what_eager_code_gives(jit_compile):
    tapped = with_taps(nested_model(), ["block/inner/narrow", "hidden"])
    compiled = tf.function(lambda x: tapped(x)._asdict(), jit_compile=jit_compile)
    Counting.calls = 0
    got = compiled(X)
    assert Counting.calls == 1
    np.testing.assert_allclose(got["taps"]["block/inner/narrow"], tapped(X).taps["block/inner/narrow"], atol=1e-6)
    np.testing.assert_allclose(got["logits"], tapped(X).logits, atol=1e-6)


def public_face(model):
    lines = []
    model.summary(print_fn=lambda text, **_: lines.append(text), expand_nested=True)
    every = [model, *model.layers, *model.get_layer("block").layers]
    return model.get_config(), lines, [layer.name for layer in every], len(model.weights)


def test_the_nested_models_are_not_changed(fingerprint, tmp_path):
    model = nested_model()
    before, weights, output = public_face(model), fingerprint(model), model.output
    tensors = [layer.output for layer in model.layers]
    with_taps(model, ["block/inner/narrow"])(X, training=False)
    assert public_face(model) == before
    assert fingerprint(model) == weights
    assert model.output is output
    assert all(layer.output is tensor for layer, tensor in zip(model.layers, tensors, strict=True))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", custom_objects={"Counting": Counting})
    np.testing.assert_array_equal(again(X), model(X))


def test_training_and_gradients_reach_inside():
    model = nested_model()
    tapped = with_taps(model, ["block/wide", "block/inner/narrow"])
    with tf.GradientTape() as tape:
        trained = tapped(X, training=True)
        loss = ops.sum(ops.square(trained.taps["block/inner/narrow"]))
    dropped = not np.allclose(trained.taps["block/inner/narrow"], tapped(X).taps["block/inner/narrow"])
    assert dropped
    gradients = tape.gradient(loss, model.trainable_weights)
    by_layer = dict(zip([weight.path for weight in model.trainable_weights], gradients, strict=True))
    assert by_layer["logits/kernel"] is None
    assert float(ops.sum(ops.abs(by_layer["hidden/kernel"]))) > 0


def test_shapes_are_known_before_the_first_batch():
    tapped = with_taps(nested_model(), ["block/wide", "block/inner"])
    symbolic, real = tapped.symbolic_outputs(), tapped(X)
    assert symbolic.mask is None
    assert symbolic.logits.shape == (None, 3)
    assert {name: tensor.shape for name, tensor in symbolic.taps.items()} == {
        "block/wide": (None, 11),
        "block/inner": (None, 2),
    }
    assert {name: tensor.dtype for name, tensor in real.taps.items()} == {
        "block/wide": "float32",
        "block/inner": "float32",
    }
    assert with_taps(nested_model()).symbolic_outputs().logits.shape == (None, 3)


def test_keras_mask_comes_out_of_a_nested_model():
    inner_ids, token_ids = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(13, 3, mask_zero=True)(inner_ids)
    encoder = keras.Model(inner_ids, keras.layers.Dense(2, name="state")(embedded), name="encoder")
    model = keras.Model(token_ids, keras.layers.Dense(5)(encoder(token_ids)))
    np.testing.assert_array_equal(with_taps(model)(IDS).mask, IDS != 0)
    np.testing.assert_array_equal(with_taps(model, ["encoder/state"])(IDS).mask, IDS != 0)


def test_a_padding_mask_among_the_inputs_is_the_mask():
    ids, real = (keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    x = keras.layers.Embedding(13, 3, name="tokens")(ids) * ops.cast(ops.expand_dims(real, -1), "float32")
    model = keras.Model({"token_ids": ids, "padding_mask": real}, keras.layers.Dense(5)(x))
    batch = {"token_ids": IDS, "padding_mask": (IDS != 0).astype("int32"), "segment_ids": IDS}
    for names in ([], ["tokens"]):
        tapped = with_taps(model, names)
        got, symbolic = tapped(batch).mask, tapped.symbolic_outputs().mask
        assert (symbolic.shape, symbolic.dtype) == ((None, None), "bool")
        assert got.dtype == "bool"
        np.testing.assert_array_equal(got, IDS != 0)
    only_ids = keras.Model(ids, keras.layers.Embedding(13, 3)(ids))
    assert with_taps(only_ids)(batch).mask is None


def test_the_named_tensors_of_a_nested_model_are_offered_under_its_name():
    token_ids = keras.Input((None,), dtype="int32")
    hidden = keras.layers.Embedding(13, 3, name="tokens")(token_ids)
    encoder = keras.Model(token_ids, ops.mean(hidden, axis=1), name="encoder")
    encoder.tap_tensors = {"layer/0/hidden": hidden}
    outer = keras.Input((None,), dtype="int32")
    model = keras.Model(outer, keras.layers.Dense(2)(encoder(outer)), name="m")
    got = with_taps(model, ["encoder/layer/0/hidden"])(IDS)
    np.testing.assert_array_equal(got.taps["encoder/layer/0/hidden"], encoder.get_layer("tokens")(IDS))


def test_an_unknown_path_lists_every_path_and_the_nearest():
    text = (
        r"'outer' has no tap 'block/inner/narow'. It has \['features', 'hidden', 'block', 'block/wide', "
        r"'block/dropout\S*', 'block/inner', .*'block/inner/narrow', .*Did you mean 'block/inner/narrow'"
    )
    with pytest.raises(ValueError, match=text):
        with_taps(nested_model(), ["block/inner/narow"])


def test_a_layer_that_runs_twice_is_ambiguous():
    inputs, shared = keras.Input((7,)), keras.layers.Dense(7, name="shared")
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(shared(shared(inputs))), name="m")
    with pytest.raises(ValueError, match=r"layer 'shared' of model 'm' runs 2 times.*Offer the tensor in `tap_te"):
        with_taps(model, ["shared"])
    twins = innermost()
    left, right = keras.Input((11,)), keras.Input((11,))
    siamese = keras.Model([left, right], keras.layers.Add()([twins(left), twins(right)]), name="siamese")
    with pytest.raises(ValueError, match=r"layer 'inner/narrow' of model 'siamese' runs 2 times"):
        with_taps(siamese, ["inner/narrow"])


def test_a_batch_with_too_few_inputs_is_told_before_keras_tries():
    ids, real = (keras.Input((None,), dtype="int32", name=name) for name in ("token_ids", "padding_mask"))
    model = keras.Model([ids, real], keras.layers.Multiply()([ids, real]), name="hub")
    text = r"'hub' takes the inputs \['token_ids', 'padding_mask'\] and the batch has 1. Pass x as a dict with \['tok"
    with pytest.raises(ValueError, match=text):
        select_inputs(model, IDS)
    assert select_inputs(model, [IDS, IDS]) == [IDS, IDS]


@needing(student_taps=["block/inner/narrow", "block/wide"], teacher_taps=["block/inner/narrow"])
def narrow_distance(labels, student, teacher):
    near = ops.mean(ops.square(student.taps["block/inner/narrow"] - teacher.taps["block/inner/narrow"]), axis=-1)
    return near + ops.mean(ops.square(student.taps["block/wide"]), axis=-1)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_a_distiller_trains_through_nested_taps_as_eager_code_does(jit_compile, fingerprint):
    student, other = (nested_model(kernel_regularizer="l2", activity_regularizer="l2") for _ in range(2))
    other.set_weights(student.get_weights())
    for model in (student, other):
        model.get_layer("block").layers[1].rate = 0.0
    teacher = nested_model()
    before = fingerprint(teacher)
    terms = [LossTerm("narrow", 1.0, narrow_distance), LossTerm("soft", 0.5, soft_targets(2.0))]
    logs = []
    for model, options in ((student, {"run_eagerly": True}), (other, {"jit_compile": jit_compile})):
        distiller = Distiller(model, teacher, terms)
        distiller.compile(keras.optimizers.SGD(0.1), **options)
        logs.append(distiller.fit(X, epochs=2, batch_size=5, verbose=0).history)
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-5)
    for a, b in zip(student.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    student(X)
    extra = float(sum(student.losses))
    evaluated = Distiller(student, teacher, terms)
    evaluated.compile("sgd", run_eagerly=True)
    logs = evaluated.evaluate(X, return_dict=True, verbose=0)
    assert extra > 0
    assert logs["loss"] == pytest.approx(logs["narrow"] + 0.5 * logs["soft"] + extra, rel=1e-5)
    assert fingerprint(teacher) == before
