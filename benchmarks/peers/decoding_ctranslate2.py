"""CTranslate2, a C++ engine for inference alone: `Generator` and `Translator`, "float32" or "int8"."""

import tempfile
from typing import Any

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

from peers.decoding_weights import DECODER, END_ID, START_ID, Weights, load, sinusoids
from peers.process import timed

PACKAGES = ("ctranslate2",)


class CTranslate2:
    """The model that was loaded last.

    Args:
        numbers: "float32" or "int8", which it makes of the weights itself.
        threads: 0 = the library's choice.
    """

    def __init__(self, numbers: str, threads: int) -> None:
        self.numbers, self.threads = numbers, threads

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Write the model in its own format and load that."""
        self.kind, values = kind, load(weights)
        spec = decoder(size, values) if kind == DECODER else translator(size, values)
        names = [str(index) for index in range(size["vocab_size"])]
        if kind == DECODER:
            spec.register_vocabulary(names)
            spec.config.bos_token = names[START_ID]
        else:
            spec.register_source_vocabulary(names)
            spec.register_target_vocabulary(names)
            spec.config.bos_token = spec.config.decoder_start_token = names[START_ID]
        spec.config.eos_token = spec.config.unk_token = names[END_ID]
        spec.validate()
        spec.optimize(quantization=None)
        with tempfile.TemporaryDirectory() as folder:
            spec.save(folder)
            make = ctranslate2.Generator if kind == DECODER else ctranslate2.Translator
            self.engine = make(
                folder, device="cpu", compute_type=self.numbers, intra_threads=self.threads, inter_threads=1
            )
        return {"parameters": sum(value.size for value in values.values())}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after each row."""
        names = [[str(token) for token in row] for row in token_ids]
        options = {"beam_size": beams, "length_penalty": 0.0, "max_batch_size": 0}

        def generate() -> list[list[int]]:
            if self.kind == DECODER:
                written = self.engine.generate_batch(
                    names, max_length=new_tokens, include_prompt_in_result=False, **options
                )
                return [one.sequences_ids[0] for one in written]
            translated = self.engine.translate_batch(names, max_decoding_length=new_tokens, **options)
            return [[int(name) for name in one.hypotheses[0]] for one in translated]

        seconds, found = timed(generate)
        return {"seconds": seconds, "token_ids": found}

    def logits(self, token_ids: list[int]) -> dict[str, Any]:
        """Those of the token behind `token_ids`; only a decoder has them."""
        found = self.engine.forward_batch([[str(token) for token in token_ids]])
        return {"logits": np.array(found)[0, -1].tolist()}


def decoder(size: dict[str, Any], values: Weights) -> Any:
    """GPT-2's layout."""
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        size["num_layers"], size["num_heads"], pre_norm=True, activation=common_spec.Activation.GELUTanh
    )
    side = spec.decoder
    side.scale_embeddings = False
    side.embeddings.weight = side.projection.weight = values["tokens/table"]
    side.position_encodings.encodings = values["positions/table"]
    norm(side.layer_norm, "final_norm", values)
    fill_layers(side, "decoder", values)
    return spec


def translator(size: dict[str, Any], values: Weights) -> Any:
    """Vaswani et al. 2017."""
    spec = transformer_spec.TransformerSpec.from_config(
        size["num_layers"], size["num_heads"], pre_norm=False, activation=common_spec.Activation.RELU
    )
    table = values["tokens/table"]
    spec.encoder.embeddings[0].weight = spec.decoder.embeddings.weight = spec.decoder.projection.weight = table
    for name, side in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        side.scale_embeddings = True
        side.position_encodings.encodings = sinusoids(size["max_length"], size["model_dim"])
        fill_layers(side, name, values)
    return spec


def fill_layers(side: Any, name: str, values: Weights) -> None:
    """The layers of one side."""
    for index, layer in enumerate(side.layer):
        ours = f"{name}_{index}"
        linear(layer.self_attention.linear[0], f"{ours}/attention", ("query", "key", "value"), values)
        linear(layer.self_attention.linear[1], f"{ours}/attention", ("output",), values)
        norm(layer.self_attention.layer_norm, f"{ours}/attention_norm", values)
        if f"{ours}/cross_attention_norm/gamma" in values:
            for place, parts in enumerate((("query",), ("key", "value"), ("output",))):
                linear(layer.attention.linear[place], f"{ours}/cross_attention", parts, values)
            norm(layer.attention.layer_norm, f"{ours}/cross_attention_norm", values)
        linear(layer.ffn.linear_0, f"{ours}/feed_forward", ("inner",), values)
        linear(layer.ffn.linear_1, f"{ours}/feed_forward", ("outer",), values)
        norm(layer.ffn.layer_norm, f"{ours}/feed_forward_norm", values)


def linear(spec: Any, ours: str, parts: tuple[str, ...], values: Weights) -> None:
    """One or several dense layers below each other, as (out, in)."""
    spec.weight = np.concatenate([values[f"{ours}/{part}/kernel"].T for part in parts])
    spec.bias = np.concatenate([values[f"{ours}/{part}/bias"] for part in parts])


def norm(spec: Any, ours: str, values: Weights) -> None:
    """A LayerNorm."""
    spec.gamma, spec.beta = values[f"{ours}/gamma"], values[f"{ours}/beta"]


def answers(numbers: str, threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    peer = CTranslate2(numbers, int(threads))
    return {"load": peer.load, "run": peer.run, "logits": peer.logits}
