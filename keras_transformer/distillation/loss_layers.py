"""The weights of losses that own some: made before the first batch, or not lost and not late in silence."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import LossTerm, needs_of

STORED = "layers"
"""Where Keras puts the weights of a model's layers in a file."""


def loss_layers(terms: Iterable[LossTerm]) -> list[keras.layers.Layer]:
    """The losses that are layers, in the order of the terms."""
    return [term.loss for term in terms if isinstance(term.loss, keras.layers.Layer)]


def make_weights(layers: Iterable[keras.layers.Layer], sides: Sequence[Callable[[Any], Outputs]]) -> None:
    """Make the losses' weights if both sides know their shapes; else the first batch makes them.

    Replicas, a file of weights and the optimizer want them before it, and a user his errors. A layer that has its
    weights is called too: it may have got them in another Distiller, by other shapes.

    Args:
        layers: the losses.
        sides: the student's forward pass and the teacher's reader.

    Raises:
        ValueError: whatever a layer refuses.
    """
    shapes = [symbolic_outputs(side) for side in sides]
    for layer in layers:
        if not needs_of(layer).labels and None not in shapes:
            layer(None, *shapes)


def symbolic_outputs(forward: Callable[[Any], Outputs]) -> Outputs | None:
    """Shapes and dtypes of what `forward` gives, where it can tell them without a batch."""
    return forward.symbolic_outputs() if hasattr(forward, "symbolic_outputs") else None


def unbuilt(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """The layers that a batch has yet to build."""
    return [layer for layer in layers if not layer.built]


def refuse_late_weights(layers: Iterable[keras.layers.Layer], optimizer: keras.optimizers.Optimizer) -> None:
    """Raise ValueError if one of `layers`, which this batch has built, has weights that `optimizer` doesn't know.

    Replicas let the optimizer make its own weights before the first batch.
    """
    late = [layer for layer in layers if layer.trainable_weights]
    if late and optimizer.built:
        raise ValueError(
            f"The loss {late[0].name!r} made its weights with a batch, and by then the optimizer knew all that it was "
            "to train: under a tf.distribute strategy it does so before the first batch. Give models with a graph as "
            "student and teacher, or as the teacher what cache_teacher returns: then the shapes are known at once. Or "
            "train on one device, with a new optimizer."
        )


def refuse_lost_weights(
    losses: Iterable[keras.layers.Layer], layers: Sequence[keras.layers.Layer], filepath: str | Path
) -> None:
    """Raise ValueError if a file of weights holds more than `layers` have while some of `losses` are yet to be built.

    Keras would leave the rest out and say nothing.

    Args:
        losses: those that own weights.
        layers: all that is stored of the model, the losses among them.
        filepath: as `load_weights` takes it; a file in several parts isn't looked into.
    """
    waiting = unbuilt(losses)
    if not waiting or Path(filepath).suffix != ".h5" or not Path(filepath).is_file():
        return
    stored: list[str] = []
    with h5py.File(filepath, "r") as file:
        if STORED in file:
            file[STORED].visititems(lambda name, item: stored.append(name) if isinstance(item, h5py.Dataset) else None)
    here = sum(len(layer.variables) for layer in layers)
    if len(stored) > here:
        raise ValueError(
            f"{filepath}: holds {len(stored)} weights and this Distiller has {here}: those of the loss "
            f"{waiting[0].name!r} are made with the first batch, and would be left out. Call distiller.evaluate on one "
            "batch first, then load."
        )
