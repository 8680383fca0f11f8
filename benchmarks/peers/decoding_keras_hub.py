"""KerasHub `generate`: GPT2CausalLM, and BartSeq2SeqLM around a backbone of Vaswani et al. 2017 out of its layers.

Words: "default" (compiled by XLA, as KerasHub does unless told otherwise) or "graph" (without XLA). BART's own backbone
has a norm on its embeddings, which the others' translators lack; all else, generation too, is BartSeq2SeqLM's.
"""

import math
from typing import Any

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from peers.decoding_weights import DECODER, END_ID, EPSILON, START_ID, Weights, load
from peers.process import timed

PACKAGES = ("keras-hub", "keras", "tensorflow")


class KerasHub:
    """The model that was loaded last; one task a sampler, since each compiles its own loop.

    Args:
        way: see the module.
    """

    def __init__(self, way: str) -> None:
        self.compiling: dict[str, Any] = {} if way == "default" else {"jit_compile": False}

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Build the model and fill it."""
        self.kind, values = kind, load(weights)
        self.backbone = gpt2(size, values) if kind == DECODER else paper(size, values)
        self.tasks: dict[int, Any] = {}
        return {"parameters": self.backbone.count_params()}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after each row."""
        if beams not in self.tasks:
            make = keras_hub.models.GPT2CausalLM if self.kind == DECODER else keras_hub.models.BartSeq2SeqLM
            greedy, beam = keras_hub.samplers.GreedySampler, keras_hub.samplers.BeamSampler
            self.tasks[beams] = make(backbone=self.backbone, preprocessor=None)
            self.tasks[beams].compile(sampler=greedy() if beams == 1 else beam(num_beams=beams), **self.compiling)
        ids = np.array(token_ids, np.int32)
        if self.kind == DECODER:
            begun, name = ids.shape[1], "token_ids"
            inputs = with_room(ids, new_tokens, "token_ids", "padding_mask")
        else:
            begun, name = 1, "decoder_token_ids"
            inputs = {"encoder_token_ids": ids, "encoder_padding_mask": np.ones_like(ids)}
            start = np.full((len(ids), 1), START_ID, np.int32)
            inputs |= with_room(start, new_tokens, "decoder_token_ids", "decoder_padding_mask")
        task = self.tasks[beams]
        seconds, found = timed(lambda: task.generate(inputs, stop_token_ids=(END_ID,)))
        return {"seconds": seconds, "token_ids": np.asarray(found[name])[:, begun:].tolist()}


def with_room(ids: np.ndarray, new_tokens: int, ids_name: str, mask_name: str) -> dict[str, np.ndarray]:
    """Ids and their mask with room behind them, which `generate` fills."""
    room = [(0, 0), (0, new_tokens)]
    return {ids_name: np.pad(ids, room), mask_name: np.pad(np.ones_like(ids), room)}


def gpt2(size: dict[str, Any], values: Weights) -> Any:
    """KerasHub's own backbone."""
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=size["vocab_size"],
        num_layers=size["num_layers"],
        num_heads=size["num_heads"],
        hidden_dim=size["model_dim"],
        intermediate_dim=size["inner_dim"],
        dropout=0.0,
        max_sequence_length=size["max_length"],
    )
    backbone.token_embedding.embeddings.assign(values["tokens/table"])
    backbone.position_embedding.position_embeddings.assign(values["positions/table"])
    norm(backbone.layer_norm, "final_norm", values)
    for index, layer in enumerate(backbone.transformer_layers):
        fill_layer(layer, f"decoder_{index}", values)
    return backbone


class ScaledSum(keras.layers.Layer):
    """sqrt(D) times the embedding, plus the position: Vaswani et al. 2017, sections 3.4 and 3.5."""

    def call(self, inputs: Any) -> Any:
        """(tokens, positions) -> their sum."""
        tokens, positions = inputs
        return math.sqrt(tokens.shape[-1]) * tokens + positions


class PaperBackbone(keras_hub.models.Backbone):
    """Post-norm, sinusoids, one table: under the names that BartSeq2SeqLM reads."""

    def __init__(self, size: dict[str, Any]) -> None:
        layers = keras_hub.layers
        self.num_layers, self.num_heads, self.hidden_dim = size["num_layers"], size["num_heads"], size["model_dim"]
        self.token_embedding = layers.ReversibleEmbedding(size["vocab_size"], self.hidden_dim, name="tokens")
        self.encoder_position_embedding = layers.SinePositionEncoding(name="encoder_positions")
        self.decoder_position_embedding = layers.SinePositionEncoding(name="decoder_positions")
        self.decoder_embeddings_add = ScaledSum(name="sum")
        self.encoder_embeddings_layer_norm = keras.layers.Identity(name="no_encoder_norm")
        self.decoder_embeddings_layer_norm = keras.layers.Identity(name="no_decoder_norm")
        self.encoder_embeddings_dropout = keras.layers.Identity(name="no_encoder_dropout")
        self.decoder_embeddings_dropout = keras.layers.Identity(name="no_decoder_dropout")
        options = {"intermediate_dim": size["inner_dim"], "num_heads": self.num_heads, "layer_norm_epsilon": EPSILON}
        numbers = range(self.num_layers)
        self.encoder_transformer_layers = [layers.TransformerEncoder(**options, name=f"encoder_{i}") for i in numbers]
        self.decoder_transformer_layers = [layers.TransformerDecoder(**options, name=f"decoder_{i}") for i in numbers]
        names = ("encoder_token_ids", "encoder_padding_mask", "decoder_token_ids", "decoder_padding_mask")
        inputs = {name: keras.Input((None,), dtype="int32", name=name) for name in names}
        tokens = self.token_embedding(inputs["encoder_token_ids"])
        memory = self.decoder_embeddings_add((tokens, self.encoder_position_embedding(tokens)))
        for layer in self.encoder_transformer_layers:
            memory = layer(memory, padding_mask=inputs["encoder_padding_mask"])
        tokens = self.token_embedding(inputs["decoder_token_ids"])
        x = self.decoder_embeddings_add((tokens, self.decoder_position_embedding(tokens)))
        for layer in self.decoder_transformer_layers:
            x = layer(
                x,
                memory,
                decoder_padding_mask=inputs["decoder_padding_mask"],
                encoder_padding_mask=inputs["encoder_padding_mask"],
            )
        super().__init__(inputs=inputs, outputs={"decoder_sequence_output": x})


def paper(size: dict[str, Any], values: Weights) -> Any:
    """The translator's backbone, filled."""
    backbone = PaperBackbone(size)
    backbone.token_embedding.embeddings.assign(values["tokens/table"])
    for index in range(size["num_layers"]):
        fill_layer(backbone.encoder_transformer_layers[index], f"encoder_{index}", values)
        fill_layer(backbone.decoder_transformer_layers[index], f"decoder_{index}", values)
    return backbone


def fill_layer(layer: Any, ours: str, values: Weights) -> None:
    """One encoder or decoder layer: the layers inside have no public names."""
    attention(layer._self_attention_layer, f"{ours}/attention", values)
    norm(layer._self_attention_layer_norm, f"{ours}/attention_norm", values)
    if f"{ours}/cross_attention_norm/gamma" in values:
        attention(layer._cross_attention_layer, f"{ours}/cross_attention", values)
        norm(layer._cross_attention_layer_norm, f"{ours}/cross_attention_norm", values)
    dense(layer._feedforward_intermediate_dense, f"{ours}/feed_forward/inner", values)
    dense(layer._feedforward_output_dense, f"{ours}/feed_forward/outer", values)
    norm(layer._feedforward_layer_norm, f"{ours}/feed_forward_norm", values)


def attention(layer: Any, ours: str, values: Weights) -> None:
    """Keras keeps the kernels as (D, H, d), and that of the output as (H, d, D)."""
    parts = {"query": "query", "key": "key", "value": "value", "attention_output": "output"}
    for weight in layer.weights:
        part, kind = weight.path.split("/")[-2:]
        weight.assign(np.reshape(values[f"{ours}/{parts[part]}/{kind}"], weight.shape))


def dense(layer: Any, ours: str, values: Weights) -> None:
    """A dense layer."""
    layer.kernel.assign(values[f"{ours}/kernel"])
    layer.bias.assign(values[f"{ours}/bias"])


def norm(layer: Any, ours: str, values: Weights) -> None:
    """A LayerNorm."""
    layer.gamma.assign(values[f"{ours}/gamma"])
    layer.beta.assign(values[f"{ours}/beta"])


def answers(way: str, threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    peer = KerasHub(way)
    return {"load": peer.load, "run": peer.run}
