"""A model with factors is a model like any other: saved, cloned, trained, distilled, written by token, exported."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from keras import ops
from weights import normal, randomise

from keras_transformer import export, model_file
from keras_transformer.compression import (
    MagnitudePruning,
    dense_ranges,
    factored_ranks,
    factorise_kernels,
    fuse,
    kernel_spectra,
    plain,
    quantization_aware,
    ranks_of_share,
)
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels
from keras_transformer.models import CausalLM, TextClassifier

IDS = np.array([[2, 17, 28, 5, 0], [3, 7, 11, 13, 19]], "int32")
SIZES = {"vocab_size": 29, "num_layers": 1, "model_dim": 14, "num_heads": 7, "inner_dim": 11, "max_length": 13}
ROWS, KINDS = normal(16, 7), np.arange(16) % 3


@pytest.fixture
def factored():
    model = randomise(TextClassifier(num_classes=3, **SIZES), scale=0.4)
    return factorise_kernels(model, ranks_of_share(kernel_spectra(model), 0.4))


def plain_model():
    inputs = keras.Input((7,))
    x = keras.layers.Dense(11, "tanh", name="first")(inputs)
    return factorise_kernels(keras.Model(inputs, keras.layers.Dense(3, name="last")(x)), {"first": 2, "last": 1})


def test_a_file_gives_ranks_and_answers_back(factored, tmp_path):
    assert len(factored_ranks(factored)) == 7
    factored.save(tmp_path / "factored.keras")
    loaded = model_file.load_model(tmp_path / "factored.keras")
    assert factored_ranks(loaded) == factored_ranks(factored)
    np.testing.assert_array_equal(loaded(IDS), factored(IDS))
    functional = plain_model()
    functional.save(tmp_path / "plain.keras")
    loaded = model_file.load_model(tmp_path / "plain.keras")
    assert factored_ranks(loaded) == {"first": 2, "last": 1}
    np.testing.assert_array_equal(loaded(normal(5, 7)), functional(normal(5, 7)))


def test_the_config_is_json_and_makes_the_same_layers(factored):
    config = json.loads(json.dumps(factored.get_config()))
    assert config["ranks"] == factored_ranks(factored) == factored.ranks
    again = TextClassifier.from_config(config)
    assert [weight.path for weight in again.weights] == [weight.path for weight in factored.weights]
    again.set_weights(factored.get_weights())
    np.testing.assert_array_equal(again(IDS), factored(IDS))


def learned(model, *callbacks):
    """The losses of some epochs on rows; eager, since tracing such a small model takes longer."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, run_eagerly=True)
    return model.fit(ROWS, KINDS, epochs=20, verbose=0, callbacks=list(callbacks)).history["loss"]


def test_both_factors_learn_and_keep_their_rank():
    model = plain_model()
    before = {weight.path: weight.numpy() for weight in model.trainable_weights}
    losses = learned(model)
    assert losses[-1] < 0.9 * losses[0]
    for name in ("first", "last"):
        layer = model.get_layer(name)
        for part in (layer.left, layer.right):
            assert np.abs(part.kernel.numpy() - before[part.kernel.path]).max() > 1e-2
        assert np.linalg.matrix_rank(ops.convert_to_numpy(layer.kernel), tol=1e-5) == layer.rank
    np.testing.assert_allclose(fuse(model, factored_ranks(model))(ROWS), model(ROWS), atol=1e-5, rtol=0)


def test_it_learns_from_the_model_that_it_came_from():
    rows = normal(64, 7)
    inputs = keras.Input((7,))
    x = keras.layers.Dense(11, "tanh", name="first")(inputs)
    teacher = randomise(keras.Model(inputs, keras.layers.Dense(3, name="last")(x)))
    student = factorise_kernels(teacher, {"first": 2, "last": 2})
    labels = np.argmax(teacher(rows), axis=-1).astype("int32")
    terms = [LossTerm("true_labels", 0.1, true_labels), LossTerm("soft_targets", 0.9, soft_targets(2.0))]
    distiller = Distiller(student, teacher, terms)
    distiller.compile(keras.optimizers.Adam(0.02), run_eagerly=True)

    def distance():
        return float(np.abs(ops.softmax(student(rows)) - ops.softmax(teacher(rows))).mean())

    before = distance()
    distiller.fit(rows, labels, batch_size=16, epochs=15, verbose=0)
    assert distance() < 0.7 * before
    assert factored_ranks(distiller.student) == {"first": 2, "last": 2}


def test_mixed_precision_computes_in_half_and_keeps_float32_factors():
    model = randomise(TextClassifier(num_classes=3, dtype="mixed_bfloat16", **SIZES), scale=0.3)
    factored = factorise_kernels(model, {name: min(one.kernel.shape) for name, one in kernel_spectra(model).items()})
    assert factored.dtype_policy.name == "mixed_bfloat16"
    assert {weight.dtype for weight in factored.weights} == {"float32"}
    np.testing.assert_allclose(factored(IDS), model(IDS), atol=0.1)


def test_tokens_one_by_one_give_what_the_whole_sequence_does():
    model = randomise(CausalLM(tie_embeddings=False, **SIZES), scale=0.4)
    factored = factorise_kernels(model, ranks_of_share(kernel_spectra(model), 0.4))
    assert "logits" in factored_ranks(factored)
    ids = IDS[1:]
    want = factored(ids)
    found = factored.prompt(ids[:, :3], room=5)
    np.testing.assert_allclose(found.logits, want[:, 2], atol=1e-5)
    logits, state = factored.step(ids[:, 3], found.state)
    np.testing.assert_allclose(logits, want[:, 3], atol=1e-5)
    np.testing.assert_allclose(factored.step(ids[:, 4], state)[0], want[:, 4], atol=1e-5)


def test_factors_are_pruned_as_other_kernels():
    model = plain_model()
    learned(model, MagnitudePruning(0.5, begin=0, end=7, every=1, which=["first/*"]))
    first, last = model.get_layer("first"), model.get_layer("last")
    zeros = [np.mean(half.kernel.numpy() == 0) for half in (first.left, first.right, last.left)]
    assert zeros == pytest.approx([0.5, 0.5, 0.0], abs=0.04)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_factors_learn_with_fake_integers_and_are_fused_without(form):
    learning = quantization_aware(plain_model(), form)
    assert factored_ranks(learning) == {"first": 2, "last": 1}
    losses = learned(learning)
    assert losses[-1] < 0.9 * losses[0]
    exact = plain(learning)
    assert 1e-4 < np.abs(exact(ROWS) - learning(ROWS)).max() < 0.3 * np.abs(exact(ROWS)).max()
    whole = fuse(exact, factored_ranks(exact))
    np.testing.assert_allclose(whole(ROWS), exact(ROWS), atol=1e-5, rtol=0)
    assert sorted(dense_ranges(learning)) == (["first/left/kernel", "first/right/kernel"] if form == "int8" else [])


def test_with_fake_integers_nothing_is_factorised_or_fused(factored):
    learning = quantization_aware(factored)
    for call in (lambda: fuse(learning, ["logits"]), lambda: fuse(learning), lambda: kernel_spectra(learning)):
        with pytest.raises(ValueError, match=r"computes with fake integers: factorise or fuse plain\(model\)"):
            call()


@pytest.fixture
def parts(small_model, small_tokenizer):
    """What every export of the small model takes."""
    return {
        "tokenizer": small_tokenizer,
        "labels": ["negative", "neutral", "positive"],
        "max_length": small_model.max_length,
        "examples": ["a fine and funny film", "a dull film", "funny!"],
    }


RANKS = {"encoder_0/feed_forward/outer": 3, "encoder_0/attention/value": 2, "logits": 2}


def products(path):
    """The types of input and kernel of each dense product of a file."""
    model, found = schema.Model.GetRootAs(Path(path).read_bytes(), 0), []
    graph = model.Subgraphs(0)
    for operator in (graph.Operators(place) for place in range(graph.OperatorsLength())):
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.FULLY_CONNECTED:
            found.append(tuple(graph.Tensors(operator.Inputs(place)).Type() for place in (0, 1)))
    return found


def test_it_is_served_and_agrees(small_model, parts, tmp_path):
    factored = factorise_kernels(small_model, RANKS)
    assert export.saved_model(factored, tmp_path / "served", **parts).max_abs_logit_error < 1e-5


def test_each_factor_becomes_a_product_of_integers(small_model, parts, tmp_path):
    factored = factorise_kernels(small_model, RANKS)
    report = export.tflite(factored, tmp_path / "small.tflite", quantize="int8", min_agreement=0.5, **parts)
    assert report.max_abs_logit_error < 0.3
    whole, rows = schema.TensorType.INT8, schema.TensorType.FLOAT32
    # Those of the logits take float32 rows, both: nothing evens their errors out.
    assert sorted(products(report.path)) == sorted([(whole, whole)] * 8 + [(rows, whole)] * 2)


def test_it_is_exported_and_agrees(small_model, parts, tmp_path):
    factored = factorise_kernels(small_model, RANKS)
    report = export.tflite(factored, tmp_path / "small.tflite", **parts, quantize="none")
    assert report.max_abs_logit_error < 1e-5
    assert len(products(report.path)) == 7 + len(RANKS)
