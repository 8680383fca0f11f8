"""Which of the files that a search has measured is handed over, and what can't be had together."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from keras_transformer.budget_search.wishes import Budget

WISHES = ("bytes", "time", "accuracy")


@dataclass(frozen=True)
class FileRow:
    """One file that was written and measured."""

    name: str  # of the candidate, or "teacher"
    form: str
    bytes: int
    ms: float
    speedup: float
    accuracy: float  # on the rows that measure

    @property
    def file(self) -> str:
        """Candidate and form."""
        return f"{self.name}/{self.form}"

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class Wanted:
    """The budget, and the accuracy that it must go with."""

    budget: Budget
    accuracy: float

    def misses(self, row: FileRow) -> list[str]:
        """Name each of WISHES that the file doesn't meet."""
        missed = self.budget.misses(row.bytes, row.ms, row.speedup)
        return missed if row.accuracy >= self.accuracy else [*missed, "accuracy"]


def best(rows: Sequence[FileRow], wanted: Wanted) -> FileRow:
    """The smallest file that meets all wishes, the faster of equal ones; if none does, the nearest.

    Nearest is within the budget with the highest accuracy; if none is within it, the one that misses fewest wishes.
    """
    whole = [row for row in rows if not wanted.misses(row)]
    if whole:
        return min(whole, key=lambda row: (row.bytes, row.ms))
    within = [row for row in rows if wanted.misses(row) == ["accuracy"]]
    if within:
        return max(within, key=lambda row: row.accuracy)
    return min(rows, key=lambda row: (len(wanted.misses(row)), -row.accuracy, row.bytes))


def nearest(rows: Sequence[FileRow], wanted: Wanted) -> dict[str, FileRow]:
    """For each wish that could be given up: the file that meets the others and comes nearest to this one."""
    near: dict[str, Callable[[FileRow], float]] = {
        "bytes": lambda row: row.bytes,
        "time": lambda row: row.ms,
        "accuracy": lambda row: -row.accuracy,
    }
    found = {}
    for wish in WISHES:
        others = [row for row in rows if set(wanted.misses(row)) <= {wish}]
        if others:
            found[wish] = min(others, key=near[wish])
    return found


def explain(rows: Sequence[FileRow], wanted: Wanted) -> str:
    """Say which wishes can't be had together, and the nearest that can; "" if a file meets all."""
    if any(not wanted.misses(row) for row in rows):
        return ""
    wishes = [str(wanted.budget)] if str(wanted.budget) else []
    said = f"{' and '.join([*wishes, f'accuracy {wanted.accuracy:.4f}'])} can't be had together"
    offers = nearest(rows, wanted)
    if not offers:
        closest = best(rows, wanted)
        return f"{said}, nor any two of them. Nearest: {describe(closest)}, which misses {_listed(wanted, closest)}."
    near = "; ".join(f"{_without(wish)}: {describe(row)}" for wish, row in offers.items())
    return f"{said}. What can: {near}."


def describe(row: FileRow) -> str:
    """A file in words."""
    return f"{row.file} with {row.bytes / 1e6:.3g} MB, {row.ms:.3g} ms, accuracy {row.accuracy:.4f}"


def pareto(rows: Sequence[FileRow]) -> list[FileRow]:
    """The files that no other one beats or equals in bytes, time and accuracy at once, the smallest first."""
    kept = [row for row in rows if not any(_beats(other, row) for other in rows)]
    return sorted(kept, key=lambda row: (row.bytes, row.ms))


def _beats(one: FileRow, other: FileRow) -> bool:
    mine, theirs = ((row.bytes, row.ms, -row.accuracy) for row in (one, other))
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _without(wish: str) -> str:
    return {"bytes": "with more bytes", "time": "with more time", "accuracy": "with less accuracy"}[wish]


def _listed(wanted: Wanted, row: FileRow) -> str:
    return " and ".join(wanted.misses(row))
