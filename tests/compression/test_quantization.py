"""Training with fake integers: what of a model is rounded, what it learns, and that it stays a model like any other."""

import keras
import numpy as np
import pytest
from keras import ops
from weights import by_name, normal, randomise

from keras_transformer.compression import cut, dense_ranges, plain, quantization_aware
from keras_transformer.compression.quantization import FORMS, trained_form
from keras_transformer.distillation import Distiller, LossTerm, hidden_states, soft_targets, true_labels
from keras_transformer.distillation.taps import with_taps
from keras_transformer.layers import EncoderLayer
from keras_transformer.layers.fake_quantization import fake_quantize_weights
from keras_transformer.models import CausalLM, MaskedLM, Seq2Seq, TextClassifier

VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, LENGTH = 29, 3, 1, 8, 2, 11, 7
IDS = np.array([[2, 17, 28, 5, 0, 0, 0], [2, 23, 0, 0, 0, 0, 0], [3, 7, 11, 13, 19, 2, 5]], "int32")
LABELS = np.array([2, 0, 1])
DENSE = [
    f"encoder_{layer}/{part}/kernel"
    for layer in range(LAYERS)
    for part in (
        *(f"attention/{name}" for name in ("query", "key", "value", "output")),
        *(f"feed_forward/{name}" for name in ("inner", "outer")),
    )
]


def classifier(**options):
    arguments = {"max_length": LENGTH, "dropout": 0.0, "name": "small", **options}
    return randomise(TextClassifier(VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, **arguments), scale=0.3)


@pytest.fixture(scope="module")
def model():
    return classifier()


@pytest.fixture(scope="module")
def seen(model):
    """In int8, its ranges taken from one batch."""
    learning = quantization_aware(model)
    learning(IDS, training=True)
    return learning


def logits(model, ids=IDS):
    return ops.convert_to_numpy(model(ids, training=False))


def values(model):
    return {name: value for name, value in by_name(model).items() if "_range/" not in name}


@pytest.mark.parametrize("form", FORMS)
def test_the_copy_has_the_weights_of_the_model_and_its_class(model, form):
    before = by_name(model)
    learning = quantization_aware(model, form)
    assert (type(learning), learning.name, trained_form(learning)) == (TextClassifier, "small", form)
    assert values(learning).keys() == before.keys()
    for name, value in values(learning).items():
        np.testing.assert_array_equal(value, before[name])
    learning(IDS, training=True)
    for name, value in by_name(model).items():
        np.testing.assert_array_equal(value, before[name])
    assert trained_form(model) is None


def test_four_bits_are_what_a_model_with_rounded_kernels_computes(model):
    """But for its rows of int8: kernels, table and logits rounded by hand come as near as those allow."""
    learning, rounded = quantization_aware(model, "int4"), cut(model)
    for weight in rounded.weights:
        if weight.path in DENSE:
            weight.assign(fake_quantize_weights(weight.value, 4))
        elif weight.path == "logits/kernel":
            weight.assign(fake_quantize_weights(weight.value, 8))
    exact, near, got = (logits(one) for one in (model, rounded, learning))
    assert np.abs(got - near).max() < 0.25 * np.abs(exact - near).max()


def test_int8_is_near_the_model_and_not_the_model(model, seen):
    distance = np.abs(logits(seen) - logits(model)).max()
    assert 1e-4 < distance < 0.1 * logits(model).std()


def test_ranges_are_those_of_each_dense_product_before_the_last(seen):
    ranges = dense_ranges(seen)
    assert sorted(ranges) == sorted(DENSE)
    for name, one in ranges.items():
        np.testing.assert_array_equal(one.kernel, by_name(seen)[name])
        assert one.input.low < one.input.high
        assert one.output.low < one.output.high
    same = [ranges[f"encoder_0/attention/{part}/kernel"].input for part in ("query", "key", "value")]
    assert same[0] == same[1] == same[2]


def test_a_range_that_saw_nothing_is_refused(model):
    with pytest.raises(ValueError, match=r"has seen no batch, so its ranges are unknown\. Train the model, or call it"):
        dense_ranges(quantization_aware(model))


def test_four_bits_have_no_ranges(model):
    assert dense_ranges(quantization_aware(model, "int4")) == {}


def test_it_learns_in_fit_compiled_by_xla_and_its_ranges_follow(model):
    learning = quantization_aware(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learning.compile(keras.optimizers.Adam(0.03), loss, jit_compile=True)
    losses = learning.fit(IDS, LABELS, epochs=17, batch_size=3, verbose=0).history["loss"]
    assert losses[-1] < 0.7 * losses[0]
    before, after = by_name(model), by_name(learning)
    assert all(np.abs(after[name] - before[name]).max() > 1e-4 for name in [*DENSE, "tokens/table", "logits/kernel"])
    first = quantization_aware(model)
    first(IDS, training=True)
    later, earlier = ([one.output for one in dense_ranges(each).values()] for each in (learning, first))
    assert all(now != then for now, then in zip(later, earlier, strict=True))


def test_plain_gives_the_trained_weights_without_the_rounding(seen):
    exact = plain(seen)
    assert type(exact) is TextClassifier
    assert by_name(exact).keys() == values(seen).keys()
    want = classifier()
    want.set_weights(exact.get_weights())
    np.testing.assert_array_equal(logits(exact), logits(want))


def test_a_file_brings_back_ranges_and_rounding(model, tmp_path):
    learning = quantization_aware(model, momentum=0.5, attention_products=True)
    learning(IDS, training=True)
    learning.save(tmp_path / "learning.keras")
    loaded = keras.saving.load_model(tmp_path / "learning.keras")
    assert trained_form(loaded) == "int8"
    assert loaded.dtype_policy == learning.dtype_policy
    np.testing.assert_array_equal(logits(loaded), logits(learning))


def test_it_is_a_student_with_taps(model, seen):
    student = quantization_aware(model, "int4")
    pairs = [("encoder/0/hidden", "encoder/0/hidden")]
    terms = [
        LossTerm("true_labels", 0.5, true_labels),
        LossTerm("soft_targets", 0.5, soft_targets(2.0)),
        LossTerm("hidden", 0.5, hidden_states(pairs)),
    ]
    distiller = Distiller(student, model, terms)
    distiller.compile(keras.optimizers.Adam(0.003), jit_compile=False)
    history = distiller.fit(IDS, LABELS, epochs=8, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    tapped = with_taps(seen, ["encoder/0/hidden"])(IDS)
    np.testing.assert_allclose(tapped.logits, logits(seen), atol=1e-6)


def test_a_model_in_mixed_precision_becomes_one_in_float32():
    mixed = classifier(dtype="mixed_bfloat16")
    learning = quantization_aware(mixed)
    assert {layer.compute_dtype for layer in learning._flatten_layers()} == {"float32"}
    np.testing.assert_array_equal(by_name(learning)["tokens/table"], by_name(mixed)["tokens/table"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: MaskedLM(VOCAB, 1, WIDTH, HEADS, INNER, max_length=LENGTH, embedding_dim=5),
        lambda: CausalLM(VOCAB, 1, WIDTH, HEADS, INNER, max_length=LENGTH),
    ],
    ids=["MaskedLM", "CausalLM"],
)
def test_models_of_tokens_learn_so_too(make):
    model = randomise(make(), scale=0.3)
    learning = quantization_aware(model)
    learning(IDS, training=True)
    assert len(dense_ranges(learning)) >= 6
    off = np.abs(logits(learning) - logits(model)).max()
    assert 1e-4 < off < 0.2 * logits(model).std()


def test_a_translator_learns_so_too():
    model = randomise(Seq2Seq(VOCAB, 1, WIDTH, HEADS, INNER), scale=0.3)
    learning = quantization_aware(model)
    learning({"source_ids": IDS, "target_ids": IDS}, training=True)
    assert len(dense_ranges(learning)) == 16


def functional():
    """Features (B, 5, 8) -> (B, 3), with a layer of ours, a nested model, and two plain dense layers."""
    inner = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(7, "relu", name="middle")], name="inner")
    inputs = keras.Input((5, WIDTH))
    x = EncoderLayer(WIDTH, HEADS, INNER, dropout=0.0, name="encoder")(inputs).hidden
    x = keras.layers.LayerNormalization(name="norm")(ops.max(x, axis=1))
    x = inner(x)
    return randomise(keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name="mixture"), scale=0.3)


def test_a_functional_model_has_its_dense_layers_exchanged():
    model, x = functional(), normal(4, 5, WIDTH)
    learning = quantization_aware(model)
    learning(x, training=True)
    names = [name.removesuffix("/kernel") for name in dense_ranges(learning)]
    assert len(names) == 7
    assert [name for name in names if name.startswith("encoder/")] != names
    assert "logits" not in names
    distance = np.abs(logits(learning, x) - logits(model, x)).max()
    assert 1e-4 < distance < 0.2 * logits(model, x).std()
    np.testing.assert_allclose(logits(plain(learning), x), logits(model, x), atol=1e-6)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "form", "message"),
    [
        (classifier, "int16", r"quantize='int16' must be one of \['int8', 'int4'\]"),
        (
            lambda: quantization_aware(classifier()),
            "int4",
            r"integers already, for 'int8'\. Train it as it is, or",
        ),
        (
            lambda: Subclassed(name="own"),
            "int8",
            r"'own' \(Subclassed\) has no graph .* Build it as a Functional",
        ),
        (
            lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)], name="single"),
            "int8",
            r"'single' has no dense product before the one that gives its outputs.* Export it as it is",
        ),
    ],
    ids=["form", "twice", "subclassed", "single"],
)
def test_what_can_not_be_trained_so_is_refused(make, form, message):
    with pytest.raises(ValueError, match=message):
        quantization_aware(make(), form)


def test_a_model_without_fake_integers_is_plain_already(model):
    with pytest.raises(ValueError, match=r"'small' has no fake integers\. Use it as it is"):
        plain(model)
