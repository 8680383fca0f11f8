"""Tiny random BERTs in Hugging Face layout, written here, in and out; and the real MiniLM."""

import json

import keras
import ml_dtypes
import numpy as np
import oracles
import pytest
from safetensors.numpy import load_file, save_file
from weights import by_name

from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError
from keras_transformer.layers import MeanPooling
from keras_transformer.models import MINILM_L6, TextClassifier
from keras_transformer.pretrained import bert

LAYERS, VOCAB, WIDTH, HEADS, INNER, LONGEST = 2, 31, 15, 5, 13, 17
CONFIG = {
    "architectures": ["BertModel"],
    "model_type": "bert",
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": INNER,
    "max_position_embeddings": LONGEST,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
}
INNER_WEIGHT = "encoder.layer.1.intermediate.dense.weight"


def random_tensors(seed=5):
    random = np.random.default_rng(seed)
    shapes = oracles.bert_shapes(LAYERS, VOCAB, WIDTH, INNER, LONGEST)
    return {name: random.normal(scale=0.4, size=shape).astype("float32") for name, shape in shapes.items()}


@pytest.fixture
def write(tmp_path):
    """Write a Hugging Face folder out of tensors and changes to its config."""

    def make(tensors=None, **config):
        folder = tmp_path / "hub"
        folder.mkdir()
        save_file(random_tensors() if tensors is None else tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
        return folder

    return make


def new_model(**options):
    arguments = {"max_length": LONGEST, "pooling": "first", "dropout": 0.0, **options}
    return TextClassifier(VOCAB, 3, LAYERS, WIDTH, HEADS, INNER, **arguments)


@pytest.fixture(scope="module")
def untouched():
    """A model that no test may change; each says so by comparing its weights."""
    return new_model()


def test_the_forward_pass_is_berts(write):
    folder, tensors = write(), {name: value.astype("float64") for name, value in random_tensors().items()}
    ids = np.array([[2, 30, 7, 7, 19, 3], [4, 9, 3, 0, 0, 0]])
    for pooling in ("first", "mean"):
        model = TextClassifier.from_pretrained(folder, num_classes=3, dropout=0.0, pooling=pooling)
        taps = [model.tap_tensors[f"encoder/{LAYERS - 1}/hidden"], model.tap_tensors["pooled"]]
        hidden, pooled = keras.Model(model.input, taps)(ids)
        for row, length in ((0, 6), (1, 3)):
            want = oracles.bert_hidden(ids[row, :length], tensors, LAYERS, HEADS)
            np.testing.assert_allclose(hidden[row, :length], want, atol=1e-5)
            of_text = oracles.bert_pooled(want, tensors) if pooling == "first" else want.mean(0)
            np.testing.assert_allclose(pooled[row], of_text, atol=1e-5)


def test_a_pretrained_model_has_the_sizes_of_its_config_and_the_options_given(write):
    model = TextClassifier.from_pretrained(
        write(), num_classes=5, dropout=0.25, pooling="first", name="teacher", dtype="mixed_bfloat16"
    )
    sizes = ("vocab_size", "num_layers", "model_dim", "num_heads", "inner_dim", "max_length")
    assert [getattr(model, name) for name in sizes] == [VOCAB, LAYERS, WIDTH, HEADS, INNER, LONGEST]
    assert (model.num_classes, model.dropout, model.pooling, model.name) == (5, 0.25, "first", "teacher")
    assert model.get_layer("encoder_0").compute_dtype == "bfloat16"
    np.testing.assert_array_equal(
        model.get_layer("tokens").table.numpy(), random_tensors()["embeddings.word_embeddings.weight"]
    )


def test_each_tensor_fills_exactly_one_weight(write):
    tensors = {name: np.full_like(value, 2 + i) for i, (name, value) in enumerate(random_tensors().items())}
    model = new_model()
    bert.load_weights(model, write(tensors))
    found = []
    for name, value in by_name(model).items():
        if not name.startswith("logits/"):
            assert value.min() == value.max(), name
            found.append(value.min())
    assert sorted(found) == [2 + i for i in range(len(tensors))]


@pytest.mark.parametrize("position_ids", [True, False])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_prefix_heads_and_position_ids_make_no_difference(write, tmp_path, prefix, position_ids):
    tensors = {f"{prefix}{name}": value for name, value in random_tensors().items()}
    if position_ids:
        tensors[f"{prefix}embeddings.position_ids"] = np.arange(LONGEST)[None]
    if prefix:
        tensors["cls.predictions.decoder.weight"] = np.ones((VOCAB, WIDTH), "float32")
        tensors["classifier.bias"] = np.ones(7, "float32")
    model = new_model()
    bert.load_weights(model, write(tensors))
    bert.save(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    for name, value in random_tensors().items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_norms_under_their_older_names_are_read(write):
    older = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = random_tensors()
    for new, old in older.items():
        tensors = {name.replace(new, old): value for name, value in tensors.items()}
    model, want = new_model(), new_model()
    folder = write(tensors)
    bert.load_weights(model, folder)
    save_file(random_tensors(), folder / "model.safetensors")
    bert.load_weights(want, folder)
    for name, value in by_name(want).items():
        if not name.startswith("logits/"):
            np.testing.assert_array_equal(by_name(model)[name], value, err_msg=name)


def test_tensors_come_back_byte_for_byte(write, tmp_path):
    tensors = random_tensors()
    model = new_model()
    bert.load_weights(model, write(tensors))
    bert.save(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    np.testing.assert_array_equal(back.pop("embeddings.position_ids"), np.arange(LONGEST)[None])
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape), name
        assert back[name].tobytes() == value.tobytes(), name
    assert bert.read_config(tmp_path / "back") == bert.read_config(tmp_path / "hub")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written.items() >= {key: value for key, value in CONFIG.items() if key != "hidden_dropout_prob"}.items()


def test_a_model_that_pools_the_mean_leaves_the_pooler_out_both_ways(write, tmp_path):
    model = new_model(pooling="mean")
    bert.load_weights(model, write())
    bert.save(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert random_tensors().keys() - back.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    again = new_model(pooling="mean")
    bert.load_weights(again, tmp_path / "back")
    np.testing.assert_array_equal(
        by_name(again)["encoder_1/attention/key/kernel"], by_name(model)["encoder_1/attention/key/kernel"]
    )


@pytest.mark.parametrize("kind", ["float16", ml_dtypes.bfloat16])
def test_half_precision_tensors_widen_without_loss(write, kind):
    tensors = {name: value.astype(kind) for name, value in random_tensors().items()}
    model = new_model()
    bert.load_weights(model, write(tensors))
    kernel = by_name(model)["encoder_1/feed_forward/inner/kernel"]
    np.testing.assert_array_equal(kernel, tensors[INNER_WEIGHT].astype("float64").T)


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def having(name, value):
    return lambda tensors: {**tensors, name: value}


BAD_TENSORS = {
    "missing": (
        without("encoder.layer.1.output.LayerNorm.bias"),
        r"missing tensors 'encoder\.layer\.1\.output\.LayerNorm\.bias', extra tensors none\. .* exactly once",
    ),
    "extra": (
        having("encoder.layer.2.output.dense.bias", np.ones(3, "float32")),
        r"missing tensors none, extra tensors 'encoder\.layer\.2\.output\.dense\.bias'",
    ),
    "named like a path": (having("../../canary", np.ones(3, "float32")), r"extra tensors '\.\./\.\./canary'"),
    "of another length": (
        having("embeddings.word_embeddings.weight", np.ones((37, WIDTH), "float32")),
        r"'embeddings\.word_embeddings\.weight' has shape \(37, 15\), .* wants \(31, 15\)\. Take the config\.json",
    ),
    "transposed": (
        having(INNER_WEIGHT, np.ones((WIDTH, INNER), "float32")),
        r"intermediate\.dense\.weight' has shape \(15, 13\), which gives \(13, 15\) here, .* wants \(15, 13\)",
    ),
    "flattened": (having(INNER_WEIGHT, np.ones(WIDTH * INNER, "float32")), r"has shape \(195,\)"),
    "double": (having(INNER_WEIGHT, np.ones((INNER, WIDTH))), r"weight' holds F64 numbers, .* Convert it to F32"),
    "integer": (having(INNER_WEIGHT, np.ones((INNER, WIDTH), "int8")), r"weight' holds I8 numbers"),
    "not a number": (
        having(INNER_WEIGHT, np.full((INNER, WIDTH), np.nan, "float32")),
        r"intermediate\.dense\.weight' holds NaN or infinity\. Fetch the file again",
    ),
    "there twice": (
        having("bert.pooler.dense.bias", np.ones(WIDTH, "float32")),
        r"holds tensor 'pooler\.dense\.bias' with the prefix 'bert\.' and without",
    ),
    "there under its older name, too": (
        having("embeddings.LayerNorm.gamma", np.ones(WIDTH, "float32")),
        r"holds tensor 'embeddings\.LayerNorm\.weight' and its older name 'embeddings\.LayerNorm\.gamma'",
    ),
    "positions in disorder": (
        having("embeddings.position_ids", np.arange(LONGEST)[::-1][None].copy()),
        r"embeddings\.position_ids isn't 0 to 16 in order",
    ),
    "another architecture": (
        lambda tensors: {f"h.{i}.attn.c_attn.weight": np.ones((3, 9), "float32") for i in range(7)},
        r"missing tensors 'embeddings\.LayerNorm\.bias', .* and 35 more, extra tensors 'h\.0\.attn.* and 3 more",
    ),
}


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_bad_tensor_is_named_and_the_model_stays_as_it_was(write, tmp_path, untouched, what):
    change, message = BAD_TENSORS[what]
    folder, model = write(change(random_tensors())), untouched
    before = model.get_weights()
    with pytest.raises(ModelFileError, match=message) as error:
        bert.load_weights(model, folder)
    assert str(error.value).startswith(str(folder / "model.safetensors"))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_file_cut_short_anywhere_is_named_and_the_model_stays_as_it_was(write, untouched):
    folder, model = write(), untouched
    path, before = folder / "model.safetensors", model.get_weights()
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(100, len(content), 1009), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(
            ModelFileError, match=r"model\.safetensors: can't be read as safetensors \(.*Fetch it again"
        ):
            bert.load_weights(model, folder)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_folder_without_weights_or_config_is_named(write, tmp_path):
    with pytest.raises(ModelFileError, match=r"config\.json: there is no such file"):
        TextClassifier.from_pretrained(tmp_path, num_classes=3)
    folder = write()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: there is no such file\. Give a Hugging Face folder"):
        TextClassifier.from_pretrained(folder, num_classes=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "roberta"}, r"model_type='roberta', but this importer reads model_type='bert' only"),
        ({"hidden_act": "gelu_new"}, r"hidden_act='gelu_new', but"),
        ({"layer_norm_eps": 1e-5}, r"layer_norm_eps=1e-05, but this importer reads layer_norm_eps=1e-12 only"),
        ({"position_embedding_type": "relative_key"}, r"position_embedding_type='relative_key', but"),
        ({"type_vocab_size": 1}, r"type_vocab_size=1, but this importer reads type_vocab_size=2 only"),
        ({"pad_token_id": 1}, r"pad_token_id=1, but this importer reads pad_token_id=0 only"),
        ({"is_decoder": True}, r"is_decoder=True, but"),
        ({"hidden_size": None}, r"has \{'hidden_size': None\}, and each must be a whole number of at least 1"),
        ({"vocab_size": -3}, r"has \{'vocab_size': -3\}"),
        ({"num_hidden_layers": True}, r"has \{'num_hidden_layers': True\}"),
        ({"num_attention_heads": 4}, r"num_attention_heads=4 doesn't divide hidden_size=15"),
    ],
)
def test_a_config_of_something_else_is_named_with_its_field(write, change, message):
    folder = write(**change)
    with pytest.raises(ModelFileError, match=message + r".* Give the folder of a BERT encoder") as error:
        TextClassifier.from_pretrained(folder, num_classes=3)
    assert str(error.value).startswith(str(folder / "config.json"))


@pytest.mark.parametrize("text", ["[1, 2]", '"bert"', "null", "{", ""])
def test_a_config_that_is_no_json_object_is_named(write, text):
    folder = write()
    (folder / "config.json").write_text(text)
    with pytest.raises(ModelFileError, match=r"config\.json: (holds no JSON object|isn't readable JSON)"):
        bert.read_config(folder)


OTHER_PARTS = [
    {"embedding_dim": 3},
    {"kept_pieces": 7},
    {"norm_first": True},
    {"head_dim": 2},
    {"ranks": {"encoder_0/feed_forward/inner": 2}},
]


@pytest.mark.parametrize("options", OTHER_PARTS)
def test_a_model_with_other_parts_is_refused_both_ways(write, tmp_path, options):
    model, folder = new_model(**options), write()
    for call in (lambda: bert.save(model, tmp_path / "new"), lambda: bert.load_weights(model, folder)):
        with pytest.raises(ValueError, match=r"BERT's layout knows none of these\. Use a \.keras file"):
            call()
    assert not (tmp_path / "new").exists()


def test_writing_replaces_an_older_folder_of_ours_but_never_other_files(write, tmp_path):
    folder, model = write(), new_model()
    bert.save(model, folder)
    saved = load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(saved["embeddings.word_embeddings.weight"], by_name(model)["tokens/table"])
    (folder / "vocab.txt").write_text("[PAD]\n")
    with pytest.raises(UserError, match=r"holds 'vocab\.txt', which writing there would remove\. Give a new folder"):
        bert.save(model, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "vocab.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hub"]


@pytest.fixture(scope="module")
def minilm_folder():
    from keras_transformer.data import assets

    return assets.minilm_folder()


@pytest.fixture(scope="module")
def minilm(minilm_folder):
    return TextClassifier.from_pretrained(minilm_folder, num_classes=2, pooling="first", dropout=0.0)


def test_minilm_has_the_size_that_its_constant_says(minilm_folder, minilm):
    assert MINILM_L6.arguments().items() <= bert.read_config(minilm_folder)._asdict().items()
    head = 384 * 2 + 2
    assert minilm.count_params() - head == 22_713_216


def test_minilm_gives_the_three_cosines_of_its_reference(minilm_folder, minilm):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm_folder / "tokenizer.json"))
    tokenizer.no_padding()
    texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ]
    rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    longest = max(map(len, rows)) + 3  # padding on every row
    ids = np.array([row + [0] * (longest - len(row)) for row in rows], dtype="int32")
    hidden = np.asarray(keras.Model(minilm.input, minilm.tap_tensors["encoder/5/hidden"])(ids))
    means = np.asarray(MeanPooling()(hidden, real=ids != 0), "float64")
    cosines = [means[0] @ mean / np.linalg.norm(means[0]) / np.linalg.norm(mean) for mean in means[1:]]
    np.testing.assert_allclose(cosines, [0.6946, 0.9429, 0.2569], atol=1e-3)


def test_minilm_agrees_with_the_loop_oracle(minilm_folder, minilm):
    tensors = {name: value.astype("float64") for name, value in load_file(minilm_folder / "model.safetensors").items()}
    ids = np.array([[101, 2054, 1037, 3185, 102]])
    want = oracles.bert_hidden(ids[0], tensors, 6, 12)
    taps = [minilm.tap_tensors["encoder/5/hidden"], minilm.tap_tensors["pooled"]]
    hidden, pooled = keras.Model(minilm.input, taps)(ids)
    np.testing.assert_allclose(hidden[0], want, atol=2e-5)
    np.testing.assert_allclose(pooled[0], oracles.bert_pooled(want, tensors), atol=2e-5)


def test_minilm_comes_back_byte_for_byte(minilm_folder, minilm, tmp_path):
    bert.save(minilm, tmp_path / "back")
    theirs = load_file(minilm_folder / "model.safetensors")
    ours = load_file(tmp_path / "back" / "model.safetensors")
    assert len(theirs) == 104
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (value.dtype, value.shape), name
        assert ours[name].tobytes() == value.tobytes(), name
    assert bert.read_config(tmp_path / "back") == bert.read_config(minilm_folder)
