"""The signatures of an exported model, and tf.Modules that hold the raw variables they read and nothing of Keras.

A SavedModel of anything that holds Keras variables is broken in the loader that TensorFlow Serving uses, and
`keras.export.ExportArchive` stores each weight twice. These modules hold each `variable.value` once.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_transformer.export.requirements import Limits

DEFAULT, TOKENS = "serving_default", "tokens"


class BareWeights(tf.Module):
    """The model's weights as TensorFlow variables, shared by all signatures of one file."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.shared_weights = [weight.value for weight in model.weights]


class TextModule(BareWeights):
    """The weights, and the tokenizer with its tables."""

    def __init__(self, model: keras.Model, graph_tokenizer: tf.Module) -> None:
        super().__init__(model)
        self.graph_tokenizer = graph_tokenizer


def text_function(tokens: Any, graph_tokenizer: tf.Module, labels: Sequence[str], length: int | None) -> Any:
    """Return a tf.function: text (N,) string -> labels (N,) string, the best of each row, and scores (N, C) float32.

    The scores are the softmax of the logits that `tokens`, a `token_function`, gives: so the model's graph is in the
    file once. With `length` every row of ids is padded to it.
    """

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text")], autograph=False)
    def classify(text: tf.Tensor) -> dict[str, tf.Tensor]:
        token_ids = graph_tokenizer(text)  # (N, T)
        if length is not None:
            token_ids = tf.pad(token_ids, [[0, 0], [0, length - tf.shape(token_ids)[1]]])
            token_ids = tf.ensure_shape(token_ids, (None, length))
        logits = tokens(token_ids)["logits"]  # (N, C)
        best = tf.gather(tf.constant(list(labels)), tf.argmax(logits, axis=-1))  # (N,)
        return {"labels": best, "scores": tf.nn.softmax(logits)}

    return classify


def token_function(model: keras.Model, shape: tuple[int | None, int | None], limits: Limits | None) -> Any:
    """Return a tf.function: token_ids (N, T) int32, 0 = padding -> logits (N, C) float32.

    With `limits`, ids or lengths beyond them end in INVALID_ARGUMENT and a message; kernels alone would wrap, clamp
    or fail without a word of why. TFLite has no such check: who runs a `.tflite` file must check before.
    """

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.int32, "token_ids")], autograph=False)
    def tokens(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        checked = token_ids if limits is None else checked_ids(token_ids, limits)
        return {"logits": tf.cast(model(checked, training=False), tf.float32)}

    return tokens


def checked_ids(token_ids: tf.Tensor, limits: Limits) -> tf.Tensor:
    """Ids (N, T) as they are, or INVALID_ARGUMENT when they run: one is out of range, or a row is too long."""
    lowest, highest = tf.reduce_min(token_ids), tf.reduce_max(token_ids)
    length = tf.shape(token_ids)[1]
    empty = tf.equal(tf.size(token_ids), 0)  # its lowest and highest are the ends of int32
    in_range = tf.logical_and(lowest >= 0, highest < limits.vocab_size)
    checks = [
        tf.debugging.Assert(
            tf.logical_or(empty, in_range),
            [f"token_ids must lie in 0..{limits.vocab_size - 1}, here they run from", lowest, "to", highest],
        ),
        tf.debugging.Assert(
            length <= limits.max_length,
            [f"token_ids may have at most {limits.max_length} columns, here they have", length],
        ),
    ]
    with tf.control_dependencies(checks):
        return tf.identity(token_ids)
