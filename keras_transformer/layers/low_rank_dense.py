"""A dense product through a narrow middle."""

from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers.activations import activation_name, activation_named
from keras_transformer.layers.dense import Dense
from keras_transformer.layers.masks import Tensor


@keras.saving.register_keras_serializable("keras_transformer")
class LowRankDense(keras.layers.Layer):
    """activation(x A B + b) with A (D, r) and B (r, F): a dense product whose kernel has rank r at most.

    It holds r (D + F) weights where the product A B has D F, and multiplies as often for each row. Under an
    `IntegerPolicy` x A and (x A) B are fake integers each, as `Dense`. The factors of a trained kernel are given by
    `compression.factorise_kernels`; a fresh layer starts from two fresh kernels.

    Args:
        units: width F of the output.
        rank: r, at most min(D, F).
        activation: a Keras activation, or "gelu_tanh".
        use_bias: whether b is there.

    Raises:
        ValueError: for a number below 1; when built, for a rank above min(D, F).
    """

    def __init__(
        self,
        units: int,
        rank: int,
        activation: Any = None,
        use_bias: bool = True,
        **layer_options: Any,
    ) -> None:
        super().__init__(**layer_options)
        positive_integer("units", units)
        positive_integer("rank", rank)
        self.units, self.rank, self.use_bias = units, rank, use_bias
        self.activation = activation_named(activation)
        options = {"dtype": self.dtype_policy, "trainable": self.trainable}  # Keras freezes only parts that are there
        self.left = Dense(rank, use_bias=False, name="left", **options)
        self.right = Dense(units, activation=self.activation, use_bias=use_bias, name="right", **options)
        self.supports_masking = True  # as `keras.layers.Dense`

    def build(self, input_shape: tuple) -> None:
        """Make both kernels and the bias."""
        check_rank(self.name, self.rank, (input_shape[-1], self.units))
        self.left.build(input_shape)
        self.right.build((*input_shape[:-1], self.rank))

    @property
    def kernel(self) -> Tensor:
        """A B, (D, F): the kernel of the dense layer that computes the same."""
        return ops.matmul(self.left.kernel, self.right.kernel)

    @property
    def bias(self) -> Any:
        """(F,), or None."""
        return self.right.bias

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """(..., D) -> (..., F)."""
        return self.right(self.left(inputs, training=training), training=training)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """(..., D) -> (..., F)."""
        return (*input_shape[:-1], self.units)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        own = {
            "units": self.units,
            "rank": self.rank,
            "activation": activation_name(self.activation),
            "use_bias": self.use_bias,
        }
        return {**super().get_config(), **own}


def check_rank(name: str, rank: int, shape: tuple[int, int]) -> None:
    """Raise ValueError unless a matrix of this shape can have this rank."""
    positive_integer(f"rank of {name!r}", rank)
    largest = min(shape)
    if rank > largest:
        raise ValueError(
            f"rank={rank} of {name!r} is above the {largest} that a kernel of shape {tuple(shape)} can have. "
            f"Use rank={largest} or less."
        )
