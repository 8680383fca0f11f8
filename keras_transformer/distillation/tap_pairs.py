"""Pairs of (student tap, teacher tap) that a loss compares, as a layer map or the user names them."""

from collections.abc import Iterable, Mapping
from typing import Any

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.layers.masks import Tensor

TapPair = tuple[str, str]
"""(name of a student's tap, name of a teacher's tap), for example ("encoder/0/hidden", "encoder/2/hidden")."""


def checked_pairs(pairs: Iterable[TapPair]) -> tuple[TapPair, ...]:
    """Return the pairs as a tuple.

    Raises:
        ValueError: if there are none, or one isn't a pair of names.
    """
    every = tuple(pairs)
    for pair in every:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(name, str) for name in pair):
            raise ValueError(
                f"pairs holds {pair!r}: each must be (student tap, teacher tap). "
                "Use for example pairs=[('encoder/0/hidden', 'encoder/2/hidden')]."
            )
    if not every:
        raise ValueError(
            "pairs=[] leaves nothing to compare. Use for example pairs=[('encoder/0/hidden', 'encoder/2/hidden')]."
        )
    return tuple((student, teacher) for student, teacher in every)


def paired(pair: TapPair, student_taps: Mapping[str, Any], teacher_taps: Mapping[str, Any]) -> tuple[Any, Any]:
    """What the two sides hold under the names of `pair`: tensors, or their shapes.

    Raises:
        ValueError: if a side doesn't have its tap; the message names the pair.
    """
    for side, name, taps in (("student", pair[0], student_taps), ("teacher", pair[1], teacher_taps)):
        if name not in taps:
            raise ValueError(
                f"The pair {pair} can't be compared: the {side} gave no tap {name!r}, it gave {list(taps)}. "
                "Name taps that both models have."
            )
    return student_taps[pair[0]], teacher_taps[pair[1]]


def check_same_axes(pair: TapPair, student_shape: tuple, teacher_shape: tuple) -> None:
    """Raise ValueError unless the shapes are equal but for the batch, the width (last axis), and unknown lengths."""
    ours, theirs = tuple(student_shape), tuple(teacher_shape)
    between = zip(ours[1:-1], theirs[1:-1], strict=False)
    if len(ours) != len(theirs) or any(a != b and None not in (a, b) for a, b in between):
        raise ValueError(
            f"The pair {pair} can't be compared: the student's tap has shape {ours} and the teacher's {theirs}, "
            "where only the last axis may differ. Pair taps of one kind, of models that see the same tokens."
        )


def refuse_padded_maps(pair: TapPair, student: Outputs, teacher: Outputs) -> None:
    """Raise ValueError if the taps of `pair` have four axes or more and a side tells tokens from padding.

    Queries (B, H, T, d) look like a picture (B, height, width, channels), and a mean over all places takes padding in.
    """
    shapes = [tuple(tap.shape) for tap in paired(pair, student.taps, teacher.taps)]
    masks = {"student": student.mask, "teacher": teacher.mask}
    masked = [side for side, mask in masks.items() if mask is not None]
    if masked and any(len(shape) > 3 for shape in shapes):
        raise ValueError(
            f"The taps of the pair {pair} have shapes {shapes[0]} and {shapes[1]}, and the {masked[0]} has a padding "
            "mask: the mean over the axes of a map would count padding. Name taps (B, T, D), such as "
            "'encoder/0/hidden', or compare queries, keys and values by relations or value_relations."
        )


def mean_over_pairs(pairs: tuple[TapPair, ...], values: list[Tensor]) -> Tensor:
    """Mean of one value tensor a pair.

    Raises:
        ValueError: if some pairs give a value a row and others a value a token.
    """
    if len({len(value.shape) for value in values}) > 1:
        shapes = {pair: tuple(value.shape) for pair, value in zip(pairs, values, strict=True)}
        raise ValueError(f"The pairs give values of unlike shapes, {shapes}: make a LossTerm of each kind of tap.")
    return sum(values) / len(values)
