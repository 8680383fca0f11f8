"""Run a `.tflite` file that writes, token by token, with LiteRT. Imports neither TensorFlow nor Keras."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.export.lite_runtime import open_file
from keras_transformer.export.lite_state import NEW, TOKEN_IDS, Caches, TextState
from keras_transformer.export.numpy_decoding import Begun
from keras_transformer.files import ModelFileError

PROMPT, STEP, TOKENS = "prompt", "step", "tokens"
LOGITS, MEMORY_MASK = "logits", "memory_mask"


class LiteSteps:
    """One text at a time: `begin` reads its ids, `step` adds a token and leaves the state that it was given as it is.

    `room` is how many tokens a state has room for: those written but the last and, of a language model, those read.
    The keys and values of the text that goes on stay in the interpreter's own memory, so that a token costs no copy
    of them. A step from another state than the last one copies that into it.

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
            self._interpreter.get_signature_runner(PROMPT)
            step = self._interpreter.get_signature_runner(STEP)
            given, found = step.get_input_details(), step.get_output_details()
            self.room = int(given["key_0"]["shape"][2])
            self._inputs = _of_the_first_graph(given, self._interpreter.get_input_details())
            self._outputs = _of_the_first_graph(found, self._interpreter.get_output_details())
            self._caches = {name.removeprefix(NEW) for name in found if name.startswith(NEW)}
            if "key_0" not in self._caches:
                raise ValueError(f"its signature {STEP!r} is that of an older version")
            del step  # an interpreter whose memory somebody may still look at refuses to run
            self._interpreter.allocate_tensors()
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelFileError(
                f"{path}: LiteRT can't use it ({error}). Write it again with `keras-transformer export`."
            ) from error
        # An interpreter has one set of buffers: two threads at once would mix their texts.
        self._lock = threading.Lock()
        self._held: Caches | None = None  # those in the interpreter's memory

    def begin(self, token_ids: Sequence[int]) -> Begun:
        """Read a prompt or a source: the logits (V,) of the first new token, and the state."""
        outputs = self._called(PROMPT, token_ids)
        return Begun(outputs.pop(LOGITS)[0], TextState.of(outputs, self._caches))

    def step(self, token_id: int, state: TextState) -> Begun:
        """Read one more token: the logits (V,) of the next, and the state with it; the old one stays as it is.

        Raises:
            ValueError: if the state is full.
        """
        if state.position >= self.room:
            raise ValueError(
                f"a text of {state.position} tokens has no room for one more: the file was made for {self.room}. "
                "Export the model with a larger max_length."
            )
        with self._lock:
            caches = state.caches.until(state.position)
            inputs = state._replace(caches=caches).inputs(token_id)
            there = self._caches | state.fixed.keys() if self._held is caches else set()
            for name in inputs.keys() - there:
                self._interpreter.set_tensor(self._inputs[name], inputs[name])
            self._held = caches
            self._interpreter.invoke()
            added = {name: self._interpreter.get_tensor(self._outputs[NEW + name]) for name in self._caches}
            for name, one in added.items():
                self._interpreter.tensor(self._inputs[name])()[:, :, state.position] = one[:, :, 0]
            caches.put(added)
            logits = self._interpreter.get_tensor(self._outputs[LOGITS])[0]
        return Begun(logits, TextState(state.position + 1, caches, state.fixed))

    def logits(self, token_ids: Sequence[int]) -> np.ndarray:
        """The logits (T, V) after each id of a text that is there already; only a language model has them."""
        return self._called(TOKENS, token_ids)[LOGITS][0]

    def choices(self, prompt: Sequence[int], written: Sequence[int]) -> np.ndarray:
        """The logits (T, V) from which each of T tokens would be chosen, were those before it `written`."""
        begun = self.begin(prompt)
        found = [begun.logits]
        for token_id in written[:-1]:
            begun = self.step(token_id, begun.state)
            found.append(begun.logits)
        return np.stack(found)

    def _called(self, name: str, token_ids: Sequence[int]) -> dict[str, np.ndarray]:
        with self._lock:
            return self._interpreter.get_signature_runner(name)(**{TOKEN_IDS: np.array([token_ids], np.int32)})


def _of_the_first_graph(tensors: dict[str, Any], first: Sequence[dict[str, Any]]) -> dict[str, int]:
    """The index of each tensor of a signature that is the file's first graph: of no other LiteRT lends its memory.

    Raises:
        ValueError: if it isn't the first.
    """
    if {(one["index"], one["name"]) for one in tensors.values()} != {(one["index"], one["name"]) for one in first}:
        raise ValueError(f"the signature {STEP!r} isn't its first graph")
    return {name: int(one["index"]) for name, one in tensors.items()}
