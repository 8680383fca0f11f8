"""Run a Keras text model on token ids as a graph, and make a float32 twin of one in mixed precision."""

from collections.abc import Iterator
from typing import TypeVar

import keras
import numpy as np
import tensorflow as tf

SINGLE = "float32"

Model = TypeVar("Model", bound=keras.Model)


class KerasRunner:
    """Token ids (N, T) int32 -> logits (N, C) float32, in one traced graph for all shapes.

    `fixed_length` is the length that the model's input asks for, or None where any will do.
    """

    def __init__(self, model: keras.Model) -> None:
        self.fixed_length = input_length(model)
        signature = [tf.TensorSpec((None, self.fixed_length), tf.int32, "token_ids")]
        function = tf.function(
            lambda token_ids: model(token_ids, training=False), input_signature=signature, autograph=False
        )
        self._function = function.get_concrete_function()

    def __call__(self, token_ids: np.ndarray) -> np.ndarray:
        """Return the logits (N, C) of one batch of ids (N, T)."""
        return self._function(tf.constant(token_ids, tf.int32)).numpy()


def input_length(model: keras.Model) -> int | None:
    """Return the length that the model's one input asks for; None = any.

    Raises:
        ValueError: if the model takes anything but one (N, T) tensor.
    """
    inputs = model.inputs or []
    if len(inputs) != 1 or len(inputs[0].shape) != 2:
        shapes = [tuple(tensor.shape) for tensor in inputs]
        raise ValueError(
            f"model {model.name!r} has inputs of shapes {shapes}: an export needs one input of token ids, (N, T). "
            "Build it as a Functional model on keras.Input((None,), dtype='int32', name='token_ids')."
        )
    return inputs[0].shape[1]


def in_float32(model: keras.Model) -> keras.Model:
    """Return the model itself if it computes in float32, else a float32 twin with the same weights.

    TFLite has no bfloat16, and a server need not have a fast one.
    """
    if computes_in_float32(model):
        return model
    twin = keras.models.clone_model(model, clone_function=_layer_in_float32)
    twin.set_weights([np.asarray(weight, dtype=_stored_dtype(weight)) for weight in model.get_weights()])
    return twin


def computes_in_float32(model: keras.Model) -> bool:
    """Whether all layers of the model do, those of models inside it too."""
    return all(layer.compute_dtype == SINGLE for layer in _layers(model))


def with_policy(model: Model, policy: str) -> Model:
    """A copy of a model of ours, methods included, that computes in another precision; the weights are the same."""
    twin = type(model).from_config({**model.get_config(), "dtype": policy})
    twin.set_weights(model.get_weights())
    return twin


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        elif isinstance(layer, keras.layers.Layer):
            yield layer


def _layer_in_float32(layer: keras.Operation) -> keras.Operation:
    if isinstance(layer, keras.Model):
        return in_float32(layer)
    if not isinstance(layer, keras.layers.Layer):
        return layer  # an operation of the graph, such as ops.not_equal, has no precision of its own
    return layer.__class__.from_config({**layer.get_config(), "dtype": SINGLE})


def _stored_dtype(weight: np.ndarray) -> np.dtype:
    return weight.dtype if weight.dtype.kind in "biu" else np.dtype(SINGLE)
