import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import TokenEmbedding

VOCAB, WIDTH = 23, 7
IDS = np.array([[3, 0, 22, 1, 17], [5, 3, 3, 0, 0]], dtype="int32")
FORMS = [{}, {"embedding_dim": 3}]


def tokens(form, **options):
    layer = TokenEmbedding(VOCAB, WIDTH, **form, **options)
    layer(IDS)
    return randomise(layer)


def oracle(hidden, layer):
    weights = by_name(layer)
    out = np.empty((*hidden.shape[:2], VOCAB))
    for b, t, token in np.ndindex(*out.shape):
        row = weights["table"][token]
        out[b, t, token] = hidden[b, t] @ (row @ weights["factor/kernel"] if "factor/kernel" in weights else row)
    return out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "length"), [(2, 5), (1, 1), (3, 1), (1, 19)])
def test_a_logit_is_the_product_with_the_row_of_its_token(form, batch, length):
    layer, hidden = tokens(form, scale=2.5), normal(batch, length, WIDTH)
    want = oracle(hidden, layer)

    def logits(hidden):
        return layer(hidden, as_logits=True)

    for run in (logits, tf.function(logits), tf.function(logits, jit_compile=True)):
        np.testing.assert_allclose(run(hidden), want, atol=1e-5)
    run = tf.function(logits, input_signature=[tf.TensorSpec((None, None, WIDTH))])
    np.testing.assert_allclose(run(hidden), want, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_float32_and_the_table_is_not_cast(form):
    layer, hidden = tokens(form, dtype="mixed_bfloat16"), keras.Input((5, WIDTH), dtype="bfloat16")
    assert layer(hidden, as_logits=True).dtype == "float32"
    function = tf.function(lambda hidden: layer(hidden, as_logits=True))
    graph = function.get_concrete_function(tf.TensorSpec((2, 5, WIDTH), tf.bfloat16)).graph
    cast = [node.inputs[0].shape.as_list() for node in graph.get_operations() if node.type == "Cast"]
    assert [VOCAB, layer.embedding_dim or WIDTH] not in cast
    assert function(tf.cast(normal(2, 5, WIDTH), "bfloat16")).dtype == tf.float32


@pytest.mark.parametrize("form", FORMS)
def test_a_model_holds_the_table_once_and_files_and_clones_keep_it_tied(form, tmp_path):
    inputs = keras.Input((None,), dtype="int32")
    layer = TokenEmbedding(VOCAB, WIDTH, **form)
    model = randomise(keras.Model(inputs, layer(layer(inputs), as_logits=True)))
    assert len(model.weights) == len({id(weight) for weight in model.weights}) == 1 + len(form)
    assert model.count_params() == (VOCAB * 3 + 3 * WIDTH if form else VOCAB * WIDTH)
    model.save(tmp_path / "tied.keras")
    model.save_weights(tmp_path / "tied.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "tied.weights.h5")
    for other in (keras.saving.load_model(tmp_path / "tied.keras"), clone):
        np.testing.assert_array_equal(other(IDS), model(IDS))
        assert len(other.weights) == len(model.weights)
        other.weights[0].assign(other.weights[0] * 2)  # both ends of the model change
        np.testing.assert_allclose(other(IDS), 4 * np.asarray(model(IDS)), rtol=1e-5)


def test_a_table_that_was_never_looked_up_in_is_made():
    layer = TokenEmbedding(VOCAB, WIDTH, embedding_dim=3)
    assert layer(normal(2, 5, WIDTH), as_logits=True).shape == (2, 5, VOCAB)
    assert layer(IDS).shape == (2, 5, WIDTH)


def test_both_uses_of_the_table_learn():
    layer = tokens({})
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(layer(np.array([[3]], "int32")), as_logits=True)[0, 0, 5])
    gradient = np.asarray(tf.convert_to_tensor(tape.gradient(loss, layer.table)))
    table = layer.table.numpy()
    np.testing.assert_allclose(gradient[3], table[5], atol=1e-6)
    np.testing.assert_allclose(gradient[5], table[3], atol=1e-6)
    assert np.all(gradient[[0, 4, 6]] == 0)


def test_logits_through_a_cut_table_are_refused():
    layer = TokenEmbedding(VOCAB, WIDTH, kept_pieces=5)
    with pytest.raises(ValueError, match=r"kept_pieces=5 of vocab_size=23 leaves tokens without .* kept_pieces=None"):
        layer(normal(2, 5, WIDTH), as_logits=True)
