"""The dense product, which can compute as its integer kernel will."""

from typing import Any

import keras
from keras import ops

from keras_transformer.layers.fake_quantization import MovingRange, fake_quantize_rows, fake_quantize_weights
from keras_transformer.layers.integer_policy import RANGES, IntegerPolicy
from keras_transformer.layers.masks import Tensor

FUSED = (keras.activations.relu, keras.activations.relu6, keras.activations.linear)
"""Activations that a kernel applies before its output becomes an integer; others follow it in float32."""


@keras.saving.register_keras_serializable("keras_transformer")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense`; under an `IntegerPolicy` its kernel, inputs and outputs are fake integers.

    The kernel has a scale an output channel. A kernel's bias is an int32 whose steps are the product of the two
    scales, so fine that it stays as it is here.

    Args: as `keras.layers.Dense`.
    """

    def __init__(self, units: int, **layer_options: Any) -> None:
        super().__init__(units, **layer_options)
        self.input_range = self.output_range = None
        policy = self.dtype_policy
        if isinstance(policy, IntegerPolicy) and policy.activations == RANGES:
            self.input_range = MovingRange(policy.momentum, name="input_range", dtype="float32")
            self.output_range = MovingRange(policy.momentum, name="output_range", dtype="float32")

    def build(self, input_shape: tuple) -> None:
        """Make kernel and bias, and the ranges if they have weights."""
        super().build(input_shape)
        for moving in (self.input_range, self.output_range):
            if moving is not None:
                moving.build(())

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """(..., D) -> (..., units)."""
        policy = self.dtype_policy
        if not isinstance(policy, IntegerPolicy):
            return super().call(inputs, training=training)
        kernel = fake_quantize_weights(self.kernel, policy.weight_bits)
        taken = fake_quantize_rows(inputs) if self.input_range is None else self.input_range(inputs, training=training)
        x = ops.matmul(taken, kernel)
        if self.bias is not None:
            x = ops.add(x, self.bias)
        fused = self.activation in FUSED
        if fused:
            x = self.activation(x)
        if self.output_range is not None:
            x = self.output_range(x, training=training)
        return x if fused else self.activation(x)
