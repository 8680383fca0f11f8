"""Ours: a prompt, then a loop on an explicit cache, as one graph for each way of choosing tokens.

Words: "xla" (compiled, `jit_compile=True`), "graph" (TensorFlow as it is), "int8" (a LiteRT file with int8 weights).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_transformer.export.signatures import BareWeights
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import chosen_tokens
from keras_transformer.models import CausalLM, Prompted, Seq2Seq
from peers.decoding_weights import DECODER, END_ID, EPSILON, START_ID, load
from peers.process import timed

PACKAGES = ("tensorflow", "keras", "ai-edge-litert")
Write = Callable[[np.ndarray], np.ndarray]


class Ours:
    """The model that was loaded last, and its graphs.

    Args:
        way: see the module.
        threads: 0 = the library's choice.
    """

    def __init__(self, way: str, threads: int) -> None:
        self.way, self.threads = way, threads

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Build the model and fill it."""
        numbers = {name: value for name, value in size.items() if name != "max_length" or kind == DECODER}
        make = CausalLM if kind == DECODER else Seq2Seq
        self.kind, self.model = kind, make(**numbers, dropout=0.0, epsilon=EPSILON)
        self.writers: dict[tuple[tuple[int, ...], int, int], Write] = {}
        values = load(weights)
        paths = {weight.path.removeprefix(f"{self.model.name}/"): weight for weight in self.model.weights}
        if paths.keys() != values.keys():
            raise ValueError(f"weights without a place or places without weights: {sorted(paths.keys() ^ values)}")
        for name, weight in paths.items():
            weight.assign(values[name])
        return {"parameters": self.model.count_params()}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after each row."""
        ids = np.array(token_ids, np.int32)
        key = (ids.shape, beams, new_tokens)
        if key not in self.writers:
            function = self.function(ids.shape, beams, new_tokens)
            if self.way == "int8":
                self.writers[key] = lite(function, self.model, self.threads)
            else:
                self.writers[key] = lambda ids: function(ids).numpy()
        seconds, found = timed(lambda: self.writers[key](ids))
        return {"seconds": seconds, "token_ids": found.tolist()}

    def logits(self, token_ids: list[int]) -> dict[str, Any]:
        """Those of the token behind `token_ids`, by the model without a cache."""
        return {"logits": self.model(np.array([token_ids], np.int32)).numpy()[0, -1].tolist()}

    def function(self, shape: tuple[int, ...], beams: int, new_tokens: int) -> Any:
        """A graph for ids of one shape, as the writers of the package make them."""
        model, decoding = self.model, Decoding(beam=beams)

        def write(token_ids: tf.Tensor) -> tf.Tensor:
            def prompt(more: int) -> Prompted:
                if self.kind == DECODER:
                    return model.prompt(token_ids, shape[1] + more)
                return model.prompt(token_ids, 1 + more, START_ID)

            seed = tf.constant(0, tf.int64)
            return chosen_tokens(model, prompt, decoding, end_id=END_ID, max_tokens=new_tokens, seed=seed)

        signature = [tf.TensorSpec(shape, tf.int32, "token_ids")]
        return tf.function(write, input_signature=signature, autograph=False, jit_compile=self.way == "xla")


def lite(function: Any, model: Any, threads: int) -> Write:
    """The same graph in a LiteRT file with int8 weights."""
    with tempfile.TemporaryDirectory() as folder:
        signed = tf.function(lambda token_ids: {"written": function(token_ids)}, autograph=False)
        concrete = signed.get_concrete_function(function.input_signature[0])
        tf.saved_model.save(BareWeights(model), folder, signatures={"write": concrete})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["write"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path = Path(folder) / "model.tflite"
        path.write_bytes(converter.convert())
        interpreter = Interpreter(model_path=str(path), num_threads=threads or None)
    runner = interpreter.get_signature_runner("write")
    return lambda ids: runner(token_ids=ids)["written"]


def answers(way: str, threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    ours = Ours(way, int(threads))
    return {"load": ours.load, "run": ours.run, "logits": ours.logits}
