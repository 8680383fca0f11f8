"""Run a `.tflite` file with LiteRT. Imports neither TensorFlow nor Keras."""

import threading
from pathlib import Path

import numpy as np

from keras_transformer.export.lite_runtime import open_file
from keras_transformer.files import ModelFileError

SIGNATURE = "tokens"
INPUT, OUTPUT = "token_ids", "logits"


class LiteRunner:
    """Token ids (1, T) int32 -> logits (1, C) float32, one text at a time.

    The file has one signature with a free length T: each text runs at its own length, without padding. A file made
    from a model of one fixed length says so in `fixed_length`, and takes just that.

    Args:
        path: a `.tflite` file with the signature `tokens`.
        threads: for one answer; None = the interpreter's choice.
        xnnpack: see `lite_runtime.open_file`.

    Raises:
        ModelFileError: if the interpreter can't load the file, or it has other signatures.
    """

    def __init__(self, path: Path | str, threads: int | None = None, xnnpack: bool = True) -> None:
        try:
            self._interpreter = open_file(path, threads, xnnpack)
            self._signature = self._interpreter.get_signature_runner(SIGNATURE)
            shape = self._signature.get_input_details()[INPUT]["shape_signature"]
        except (KeyError, RuntimeError, ValueError) as error:
            raise ModelFileError(
                f"{path}: LiteRT can't use it ({error}). Write it again with `keras-transformer export`."
            ) from error
        self.fixed_length = None if shape[1] < 0 else int(shape[1])
        # An interpreter has one set of buffers: two threads at once would mix their texts.
        self._lock = threading.Lock()

    def __call__(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the logits (1, C) of one row of ids (1, T)."""
        with self._lock:
            return self._signature(**{INPUT: token_ids})[OUTPUT]
