"""A dense product through a narrow middle, and the ranks by which a layer or model is told where to have one.

Ranks are a mapping from the path of a dense product below the layer to its rank: an encoder layer that is given
{"feed_forward/inner": 32} has that one kernel as two. They are part of a config, so that a layer with factors is
saved, cloned and rebuilt as any other.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import keras
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.layers.activations import activation_name, activation_named
from keras_transformer.layers.masks import Tensor

Ranks = Mapping[str, int]
"""Rank of each dense product that is factorised, by its path below the layer or model that is given them."""


@keras.saving.register_keras_serializable("keras_transformer")
class LowRankDense(keras.layers.Layer):
    """activation(x A B + b) with A (D, r) and B (r, F): a `keras.layers.Dense` whose kernel has rank r at most.

    It holds r (D + F) weights where the product A B has D F, and multiplies as often for each row. What a kernel is
    factorised into is given by `compression.low_rank`; a fresh layer starts from two fresh kernels.

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
        self.left = keras.layers.Dense(rank, use_bias=False, name="left", **options)
        self.right = keras.layers.Dense(units, self.activation, use_bias=use_bias, name="right", **options)
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

    def call(self, inputs: Tensor) -> Tensor:
        """(..., D) -> (..., F)."""
        return self.right(self.left(inputs))

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


def refuse_ranks(model: keras.Model, purpose: str) -> None:
    """Raise ValueError if `model` has factorised products: what follows looks for whole kernels.

    Args:
        model: any; one without an argument `ranks` has none.
        purpose: what can't be done, after "its kernels are in two parts and".
    """
    ranks = getattr(model, "ranks", None)
    if ranks:
        raise ValueError(
            f"{model.name!r} has ranks for {len(ranks)} dense products, {next(iter(ranks))!r} among them: its kernels "
            f"are in two parts and {purpose}. Take the model that it came from, or "
            "compression.fuse(model, compression.factored_ranks(model))."
        )


def check_rank(name: str, rank: int, shape: tuple[int, int]) -> None:
    """Raise ValueError unless a matrix of this shape can have this rank."""
    positive_integer(f"rank of {name!r}", rank)
    largest = min(shape)
    if rank > largest:
        raise ValueError(
            f"rank={rank} of {name!r} is above the {largest} that a kernel of shape {tuple(shape)} can have. "
            f"Use rank={largest} or less."
        )


def ranks_of_parts(ranks: Ranks | None, parts: Sequence[str]) -> dict[str, dict[str, int]]:
    """Sort ranks by the part that they are for: {"attention/query": 3} -> {"attention": {"query": 3}}.

    A part that is a dense product itself has its rank under the empty path.

    Args:
        ranks: what the layer or model was given; None = nothing is factorised.
        parts: names of all parts that have, or are, dense products.

    Returns:
        An entry for each part.

    Raises:
        ValueError: for a path into no part, or a rank that isn't a whole number of at least 1.
    """
    found: dict[str, dict[str, int]] = {part: {} for part in parts}
    for path, rank in (ranks or {}).items():
        part, _, rest = path.partition("/")
        if part not in found:
            what = repr(path) if path else "a rank for the layer as a whole"
            nearest = (get_close_matches(part, parts, n=1, cutoff=0.0) or list(parts))[0]
            raise ValueError(
                f"ranks has {what}, and the parts with dense products here are {list(parts)}. Did you mean {nearest!r}?"
            )
        positive_integer(f"ranks[{path!r}]", rank)
        found[part][rest] = rank
    return found


def dense(units: int, ranks: Ranks, *, name: str, **options: Any) -> keras.layers.Layer:
    """Return `keras.layers.Dense`, or a `LowRankDense` if there is a rank under the empty path.

    Args:
        units: width of the output.
        ranks: those of this part, out of `ranks_of_parts`.
        name: of the layer.
        options: activation, use_bias, dtype.

    Raises:
        ValueError: for a path into the product: it has no parts.
    """
    below = [path for path in ranks if path]
    if below:
        raise ValueError(
            f"ranks has {f'{name}/{below[0]}'!r}, and {name!r} is a dense product without parts. Use ranks={{{name!r}: "
            f"{ranks[below[0]]}}}."
        )
    if ranks:
        return LowRankDense(units, ranks[""], name=name, **options)
    return keras.layers.Dense(units, name=name, **options)
