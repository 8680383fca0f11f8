"""PyTorch's Transformer and Hugging Face's GPT-2 and BERT, asked by benchmarks/reference_fixtures.py, agree with ours.

The files hold their weights, inputs and answers, so that nothing of theirs needs to be installed here.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from safetensors.numpy import save_file
from weights import by_name

from keras_transformer.models import CausalLM, MaskedLM, Seq2Seq
from keras_transformer.models.decoding import greedy

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRANSLATORS = ["transformer_post_norm", "transformer_norm_first"]
NO_END = 10_000  # an id that no model has


def fixture(name):
    with np.load(FIXTURES / f"{name}.npz", allow_pickle=False) as file:
        return dict(file)


def below(arrays, prefix):
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def attention(theirs, ours, weights):
    """torch joins query, key and value along the rows of one matrix (3 D, D)."""
    kernel = np.split(weights[f"{theirs}.in_proj_weight"], 3)
    bias = np.split(weights[f"{theirs}.in_proj_bias"], 3)
    found = {}
    for index, part in enumerate(("query", "key", "value")):
        found |= {f"{ours}/{part}/kernel": kernel[index].T, f"{ours}/{part}/bias": bias[index]}
    return found | dense(f"{theirs}.out_proj", f"{ours}/output", weights)


def dense(theirs, ours, weights):
    return {f"{ours}/kernel": weights[f"{theirs}.weight"].T, f"{ours}/bias": weights[f"{theirs}.bias"]}


def norm(theirs, ours, weights):
    return {f"{ours}/gamma": weights[f"{theirs}.weight"], f"{ours}/beta": weights[f"{theirs}.bias"]}


def layer(theirs, ours, norms, weights):
    found = attention(f"{theirs}.self_attn", f"{ours}/attention", weights)
    if "cross_attention_norm" in norms:
        found |= attention(f"{theirs}.multihead_attn", f"{ours}/cross_attention", weights)
    found |= dense(f"{theirs}.linear1", f"{ours}/feed_forward/inner", weights)
    found |= dense(f"{theirs}.linear2", f"{ours}/feed_forward/outer", weights)
    for number, name in enumerate(norms, start=1):
        found |= norm(f"{theirs}.norm{number}", f"{ours}/{name}", weights)
    return found


def our_weights(weights, encoder_layers, decoder_layers, norm_first):
    """Torch's weights by the names that ours have."""
    found = {"tokens/table": weights["tokens.weight"]}
    for index in range(encoder_layers):
        norms = ["attention_norm", "feed_forward_norm"]
        found |= layer(f"transformer.encoder.layers.{index}", f"encoder_{index}", norms, weights)
    for index in range(decoder_layers):
        norms = ["attention_norm", "cross_attention_norm", "feed_forward_norm"]
        found |= layer(f"transformer.decoder.layers.{index}", f"decoder_{index}", norms, weights)
    if norm_first:
        found |= norm("transformer.encoder.norm", "encoder_norm", weights)
        found |= norm("transformer.decoder.norm", "final_norm", weights)
    return found


def translator(arrays):
    weights, options = below(arrays, "weights/"), json.loads(str(arrays["options"]))
    vocab_size, width = weights["tokens.weight"].shape
    counts = [len({name.split(".")[3] for name in weights if f".{side}.layers." in name}) for side in SIDES]
    model = Seq2Seq(
        vocab_size,
        counts[0],
        width,
        options["num_heads"],
        len(weights["transformer.encoder.layers.0.linear1.bias"]),
        num_decoder_layers=counts[1],
        dropout=0.0,
        activation=options["activation"],
        norm_first=options["norm_first"],
    )
    ours = our_weights(weights, *counts, options["norm_first"])
    assert ours.keys() == by_name(model).keys()
    assert sum(value.size for value in ours.values()) == sum(value.size for value in weights.values())
    for weight in model.weights:
        weight.assign(ours[weight.path.removeprefix(f"{model.name}/")])
    return model


SIDES = ("encoder", "decoder")


@pytest.mark.parametrize("name", TRANSLATORS)
def test_our_seq2seq_gives_the_logits_of_torchs_transformer_whole_and_step_by_step(name):
    arrays = fixture(name)
    model, want = translator(arrays), arrays["logits"]
    source, target = arrays["source_ids"].astype("int32"), arrays["target_ids"].astype("int32")
    np.testing.assert_allclose(model({"source_ids": source, "target_ids": target}), want, atol=1e-5)
    logits, state = model.prompt(source, room=target.shape[1], start_id=int(target[0, 0]))
    for place in range(1, target.shape[1]):
        np.testing.assert_allclose(logits, want[:, place - 1], atol=1e-5)
        logits, state = model.step(target[:, place], state)
    np.testing.assert_allclose(logits, want[:, -1], atol=1e-5)


def hub_folder(arrays, folder):
    folder.mkdir()
    (folder / "config.json").write_text(str(arrays["config"]))
    save_file(below(arrays, "tensors/"), folder / "model.safetensors", {"format": "pt"})
    return folder


def test_our_gpt2_gives_the_logits_and_the_greedy_text_of_hugging_faces(tmp_path):
    arrays = fixture("gpt2")
    model = CausalLM.from_pretrained(hub_folder(arrays, tmp_path / "hub"), dropout=0.0)
    np.testing.assert_allclose(model(arrays["token_ids"]), arrays["logits"], atol=1e-5)
    written, prompts = arrays["written"], arrays["prompts"].astype("int32")
    prompted = model.prompt(prompts, room=prompts.shape[1] + written.shape[1])
    decoded = tf.function(greedy)(model.step, prompted, end_id=NO_END, max_tokens=written.shape[1])
    np.testing.assert_array_equal(decoded.token_ids, written)
    assert len({tuple(row) for row in written}) == len(written)  # each row's own


def test_our_masked_language_model_gives_the_logits_of_hugging_faces_bert(tmp_path):
    arrays = fixture("bert_masked_lm")
    model = MaskedLM.from_pretrained(hub_folder(arrays, tmp_path / "hub"), dropout=0.0)
    np.testing.assert_allclose(model(arrays["token_ids"]), arrays["logits"], atol=1e-5)


def test_the_files_are_small_and_say_which_versions_answered():
    files = sorted(FIXTURES.glob("*.npz"))
    assert [file.stem for file in files] == ["bert_masked_lm", "gpt2", *reversed(TRANSLATORS)]
    assert sum(file.stat().st_size for file in files) < 200_000
    for file in files:
        versions = json.loads(str(fixture(file.stem)["versions"]))
        assert versions.keys() == {"torch", "transformers"}
        assert all(version[0].isdigit() for version in versions.values())
