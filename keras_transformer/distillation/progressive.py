"""Distillation stage by stage: each stage trains some layers by losses of its own while the others stay frozen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.layer_map import LayerMap, tap_pairs
from keras_transformer.distillation.teachers import Teacher
from keras_transformer.distillation.terms import Loss, LossTerm

LAYER_NAME = "encoder_{}"


@dataclass(frozen=True)
class Stage:
    """What trains, and by which losses.

    Args:
        name: the key of its history.
        trains: names of the student's layers; all others are frozen meanwhile. None = the whole student.
        terms: as a Distiller's.
    """

    name: str
    trains: tuple[str, ...] | None
    terms: tuple[LossTerm, ...]


def layerwise_stages(
    layer_map: LayerMap,
    loss: Callable[[list[tuple[str, str]]], Loss],
    *,
    kind: str = "hidden",
    with_first: Sequence[str] = (),
    keep_training: bool = False,
) -> list[Stage]:
    """One stage a pair of the map, from the input up: MobileBERT's progressive transfer (Sun et al. 2020, section 3.5).

    Stage k trains the layers after those of stage k - 1 up to its pair's student layer, by the loss on that pair
    alone: what lies below is frozen, what lies above isn't reached. With `keep_training` it trains all layers up to
    there: the first stage of FitNets (Romero et al. 2015, section 2.2) for a map of one pair.

    >>> stages = layerwise_stages(uniform(student, teacher), hidden_states, with_first=["tokens", "positions"])
    >>> stages.append(Stage("logits", None, (LossTerm("soft_targets", 1.0, soft_targets(2.0)),)))

    Args:
        layer_map: the student's layers are called `encoder_<i>`, its taps `encoder/<i>/<kind>`.
        loss: makes a loss out of one pair of taps, [(student's, teacher's)].
        kind: of tap.
        with_first: more layers that train in the first stage, such as the embeddings.
        keep_training: see above.
    """
    stages, done = [], 0
    trained = tuple(with_first)
    for pair in layer_map:
        new = tuple(LAYER_NAME.format(layer) for layer in range(done, pair.student + 1))
        trained = (*trained, *new) if keep_training or not done else new
        term = LossTerm(kind, 1.0, loss(tap_pairs((pair,), kind)))
        stages.append(Stage(f"layer_{pair.student}", trained, (term,)))
        done = pair.student + 1
    return stages


def distil_in_stages(
    student: keras.Model,
    teacher: keras.Model | Teacher,
    stages: Iterable[Stage],
    x: Any,
    y: Any = None,
    *,
    configure: Callable[[Distiller], Any],
    **fit_options: Any,
) -> dict[str, dict[str, list[float]]]:
    """Train `student` in one stage after another, each by a Distiller of its own.

    Frozen layers run as in inference, as Keras does it: batch statistics stay. What was frozen before stays frozen,
    and afterwards, after an error too, every `trainable` flag is what it was. A loss's own weights, such as a
    projection, live for their stage.

    Args:
        student: trained in place.
        teacher: as a Distiller's.
        stages: in order.
        x: as `fit` takes it.
        y: labels, for stages that need them.
        configure: compiles the Distiller of each stage, with an optimizer that is new each time:
            `lambda distiller: distiller.compile(keras.optimizers.AdamW(1e-3))`.
        fit_options: go to `Distiller.fit`: epochs, batch_size, callbacks, ...

    Returns:
        The history of each stage by its name.

    Raises:
        ValueError: before anything is trained, if two stages have one name, a stage names a layer that isn't there
            or that has nothing to train, and whatever a Distiller refuses.
    """
    every = list(stages)
    names = [stage.name for stage in every]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"stages have the names {names}: give at least one stage, and each a name of its own.")
    distillers = [Distiller(student, teacher, stage.terms) for stage in every]
    for stage in every:
        _check_trains(student, stage)
    histories = {}
    for stage, distiller in zip(every, distillers, strict=True):
        with only_training(student, stage.trains):
            configure(distiller)
            histories[stage.name] = distiller.fit(x, y, **fit_options).history
    return histories


@contextmanager
def only_training(model: keras.Model, names: Sequence[str] | None) -> Iterator[None]:
    """Freeze all layers of `model` but the named ones while the block runs; None = freeze none."""
    # A layer's flag, once set, is also that of the layers and weights inside it: each is put back by itself.
    layers = [(layer, layer.trainable) for layer in model._flatten_layers()]
    weights = [(weight, weight.trainable) for weight in model.weights]
    try:
        if names is not None:
            for layer in model.layers:
                if layer.name not in names:
                    layer.trainable = False
        yield
    finally:
        for layer, flag in layers:
            layer.trainable = flag
        for weight, flag in weights:
            weight.trainable = flag


def _check_trains(student: keras.Model, stage: Stage) -> None:
    there = {layer.name: layer for layer in student.layers}
    for name in stage.trains or ():
        if name not in there:
            raise ValueError(
                f"stage {stage.name!r} trains {name!r}, and {student.name!r} has no such layer. It has {list(there)}."
            )
    if not any(
        layer.trainable_weights for name, layer in there.items() if stage.trains is None or name in stage.trains
    ):
        raise ValueError(
            f"stage {stage.name!r} has nothing to train: of {list(stage.trains or there)} every weight is frozen. "
            "Unfreeze a layer, or leave the stage out."
        )
