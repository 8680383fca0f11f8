"""Run a `.tflite` file that writes, token by token, with LiteRT. Imports neither TensorFlow nor Keras."""

import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_transformer.export.lite_runtime import open_file
from keras_transformer.export.numpy_decoding import Begun, State
from keras_transformer.files import ModelFileError

PROMPT, STEP, TOKENS = "prompt", "step", "tokens"
TOKEN_IDS, LOGITS, MEMORY_MASK = "token_ids", "logits", "memory_mask"


class LiteSteps:
    """One text at a time: `begin` reads its ids, `step` adds a token. What is remembered is in the state alone.

    `room` is how many tokens a state has room for: those written but the last and, of a language model, those read.

    Args:
        path: a `.tflite` file with the signatures `prompt` and `step`.
        threads: for one call; None = the interpreter's choice.
        xnnpack: see `lite_runtime.open_file`.

    Raises:
        ModelFileError: if the interpreter can't load the file, or it has other signatures.
    """

    def __init__(self, path: Path | str, threads: int | None = None, xnnpack: bool = True) -> None:
        try:
            self._interpreter = open_file(path, threads, xnnpack)
            names = self._interpreter.get_signature_list()
            self._signatures = {name: self._interpreter.get_signature_runner(name) for name in names}
            self._signatures[PROMPT].get_input_details()
            state = self._signatures[STEP].get_input_details()
            self.room = int(state["key_0"]["shape_signature"][2])
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelFileError(
                f"{path}: LiteRT can't use it ({error}). Write it again with `keras-transformer export`."
            ) from error
        # An interpreter has one set of buffers: two threads at once would mix their texts.
        self._lock = threading.Lock()

    def begin(self, token_ids: Sequence[int]) -> Begun:
        """Read a prompt or a source: the logits (V,) of the first new token, and the state."""
        return self._called(PROMPT, token_ids=np.array([token_ids], np.int32))

    def step(self, token_id: int, state: State) -> Begun:
        """Read one more token: the logits (V,) of the next, and the state with it; the old one stays as it is."""
        logits, changed = self._called(STEP, token_ids=np.array([token_id], np.int32), **state)
        return Begun(logits, {**state, **changed})

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """The logits (T, V) after each id of a text that is there already; only a language model has them."""
        return self._called(TOKENS, token_ids=np.array([token_ids], np.int32)).logits

    def choices(self, prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        """The logits (T, V) from which each of T tokens would be chosen, were those before it `written`."""
        begun = self.begin(prompt)
        found = [begun.logits]
        for token_id in written[:-1]:
            begun = self.step(token_id, begun.state)
            found.append(begun.logits)
        return np.stack(found)

    def _called(self, name: str, **inputs: np.ndarray) -> Begun:
        with self._lock:
            outputs = self._signatures[name](**inputs)
        return Begun(outputs.pop(LOGITS)[0], outputs)
