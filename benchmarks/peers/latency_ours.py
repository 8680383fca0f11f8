"""Our classifier: a `.tflite` file that LiteRT runs, or the Keras model in one traced graph."""

from pathlib import Path
from typing import Any

import numpy as np

from peers.single_texts import timed_calls

PACKAGES = ("ai-edge-litert",)


def answers(form: str, threads: str) -> dict[str, Any]:
    """`form` is "keras", or the name of a `.tflite` file without its ending."""
    known: dict[str, Any] = {}

    def load(folder: str) -> dict[str, Any]:
        path = Path(folder) / ("model.keras" if form == "keras" else f"{form}.tflite")
        known["run"] = keras_graph(path, int(threads)) if form == "keras" else lite(path, int(threads))
        return {"bytes": path.stat().st_size}

    def run(token_ids: list[list[int]]) -> dict[str, Any]:
        return timed_calls(lambda row: known["run"](row.astype(np.int32)), token_ids)

    return {"load": load, "run": run}


def lite(path: Path, threads: int) -> Any:
    """LiteRT, as `serving.load` calls it."""
    from keras_transformer.export.lite_runner import LiteRunner

    return LiteRunner(path, threads)


def keras_graph(path: Path, threads: int) -> Any:
    """TensorFlow with so many threads."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    import keras

    from keras_transformer.export.keras_runner import KerasRunner
    from keras_transformer.models import TextClassifier

    return KerasRunner(keras.models.load_model(path, {"TextClassifier": TextClassifier}, compile=False))
