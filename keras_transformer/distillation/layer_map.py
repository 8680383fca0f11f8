"""Which student layer learns from which teacher layer: a map is a value, made by pure functions and checked at once."""

import re
from collections.abc import Iterable
from typing import NamedTuple

import keras

from keras_transformer.checks import positive_integer

HIDDEN = re.compile(r"encoder/(\d+)/hidden")


class LayerPair(NamedTuple):
    """One student layer and the teacher layer that it learns from, both counted from 0."""

    student: int
    teacher: int


LayerMap = tuple[LayerPair, ...]
"""Pairs in the order of the layers. Being a tuple it can be cut: `every_k(6, 12, 2)[:-1]` leaves the last pair out."""


def uniform(student: int | keras.Model, teacher: int | keras.Model) -> LayerMap:
    """Spread the student's M layers evenly over the teacher's N; the last learns from the last.

    Counted from 1, layer m learns from layer ceil(m N / M): g(m) = m N / M of TinyBERT (Jiao et al. 2020, section
    3.1 with section 4.2, g(m) = 3 m for 4 layers out of 12), rounded up where M doesn't divide N.

    Args:
        student: number of layers M, or a model that has `tap_tensors`.
        teacher: number of layers N, or such a model.

    Raises:
        ValueError: if the student has more layers than the teacher, or a model tells no number of layers.
    """
    ours, theirs = layer_count(student), layer_count(teacher)
    return given([(layer, -(-(layer + 1) * theirs // ours) - 1) for layer in range(ours)], ours, theirs)


def last_k(student: int | keras.Model, teacher: int | keras.Model, k: int | None = None) -> LayerMap:
    """Pair the last k layers of both sides: student M - k + i with teacher N - k + i.

    PKD-Last (Sun et al. 2019, section 3.2) leaves out the last layer, which the logits teach: `last_k(6, 12)[:-1]`.
    With k = 1 it is the pair of MiniLM (Wang et al. 2020, section 3.1).

    Args:
        student: number of layers M, or a model that has `tap_tensors`.
        teacher: number of layers N, or such a model.
        k: number of pairs; None = all of the student's layers.

    Raises:
        ValueError: if one side has fewer than k layers, or as `uniform`.
    """
    ours, theirs = layer_count(student), layer_count(teacher)
    count = ours if k is None else k
    positive_integer("k", count)
    return given([(ours - count + place, theirs - count + place) for place in range(count)], ours, theirs)


def every_k(student: int | keras.Model, teacher: int | keras.Model, k: int, first: int | None = None) -> LayerMap:
    """Pair student layer i with teacher layer first + i k, for all of the student's layers.

    With k = 2 it is DistilBERT's "one layer out of two" (Sanh et al. 2019, section 3), and without its last pair
    PKD-Skip (Sun et al. 2019, section 3.2): `every_k(6, 12, 2)[:-1]`.

    Args:
        student: number of layers, or a model that has `tap_tensors`.
        teacher: number of layers, or such a model.
        k: distance of two teacher layers, at least 1.
        first: the teacher layer of student layer 0; None = k - 1, so that N / k student layers end at the last.

    Raises:
        ValueError: if that leads beyond the teacher's last layer, or as `uniform`.
    """
    positive_integer("k", k)
    ours, theirs = layer_count(student), layer_count(teacher)
    start = k - 1 if first is None else first
    return given([(layer, start + k * layer) for layer in range(ours)], ours, theirs)


def given(pairs: Iterable[tuple[int, int]], student: int | keras.Model, teacher: int | keras.Model) -> LayerMap:
    """Check a map that was written by hand: (student layer, teacher layer), counted from 0, in order.

    Args:
        pairs: at least one. Both sides must go up: a student that learned a late layer before an early one would be
            turned around half way.
        student: number of layers, or a model that has `tap_tensors`.
        teacher: number of layers, or such a model.

    Raises:
        ValueError: if a layer isn't there, comes twice, or goes back; or if there are more pairs than the teacher
            has layers. The message prints the layers of both sides.
    """
    ours, theirs = layer_count(student), layer_count(teacher)
    layer_map = tuple(LayerPair(*pair) for pair in pairs)
    if not layer_map:
        raise _wrong(layer_map, ours, theirs, "is empty", "Give at least one (student layer, teacher layer)")
    if len(layer_map) > theirs:
        what = f"has more student layers than the {theirs} of the teacher"
        raise _wrong(layer_map, ours, theirs, what, f"Map {theirs} of them: last_k(student, teacher, k={theirs})")
    for side, count in (("student", ours), ("teacher", theirs)):
        layers = [getattr(pair, side) for pair in layer_map]
        outside = [layer for layer in layers if not 0 <= layer < count]
        if outside:
            what = f"names {side} layer {outside[0]}"
            raise _wrong(layer_map, ours, theirs, what, f"Use {side} layers 0 to {count - 1}")
        twice = [layer for layer in layers if layers.count(layer) > 1]
        if twice:
            raise _wrong(layer_map, ours, theirs, f"has {side} layer {twice[0]} twice", "Leave one of them out")
        if layers != sorted(layers):
            raise _wrong(layer_map, ours, theirs, f"goes back among the {side} layers", "Let both lists go up")
    return layer_map


def layer_count(model: int | keras.Model) -> int:
    """Return the number of encoder layers that `model` has, by its taps `encoder/<i>/hidden`; a number is itself.

    Raises:
        ValueError: if the model has no such taps, or the number is below 1.
    """
    if not isinstance(model, keras.Model):
        positive_integer("number of layers", model)
        return model
    found = [match for name in getattr(model, "tap_tensors", {}) if (match := HIDDEN.fullmatch(name))]
    if not found:
        raise ValueError(
            f"model {model.name!r} has no tap 'encoder/0/hidden', so its layers can't be counted. "
            "Give the number of its layers instead of the model."
        )
    return len(found)


def tap_pairs(layer_map: LayerMap, kind: str) -> list[tuple[str, str]]:
    """Name one kind of tap for each pair: the feature losses take such lists.

    >>> tap_pairs(uniform(2, 6), "hidden")
    [('encoder/0/hidden', 'encoder/2/hidden'), ('encoder/1/hidden', 'encoder/5/hidden')]

    Args:
        layer_map: any map.
        kind: what comes after the layer's number: "hidden", "attention", "query", "key", "value".
    """
    return named_pairs(layer_map, f"encoder/{{}}/{kind}")


def named_pairs(layer_map: LayerMap, student: str, teacher: str | None = None) -> list[tuple[str, str]]:
    """Name each pair by a pattern a side, for models whose taps or layers have other names.

    >>> named_pairs(uniform(2, 6), "encoder_{}", "transformer_layer_{}")
    [('encoder_0', 'transformer_layer_2'), ('encoder_1', 'transformer_layer_5')]

    Args:
        layer_map: any map.
        student: a name with {} in the place of the layer's number.
        teacher: the same of the other side; None = as the student's.

    Raises:
        ValueError: if a pattern has no {}.
    """
    patterns = (student, student if teacher is None else teacher)
    for pattern in patterns:
        if "{}" not in pattern:
            raise ValueError(
                f"the pattern {pattern!r} has no place for the layer's number, so all pairs would be one. "
                "Use for example 'encoder_{}'."
            )
    ours, theirs = patterns
    return [(ours.format(pair.student), theirs.format(pair.teacher)) for pair in layer_map]


def _wrong(layer_map: LayerMap, ours: int, theirs: int, what: str, fix: str) -> ValueError:
    return ValueError(
        f"the layer map {what}: student layers {[pair.student for pair in layer_map]} of 0 to {ours - 1} learn from "
        f"teacher layers {[pair.teacher for pair in layer_map]} of 0 to {theirs - 1}. {fix}."
    )
