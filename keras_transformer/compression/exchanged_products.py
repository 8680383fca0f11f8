"""A copy of a model in which other dense products are factorised, with the same weights."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import keras

from keras_transformer.compression.dense_products import has_graph, own_weights, parts_of, refuse_sharing
from keras_transformer.compression.low_rank import Factors
from keras_transformer.layers.low_rank_dense import LowRankDense
from keras_transformer.layers.part_ranks import Ranks

Model = TypeVar("Model", bound=keras.Model)


def exchanged(model: Model, ranks: Ranks, factors: Mapping[str, Factors] | None = None) -> Model:
    """Return a copy of `model` that has just the products of `ranks` factorised, with its weights.

    Args:
        model: isn't changed. One of ours is built anew by its config, another by `keras.models.clone_model`.
        ranks: by path, of products that can be exchanged.
        factors: of each product that is to be factorised and isn't yet.

    Raises:
        ValueError: if layers share weights otherwise than by being called several times.
    """
    refuse_sharing(model)
    copy = _rebuilt(model, ranks)
    _copy_weights(copy, model, "", factors or {})
    return copy


def _rebuilt(model: keras.Model, ranks: Ranks) -> Any:
    if hasattr(model, "ranks"):  # its config holds them
        return type(model).from_config({**model.get_config(), "ranks": dict(ranks)})
    parts: dict[str, dict[str, int]] = {}
    for path, rank in ranks.items():
        part, _, rest = path.partition("/")
        parts.setdefault(part, {})[rest] = rank

    def exchange(layer: keras.Operation) -> keras.Operation:
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operation of the graph has no weights
        return _layer_with(layer, parts.get(layer.name, {}))

    return keras.models.clone_model(model, clone_function=exchange)


def _layer_with(layer: keras.layers.Layer, ranks: Ranks) -> keras.layers.Layer:
    """A new layer with the config of `layer`, and the products of `ranks` factorised."""
    if has_graph(layer):
        return _rebuilt(layer, ranks)
    if isinstance(layer, LowRankDense) or "" in ranks:
        return _dense_with(layer, ranks.get(""))
    config = layer.get_config()
    return type(layer).from_config({**config, "ranks": dict(ranks)} if hasattr(layer, "ranks") else config)


def _dense_with(layer: keras.layers.Layer, rank: int | None) -> keras.layers.Layer:
    options: dict[str, Any] = {
        "activation": layer.activation,
        "use_bias": layer.use_bias,
        "activity_regularizer": layer.activity_regularizer,
        "name": layer.name,
        "trainable": layer.trainable,
        "dtype": layer.dtype_policy,
    }
    if rank is None:
        return keras.layers.Dense(layer.units, **options)
    return LowRankDense(layer.units, rank, **options)


def _copy_weights(
    ours: keras.layers.Layer, theirs: keras.layers.Layer, path: str, factors: Mapping[str, Factors]
) -> None:
    """Assign to a layer what an alike one has, or to its products what computes the same."""
    if isinstance(theirs, keras.layers.Dense | LowRankDense) and type(ours) is not type(theirs):
        _copy_product(ours, theirs, factors.get(path))
        return
    _assign(own_weights(ours), own_weights(theirs))
    for our_part, their_part in zip(parts_of(ours), parts_of(theirs), strict=True):
        below = f"{path}/{their_part.name}" if path else their_part.name
        _copy_weights(our_part, their_part, below, factors)


def _copy_product(ours: keras.layers.Layer, theirs: keras.layers.Layer, factors: Factors | None) -> None:
    if isinstance(ours, LowRankDense) and factors is not None:
        ours.left.kernel.assign(factors.left)
        ours.right.kernel.assign(factors.right)
    else:
        ours.kernel.assign(theirs.kernel)
    if theirs.bias is not None:
        ours.bias.assign(theirs.bias)


def _assign(ours: Iterable[keras.Variable], theirs: Iterable[keras.Variable]) -> None:
    for our_weight, their_weight in zip(ours, theirs, strict=True):
        our_weight.assign(their_weight)
