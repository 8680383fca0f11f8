"""Run a `.tflite` file with LiteRT, and list the operators in it. Imports neither TensorFlow nor Keras."""

import threading
from pathlib import Path

import numpy as np

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

    Raises:
        ModelFileError: if the interpreter can't load the file, or it has other signatures.
    """

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        try:
            self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
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


def operator_names(path: Path | str) -> list[str]:
    """Names of the operators in a `.tflite` file, sorted; TensorFlow operators begin with "Flex"."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    model = schema.Model.GetRootAs(Path(path).read_bytes(), 0)
    used = set()
    for index in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(index)
        custom = code.CustomCode()
        # Files of old converters keep small codes in the deprecated field alone.
        used.add(custom.decode() if custom else names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())])
    return sorted(used)
