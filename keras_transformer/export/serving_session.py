"""A SavedModel through the loader that TensorFlow Serving has: what it answers there, and of which operators it is."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import tensorflow as tf

from keras_transformer.data.well_formed import well_formed
from keras_transformer.export.signature_names import DEFAULT, ENCODE, TOKENS

BATCH_SIZE = 32


class Answers(NamedTuple):
    """What `serving_default` says about some texts."""

    labels: list[str]
    scores: np.ndarray  # (N, C) float32


class ServingSession:
    """A SavedModel opened by `tf.compat.v1.saved_model.loader.load`, the Python face of Serving's own loader.

    It is a context manager; `operators` lists the types of all operators in the graph and its functions, sorted, and
    `signatures` has the SignatureDef of each name. Threads may share it.
    """

    def __init__(self, folder: Path) -> None:
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        with graph.as_default(), _without_deprecation_notice():
            content = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        # Names that begin so are TensorFlow's own, for the restoring of variables.
        self.signatures = {name: one for name, one in content.signature_def.items() if not name.startswith("__")}
        nodes = list(content.graph_def.node)
        for function in content.graph_def.library.function:
            nodes += function.node_def
        self.operators = sorted({node.op for node in nodes})

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Free the session."""
        self.close()

    def close(self) -> None:
        """Free the session; nothing can be asked after it."""
        self._session.close()

    def logits(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the logits (N, C) of ids (N, T)."""
        return self.run(TOKENS, token_ids=token_ids)["logits"]

    def answers(self, texts: Sequence[str]) -> Answers:
        """Return the best label of each text, and the scores (N, C)."""
        labels: list[str] = []
        scores = []
        for start in range(0, len(texts), BATCH_SIZE):
            outputs = self.run(DEFAULT, text=as_bytes(texts[start : start + BATCH_SIZE]))
            labels += [label.decode() for label in outputs["labels"]]
            scores.append(outputs["scores"])
        return Answers(labels, np.concatenate(scores))

    def embeddings(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors (N, D) of the texts."""
        batches = [texts[start : start + BATCH_SIZE] for start in range(0, len(texts), BATCH_SIZE)]
        return np.concatenate([self.run(ENCODE, text=as_bytes(batch))["embedding"] for batch in batches])

    def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Return the outputs of the signature `name`."""
        signature = self.signatures[name]
        fetches = {key: tensor.name for key, tensor in signature.outputs.items()}
        return self._session.run(fetches, {signature.inputs[key].name: value for key, value in inputs.items()})


def as_bytes(texts: Sequence[str]) -> np.ndarray:
    """Texts as the array (N,) of UTF-8 that a session is fed."""
    return np.array([well_formed(text).encode() for text in texts], object)


@contextmanager
def _without_deprecation_notice() -> Iterator[None]:
    """TensorFlow logs that this loader is old. It is the one that Serving has, which is why it is used."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
