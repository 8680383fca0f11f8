import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from weights import by_name, normal, randomise

from keras_transformer.layers import SegmentEmbedding, TokenEmbedding

VOCAB, WIDTH = 23, 7
IDS = np.array([[3, 0, 22, 1, 17], [5, 3, 3, 0, 0]], dtype="int32")
FORMS = [
    pytest.param({}, {"table": (23, 7)}, id="plain"),
    pytest.param({"embedding_dim": 3}, {"table": (23, 3), "factor/kernel": (3, 7)}, id="factorised"),
    pytest.param({"kept_pieces": 5}, {"table": (5, 7), "piece_row": (23,)}, id="cut"),
    pytest.param(
        {"embedding_dim": 3, "kept_pieces": 5},
        {"table": (5, 3), "piece_row": (23,), "factor/kernel": (3, 7)},
        id="both",
    ),
]


def token_embedding(form, **options):
    layer = TokenEmbedding(VOCAB, WIDTH, **form, **options)
    layer.build((None, None))
    randomise(layer)
    if "kept_pieces" in form:
        layer.piece_row.assign(np.random.default_rng(4).integers(0, form["kept_pieces"], VOCAB))
    return layer


@pytest.mark.parametrize(("form", "shapes"), FORMS)
def test_each_form_of_the_table_matches_the_loop_oracle(form, shapes):
    layer = token_embedding(form)
    assert {name: value.shape for name, value in by_name(layer).items()} == shapes
    np.testing.assert_allclose(layer(IDS), oracles.token_embedding(IDS, by_name(layer)), atol=1e-6)


@pytest.mark.parametrize("form", [{}, {"embedding_dim": 3}])
def test_a_scale_multiplies_each_vector(form):
    layer = token_embedding({**form, "scale": 2.5})
    np.testing.assert_allclose(layer(IDS), 2.5 * oracles.token_embedding(IDS, by_name(layer)), rtol=1e-5)


def test_eager_graph_and_xla_agree():
    layer = token_embedding({"embedding_dim": 3, "kept_pieces": 5})
    want = np.asarray(layer(IDS))
    for jit_compile in (False, True):
        np.testing.assert_allclose(tf.function(layer, jit_compile=jit_compile)(IDS), want, atol=1e-6)


def test_the_map_of_a_cut_table_is_kept_but_not_learned():
    layer = token_embedding({"kept_pieces": 5})
    assert [weight.path.split("/")[-1] for weight in layer.trainable_weights] == ["table"]
    assert keras.backend.standardize_dtype(layer.piece_row.dtype) == "int32"


def test_ids_that_share_a_row_learn_together():
    layer = token_embedding({"kept_pieces": 5})
    layer.piece_row.assign(np.arange(VOCAB) % 5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[1, 6, 11, 2]])))
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.table))
    np.testing.assert_array_equal(gradient[:, 0], [0, 3, 1, 0, 0])


def test_a_fresh_map_gives_each_row_to_some_ids_and_the_lowest_ids_their_own():
    layer = TokenEmbedding(VOCAB, WIDTH, kept_pieces=5)
    layer.build((None, None))
    np.testing.assert_array_equal(layer.piece_row, [*range(5), *range(5), *range(5), *range(5), 0, 1, 2])
    np.testing.assert_array_equal(layer(np.array([[4, 9, 0]]))[0], layer.table.numpy()[[4, 4, 0]])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_rows_are_cast_and_the_table_stays_float32(policy):
    layer = token_embedding({"embedding_dim": 3}, dtype=policy)
    assert keras.backend.standardize_dtype(layer(IDS).dtype) == policy.removeprefix("mixed_")
    assert {keras.backend.standardize_dtype(weight.dtype) for weight in layer.weights} == {"float32"}


def test_the_whole_table_is_not_cast_to_look_up_a_few_rows():
    layer = token_embedding({}, dtype="mixed_bfloat16")
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec((2, 5), tf.int32)).graph
    cast = [node.inputs[0].shape.as_list() for node in graph.get_operations() if node.type == "Cast"]
    assert [VOCAB, WIDTH] not in cast
    assert [2, 5, WIDTH] in cast


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0, "model_dim": 7}, "vocab_size=0 must be a whole number of at least 1"),
        ({"vocab_size": 23, "model_dim": 0}, "model_dim=0 must be a whole number"),
        ({"vocab_size": 23, "model_dim": 7, "embedding_dim": 0}, "embedding_dim=0 must be a whole number"),
        ({"vocab_size": 23, "model_dim": 7, "scale": 0.0}, "scale=0.0 must be finite and above 0"),
        ({"vocab_size": 23, "model_dim": 7, "kept_pieces": 0}, "kept_pieces=0 must be a whole number"),
        (
            {"vocab_size": 23, "model_dim": 7, "kept_pieces": 29},
            r"kept_pieces=29 is more than vocab_size=23: .* Use kept_pieces=None",
        ),
    ],
)
def test_a_bad_argument_is_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenEmbedding(**arguments)


def test_the_first_segment_is_added_everywhere():
    layer, x = SegmentEmbedding(3), normal(2, 5, 7)
    layer(x)
    randomise(layer)
    assert layer.table.shape == (3, 7)
    np.testing.assert_allclose(layer(x), x + by_name(layer)["table"][0], atol=1e-6)


def test_a_table_without_segments_is_refused():
    with pytest.raises(ValueError, match="num_segments=0 must be a whole number of at least 1"):
        SegmentEmbedding(0)
