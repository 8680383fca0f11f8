"""What goes into products, and what the loss feels of their rows: against loops in float64."""

import keras
import numpy as np
import pytest
from keras import ops
from weights import normal, randomise

from keras_transformer.compression import (
    factorise_kernels,
    input_moments,
    kernel_spectra,
    layer_activations,
    row_fisher,
)
from keras_transformer.models import CausalLM, TextClassifier

SIZES = {"vocab_size": 29, "num_layers": 2, "model_dim": 14, "num_heads": 7, "inner_dim": 11}
TEXTS = [[2, 17, 28, 5], [3, 7]]


def network():
    """Features (B, 5) -> logits (B, 3), through a tanh of width 7."""
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(7, "tanh", name="hidden")(inputs)
    hidden = keras.layers.Dropout(0.5, name="dropout")(hidden)
    return randomise(keras.Model(inputs, keras.layers.Dense(3, name="logits")(hidden)))


def numpy_parts(model, x):
    """Hidden vector and probabilities of one row, by loops."""
    first, second = model.get_layer("hidden"), model.get_layer("logits")
    kernels = [layer.kernel.numpy().astype("float64") for layer in (first, second)]
    hidden = np.array([np.tanh(x @ kernels[0][:, unit] + float(first.bias[unit])) for unit in range(7)])
    logits = np.array([hidden @ kernels[1][:, unit] + float(second.bias[unit]) for unit in range(3)])
    return hidden, np.exp(logits) / np.exp(logits).sum(), kernels[1]


def test_moments_are_sums_over_all_rows_of_all_batches():
    model, rows = network(), normal(11, 5)
    found = input_moments(model, [rows[:7], rows[7:]])
    want = {"hidden": np.zeros((5, 5)), "logits": np.zeros((7, 7))}
    for row in rows.astype("float64"):
        hidden = numpy_parts(model, row)[0]
        want["hidden"] += np.outer(row, row)
        want["logits"] += np.outer(hidden, hidden)
    assert found.keys() == want.keys()
    for name, moments in want.items():
        np.testing.assert_allclose(found[name], moments, rtol=1e-5, atol=1e-5)


def test_moments_are_those_inside_encoder_layers():
    model = randomise(TextClassifier(num_classes=3, max_length=13, **SIZES), scale=0.3)
    names = ["encoder_1/attention/key", "encoder_1/feed_forward/outer", "logits"]
    found = input_moments(model, [np.array([text], "int32") for text in TEXTS], names)
    assert set(found) == set(names)
    taps = keras.Model(model.input, {name: model.tap_tensors[name] for name in ("encoder/0/hidden", "pooled")})
    asked, pooled = [], []
    for text in TEXTS:
        tapped = taps(np.array([text], "int32"))
        asked += list(np.asarray(tapped["encoder/0/hidden"], "float64")[0])
        pooled += list(np.asarray(tapped["pooled"], "float64"))
    inner = layer_activations(model, 1, TEXTS).inner.astype("float64")
    for name, rows in zip(names, (asked, inner, pooled), strict=True):
        np.testing.assert_allclose(found[name], sum(np.outer(row, row) for row in rows), rtol=1e-4, atol=1e-4)


def test_a_product_that_runs_twice_sees_the_rows_of_both_runs():
    inputs = keras.Input((5,))
    twice = keras.layers.Dense(5, name="twice")
    model = randomise(keras.Model(inputs, twice(twice(inputs))))
    rows = normal(7, 5)
    once = rows @ twice.kernel.numpy() + twice.bias.numpy()
    np.testing.assert_allclose(
        input_moments(model, [rows])["twice"], rows.T @ rows + once.T @ once, rtol=1e-5, atol=1e-5
    )


def test_measuring_changes_nothing_in_the_model_and_sees_past_factors():
    model, rows = network(), normal(11, 5)
    want, before = model(rows), [weight.numpy().copy() for weight in model.weights]
    input_moments(model, [rows])
    row_fisher(model, [(rows[:1], np.array([2]))])
    assert "call" not in vars(model.get_layer("hidden"))
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    np.testing.assert_array_equal(model(rows), want)
    factored = factorise_kernels(model, {"hidden": 5})
    assert list(input_moments(factored, [rows])) == ["logits"]
    np.testing.assert_allclose(
        input_moments(factored, [rows])["logits"], input_moments(model, [rows], ["logits"])["logits"], atol=1e-4
    )


def test_factors_weighted_by_activations_keep_the_outputs_better_than_plain_ones():
    model, rows = network(), normal(53, 5) * np.array([9.0, 3.0, 1.0, 0.3, 0.1], "float32")
    ranks = {"hidden": 2, "logits": 2}
    spectra = kernel_spectra(model, metrics=input_moments(model, [rows]))
    weighted, plain = factorise_kernels(model, ranks, spectra), factorise_kernels(model, ranks)
    want = ops.convert_to_numpy(model(rows))
    assert np.square(weighted(rows) - want).sum() < 0.9 * np.square(plain(rows) - want).sum()
    # The error of the spectrum is that of the product's outputs, before bias and activation.
    whole, low = (rows @ ops.convert_to_numpy(of.get_layer("hidden").kernel) for of in (model, weighted))
    error = np.sqrt(np.square(low - whole).sum() / np.square(whole).sum())
    assert spectra["hidden"].errors()[2] == pytest.approx(error, rel=1e-3)


def test_the_fisher_information_of_a_row_is_its_mean_squared_slope():
    model, rows, labels = network(), normal(4, 5), [2, 0, 1, 1]
    want = {"hidden": np.zeros(5), "logits": np.zeros(7)}
    for row, label in zip(rows.astype("float64"), labels, strict=True):
        hidden, probabilities, kernel = numpy_parts(model, row)
        slope = probabilities - np.eye(3)[label]
        want["logits"] += [sum((hidden[place] * slope) ** 2) / 4 for place in range(7)]
        back = (kernel @ slope) * (1 - hidden**2)
        want["hidden"] += [sum((row[place] * back) ** 2) / 4 for place in range(5)]
    model.get_layer("hidden").trainable = False  # frozen kernels are weighed too
    found = row_fisher(model, [(row[None], np.array([label])) for row, label in zip(rows, labels, strict=True)])
    for name, values in want.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=1e-7)


def test_a_loss_of_one_s_own_is_taken():
    model, rows = network(), normal(2, 5)
    found = row_fisher(model, [(rows[:1], 0.0)], ["logits"], loss=lambda labels, outputs: ops.sum(outputs) - labels)
    hidden = numpy_parts(model, rows[0].astype("float64"))[0]
    np.testing.assert_allclose(found["logits"], 3 * hidden**2, rtol=1e-4)


def test_tokens_without_a_label_count_nothing():
    model = randomise(CausalLM(max_length=13, **{**SIZES, "num_layers": 1}), scale=0.3)
    ids = np.array([[2, 17, 28]], "int32")
    name = ["decoder_0/feed_forward/inner"]
    some = row_fisher(model, [(ids, np.array([[17, -1, -1]]))], name)[name[0]]
    first = row_fisher(model, [(ids[:, :1], np.array([[17]]))], name)[name[0]]
    np.testing.assert_allclose(some, first, rtol=1e-4)
    assert (some > 0).all()


def test_a_batch_of_several_has_no_fisher_information():
    model, rows = network(), normal(3, 5)
    with pytest.raises(ValueError, match=r"examples has a batch of 3 rows, .* is another number\. Give batches of one"):
        row_fisher(model, [(rows[:1], np.array([2])), (rows, np.array([2, 0, 1]))])


def test_nothing_to_measure_is_refused():
    model = network()
    with pytest.raises(ValueError, match=r"batches has nothing in it, so nothing was measured"):
        input_moments(model, iter([]))
    with pytest.raises(ValueError, match=r"examples has nothing in it"):
        row_fisher(model, [])
    with pytest.raises(
        ValueError, match=r"names has 'other', which fits none of the dense products \['hidden', 'logits'\]"
    ):
        row_fisher(model, [], ["other"])
