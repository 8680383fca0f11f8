"""Defaults that follow the data: the longest text, the number of epochs, what fits into the minutes allowed."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from keras_transformer.checks import UserError
from keras_transformer.data.near_duplicates import held_out_groups, near_duplicate_groups
from keras_transformer.data.text import Pairs, Table
from keras_transformer.recipes.fitting import Schedule

HELD_OUT_SHARE, MOST_HELD_OUT, FEWEST_ROWS = 0.1, 2000, 4
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

# Each token is a label, and more is to be learned: sentences come round more often than texts of a class.
TRANSLATING = Effort(texts=400_000, fewest_epochs=3, most_epochs=40, learning_rate=1e-3)
CONTINUING = Effort(texts=200_000, fewest_epochs=3, most_epochs=20, learning_rate=1e-3)
NARROW = 256  # a wider model learns more slowly, in proportion
TOKENS, FEWEST_TOKENS = 4096, 512  # a step, where the data is large enough for STEPS of them an epoch
STEPS = 50
COMPARED_CHARACTERS = 300  # of a text, when near-duplicates are looked for


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
    labels = table.labels or []
    wanted = _enough(len(labels), "labelled rows")
    left: Counter[str] = Counter(labels)
    held_out: list[int] = []
    for row in np.random.default_rng(len(table)).permutation(len(table)):
        if len(held_out) < wanted and left[labels[row]] > 1:
            left[labels[row]] -= 1
            held_out.append(int(row))
    if not held_out:
        raise UserError(
            f"each of the {len(table)} classes has one row: one that trains and one that measures take two. Add rows."
        )
    training = np.setdiff1d(np.arange(len(table)), held_out)
    return Split(_rows(table, training), _rows(table, np.sort(held_out)))


def held_out_pairs(pairs: Pairs) -> np.ndarray:
    """(N,) bool: a tenth of the rows, 2,000 at most, that measure, and that no pair is like that is left to train on.

    See `near_duplicates`. Where nearly all pairs are alike, so that they would all fall on one side, rows are drawn,
    and of those the ones measure whose source none left to train on has.

    Raises:
        UserError: if there are too few rows to keep one back.
    """
    return _apart(pairs.sources, pairs.targets, _enough(len(pairs), "pairs"))


def held_out_texts(texts: Sequence[str]) -> np.ndarray:
    """(N,) bool: the same for texts by themselves.

    Raises:
        UserError: if there are too few texts to keep one back.
    """
    return _apart(texts, texts, _enough(len(texts), "texts"))


def going_on(effort: Effort) -> Effort:
    """What is left to do where a model that was trained before sees more texts: less of it, in smaller steps."""
    return replace(effort, texts=effort.texts // 4, fewest_epochs=1, learning_rate=effort.learning_rate / 5)


def token_schedule(
    effort: Effort,
    rows: int,
    tokens: int,
    model_dim: int,
    *,
    longest: int,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
) -> Schedule:
    """As `schedule`, for models that learn each token; its `batch_size` is in tokens, padding counted.

    Fewer of small data, so that an epoch has steps to learn in.

    Args:
        effort: how much training this wants.
        rows: texts or pairs of an epoch.
        tokens: of all rows together.
        model_dim: width of the model.
        longest: tokens of the longest row, which a batch must hold.
        epochs: what the user said.
        batch_size: what the user said, in rows of the longest.
        learning_rate: what the user said.
    """
    wanted = min(effort.most_epochs, max(effort.fewest_epochs, round(effort.texts / rows)))
    fitting = max(longest, min(TOKENS, max(FEWEST_TOKENS, tokens // STEPS)))
    return Schedule(
        epochs=epochs or wanted,
        batch_size=batch_size * longest if batch_size else fitting,
        learning_rate=learning_rate or effort.learning_rate * min(1.0, NARROW / model_dim),
        beta_2=0.98,
        clip_norm=1.0,
    )


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


def affordable(seconds: float, rows: int, epochs: int, minutes: float | None, once: float = 0.0) -> Affordable:
    """Fewer epochs, and if need be fewer rows of the one left, so that all takes about `minutes` at most.

    Args:
        seconds: expected for one epoch over all rows.
        rows: how many there are.
        epochs: wanted.
        minutes: allowed; None = no limit.
        once: seconds expected for what is done with all rows before the first epoch.
    """
    allowed = math.inf if minutes is None else 60 * minutes
    if once + seconds * epochs <= allowed:
        return Affordable(epochs, rows, once + seconds * epochs)
    fitting = int((allowed - once) / seconds)
    if fitting >= 1:
        return Affordable(fitting, rows, once + seconds * fitting)
    return Affordable(1, max(1, int(rows * allowed / (once + seconds))), allowed)


def duration(seconds: float) -> str:
    """Seconds as a person says them: "40 s", "12 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _rows(table: Table, rows: np.ndarray) -> Table:
    labels = None if table.labels is None else [table.labels[row] for row in rows]
    return Table([table.texts[row] for row in rows], labels)


def _enough(rows: int, what: str) -> int:
    """How many rows measure."""
    if rows < FEWEST_ROWS:
        raise UserError(
            f"the data has {rows} {what}: some train and some measure, so it takes at least {FEWEST_ROWS}. Add rows."
        )
    return min(MOST_HELD_OUT, round(HELD_OUT_SHARE * rows)) or 1


def _apart(sources: Sequence[str], targets: Sequence[str], wanted: int) -> np.ndarray:
    """(N,) bool: whole groups of near-duplicates, about `wanted` rows; drawn rows where groups are too large."""
    compared = ([text[:COMPARED_CHARACTERS] for text in side] for side in (sources, targets))
    groups = held_out_groups(near_duplicate_groups(*compared), sources, wanted, largest=wanted)
    if wanted / 2 <= groups.sum() <= len(sources) / 2:
        return groups
    drawn = np.zeros(len(sources), bool)
    drawn[np.random.default_rng(len(sources)).permutation(len(sources))[:wanted]] = True
    trained = {source for source, measures in zip(sources, drawn, strict=True) if not measures}
    apart = np.array([measures and source not in trained for source, measures in zip(sources, drawn, strict=True)])
    return apart if apart.any() else drawn
