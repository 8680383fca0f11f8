"""Which shapes should fit into a budget, by what the files written so far have cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_transformer.budget_search import shapes
from keras_transformer.budget_search.shapes import Corpus, Shape
from keras_transformer.budget_search.trials import Cost
from keras_transformer.budget_search.wishes import Budget
from keras_transformer.models import TextClassifier

SLACK = 1.1  # an estimate is trusted so far
ROW_BYTES = 4
TINY = 1e-9
BYTES_A_WEIGHT = {"dynamic": 1.0, "int8": 1.0, "int4": 0.5, "float16": 2.0}


class Estimates:
    """Bytes and operations of each shape, and the most of both that the budget seems to leave room for.

    The teacher's own files give the first limits: what lies in a file beside its weights, and milliseconds an
    operation. Each file that turns out larger or slower than the budget lowers them.

    Args:
        teacher: whose shapes are asked about.
        corpus: gives the longest text and the pieces that stay.
        counts: of each piece in the corpus, (vocab_size,).
        forms: in which a shape is written.
        budget: what a file may cost.
        uncut: rows of the teacher's own files: form, bytes, ms and speedup of each.
    """

    def __init__(
        self,
        teacher: TextClassifier,
        corpus: Corpus,
        counts: np.ndarray,
        forms: Sequence[str],
        budget: Budget,
        uncut: Sequence[Mapping[str, Any]],
    ) -> None:
        self._head_dim, self._positions = teacher.head_dim, corpus.max_length
        self._pieces = {count: shapes.kept_pieces(counts, corpus.always, count) for count in shapes.MIN_COUNTS}
        self._each = min(BYTES_A_WEIGHT[form] for form in forms)
        beside = (row["bytes"] - BYTES_A_WEIGHT[row["form"]] * teacher.count_params() for row in uncut)
        # Which row of a cut table each piece has is new in the student.
        self._beside = min(beside, default=0) + ROW_BYTES * teacher.vocab_size
        self._budget = budget
        self.most_bytes = SLACK * (budget.max_bytes or math.inf)
        slowness = min((_slowness(budget, row["ms"], row["speedup"]) for row in uncut), default=TINY)
        self.most_operations = SLACK * self.operations(shapes.whole(teacher)) / slowness

    def bytes(self, shape: Shape) -> float:
        """About what the smallest of the shape's files weighs."""
        pieces = self._pieces[shape.min_count]
        return self._beside + self._each * shapes.weights(shape, self._head_dim, pieces, self._positions)

    def operations(self, shape: Shape) -> float:
        """Of one text, half as long as the longest."""
        return shapes.operations(shape, self._head_dim, self._positions // 2)

    def allow(self, shape: Shape) -> bool:
        """Whether a file of this shape should fit."""
        return self.bytes(shape) <= self.most_bytes and self.operations(shape) <= self.most_operations

    def learn(self, shape: Shape, costs: Iterable[Cost]) -> None:
        """Lower the limits by what the files of a shape, one or more, miss the budget by."""
        costs = list(costs)
        excess = min(cost.bytes for cost in costs) / (self._budget.max_bytes or math.inf)
        slowness = min(_slowness(self._budget, cost.ms, cost.speedup) for cost in costs)
        if excess > 1:
            self.most_bytes = min(self.most_bytes, self.bytes(shape) / excess)
        if slowness > 1:
            self.most_operations = min(self.most_operations, self.operations(shape) / slowness)


def misfit(budget: Budget, cost: Cost) -> float:
    """How many times over the budget a file is, in what it misses most; at most 1 if it fits."""
    return max(cost.bytes / (budget.max_bytes or math.inf), _slowness(budget, cost.ms, cost.speedup))


def _slowness(budget: Budget, ms: float, speedup: float) -> float:
    """The time taken over the time allowed; `TINY` if any is."""
    return max(ms / (budget.max_ms or math.inf), (budget.min_speedup or 0.0) / speedup, TINY)
