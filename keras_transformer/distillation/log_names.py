"""The keys of the logs: one for the loss, each term, each learned weight and each metric, and no two alike."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_transformer.distillation.terms import LossTerm

LOSS = "loss"


def weight_name(term: LossTerm) -> str:
    """The key of the term's learned weight."""
    return f"{term.name}_weight"


def names_of_terms(terms: Sequence[LossTerm], weighed: bool) -> dict[str, str]:
    """The keys that terms take, each with what has it; `weighed` = their weights are learned and logged.

    Raises:
        ValueError: if a term has the key of another's weight.
    """
    taken = {LOSS: "the sum of all terms", **{term.name: "a LossTerm" for term in terms}}
    for term in terms if weighed else ():
        name = weight_name(term)
        if name in taken:
            raise ValueError(
                f"terms has the name {name!r}, under which the learned weight of LossTerm {term.name!r} is logged. "
                "Rename one of the terms."
            )
        taken[name] = f"the learned weight of LossTerm {term.name!r}"
    return taken


def names_of_metrics(metrics: Any, taken: dict[str, str]) -> list[str]:
    """The keys of the metrics given to `compile`, in any nesting that Keras takes.

    Raises:
        ValueError: if one is taken, by what `taken` says or another metric.
    """
    names: list[str] = []
    for name in map(_name, keras.tree.flatten(metrics or [])):
        if name in taken:
            owner = "also the name of" if taken[name] == "a LossTerm" else "in the logs"
            raise ValueError(f"metrics has {name!r}, which is {owner} {taken[name]}. Rename one of them.")
        if name in names:
            raise ValueError(f"metrics has the name {name!r} twice: names are the keys of the logs. Rename one.")
        names.append(name)
    return names


def _name(metric: Any) -> str:
    if isinstance(metric, str):
        return metric
    made = keras.metrics.get(metric)  # of a class, one of it
    return getattr(made, "name", getattr(made, "__name__", type(made).__name__))
