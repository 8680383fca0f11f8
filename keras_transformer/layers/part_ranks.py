"""Where a layer or model has factorised dense products, and of what rank.

Ranks are a mapping from the path of a dense product below the layer to its rank: an encoder layer that is given
{"feed_forward/inner": 32} has that one kernel as two. They are part of a config, so that a layer with factors is
saved, cloned and rebuilt as any other.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import keras

from keras_transformer.checks import positive_integer
from keras_transformer.layers.dense import Dense
from keras_transformer.layers.low_rank_dense import LowRankDense

Ranks = Mapping[str, int]
"""Rank of each dense product that is factorised, by its path below the layer or model that is given them."""


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
    """Return a `Dense`, or a `LowRankDense` if there is a rank under the empty path.

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
    return Dense(units, name=name, **options)
