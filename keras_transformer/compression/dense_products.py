"""The dense products of a model, and which of them can be exchanged for others."""

from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import keras

from keras_transformer.layers.dense import Dense
from keras_transformer.layers.integer_policy import IntegerPolicy
from keras_transformer.layers.low_rank_dense import LowRankDense

KINDS = (keras.layers.Dense, Dense)
"""Classes of layers that compute activation(x W + b) and no more."""


class Product(NamedTuple):
    """A dense product in a model."""

    path: str  # names of the layers around it and its own: "encoder_0/attention/query"
    layer: keras.layers.Layer  # `Dense` or `LowRankDense`
    hindrance: str | None  # why it can't be exchanged, as the end of a sentence


def dense_products(model: keras.Model) -> list[Product]:
    """Find every dense product, in the order of the layers.

    Those can be exchanged that are layers of the graph of a Functional or Sequential model, or of one inside it, and
    those in a layer or model with an argument `ranks`, as ours have.

    Raises:
        ValueError: if there is none at all; if layers share weights otherwise than by being called several times.
    """
    found = list(_products(model))
    if not found:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has no dense layer, so nothing to factorise. A subclassed "
            "model shows its layers only when it is built: call it on one batch."
        )
    refuse_sharing(model)
    return [Product(path, layer, _hindrance(layer, barrier)) for path, layer, barrier in found]


def chosen_products(model: keras.Model, names: Collection[str] | None, *, factored: bool = False) -> dict[str, Product]:
    """Products that can be exchanged, by path.

    Args:
        model: built.
        names: paths or shell patterns such as "encoder_*/feed_forward/*"; None = all that can be.
        factored: True for those that are factorised, and no others; False for those that aren't.

    Raises:
        TypeError: if `names` is one string.
        ValueError: if there is none; if a pattern fits none, or one that can't be exchanged, with the reason.
    """
    if isinstance(names, str):
        raise TypeError(f"names={names!r} must be a list of paths or patterns. Use names=[{names!r}].")
    found = dense_products(model)
    if factored:
        found = [one for one in found if isinstance(one.layer, LowRankDense)]
    else:
        found = [one if one.hindrance else _whole_only(one) for one in found]
    if names is None:
        wanted = [one for one in found if one.hindrance is None]
        if not wanted:
            raise ValueError(
                f"model {model.name!r} has no dense product that can be exchanged: "
                f"{'; '.join(f'{one.path!r} {one.hindrance}' for one in found)}."
            )
        return {one.path: one for one in wanted}
    for pattern in names:
        fitting = [one for one in found if fnmatchcase(one.path, pattern)]
        if not fitting:
            raise ValueError(
                f"names has {pattern!r}, which fits none of the {'factorised' if factored else 'dense'} products "
                f"{[one.path for one in found]}. Use their paths, with * for any part."
            )
        for one in fitting:
            if one.hindrance is not None:
                raise ValueError(f"{one.path!r} can't be exchanged: it {one.hindrance}. Leave it out of `names`.")
    return {one.path: one for one in found if any(fnmatchcase(one.path, pattern) for pattern in names)}


def factored_ranks(model: keras.Model) -> dict[str, int]:
    """Path -> rank of each product of `model` that is factorised; none for a model without dense layers."""
    return {path: layer.rank for path, layer, _ in _products(model) if isinstance(layer, LowRankDense)}


def _products(
    layer: keras.layers.Layer, prefix: str = "", barrier: keras.layers.Layer | None = None
) -> Iterator[tuple[str, keras.layers.Layer, keras.layers.Layer | None]]:
    """Path and layer of each product below `layer`, and the outermost layer through which it can't be exchanged."""
    if barrier is None and not (hasattr(layer, "ranks") or has_graph(layer)):
        barrier = layer
    for part in parts_of(layer):
        path = prefix + part.name
        if isinstance(part, keras.layers.Dense | LowRankDense):
            yield path, part, barrier
        else:
            yield from _products(part, f"{path}/", barrier)


def parts_of(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """The layers that a layer or model is made of, without those inside them."""
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    return layer._flatten_layers(include_self=False, recursive=False)


def _hindrance(layer: keras.layers.Layer, barrier: keras.layers.Layer | None) -> str | None:
    if barrier is not None:
        return f"lies inside {barrier.name!r} ({type(barrier).__name__}), which has no argument `ranks` to be told by"
    if not layer.built:
        return "has no weights yet: call the model on one batch"
    if isinstance(layer.dtype_policy, IntegerPolicy):
        return "computes with fake integers: factorise or fuse plain(model), and make that quantization_aware"
    if isinstance(layer, LowRankDense):
        return None
    if type(layer) not in KINDS:
        return f"is a {type(layer).__name__}, which may compute something else"
    if layer.lora_enabled or layer.quantization_mode is not None:
        return "has a kernel with LoRA or in integers"
    for what in ("kernel_regularizer", "kernel_constraint", "bias_regularizer", "bias_constraint"):
        if getattr(layer, what) is not None:
            return f"has a {what}, which factors don't have"
    return None


def _whole_only(product: Product) -> Product:
    if not isinstance(product.layer, LowRankDense):
        return product
    return product._replace(hindrance=f"is factorised already, with rank {product.layer.rank}: fuse it first")


def refuse_sharing(model: keras.Model) -> None:
    """Raise ValueError if two layers hold one layer or weight: each would have its own in a copy made by configs.

    What has an argument `ranks` builds its parts anew by itself, shared as they were.
    """
    holders: dict[int, keras.layers.Layer] = {}
    waiting: list[keras.layers.Layer] = [model]
    while waiting:
        holder = waiting.pop()
        if hasattr(holder, "ranks"):
            continue
        parts = parts_of(holder)
        for held in (*parts, *own_weights(holder)):
            other = holders.setdefault(id(held), holder)
            if other is not holder:
                raise ValueError(
                    f"{other.name!r} and {holder.name!r} in model {model.name!r} share {held.path!r}, and would have "
                    "one each in a copy. Let one layer be called in both places of the graph."
                )
        waiting += parts


def own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a layer that aren't those of its parts."""
    below = {id(weight) for part in parts_of(layer) for weight in part.weights}
    return [weight for weight in layer.weights if id(weight) not in below]


def has_graph(layer: Any) -> bool:
    """Whether it is a Functional or Sequential model."""
    return isinstance(layer, keras.Model) and getattr(layer, "inputs", None) is not None
