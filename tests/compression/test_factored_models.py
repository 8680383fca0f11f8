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
    plain = plain_model()
    plain.save(tmp_path / "plain.keras")
    loaded = model_file.load_model(tmp_path / "plain.keras")
    assert factored_ranks(loaded) == {"first": 2, "last": 1}
    np.testing.assert_array_equal(loaded(normal(5, 7)), plain(normal(5, 7)))


def test_the_config_is_json_and_makes_the_same_layers(factored):
    config = json.loads(json.dumps(factored.get_config()))
    assert config["ranks"] == factored_ranks(factored) == factored.ranks
    again = TextClassifier.from_config(config)
    assert [weight.path for weight in again.weights] == [weight.path for weight in factored.weights]
    again.set_weights(factored.get_weights())
    np.testing.assert_array_equal(again(IDS), factored(IDS))


def test_both_factors_learn_and_keep_their_rank(factored):
    before = {weight.path: weight.numpy() for weight in factored.trainable_weights}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    factored.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    losses = factored.fit(IDS, np.array([1, 2]), epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    inner = factored.get_layer("encoder_0").feed_forward.inner
    for part in (inner.left, inner.right):
        assert np.abs(part.kernel.numpy() - before[part.kernel.path]).max() > 1e-3
    assert np.linalg.matrix_rank(ops.convert_to_numpy(inner.kernel), tol=1e-5) == inner.rank
    whole = fuse(factored, factored_ranks(factored))
    np.testing.assert_allclose(whole(IDS), factored(IDS), atol=1e-5, rtol=0)


def test_it_learns_from_the_model_that_it_came_from():
    rows = normal(64, 7)
    inputs = keras.Input((7,))
    x = keras.layers.Dense(11, "tanh", name="first")(inputs)
    teacher = randomise(keras.Model(inputs, keras.layers.Dense(3, name="last")(x)))
    student = factorise_kernels(teacher, {"first": 2, "last": 2})
    labels = np.argmax(teacher(rows), axis=-1).astype("int32")
    terms = [LossTerm("true_labels", 0.1, true_labels), LossTerm("soft_targets", 0.9, soft_targets(2.0))]
    distiller = Distiller(student, teacher, terms)
    distiller.compile(keras.optimizers.Adam(0.02), jit_compile=False)

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


def test_its_factors_are_pruned_as_other_kernels(factored):
    factored.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    pruning = MagnitudePruning(0.5, begin=0, end=2, every=1, which=["encoder_0/feed_forward/*"])
    factored.fit(IDS, np.array([1, 2]), epochs=3, verbose=0, callbacks=[pruning])
    inner = factored.get_layer("encoder_0").feed_forward.inner
    assert [np.mean(half.kernel.numpy() == 0) for half in (inner.left, inner.right)] == pytest.approx(
        [0.5] * 2, abs=0.1
    )


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_it_learns_with_fake_integers_and_is_as_it_was_without(factored, form):
    learning = quantization_aware(factored, form)
    assert factored_ranks(learning) == factored_ranks(factored)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learning.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    losses = learning.fit(IDS, np.array([1, 2]), epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.5 * losses[0]
    exact = plain(learning)
    assert 1e-4 < np.abs(exact(IDS) - learning(IDS)).max() < 0.5 * np.abs(exact(IDS)).max()
    whole = fuse(exact, factored_ranks(exact))
    np.testing.assert_allclose(whole(IDS), exact(IDS), atol=1e-5, rtol=0)
    halves = [f"encoder_0/feed_forward/inner/{half}/kernel" for half in ("left", "right")]
    assert [half in dense_ranges(learning) for half in halves] == [form == "int8"] * 2


def test_with_fake_integers_nothing_is_factorised_or_fused(factored):
    learning = quantization_aware(factored)
    for call in (lambda: fuse(learning, ["logits"]), lambda: kernel_spectra(quantization_aware(plain(learning)))):
        with pytest.raises(
            ValueError, match=r"computes with fake integers: factorise or fuse plain\(model\), and make"
        ):
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


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_in_integers_each_factor_is_a_product_of_integers(small_model, parts, tmp_path, form):
    factored = factorise_kernels(small_model, RANKS)
    report = export.tflite(factored, tmp_path / f"{form}.tflite", quantize=form, min_agreement=0.5, **parts)
    assert report.max_abs_logit_error < 0.3
    types = schema.TensorType
    inputs, kernels = {"int8": (types.INT8, types.INT8), "int4": (types.FLOAT32, types.INT4)}[form]
    logits = (types.FLOAT32, types.INT8)  # both factors: nothing evens their errors out
    assert sorted(products(report.path)) == sorted([(inputs, kernels)] * 8 + [logits] * 2)


def test_it_is_exported_and_agrees(small_model, parts, tmp_path):
    factored = factorise_kernels(small_model, RANKS)
    reports = [
        export.tflite(model, tmp_path / f"{name}.tflite", **parts, quantize="none")
        for name, model in (("whole", small_model), ("factored", factored))
    ]
    assert reports[1].max_abs_logit_error < 1e-5
    assert reports[1].operators == reports[0].operators
    saved = small_model.count_params() - factored.count_params()
    assert saved > 0
    assert [len(products(report.path)) for report in reports] == [7, 10]
