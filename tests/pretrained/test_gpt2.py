"""Tiny random GPT-2s in Hugging Face layout, written here, in and out."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from oracles import layer_norm, softmax
from safetensors.numpy import load_file, save_file
from weights import by_name

from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError
from keras_transformer.models import CausalLM
from keras_transformer.pretrained import gpt2

LAYERS, VOCAB, WIDTH, HEADS, INNER, LONGEST = 2, 31, 15, 5, 13, 17
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": VOCAB,
    "n_embd": WIDTH,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_inner": INNER,
    "n_positions": LONGEST,
    "n_ctx": LONGEST,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "attn_pdrop": 0.1,
}
JOINED, INNER_WEIGHT = "h.1.attn.c_attn.weight", "h.1.mlp.c_fc.weight"
IDS = np.array([[2, 30, 7, 7, 19, 3], [4, 9, 3, 11, 0, 26]])


def shapes():
    """Each tensor of a GPT-2 by its Hugging Face name."""
    found = {"wte.weight": (VOCAB, WIDTH), "wpe.weight": (LONGEST, WIDTH)}
    norms = ["ln_f"]
    for index in range(LAYERS):
        norms += [f"h.{index}.ln_1", f"h.{index}.ln_2"]
        kernels = {
            "attn.c_attn": (WIDTH, 3 * WIDTH),
            "attn.c_proj": (WIDTH, WIDTH),
            "mlp.c_fc": (WIDTH, INNER),
            "mlp.c_proj": (INNER, WIDTH),
        }
        for part, shape in kernels.items():
            found[f"h.{index}.{part}.weight"], found[f"h.{index}.{part}.bias"] = shape, shape[1:]
    return found | {f"{norm}.{part}": (WIDTH,) for norm in norms for part in ("weight", "bias")}


def random_tensors():
    random = np.random.default_rng(5)
    return {name: random.normal(scale=0.4, size=shape).astype("float32") for name, shape in shapes().items()}


def buffers():
    """What older files keep beside the weights."""
    causal = np.tril(np.ones((1, 1, LONGEST, LONGEST), "uint8"))
    found = {f"h.{index}.attn.bias": causal for index in range(LAYERS)}
    return found | {f"h.{index}.attn.masked_bias": np.array(-1e4, "float32") for index in range(LAYERS)}


def prefixed(tensors):
    return {name if name == "lm_head.weight" else f"transformer.{name}": value for name, value in tensors.items()}


def gelu_new(x):
    return np.array([v / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x])


def gelu_erf(x):
    return np.array([v / 2 * (1 + math.erf(v / math.sqrt(2))) for v in x])


def gpt2_logits(token_ids, tensors, activation=gelu_new, epsilon=1e-5):
    """Radford et al. 2019, section 2.3, for one text, token by token: each looks back only. (T,) -> (T, V)."""
    tensors = {name: np.asarray(value, "float64") for name, value in tensors.items()}

    def linear(row, name):
        return row @ tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def norm(row, name):
        return layer_norm(row[None], tensors[f"{name}.weight"], tensors[f"{name}.bias"], epsilon)[0]

    width, seen, logits = WIDTH // HEADS, [[] for _ in range(LAYERS)], []
    for place, token in enumerate(token_ids):
        x = tensors["wte.weight"][token] + tensors["wpe.weight"][place]
        for index in range(LAYERS):
            layer = f"h.{index}"
            query, key, value = np.split(linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn"), 3)
            seen[index].append((key, value))
            context = []
            for head in range(HEADS):
                own = slice(head * width, (head + 1) * width)
                weights = softmax(np.array([query[own] @ k[own] / math.sqrt(width) for k, _ in seen[index]]))
                context.extend(sum(weight * v[own] for weight, (_, v) in zip(weights, seen[index], strict=True)))
            x = x + linear(np.array(context), f"{layer}.attn.c_proj")
            inner = activation(linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc"))
            x = x + linear(inner, f"{layer}.mlp.c_proj")
        logits.append(tensors.get("lm_head.weight", tensors["wte.weight"]) @ norm(x, "ln_f"))
    return np.array(logits)


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
    arguments = {"max_length": LONGEST, "dropout": 0.0, **options}
    return CausalLM(VOCAB, LAYERS, WIDTH, HEADS, INNER, **arguments)


@pytest.fixture(scope="module")
def untouched():
    """A model that no test may change; each says so by comparing its weights."""
    return new_model()


@pytest.mark.parametrize(
    ("config", "oracle"),
    [
        ({}, {}),
        ({"activation_function": "gelu", "layer_norm_epsilon": 0.1}, {"activation": gelu_erf, "epsilon": 0.1}),
    ],
)
def test_the_logits_are_gpt2s_whole_and_step_by_step(write, config, oracle):
    model = CausalLM.from_pretrained(write(**config), dropout=0.0, name="writer")
    assert (model.name, model.max_length, model.dropout) == ("writer", LONGEST, 0.0)
    want = np.stack([gpt2_logits(row, random_tensors(), **oracle) for row in IDS])
    np.testing.assert_allclose(model(IDS), want, atol=1e-5)
    logits, state = model.prompt(IDS[:, :3], room=6)
    for place in range(3, 6):
        np.testing.assert_allclose(logits, want[:, place - 1], atol=1e-5)
        logits, state = model.step(IDS[:, place], state)
    np.testing.assert_allclose(logits, want[:, 5], atol=1e-5)


def test_an_output_layer_of_its_own_is_used_and_comes_back(write, tmp_path):
    tensors = {**random_tensors(), "lm_head.weight": np.random.default_rng(7).normal(size=(VOCAB, WIDTH))}
    tensors["lm_head.weight"] = tensors["lm_head.weight"].astype("float32")
    model = CausalLM.from_pretrained(write(tensors, tie_word_embeddings=False), dropout=0.0)
    np.testing.assert_allclose(model(IDS[:1])[0], gpt2_logits(IDS[0], tensors), atol=1e-5)
    gpt2.save(model, tmp_path / "back")
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == prefixed(tensors).keys()
    assert gpt2.read_config(tmp_path / "back") == gpt2.read_config(tmp_path / "hub")


def test_an_inner_width_left_out_is_four_times_the_width(write):
    assert gpt2.read_config(write(n_inner=None)).inner_dim == 4 * WIDTH


def test_each_tensor_fills_exactly_its_weights(write):
    tensors = {name: np.full_like(value, 2 + i) for i, (name, value) in enumerate(random_tensors().items())}
    for name in tensors:
        if "c_attn" in name:
            tensors[name] += np.repeat([0.25, 0.5, 0.75], WIDTH).astype("float32")
    model = new_model()
    gpt2.load_weights(model, write(tensors))
    found = [{value.min(), value.max()} for value in by_name(model).values()]
    assert all(len(values) == 1 for values in found)
    want = [value for tensor in tensors.values() for value in set(tensor.ravel())]
    assert sorted(value for values in found for value in values) == sorted(want)
    joined = tensors["h.1.attn.c_attn.bias"]
    for part, start in (("query", 0), ("key", WIDTH), ("value", 2 * WIDTH)):
        got = by_name(model)[f"decoder_1/attention/{part}/bias"]
        np.testing.assert_array_equal(got, joined[start : start + WIDTH])


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("change", [dict, prefixed])
def test_tensors_come_back_byte_for_byte_whatever_prefix_buffers_and_copy_came_with_them(write, tmp_path, change, head):
    tensors = random_tensors()
    beside = {**buffers(), "lm_head.weight": tensors["wte.weight"]} if head else {}
    model = new_model()
    gpt2.load_weights(model, write(change({**tensors, **beside})))
    gpt2.save(model, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == prefixed(tensors).keys()
    for name, value in prefixed(tensors).items():
        assert (back[name].dtype, back[name].shape) == (value.dtype, value.shape), name
        assert back[name].tobytes() == value.tobytes(), name
    assert gpt2.read_config(tmp_path / "back") == gpt2.read_config(tmp_path / "hub")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written.items() >= {key: CONFIG[key] for key in CONFIG if key not in ("n_ctx", "attn_pdrop")}.items()


@pytest.mark.parametrize("kind", ["float16", ml_dtypes.bfloat16])
def test_half_precision_tensors_widen_without_loss(write, kind):
    tensors = {name: value.astype(kind) for name, value in random_tensors().items()}
    model = new_model()
    gpt2.load_weights(model, write(tensors))
    kernel = by_name(model)["decoder_1/attention/value/kernel"]
    np.testing.assert_array_equal(kernel, tensors[JOINED].astype("float64")[:, 2 * WIDTH :])


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def having(name, value):
    return lambda tensors: {**tensors, name: value}


BAD_TENSORS = {
    "missing": (without("h.1.ln_2.bias"), r"missing tensors 'h\.1\.ln_2\.bias', extra tensors none\. .* exactly once"),
    "extra": (having("h.2.mlp.c_fc.bias", np.ones(3, "float32")), r"none, extra tensors 'h\.2\.mlp\.c_fc\.bias'"),
    "a buffer of no layer": (having("h.2.attn.bias", np.ones(3, "float32")), r"extra tensors 'h\.2\.attn\.bias'"),
    "named like a path": (having("../../canary", np.ones(3, "float32")), r"extra tensors '\.\./\.\./canary'"),
    "of another length": (
        having("wte.weight", np.ones((37, WIDTH), "float32")),
        r"'wte\.weight' has shape \(37, 15\), .* wants \(31, 15\)\. Take the config\.json",
    ),
    "transposed": (
        having(INNER_WEIGHT, np.ones((INNER, WIDTH), "float32")),
        r"'h\.1\.mlp\.c_fc\.weight' has shape \(13, 15\), .* wants \(15, 13\)",
    ),
    "not joined": (having(JOINED, np.ones((WIDTH, WIDTH), "float32")), r"c_attn\.weight' .* wants \(15, 45\)"),
    "flattened": (having(JOINED, np.ones(3 * WIDTH * WIDTH, "float32")), r"has shape \(675,\)"),
    "double": (having(JOINED, np.ones((WIDTH, 3 * WIDTH))), r"weight' holds F64 numbers, .* Convert it to F32"),
    "not a number": (
        having(JOINED, np.full((WIDTH, 3 * WIDTH), np.inf, "float32")),
        r"c_attn\.weight' holds NaN or infinity\. Fetch the file again",
    ),
    "there twice": (
        having("transformer.ln_f.bias", np.ones(WIDTH, "float32")),
        r"holds tensor 'ln_f\.bias' with the prefix 'transformer\.' and without",
    ),
    "an output layer that isn't tied": (
        having("lm_head.weight", np.ones((VOCAB, WIDTH), "float32")),
        r"'lm_head\.weight' isn't the same as 'wte\.weight', .* tied embeddings",
    ),
    "another architecture": (
        lambda tensors: {f"encoder.layer.{i}.output.dense.bias": np.ones(3, "float32") for i in range(7)},
        r"missing tensors 'h\.0\.attn\.c_attn\.bias', .* and 24 more, extra tensors 'encoder\.layer\.0.* and 3 more",
    ),
}


@pytest.mark.parametrize("what", BAD_TENSORS)
def test_a_bad_tensor_is_named_and_the_model_stays_as_it_was(write, tmp_path, untouched, what):
    change, message = BAD_TENSORS[what]
    folder, model = write(change(random_tensors())), untouched
    before = model.get_weights()
    with pytest.raises(ModelFileError, match=message) as error:
        gpt2.load_weights(model, folder)
    assert str(error.value).startswith(str(folder / "model.safetensors"))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_an_output_layer_that_is_promised_and_missing_is_named(write):
    with pytest.raises(ModelFileError, match=r"missing tensors 'lm_head\.weight', extra tensors none"):
        CausalLM.from_pretrained(write(tie_word_embeddings=False))


def test_a_file_cut_short_anywhere_is_named_and_the_model_stays_as_it_was(write, untouched):
    folder, model = write(), untouched
    path, before = folder / "model.safetensors", model.get_weights()
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, *range(100, len(content), 1009), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors: can't be read as safetensors \(.*again"):
            gpt2.load_weights(model, folder)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_folder_without_weights_or_config_is_named(write, tmp_path):
    with pytest.raises(ModelFileError, match=r"config\.json: there is no such file"):
        CausalLM.from_pretrained(tmp_path)
    folder = write()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"model\.safetensors: there is no such file\. Give a Hugging Face folder"):
        CausalLM.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gptj"}, r"model_type='gptj', but this importer reads model_type='gpt2' only"),
        ({"scale_attn_by_inverse_layer_idx": True}, r"scale_attn_by_inverse_layer_idx=True, but"),
        ({"scale_attn_weights": False}, r"scale_attn_weights=False, but"),
        ({"add_cross_attention": True}, r"add_cross_attention=True, but"),
        ({"activation_function": "silu"}, r"activation_function='silu', but this importer reads gelu_new, gelu, relu"),
        ({"activation_function": ["gelu"]}, r"activation_function=\['gelu'\], but"),
        ({"layer_norm_epsilon": "small"}, r"layer_norm_epsilon='small' must be between 0 and 1"),
        ({"layer_norm_epsilon": -1e-5}, r"layer_norm_epsilon=-1e-05 must be"),
        ({"tie_word_embeddings": 1}, r"tie_word_embeddings=1 must be true or false"),
        ({"n_inner": 0}, r"n_inner=0 must be a whole number of at least 1"),
        ({"n_embd": None}, r"has \{'n_embd': None\}, and each must be a whole number of at least 1"),
        ({"n_layer": True}, r"has \{'n_layer': True\}"),
        ({"n_head": 4}, r"n_head=4 doesn't divide n_embd=15"),
    ],
)
def test_a_config_of_something_else_is_named_with_its_field(write, change, message):
    folder = write(**change)
    with pytest.raises(ModelFileError, match=message + r".* Give the folder of a GPT-2") as error:
        CausalLM.from_pretrained(folder)
    assert str(error.value).startswith(str(folder / "config.json"))


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "sinusoidal"},
        {"norm_first": False},
        {"embedding_dim": 3},
        {"num_key_value_heads": 1},
        {"head_dim": 2},
        {"activation": "tanh"},
        {"ranks": {"decoder_0/feed_forward/inner": 2}},
    ],
)
def test_a_model_with_other_parts_is_refused_both_ways(write, tmp_path, options):
    model, folder = new_model(**options), write()
    for call in (lambda: gpt2.save(model, tmp_path / "new"), lambda: gpt2.load_weights(model, folder)):
        with pytest.raises(ValueError, match=r"GPT-2's layout knows only .* Use a \.keras file"):
            call()
    assert not (tmp_path / "new").exists()


def test_writing_never_removes_other_files(write, untouched):
    folder = write()
    (folder / "merges.txt").write_text("h e\n")
    with pytest.raises(UserError, match=r"holds 'merges\.txt', which writing there would remove\. Give a new folder"):
        gpt2.save(untouched, folder)
