"""How a candidate learns from the teacher: for a short while, to be compared, or in full, to be handed over."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from keras_transformer.budget_search.material import Material
from keras_transformer.data.batching import Batches
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import plan
from keras_transformer.recipes.fitting import Run, Soft, fit_on_teacher, record_answers

EFFORT = plan.Effort(texts=120_000, fewest_epochs=2, most_epochs=12, learning_rate=7e-4)
BATCH_SIZE = 64
SHORT = 0.15  # of the steps of a candidate that learns in full
SINGLE = "float32"


class Lessons:
    """The teacher's answers on all texts that train, asked for once.

    Args:
        material: the teacher and the texts.
        epochs: of a candidate that learns in full; None = from the number of texts.
        seed: of the order.
        quiet: show no progress.
    """

    def __init__(self, material: Material, epochs: int | None, seed: int, *, quiet: bool) -> None:
        ids = material.corpus.token_ids
        schedule = plan.schedule(EFFORT, len(ids), material.corpus.max_length, epochs=epochs, batch_size=BATCH_SIZE)
        self._schedule, self._run = schedule, Run(seed, quiet)
        self._material, self._answers = material, dict[str, np.ndarray]()

    @property
    def texts(self) -> int:
        """How many train."""
        return len(self._material.corpus.token_ids)

    @property
    def epochs(self) -> int:
        """Of a candidate that learns in full."""
        return self._schedule.epochs

    def short(self, student: TextClassifier) -> TextClassifier:
        """Train with a share of the steps; return it in float32."""
        batches = self._batches()
        steps = max(1, round(SHORT * self._schedule.epochs * batches.steps_per_epoch))
        fit_on_teacher(student, batches, self._schedule, self._soft(student), title="a try", run=self._run, steps=steps)
        return with_policy(student, SINGLE)

    def full(self, student: TextClassifier, state: Path, fingerprint: Mapping[str, Any]) -> TextClassifier:
        """Train with all steps, going on where a killed process left `state`; return it in float32."""
        run = replace(self._run, state=state, fingerprint=fingerprint)
        fit_on_teacher(student, self._batches(), self._schedule, self._soft(student), title="in full", run=run)
        return with_policy(student, SINGLE)

    def _batches(self) -> Batches:
        if not self._answers:
            self._answers.update(record_answers(self._material.teacher, self._material.corpus.token_ids))
        return Batches(
            self._material.corpus.token_ids,
            self._material.labels,
            self._answers,
            batch_size=self._schedule.batch_size,
            seed=self._run.seed,
        )

    def _soft(self, student: TextClassifier) -> Soft:
        """A narrower student has no vector to hold against the teacher's."""
        return Soft() if student.model_dim == self._material.teacher.model_dim else Soft(pooled=0.0)
