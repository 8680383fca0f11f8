"""Layers whose inner values are computed twice instead of kept for the gradients (Chen et al. 2016, section 3)."""

from typing import Any

import keras

from keras_transformer.layers.integer_policy import IntegerPolicy
from keras_transformer.layers.masks import Tensor


def hidden_recomputed(layer: keras.layers.Layer, tensors: dict[str, Tensor | None], **options: Any) -> Tensor:
    """`hidden` of `layer(**tensors, **options)`: until its gradients, nothing is kept but the tensors.

    Dropout drops the same numbers both times, and those it would drop without this.

    Args:
        layer: built; all that a call of it changes is where its random numbers stand.
        tensors: float ones, by argument; gradients go to each that isn't None.
        options: the other arguments.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    weights = {id(weight) for weight in layer.weights}
    states = [state for state in layer.variables if id(state) not in weights]  # of the random numbers
    start = [keras.ops.copy(state.value) for state in states]
    after: list[Tensor] = []

    @keras.remat
    def run(*values: Tensor) -> Tensor:
        with keras.StatelessScope(list(zip(states, start, strict=True))) as scope:
            hidden = layer(**dict(zip(given, values, strict=True)), **options).hidden
            if not after:
                after.extend(scope.get_current_value(state) for state in states)
        return hidden

    hidden = run(*given.values())
    for state, value in zip(states, after, strict=True):
        state.assign(value)
    return hidden


def check_recomputing(recompute_layers: bool, policy: keras.DTypePolicy) -> None:
    """Raise ValueError where a second run would be another one: moving ranges move whenever they are used."""
    if recompute_layers and isinstance(policy, IntegerPolicy):
        raise ValueError(
            "recompute_layers=True runs each layer twice, and the ranges of an IntegerPolicy would move twice. "
            "Use recompute_layers=False for training with integers in view."
        )
