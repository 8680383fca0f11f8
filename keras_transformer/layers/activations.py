"""Activations that Keras has no name for."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_transformer.layers.masks import Tensor

GELU_TANH = "gelu_tanh"


@keras.saving.register_keras_serializable("keras_transformer")
def gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, Hendrycks & Gimpel 2016, section 2: GPT-2's "gelu_new"."""
    return ops.gelu(x, approximate=True)


def activation_named(activation: str | Callable[..., Any]) -> Callable[..., Any]:
    """Return "gelu_tanh", or what Keras knows under the name."""
    return gelu_tanh if activation == GELU_TANH else keras.activations.get(activation)


def activation_name(activation: Callable[..., Any]) -> Any:
    """What `activation_named` takes to give `activation` back, fit for JSON."""
    return GELU_TANH if activation is gelu_tanh else keras.activations.serialize(activation)
