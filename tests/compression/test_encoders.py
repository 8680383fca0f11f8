"""Heads, units, channels and layers are those of an encoder: a masked language model is cut, a decoder is refused."""

import numpy as np
import pytest
from weights import randomise

from keras_transformer.compression import (
    channel_importance,
    cut,
    cut_vocabulary,
    factorise_tokens,
    head_importance,
    head_norms,
    keep_channels,
    keep_heads,
    keep_layers,
    keep_pieces,
    keep_units,
    layer_activations,
    unit_slopes,
)
from keras_transformer.models import CausalLM, MaskedLM, Seq2Seq

VOCAB, LAYERS, WIDTH, HEADS, INNER = 29, 2, 14, 7, 11
IDS = np.array([[2, 17, 28, 5, 0, 0], [2, 23, 0, 0, 0, 0], [3, 7, 11, 13, 19, 2]], "int32")
TEXTS = [[2, 17, 28], [3, 7]]
SMALLER = [keep_layers([1]), keep_heads([[0]] * LAYERS), keep_units([[0]] * LAYERS), keep_channels([0])]
LOOKS = {
    "layer_activations": lambda model: layer_activations(model, 0, TEXTS),
    "head_importance": lambda model: head_importance(model, TEXTS),
    "unit_slopes": lambda model: unit_slopes(model, TEXTS),
    "head_norms": head_norms,
    "channel_importance": lambda model: channel_importance(model, TEXTS),
}


def masked_lm():
    return randomise(MaskedLM(VOCAB, LAYERS, WIDTH, HEADS, INNER, max_length=13), scale=0.4)


def order(count, seed):
    return np.random.default_rng(seed).permutation(count).tolist()


@pytest.mark.parametrize("kind", [CausalLM, Seq2Seq])
def test_a_model_with_a_decoder_is_refused_whatever_is_asked(kind):
    model = kind(VOCAB, LAYERS, WIDTH, HEADS, INNER, name="decoding")
    rule = rf"'decoding' \({kind.__name__}\) can't be cut: it has decoder layers \['decoder_0', 'decoder_1'\].* distil"
    for steps in ([], [factorise_tokens(3)], *([step] for step in SMALLER)):
        with pytest.raises(ValueError, match=rule):
            cut(model, *steps)
    for look in LOOKS.values():
        with pytest.raises(ValueError, match=rule):
            look(model)


def test_a_masked_language_model_is_cut_as_a_classifier_is():
    model = masked_lm()
    steps = [keep_heads([order(HEADS, 1), order(HEADS, 2)]), keep_units([order(INNER, 3), order(INNER, 4)])]
    again = cut(model, *steps, keep_channels(order(WIDTH, 5)))
    assert any(not np.array_equal(*pair) for pair in zip(again.get_weights(), model.get_weights(), strict=True))
    np.testing.assert_allclose(again(IDS), model(IDS), atol=2e-5)
    small = cut(model, keep_layers([1]), keep_channels(range(9)), name="small")
    assert small(IDS).shape == (3, 6, VOCAB)
    assert small.get_layer("transform").kernel.shape == (9, 9)


def test_pieces_of_a_model_that_writes_them_stay_and_its_loss_is_none_of_a_class():
    vocabulary = cut_vocabulary(np.eye(VOCAB), np.ones(VOCAB, "int64"))
    with pytest.raises(ValueError, match=r"no argument kept_pieces: .*not from what it writes"):
        cut(masked_lm(), keep_pieces(vocabulary))
    for name in ("head_importance", "unit_slopes"):
        with pytest.raises(ValueError, match=r"logits of shape \(None, None, 29\): .* or rank by head_norms"):
            LOOKS[name](masked_lm())
