"""A loss as a value, what it needs, and how much it weighs.

A loss is `loss(labels, student: Outputs, teacher: Outputs) -> (B,) or (B, T) float32`: one value a row or a
token, neither reduced nor weighted; the Distiller does both. Any function of that form will do, and so will a
`keras.layers.Layer` when the loss owns weights: the Distiller steps them together with the student's. It makes
them when it is made itself, by a call on symbolic tensors with `labels=None`, unless the layer's needs say labels.

The padding mask weighs values a token. A row of padding alone, such as an empty text, so counts in no term of (B, T),
and in every term of (B,) as any other row; in a batch of such rows the terms of (B, T) are 0 and those of (B,) still
count. Give such a row the sample weight 0 to leave it out.
"""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any, Protocol, TypeVar, cast

import keras

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.layers.masks import Tensor

Loss = Callable[[Tensor, Outputs, Outputs], Tensor]
LossFunction = TypeVar("LossFunction", bound=Callable[..., Any])


@dataclass(frozen=True)
class Needs:
    """What a loss asks for beside the logits; a loss that needs more than this default has it as its `needs`.

    `labels=True` leaves unlabelled rows out of the term (a label below 0, or NaN where labels are floats). Without
    it the term counts every row, and gets `labels=None` from a batch that has none.
    """

    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    labels: bool = False


class _HasNeeds(Protocol):
    needs: Needs


def needing(
    *, student_taps: Iterable[str] = (), teacher_taps: Iterable[str] = (), labels: bool = False
) -> Callable[[LossFunction], LossFunction]:
    """Mark a loss function with what it needs; a Layer sets `self.needs = Needs(...)` instead.

    >>> @needing(student_taps=["pooled"], teacher_taps=["pooled"])
    ... def pooled_distance(labels, student, teacher):
    ...     return ops.mean(ops.square(student.taps["pooled"] - teacher.taps["pooled"]), axis=-1)  # (B,)
    """
    needs = Needs(tuple(student_taps), tuple(teacher_taps), labels)

    def mark(loss: LossFunction) -> LossFunction:
        cast(_HasNeeds, loss).needs = needs
        return loss

    return mark


def needs_of(loss: Loss) -> Needs:
    """What `loss` says that it needs; a plain function that says nothing needs the logits alone."""
    return getattr(loss, "needs", Needs())


@dataclass(frozen=True)
class LossTerm:
    """`weight` times the mean of `loss`, recorded under `name` (unweighted) in the logs.

    Args:
        name: the key in the logs and in the history.
        weight: at least 0. A `keras.Variable` can be changed by a callback while `fit` runs.
        loss: see the top of this module.

    Raises:
        ValueError: for an empty name or "loss", a negative or infinite weight.
        TypeError: if `loss` can't be called; pass the function itself, not its name.
    """

    name: str
    weight: float | keras.Variable
    loss: Loss

    def __post_init__(self) -> None:
        if not self.name or self.name == "loss":
            raise ValueError(
                f"LossTerm name={self.name!r}: a term needs a name of its own, and 'loss' is the sum of all "
                "terms. Use for example name='soft_targets'."
            )
        if not isinstance(self.weight, keras.Variable) and not (self.weight >= 0 and math.isfinite(self.weight)):
            raise ValueError(
                f"LossTerm {self.name!r}: weight={self.weight!r} must be a number of at least 0. "
                "Use weight=0.0 to record the term without training on it."
            )
        if not callable(self.loss):
            raise TypeError(
                f"LossTerm {self.name!r}: loss={self.loss!r} can't be called. Pass a function of "
                "(labels, student, teacher) itself, for example soft_targets(temperature=2.0)."
            )


def variables_of(term: LossTerm) -> list[keras.Variable]:
    """Return the Variables of `term` that nobody trains: its weight, and those that its loss reads.

    They are found in the closures and defaults of functions and the arguments of partials, to any depth:
    `soft_targets(temperature)` closes over its temperature. Of a Layer the functions that are its attributes are looked
    at, so those of `contrastive(temperature=...)` too; what Keras tracks of it is among its own weights, and not here.
    """
    seen: set[int] = set()
    loss = term.loss
    if isinstance(loss, keras.Layer):
        seen.update(id(variable) for variable in loss.variables)
        functions = [value for value in vars(loss).values() if inspect.isfunction(value) or isinstance(value, partial)]
        return [*_variables_in(term.weight, seen), *_variables_in(functions, seen)]
    return _variables_in([term.weight, loss], seen)


def _variables_in(value: Any, seen: set[int]) -> list[keras.Variable]:
    """The Variables that `value` is or reads, each once; `seen` holds the ids of what was looked at."""
    if id(value) in seen:
        return []
    seen.add(id(value))
    if isinstance(value, keras.Variable):
        return [value]
    parts: Iterable[Any] = ()
    if isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, partial):
        parts = (value.func, *value.args, *value.keywords.values())
    elif inspect.isfunction(value):
        parts = (*_enclosed(value), *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
    return [variable for part in parts for variable in _variables_in(part, seen)]


def _enclosed(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell: a name that got no value yet
            yield cell.cell_contents


def checked_terms(terms: Iterable[LossTerm]) -> tuple[LossTerm, ...]:
    """Return the terms as a tuple.

    Raises:
        ValueError: if there are none, or two have one name.
        TypeError: if one isn't a `LossTerm`.
    """
    every = tuple(terms)
    if not every:
        raise ValueError("terms=[] leaves nothing to train on. Give at least one LossTerm(name, weight, loss).")
    for term in every:
        if not isinstance(term, LossTerm):
            raise TypeError(f"terms holds {term!r}: each must be a LossTerm(name, weight, loss). Wrap it in one.")
    twice = [name for name, count in Counter(term.name for term in every).items() if count > 1]
    if twice:
        raise ValueError(f"terms has the name {twice[0]!r} twice: names are the keys of the logs. Rename one.")
    return every
