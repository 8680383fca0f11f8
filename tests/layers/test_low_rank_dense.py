"""A dense product through a narrow middle: its numbers, its ranks, and how layers are told of them."""

import keras
import numpy as np
import pytest
from weights import by_name, normal, randomise

from keras_transformer.layers import DecoderLayer, Encoder, EncoderLayer, FeedForward, LowRankDense, MultiHeadAttention
from keras_transformer.models import CausalLM, Seq2Seq, TextClassifier

SIZES = {"vocab_size": 29, "num_layers": 2, "model_dim": 14, "num_heads": 7, "inner_dim": 11}


@pytest.mark.parametrize("shape", [(5, 7), (2, 5, 7), (2, 3, 5, 7)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_output_is_the_sum_through_both_factors(shape, use_bias):
    layer, x = LowRankDense(11, 3, "relu", use_bias=use_bias), normal(*shape)
    layer.build(x.shape)
    randomise(layer)
    left, right = layer.left.kernel.numpy().astype("float64"), layer.right.kernel.numpy().astype("float64")
    assert (left.shape, right.shape) == ((7, 3), (3, 11))
    want = np.zeros((*shape[:-1], 11))
    for place in np.ndindex(want.shape):
        total = 0.0 if layer.bias is None else float(layer.bias.numpy()[place[-1]])
        for middle in range(3):
            total += sum(x[place[:-1]].astype("float64") * left[:, middle]) * right[middle, place[-1]]
        want[place] = max(total, 0.0)
    np.testing.assert_allclose(layer(x), want, atol=1e-5)
    assert layer.compute_output_shape(shape) == want.shape


def test_it_computes_what_a_dense_layer_with_its_kernel_does():
    layer = LowRankDense(11, 3, "tanh")
    x = normal(5, 7)
    layer(x)
    randomise(layer)
    plain = keras.layers.Dense(11, "tanh")
    plain.build(x.shape)
    plain.set_weights([layer.kernel, layer.bias])
    np.testing.assert_allclose(layer(x), plain(x), atol=1e-5)


def test_it_sends_the_mask_of_keras_on():
    ids = keras.Input((None,), dtype="int32")
    tokens = keras.layers.Embedding(13, 7, mask_zero=True)(ids)
    assert LowRankDense(5, 2)(tokens)._keras_mask is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowRankDense(5, 0), r"rank=0 must be a whole number of at least 1"),
        (lambda: LowRankDense(0, 1), r"units=0 must be a whole number of at least 1"),
        (
            lambda: LowRankDense(5, 6, name="wide").build((None, 7)),
            r"rank=6 of 'wide' is above the 5 that a kernel of shape \(7, 5\) can have\. Use rank=5 or less",
        ),
        (
            lambda: MultiHeadAttention(6, 2, ranks={"querry": 2}),
            r"ranks has 'querry', and the parts with dense products here are \['query', .*Did you mean 'query'\?",
        ),
        (lambda: MultiHeadAttention(6, 2, ranks={"key": 0}), r"ranks\['key'\]=0 must be a whole number"),
        (
            lambda: FeedForward(6, 11, ranks={"inner/left": 2}),
            r"ranks has 'inner/left', and 'inner' is a dense product without parts\. Use ranks=\{'inner': 2\}",
        ),
        (
            lambda: EncoderLayer(6, 2, 11, ranks={"attention": 2}),
            r"ranks has a rank for the layer as a whole, and the parts .* \['query', 'key', 'value', 'output'\]",
        ),
        (
            lambda: DecoderLayer(6, 2, 11, ranks={"cross_attention/key": 2}),
            r"ranks has 'cross_attention/key', and the parts .* are \['attention', 'feed_forward'\]",
        ),
        (lambda: Encoder(2, 6, 2, 11, ranks={"layer_2/feed_forward/inner": 2}), r"Did you mean 'layer_[01]'\?"),
        (
            lambda: TextClassifier(num_classes=3, **SIZES, ranks={"pooling/dense": 2}),
            r"ranks has 'pooling/dense', and the parts .* \['encoder_0', 'encoder_1', 'logits'\]",
        ),
        (lambda: CausalLM(**SIZES, ranks={"logits": 2}), r"parts .* are \['decoder_0', 'decoder_1'\]"),
        (lambda: Seq2Seq(**SIZES, ranks={"encoder_0/feed_forward/inner": 12}), r"rank=12 of 'inner' is above the 11"),
    ],
)
def test_ranks_that_fit_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_ranks_reach_the_products_that_they_name():
    ranks = {"encoder_1/attention/key": 2, "decoder_0/cross_attention/output": 3, "decoder_1/feed_forward/outer": 5}
    shapes = {path: value.shape for path, value in by_name(Seq2Seq(**SIZES, ranks=ranks)).items()}
    left = {
        path.removesuffix("/left/kernel"): shape[1] for path, shape in shapes.items() if path.endswith("left/kernel")
    }
    assert left == ranks
    assert shapes["encoder_1/attention/key/right/kernel"] == (2, 14)
    assert shapes["encoder_0/attention/key/kernel"] == (14, 14)
