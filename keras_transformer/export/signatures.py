"""The signatures of an exported model, and tf.Modules that hold the raw variables they read and nothing of Keras.

A SavedModel of anything that holds Keras variables is broken in the loader that TensorFlow Serving uses, and
`keras.export.ExportArchive` stores each weight twice. These modules hold each `variable.value` once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_transformer.export.requirements import MOST_TEXT_BYTES, Limits


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


class TextSignatures(NamedTuple):
    """How a classifier for servers is asked; each is a tf.function with a signature of its own."""

    tokens: Any  # token_ids (N, T) int32 -> logits (N, C)
    classify: Any  # text (N,) string -> labels (N,) string, scores (N, C)
    encode: Any | None  # text (N,) string -> embedding (N, D); None where the model has no pooled vector


def text_signatures(
    model: keras.Model, graph_tokenizer: tf.Module, labels: Sequence[str], length: int | None, limits: Limits
) -> TextSignatures:
    """Return the signatures of a classifier. All of them call one function, so the model's graph is in the file once.

    The scores are the softmax of the logits, and the best label is that of the largest. With `length` every row of ids
    is padded to it. The embedding is what the model names "pooled" in its `tap_tensors`, as a `TextClassifier` does.
    """
    pooled = getattr(model, "tap_tensors", {}).get("pooled")
    whole = answer_function(model, (None, length), limits, pooled)
    text_spec = tf.TensorSpec((None,), tf.string, "text")

    def read(text: tf.Tensor) -> tf.Tensor:
        token_ids = graph_tokenizer(checked_texts(text))  # (N, T)
        if length is None:
            return token_ids
        padded = tf.pad(token_ids, [[0, 0], [0, length - tf.shape(token_ids)[1]]])
        return tf.ensure_shape(padded, (None, length))

    @tf.function(input_signature=[tf.TensorSpec((None, length), tf.int32, "token_ids")], autograph=False)
    def tokens(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"logits": whole(token_ids)["logits"]}

    @tf.function(input_signature=[text_spec], autograph=False)
    def classify(text: tf.Tensor) -> dict[str, tf.Tensor]:
        logits = whole(read(text))["logits"]  # (N, C)
        best = tf.gather(tf.constant(list(labels)), tf.argmax(logits, axis=-1))  # (N,)
        return {"labels": best, "scores": tf.nn.softmax(logits)}

    @tf.function(input_signature=[text_spec], autograph=False)
    def encode(text: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"embedding": whole(read(text))["embedding"]}

    return TextSignatures(tokens, classify, None if pooled is None else encode)


def token_function(model: keras.Model, shape: tuple[int | None, int | None], limits: Limits | None) -> Any:
    """Return a tf.function: token_ids (N, T) int32, 0 = padding -> logits (N, C) float32, see `answer_function`."""
    return answer_function(model, shape, limits, None)


def answer_function(
    model: keras.Model, shape: tuple[int | None, int | None], limits: Limits | None, pooled: Any | None
) -> Any:
    """Return a tf.function: token_ids (N, T) int32, 0 = padding -> `logits` (N, C) float32, and `embedding` (N, D).

    The embedding is there if `pooled`, a tensor (N, D) of the model's graph, is. With `limits`, ids or lengths beyond
    them end in INVALID_ARGUMENT and a message; kernels alone would wrap, clamp or fail without a word of why. TFLite
    has no such check: who runs a `.tflite` file must check before.
    """
    answering = model if pooled is None else keras.Model(model.inputs[0], [model.outputs[0], pooled])

    @tf.function(input_signature=[tf.TensorSpec(shape, tf.int32, "token_ids")], autograph=False)
    def answer(token_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        checked = token_ids if limits is None else checked_ids(token_ids, limits)
        found = answering(checked, training=False)
        if pooled is None:
            return {"logits": tf.cast(found, tf.float32)}
        return {"logits": tf.cast(found[0], tf.float32), "embedding": tf.cast(found[1], tf.float32)}

    return answer


def checked_texts(text: tf.Tensor) -> tf.Tensor:
    """Texts (N,) as they are, or INVALID_ARGUMENT when they run: one has more than `MOST_TEXT_BYTES`.

    A text within that is cut at the length that the model learned on. One beyond it is a mistake, and would hold the
    server up for seconds.
    """
    longest = tf.reduce_max(tf.concat([tf.strings.length(text), [0]], axis=0))
    check = tf.debugging.Assert(
        longest <= MOST_TEXT_BYTES,
        [f"a text may have at most {MOST_TEXT_BYTES} bytes of UTF-8, here one has", longest],
    )
    with tf.control_dependencies([check]):
        return tf.identity(text)


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
    if limits.asked_id is not None:
        asked = tf.reduce_all(tf.reduce_any(tf.equal(token_ids, limits.asked_id), axis=1))
        checks.append(
            tf.debugging.Assert(asked, [f"each row of token_ids, or text, must hold [MASK], id {limits.asked_id}"])
        )
    with tf.control_dependencies(checks):
        return tf.identity(token_ids)
