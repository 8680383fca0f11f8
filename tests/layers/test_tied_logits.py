import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import TiedLogits, TokenEmbedding

VOCAB, WIDTH = 23, 7
IDS = np.array([[3, 0, 22, 1, 17], [5, 3, 3, 0, 0]], dtype="int32")
FORMS = [{}, {"embedding_dim": 3}]


def tied(form, dtype="float32"):
    tokens = TokenEmbedding(VOCAB, WIDTH, **form, name="tokens", dtype=dtype)
    tokens(IDS)
    return TiedLogits(randomise(tokens), name="logits", dtype="float32")


def oracle(hidden, layer):
    weights = by_name(layer.shared.embedding)
    out = np.empty((*hidden.shape[:2], VOCAB))
    for b, t, token in np.ndindex(*out.shape):
        row = weights["table"][token]
        out[b, t, token] = hidden[b, t] @ (row @ weights["factor/kernel"] if "factor/kernel" in weights else row)
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "length"), [(2, 5), (1, 1), (3, 1), (1, 19)])
def test_a_logit_is_the_product_with_the_row_of_its_token(form, batch, length):
    layer, hidden = tied(form), normal(batch, length, WIDTH)
    want = oracle(hidden, layer)
    for run in (layer, tf.function(layer), tf.function(layer, jit_compile=True)):
        np.testing.assert_allclose(run(hidden), want, atol=1e-5)
    run = tf.function(layer, input_signature=[tf.TensorSpec((None, None, WIDTH))])
    np.testing.assert_allclose(run(hidden), want, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_float32_and_the_table_is_not_cast(form):
    layer = tied(form, "mixed_bfloat16")
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 5, WIDTH), tf.bfloat16)).graph
    cast = [node.inputs[0].shape.as_list() for node in graph.get_operations() if node.type == "Cast"]
    assert cast == [[2, 5, WIDTH]] or cast == [[10, WIDTH]]
    assert layer(tf.cast(normal(2, 5, WIDTH), "bfloat16")).dtype == tf.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_model_holds_and_saves_the_table_once_and_stays_tied_when_loaded(form, tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    tokens = TokenEmbedding(VOCAB, WIDTH, **form)
    model = randomise(keras.Model(inputs, TiedLogits(tokens)(tokens(inputs))))
    assert len(model.weights) == len({id(weight) for weight in model.weights}) == 1 + len(form)
    assert model.count_params() == (VOCAB * 3 + 3 * WIDTH if form else VOCAB * WIDTH)
    model.save(tmp_path / "tied.keras")
    loaded = keras.saving.load_model(tmp_path / "tied.keras")
    np.testing.assert_array_equal(loaded(IDS), model(IDS))
    assert len(loaded.weights) == len(model.weights)
    loaded.weights[0].assign(loaded.weights[0] * 2)  # both ends of the model change
    np.testing.assert_allclose(loaded(IDS), 4 * np.asarray(model(IDS)), rtol=1e-5)
    model.save_weights(tmp_path / "tied.weights.h5")
    loaded.load_weights(tmp_path / "tied.weights.h5")
    np.testing.assert_array_equal(loaded(IDS), model(IDS))


def test_a_table_that_was_never_looked_up_in_is_made():
    layer = TiedLogits(TokenEmbedding(VOCAB, WIDTH))
    assert layer(normal(2, 5, WIDTH)).shape == (2, 5, VOCAB)
    assert layer.shared.embedding(IDS).shape == (2, 5, WIDTH)


def test_both_uses_of_the_table_learn():
    layer = tied({})
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(layer.shared.embedding(np.array([[3]], "int32")))[0, 0, 5])
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(loss, layer.shared.embedding.table)))
    table = layer.shared.embedding.table.numpy()
    np.testing.assert_allclose(gradient[3], table[5], atol=1e-6)
    np.testing.assert_allclose(gradient[5], table[3], atol=1e-6)
    assert np.all(gradient[[0, 4, 6]] == 0)


def test_the_config_goes_through_json_and_back_unchanged():
    layer = TiedLogits(TokenEmbedding(VOCAB, WIDTH, embedding_dim=3), name="chosen", trainable=False)
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    again = keras.saving.deserialize_keras_object(saved)
    assert type(again) is TiedLogits
    assert again.shared.embedding.embedding_dim == 3
    assert json.loads(json.dumps(keras.saving.serialize_keras_object(again))) == saved


def test_a_cut_table_is_refused():
    with pytest.raises(ValueError, match=r"kept_pieces=5 of vocab_size=23 leaves tokens without .* kept_pieces=None"):
        TiedLogits(TokenEmbedding(VOCAB, WIDTH, kept_pieces=5))
