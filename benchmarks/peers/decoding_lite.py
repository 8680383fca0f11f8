"""Ours in a `.tflite` file, as `export` writes it: one text at a time, with LiteRT.

Words: the number format, a key of `export.tflite.FORMATS`, and the room, for how many tokens the file is made.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.export.lite_converter import flatbuffer
from keras_transformer.export.lite_steps import LiteSteps
from keras_transformer.export.numpy_decoding import greedy
from keras_transformer.export.writing import Continuing
from keras_transformer.export.writing_signatures import lite_signatures
from peers.decoding_ours import Ours
from peers.decoding_weights import DECODER, END_ID
from peers.process import timed

PACKAGES = ("ai-edge-litert",)
UNREAD: Any = None  # what the signatures of a language model read neither tokenizer nor calibration for


class Lite:
    """The file that was made last, in LiteRT's hands.

    Args:
        quantize: the number format.
        room: tokens of a text.
        threads: of the interpreter.
    """

    def __init__(self, quantize: str, room: int, threads: int) -> None:
        self.quantize, self.room, self.threads = quantize, room, threads

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Make the file."""
        if kind != DECODER:
            raise ValueError(f"{kind}: only a {DECODER} is measured here")
        ours = Ours("graph", self.threads)
        counted = ours.load(kind, size, weights)
        writing = Continuing(ours.model, UNREAD, self.room)
        content = flatbuffer(ours.model, lite_signatures(writing), self.quantize, UNREAD)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            path.write_bytes(content)
            self.steps = LiteSteps(path, self.threads)
        return {**counted, "bytes": len(content)}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after the one row."""
        if len(token_ids) != 1 or beams != 1:
            raise ValueError(f"{len(token_ids)} rows, {beams} beams: only one row is written here, greedily")
        (row,) = token_ids

        told = []

        def write() -> list[int]:
            start = time.perf_counter()
            begun = self.steps.begin(row)
            told.append(time.perf_counter() - start)
            return greedy(self.steps.step, begun, end_id=END_ID, max_tokens=new_tokens)

        seconds, found = timed(write)
        return {"seconds": seconds, "prompt_seconds": told[0], "token_ids": np.array([found]).tolist()}

    def logits(self, token_ids: list[int]) -> dict[str, Any]:
        """Those of the token behind `token_ids`."""
        return {"logits": self.steps.begin(token_ids).logits.tolist()}


def answers(quantize: str, room: str, threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    lite = Lite(quantize, int(room), int(threads))
    return {"load": lite.load, "run": lite.run, "logits": lite.logits}
