"""Tiny random BERTs with their head for hidden tokens, in Hugging Face layout, in and out."""

import json

import numpy as np
import oracles
import pytest
from safetensors.numpy import load_file, save_file
from weights import by_name

from keras_transformer.files import ModelFileError
from keras_transformer.models import MaskedLM, TextClassifier
from keras_transformer.pretrained import bert

LAYERS, VOCAB, WIDTH, HEADS, INNER, LONGEST = 2, 31, 15, 5, 13, 17
CONFIG = {
    "model_type": "bert",
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": LONGEST,
}
WORDS, BIAS = "embeddings.word_embeddings.weight", "cls.predictions.bias"
HEAD = {
    "cls.predictions.transform.dense.weight": (WIDTH, WIDTH),
    "cls.predictions.transform.dense.bias": (WIDTH,),
    "cls.predictions.transform.LayerNorm.weight": (WIDTH,),
    "cls.predictions.transform.LayerNorm.bias": (WIDTH,),
    BIAS: (VOCAB,),
}


def random_tensors():
    """Names as a BertForMaskedLM has them, without the prefix of its encoder."""
    random = np.random.default_rng(5)
    shapes = oracles.bert_shapes(LAYERS, VOCAB, WIDTH, INNER, LONGEST) | HEAD
    tensors = {name: random.normal(scale=0.4, size=shape).astype("float32") for name, shape in shapes.items()}
    return {name: value for name, value in tensors.items() if not name.startswith("pooler.")}


def prefixed(tensors):
    return {name if name.startswith("cls.") else f"bert.{name}": value for name, value in tensors.items()}


@pytest.fixture
def write(tmp_path):
    def make(changes=()):
        folder = tmp_path / "hub"
        folder.mkdir()
        save_file(prefixed(random_tensors()) | dict(changes), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIG))
        return folder

    return make


def test_the_logits_are_berts(write):
    model = MaskedLM.from_pretrained(write(), dropout=0.0, name="reader")
    assert (model.name, model.max_length, model.dropout) == ("reader", LONGEST, 0.0)
    tensors = {name: value.astype("float64") for name, value in random_tensors().items()}
    ids = np.array([[2, 30, 7, 7, 19, 3], [4, 9, 3, 0, 0, 0]])
    logits = model(ids)
    for row, length in ((0, 6), (1, 3)):
        hidden = oracles.bert_hidden(ids[row, :length], tensors, LAYERS, HEADS)
        np.testing.assert_allclose(logits[row, :length], oracles.bert_predictions(hidden, tensors), atol=2e-5)


def test_tensors_come_back_byte_for_byte_and_a_classifier_reads_the_same_folder(write, tmp_path):
    model = MaskedLM.from_pretrained(write())
    bert.save(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    np.testing.assert_array_equal(back.pop("bert.embeddings.position_ids"), np.arange(LONGEST)[None])
    assert back.keys() == prefixed(random_tensors()).keys()
    for name, value in prefixed(random_tensors()).items():
        assert (back[name].shape, back[name].tobytes()) == (value.shape, value.tobytes()), name
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["architectures"] == ["BertForMaskedLM"]
    assert written.items() >= CONFIG.items()
    classifier = TextClassifier.from_pretrained(tmp_path / "back", num_classes=3)
    ours, theirs = by_name(classifier), by_name(model)
    shared = ours.keys() & theirs.keys() - {"logits/bias"}
    assert len(shared) == len(theirs) - len(HEAD)
    for name in shared:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_copies_of_tied_weights_and_the_other_heads_make_no_difference(write):
    tensors = random_tensors()
    others = {
        "cls.predictions.decoder.weight": tensors[WORDS],
        "cls.predictions.decoder.bias": tensors[BIAS],
        "cls.seq_relationship.weight": np.ones((2, WIDTH), "float32"),
        "bert.pooler.dense.weight": np.ones((WIDTH, WIDTH), "float32"),
        "bert.pooler.dense.bias": np.ones(WIDTH, "float32"),
    }
    model = MaskedLM.from_pretrained(write(others))
    np.testing.assert_array_equal(by_name(model)["logits/bias"], tensors[BIAS])
    np.testing.assert_array_equal(by_name(model)["tokens/table"], tensors[WORDS])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"cls.predictions.decoder.weight": np.ones((VOCAB, WIDTH), "float32")},
            r"'cls\.predictions\.decoder\.weight' isn't the same as 'embeddings\.word_embeddings\.weight', .* tied",
        ),
        ({"cls.predictions.decoder.bias": np.ones(VOCAB, "float32")}, r"decoder\.bias' isn't the same as .*\.bias'"),
        ({"cls.predictions.scale": np.ones(3, "float32")}, r"extra tensors 'cls\.predictions\.scale'"),
        ({BIAS: np.ones(7, "float32")}, r"'cls\.predictions\.bias' has shape \(7,\), .* wants \(31,\)"),
    ],
)
def test_a_bad_head_is_named(write, changes, message):
    with pytest.raises(ModelFileError, match=message):
        MaskedLM.from_pretrained(write(changes))


def test_a_folder_without_the_head_is_refused(write, tmp_path):
    bert.save(TextClassifier(VOCAB, 3, LAYERS, WIDTH, HEADS, INNER, max_length=LONGEST), tmp_path / "plain")
    with pytest.raises(ModelFileError, match=r"missing tensors 'cls\.predictions\.bias', .* and 1 more, extra"):
        MaskedLM.from_pretrained(tmp_path / "plain")
