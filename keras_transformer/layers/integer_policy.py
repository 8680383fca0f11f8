"""The dtype policy under which layers compute in float32 what integer kernels would."""

from typing import Any

import keras

from keras_transformer.checks import fraction, one_of

RANGES, ROWS = "ranges", "rows"
WEIGHT_BITS = (4, 8)


@keras.saving.register_keras_serializable("keras_transformer")
class IntegerPolicy(keras.DTypePolicy):
    """float32, with fake integers in the dense products, the token table and, if asked for, the attention's products.

    It travels as any dtype policy does: a model hands it to its layers, and its config and file hold it.

    Args:
        weight_bits: 8 or 4, of the dense kernels.
        activations: "ranges": what goes into a dense product and what comes out of it is int8, in ranges that follow
            the batches. "rows": what goes in is int8, in each row's own range, and what comes out is float32.
        momentum: of the ranges, see `MovingRange`.
        attention_products: whether what goes into Q K^T and into the weighted sum of the values is int8 too, in
            ranges.

    Raises:
        ValueError: for another number of bits, or an unknown kind of activations.
    """

    def __init__(
        self,
        weight_bits: int = 8,
        activations: str = RANGES,
        momentum: float = 0.99,
        attention_products: bool = False,
    ) -> None:
        super().__init__("float32")
        if weight_bits not in WEIGHT_BITS:
            raise ValueError(
                f"weight_bits={weight_bits!r} is no width that kernels have. Use 8, or 4 for smaller files."
            )
        one_of("activations", activations, (RANGES, ROWS))
        fraction("momentum", momentum)
        self.weight_bits, self.activations = weight_bits, activations
        self.momentum, self.attention_products = momentum, attention_products

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments."""
        return {
            "weight_bits": self.weight_bits,
            "activations": self.activations,
            "momentum": self.momentum,
            "attention_products": self.attention_products,
        }

    def __eq__(self, other: object) -> bool:
        """Two policies with the same arguments are one."""
        return isinstance(other, IntegerPolicy) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        """As `__eq__` compares."""
        return hash(tuple(self.get_config().values()))


def policy_of_outputs(policy: keras.DTypePolicy) -> Any:
    """The policy of the dense product that gives a model's logits: float32, whatever the others have.

    Losses and softmax start from them. Among fake integers its weights have 8 bits and its inputs a range a row, as
    exported files have it: nothing after it would even its errors out.
    """
    return IntegerPolicy(8, ROWS) if isinstance(policy, IntegerPolicy) else "float32"
