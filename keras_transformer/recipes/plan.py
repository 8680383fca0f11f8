"""Defaults that follow the data: the longest text, the number of epochs, what fits into the minutes allowed."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_transformer.checks import UserError
from keras_transformer.data.text import Table
from keras_transformer.recipes.fitting import Schedule
from keras_transformer.training import cost

HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 2000
COVERED_PERCENTILE = 95
LENGTH_MULTIPLE = 8
BATCH_SIZE, LONG_BATCH_SIZE, LONG = 32, 16, 128  # texts of over LONG pieces come in smaller batches


@dataclass(frozen=True)
class Effort:
    """How much training a kind of start wants."""

    texts: int  # shown in all epochs together, if the data is small enough to need several
    fewest_epochs: int
    most_epochs: int
    learning_rate: float
    frozen: tuple[str, ...] = ()  # layers that stay as they are


# Half of MiniLM's weights are its token table: a step is faster without it.
FINE_TUNING = Effort(texts=16_000, fewest_epochs=2, most_epochs=8, learning_rate=5e-5, frozen=("tokens",))
FROM_NOTHING = Effort(texts=80_000, fewest_epochs=3, most_epochs=30, learning_rate=5e-4)
CUT_STUDENT = Effort(texts=40_000, fewest_epochs=1, most_epochs=12, learning_rate=3e-4)


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows that only measure."""

    training: Table
    held_out: Table


def split(table: Table) -> Split:
    """Keep a tenth of the rows, 2,000 at most, for measuring; always the same ones for the same table.

    Of each class at least one row is left to train on, so a class of one row is never measured.

    Raises:
        UserError: if there are too few rows to keep one back.
    """
    wanted = min(MOST_HELD_OUT, round(HELD_OUT_SHARE * len(table))) or 1
    if len(table) < 4 or table.labels is None:
        raise UserError(
            f"the data has {len(table)} labelled rows: some train and some measure, so it takes at least 4. Add rows."
        )
    left: Counter[str] = Counter(table.labels)
    held_out: list[int] = []
    for row in np.random.default_rng(len(table)).permutation(len(table)):
        if len(held_out) < wanted and left[table.labels[row]] > 1:
            left[table.labels[row]] -= 1
            held_out.append(int(row))
    if not held_out:
        raise UserError(
            f"each of the {len(table)} classes has one row: one that trains and one that measures take two. Add rows."
        )
    training = np.setdiff1d(np.arange(len(table)), held_out)
    return Split(_rows(table, training), _rows(table, np.sort(held_out)))


def covering_length(token_ids: Sequence[Sequence[int]], most: int) -> int:
    """The length that 95 of 100 texts stay under, rounded up to a multiple of 8, at most `most`."""
    longest = float(np.percentile([len(ids) for ids in token_ids], COVERED_PERCENTILE))
    return min(most, LENGTH_MULTIPLE * math.ceil(longest / LENGTH_MULTIPLE))


def schedule(
    effort: Effort,
    rows: int,
    max_length: int,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Schedule:
    """What the user said, and for the rest what suits the start and the size of the data."""
    wanted = min(effort.most_epochs, max(effort.fewest_epochs, round(effort.texts / rows)))
    return Schedule(
        epochs=epochs or wanted,
        batch_size=batch_size or (BATCH_SIZE if max_length <= LONG else LONG_BATCH_SIZE),
        learning_rate=learning_rate or effort.learning_rate,
    )


@dataclass(frozen=True)
class Affordable:
    """What fits into the time allowed."""

    epochs: int
    rows: int
    seconds: float  # expected


def affordable(
    model: keras.Model, lengths: Sequence[int], epochs: int, minutes: float | None, speed: float
) -> Affordable:
    """Fewer epochs, and if need be fewer rows of the one left, so that training takes about `minutes` at most.

    Args:
        model: what is trained.
        lengths: of all training texts, in word pieces.
        epochs: wanted.
        minutes: allowed; None = no limit.
        speed: see `cost.operations_per_second`.
    """
    each = cost.training_seconds(model, lengths, 1, speed)
    if minutes is None or each * epochs <= 60 * minutes:
        return Affordable(epochs, len(lengths), each * epochs)
    fitting = int(60 * minutes / each)
    if fitting >= 1:
        return Affordable(fitting, len(lengths), each * fitting)
    rows = max(1, int(len(lengths) * 60 * minutes / each))
    return Affordable(1, rows, 60 * minutes)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _rows(table: Table, rows: np.ndarray) -> Table:
    labels = None if table.labels is None else [table.labels[row] for row in rows]
    return Table([table.texts[row] for row in rows], labels)
