"""Open a `.tflite` file with LiteRT. Imports neither TensorFlow nor Keras."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter


def open_file(path: Path | str, threads: int | None = None, xnnpack: bool = True) -> "Interpreter":
    """Return an interpreter of the file.

    Args:
        path: a `.tflite` file.
        threads: for one call; None = the interpreter's choice.
        xnnpack: False to run all operators with LiteRT's own kernels, as a phone does that has no XNNPACK.

    Raises:
        RuntimeError, ValueError: whatever LiteRT says of a file that it can't open.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    return Interpreter(model_path=str(path), num_threads=threads, experimental_op_resolver_type=resolver)
