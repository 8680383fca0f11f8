"""Several teachers as one: the mean of their logits, weighted once for all or anew for each sample."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from keras_transformer.distillation.fingerprints import function_fingerprint
from keras_transformer.distillation.loss_layers import symbolic_outputs
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.teachers import Teacher, teacher_of
from keras_transformer.layers.masks import Tensor

WeightRule = Callable[[Tensor], Tensor]
"""Logits (K, ..., C) float32 of K teachers -> weights (K, ...) that sum to 1 over K."""


def confidence(logits: Tensor) -> Tensor:
    """Trust each teacher the more, the surer it is of this sample: w_k = (1 - exp(H_k) / sum_j exp(H_j)) / (K - 1).

    Zhang, Chen and Wang 2022 ("Confidence-aware multi-teacher knowledge distillation", the weights of predictions)
    weigh K teachers so by their cross-entropy with the label. Here H_k is the entropy of teacher k's softmax, the
    cross-entropy that it expects of itself: no label is needed, as in Kwon et al. 2020 ("Adaptive knowledge
    distillation based on entropy"). A teacher that is sure and wrong isn't found out. No weight is above 1 / (K - 1);
    equal entropies give the plain mean.

    Args:
        logits: (K, ..., C) float32, K at least 2.

    Returns:
        (K, ...) float32: one weight a teacher and row, or token.
    """
    log_p = ops.log_softmax(logits, axis=-1)
    entropy = -ops.sum(ops.exp(log_p) * log_p, axis=-1)  # (K, ...)
    return (1.0 - ops.softmax(entropy, axis=0)) / (logits.shape[0] - 1)


class SeveralTeachers:
    """A `Teacher` whose logits are sum_k w_k z_k over K teachers; each runs once a step.

    >>> Distiller(student, SeveralTeachers([large, small], weights=[0.7, 0.3]), terms)
    >>> Distiller(student, SeveralTeachers([large, small], weights=confidence), terms)

    The softmax of the mean of logits is the geometric mean of the teachers' probabilities, scaled to sum to 1: one of
    the two means that Hinton et al. 2015, section 1, propose for an ensemble. A tap is named after the place of its
    teacher, for example "0/encoder/1/hidden". The mask is that of the first teacher that has one. `cache_teacher`
    takes it too.

    Args:
        teachers: two or more Keras models or teachers with the same classes in the same order.
        weights: None = the plain mean; a number for each teacher, of which the shares count; or a rule such as
            `confidence`, which weighs anew for each row or token.

    Raises:
        ValueError: if there are fewer than two teachers, or the weights don't fit; the reader, for a tap without
            a teacher's place; what it returns, if the classes differ.
        TypeError: if one is no teacher.
    """

    def __init__(
        self, teachers: Sequence[keras.Model | Teacher], weights: Sequence[float] | WeightRule | None = None
    ) -> None:
        self.teachers = [teacher_of(teacher) for teacher in teachers]
        if len(self.teachers) < 2:
            raise ValueError(f"teachers has {len(self.teachers)}: several are two or more. Give the one by itself.")
        self.weights = weights if callable(weights) else _shares(weights, len(self.teachers))

    def fingerprint(self) -> str:
        """sha256 of the teachers' fingerprints and the weights.

        Raises:
            TypeError: if a teacher has none, or the rule of the weights, see `function_fingerprint`.
        """
        rule = function_fingerprint(self.weights) if callable(self.weights) else repr(self.weights)
        parts = [_fingerprint_of(teacher) for teacher in self.teachers]
        return hashlib.sha256("\n".join([*parts, rule]).encode()).hexdigest()

    def student_inputs(self, inputs: Any) -> Any:
        """The batch's inputs without what belongs to any of the teachers."""
        for teacher in self.teachers:
            inputs = teacher.student_inputs(inputs)
        return inputs

    def reader(self, tap_names: tuple[str, ...]) -> Callable[[Any], Outputs]:
        """One forward pass of each teacher."""
        wanted: list[list[str]] = [[] for _ in self.teachers]
        for name in tap_names:
            place, _, tap = name.partition("/")
            if not (place.isdecimal() and int(place) < len(wanted) and tap):
                raise ValueError(
                    f"tap {name!r} doesn't say whose it is: put the teacher's place, 0 to {len(wanted) - 1}, and a "
                    f"slash before it. Use for example '0/{name}'."
                )
            wanted[int(place)].append(tap)
        readers = [teacher.reader(tuple(taps)) for teacher, taps in zip(self.teachers, wanted, strict=True)]
        return JointReader(readers, tap_names, self._mean)

    def _mean(self, every: Sequence[Tensor]) -> Tensor:
        every = [ops.cast(logits, "float32") for logits in every]
        _check_same_classes(every)
        logits = ops.stack(every)  # (K, ..., C)
        if callable(self.weights):
            weighted = ops.expand_dims(self.weights(logits), -1) * logits
        else:
            weighted = ops.stack([share * each for share, each in zip(self.weights, every, strict=True)])
        return ops.sum(weighted, axis=0)


@dataclass(frozen=True)
class JointReader:
    """Runs or reads each of several teachers once and joins what they say."""

    readers: Sequence[Callable[[Any], Outputs]]
    tap_names: tuple[str, ...]  # each with its teacher's place
    mean: Callable[[Sequence[Tensor]], Tensor]  # of the logits of all

    def __call__(self, inputs: Any) -> Outputs:
        """One forward pass of each teacher."""
        outputs = [read(inputs) for read in self.readers]
        return self._joined(outputs, self.mean([each.logits for each in outputs]))

    def symbolic_outputs(self) -> Outputs | None:
        """Shapes and dtypes of what a call gives; None = one of the teachers can't tell."""
        outputs = [symbolic_outputs(read) for read in self.readers]
        known = [each for each in outputs if each is not None]
        if len(known) < len(outputs):
            return None
        return self._joined(known, keras.KerasTensor(known[0].logits.shape, "float32"))

    def _joined(self, outputs: Sequence[Outputs], logits: Tensor) -> Outputs:
        mask = next((each.mask for each in outputs if each.mask is not None), None)
        return Outputs(logits, _taps_of(outputs, self.tap_names), mask)


def _taps_of(outputs: Sequence[Outputs], tap_names: tuple[str, ...]) -> Mapping[str, Tensor]:
    owners = {name: name.partition("/") for name in tap_names}
    return {name: outputs[int(place)].taps[tap] for name, (place, _, tap) in owners.items()}


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else [float(weight) for weight in weights]
    if len(given) != count or not all(0 <= weight < math.inf for weight in given) or not sum(given):
        raise ValueError(
            f"weights={given} don't fit {count} teachers: each needs a number of at least 0, and one must be above 0. "
            f"Use for example weights={[1.0] * count}."
        )
    return [weight / sum(given) for weight in given]


def _fingerprint_of(teacher: Any) -> str:
    if not hasattr(teacher, "fingerprint"):
        raise TypeError(f"{teacher!r} has no fingerprint() to tell it from another. Use a keras.Model in its place.")
    return teacher.fingerprint()


def _check_same_classes(logits: Sequence[Tensor]) -> None:
    first = logits[0].shape
    for place, each in enumerate(logits):
        if len(each.shape) != len(first) or each.shape[-1] != first[-1]:
            raise ValueError(
                f"Teacher 0 gives logits {tuple(first)} and teacher {place} {tuple(each.shape)}: a mean needs the same "
                "classes in the same order. Leave one out, or give it a head for these classes."
            )
