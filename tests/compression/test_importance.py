"""What matters in an encoder: against finite differences and loops over the float64 oracle."""

import numpy as np
import oracles
import pytest
from weights import by_name, randomise

from keras_transformer.compression import (
    channel_importance,
    head_importance,
    head_norms,
    layer_activations,
    most_important,
    unit_slopes,
)
from keras_transformer.models import TextClassifier

VOCAB, CLASSES, LAYERS, WIDTH, HEADS, HEAD, INNER = 19, 3, 2, 6, 3, 5, 7
TEXTS, LABELS = [[2, 5, 7, 11], [3, 13], [2, 17, 1]], [2, 0, 1]
FORMS = [pytest.param(False, id="post"), pytest.param(True, id="pre")]
STEP = 1e-4


@pytest.fixture(scope="module", params=FORMS)
def model(request):
    arguments = {"head_dim": HEAD, "max_length": 11, "norm_first": request.param}
    return randomise(TextClassifier(VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, **arguments), scale=0.4)


def oracle_loss(model, weights, text, label):
    logits, _ = oracles.text_classifier(np.array([text]), weights, LAYERS, HEADS, norm_first=model.norm_first)
    wanted = int(np.argmax(logits[0])) if label is None else label
    return -np.log(oracles.softmax(logits[0])[wanted])


def slope_of_gate(model, path, rows, text, label):
    """Central difference of the loss for a factor 1 +- STEP on what goes into some rows of a product."""
    losses = []
    for factor in (1 + STEP, 1 - STEP):
        weights = {name: value.copy() for name, value in by_name(model).items()}
        weights[path][rows] *= factor
        losses.append(oracle_loss(model, weights, text, label))
    return (losses[0] - losses[1]) / (2 * STEP)


@pytest.mark.parametrize("labels", [LABELS, None])
def test_head_importance_is_the_mean_size_of_the_slope_of_a_gate(model, labels):
    wanted = labels or [None] * len(TEXTS)
    want = np.empty((LAYERS, HEADS))
    for layer, head in np.ndindex(LAYERS, HEADS):
        rows = slice(head * HEAD, (head + 1) * HEAD)
        path = f"encoder_{layer}/attention/output/kernel"
        want[layer, head] = np.mean(
            [abs(slope_of_gate(model, path, rows, text, label)) for text, label in zip(TEXTS, wanted, strict=True)]
        )
    np.testing.assert_allclose(head_importance(model, TEXTS, labels), want, rtol=2e-3, atol=1e-5)


def test_unit_slopes_are_those_of_a_gate(model):
    got = unit_slopes(model, TEXTS, LABELS)
    assert got.shape == (LAYERS, INNER)
    for unit in (0, 3, 6):
        path = "encoder_1/feed_forward/outer/kernel"
        slopes = [slope_of_gate(model, path, unit, text, label) for text, label in zip(TEXTS, LABELS, strict=True)]
        np.testing.assert_allclose(got[1, unit], np.mean(np.abs(slopes)), rtol=2e-3, atol=1e-5)


def test_frozen_layers_are_ranked_too_and_the_order_of_texts_does_not_matter(model):
    before = head_importance(model, TEXTS, LABELS)
    model.trainable = False
    np.testing.assert_array_equal(head_importance(model, TEXTS, LABELS), before)
    model.trainable = True
    np.testing.assert_allclose(head_importance(model, TEXTS[::-1], LABELS[::-1]), before, rtol=1e-12)


def test_a_head_norm_is_that_of_the_map_through_the_head(model):
    weights, got = by_name(model), head_norms(model)
    for layer, head in np.ndindex(LAYERS, HEADS):
        through = np.zeros((WIDTH, WIDTH))
        for column in range(head * HEAD, (head + 1) * HEAD):
            through += np.outer(
                weights[f"encoder_{layer}/attention/value/kernel"][:, column],
                weights[f"encoder_{layer}/attention/output/kernel"][column],
            )
        np.testing.assert_allclose(got[layer, head], np.sqrt(np.sum(through**2)), rtol=1e-9)


def numpy_layer(model, layer, x):
    """One text (1, T, D) through one layer -> what both norms and the inner product give, and the output."""
    parts = oracles.below(by_name(model), f"encoder_{layer}")
    attention, feed_forward = oracles.below(parts, "attention"), oracles.below(parts, "feed_forward")

    def norm(values, name):
        return oracles.layer_norm(values, parts[f"{name}/gamma"], parts[f"{name}/beta"])

    def inner_of(fed):
        return oracles.gelu(oracles.dense(fed, feed_forward["inner/kernel"], feed_forward["inner/bias"]))

    if model.norm_first:
        normed = norm(x, "attention_norm")
        x = x + oracles.multi_head_attention(normed, normed, attention, HEADS)[0]
        fed = norm(x, "feed_forward_norm")
        return normed, fed, inner_of(fed), x + oracles.feed_forward(fed, feed_forward)
    normed = norm(x + oracles.multi_head_attention(x, x, attention, HEADS)[0], "attention_norm")
    hidden = norm(normed + oracles.feed_forward(normed, feed_forward), "feed_forward_norm")
    return normed, hidden, inner_of(normed), hidden


def numpy_activations(model, text):
    """Of one text: the embeddings, per layer what `numpy_layer` gives, and the final norm of a pre-norm model."""
    _, taps = oracles.text_classifier(np.array([text]), by_name(model), LAYERS, HEADS, norm_first=model.norm_first)
    x, layers = taps["embeddings"], []
    for layer in range(LAYERS):
        layers.append(numpy_layer(model, layer, x))
        x = layers[-1][3]
    weights = by_name(model)
    last = [oracles.layer_norm(x, weights["final_norm/gamma"], weights["final_norm/beta"])] if model.norm_first else []
    return taps["embeddings"], layers, last


def test_channel_importance_sums_mean_sizes_over_all_norms(model):
    tokens = sum(len(text) for text in TEXTS)
    want = np.zeros(WIDTH)
    for text in TEXTS:
        embedded, layers, last = numpy_activations(model, text)
        for output in [embedded, *last, *(part for layer in layers for part in layer[:2])]:
            want += np.abs(output[0]).sum(axis=0) / tokens
    np.testing.assert_allclose(channel_importance(model, TEXTS), want, rtol=1e-4)


@pytest.mark.parametrize("layer", range(LAYERS))
def test_the_activations_of_a_layer_are_those_of_the_model_at_real_tokens(model, layer):
    got = layer_activations(model, layer, TEXTS)
    want = [numpy_activations(model, text)[1][layer][:3] for text in TEXTS]
    for place, ours in enumerate(got):
        theirs = np.concatenate([of_text[place][0] for of_text in want])
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_most_important_come_in_order_and_of_equal_ones_the_first():
    np.testing.assert_array_equal(most_important(np.array([0.5, 3.0, 1.0, 3.0, 1.0]), 3), [1, 2, 3])


@pytest.mark.parametrize(
    ("importance", "count", "message"),
    [
        ([1.0, 2.0], 3, r"count=3 of 2 numbers, 0 of them NaN.*Use count=2 or less"),
        ([1.0, np.nan], 1, r"1 of them NaN.*whose outputs are finite"),
        ([1.0], 0, "count=0 must be a whole number of at least 1"),
    ],
)
def test_more_than_there_is_or_no_numbers_are_refused(importance, count, message):
    with pytest.raises(ValueError, match=message):
        most_important(np.array(importance), count)


@pytest.mark.parametrize(("texts", "labels"), [([], None), (TEXTS, [1])])
def test_texts_and_labels_must_fit(model, texts, labels):
    with pytest.raises(ValueError, match=rf"{len(texts)} texts and .*one label a text or labels=None"):
        head_importance(model, texts, labels)
