"""The steps of a training that don't depend on its task: what it costs and may cost, how to go on, the run folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import keras
import numpy as np

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.recipes import plan, settings
from keras_transformer.recipes.fitting import Run, Schedule
from keras_transformer.training import cost
from keras_transformer.training.precision import fastest_policy


class Encodes(Protocol):
    """A tokenizer of either kind."""

    def encode(self, texts: Sequence[str], max_length: int) -> list[list[int]]:
        """Return the ids of each text, at most `max_length` of them."""
        ...


class Work(NamedTuple):
    """What there is to train on."""

    rows: int
    seconds: float  # expected for an epoch over all rows, see `Job.seconds`
    what: str  # the rows in words, for example "texts, up to 64 word pieces"
    once: float = 0.0  # seconds expected for what is done with all rows before the first epoch


class Job:
    """One run of `train` or `distill`.

    Args:
        given: its settings.
    """

    def __init__(self, given: settings.Settings) -> None:
        self.given = given
        self.tell, self.unfinished = settings.teller(given), settings.begin(given)
        self.policy = fastest_policy()
        self.speed = 0.0

    def seconds(self, operations: float) -> float:
        """Expected seconds of a forward pass of so many multiplications and additions."""
        # Measured late: a mistake in the data is told before the machine has worked.
        self.speed = self.speed or cost.operations_per_second(self.policy)
        return cost.forward_seconds(operations, self.speed)

    def max_length(self, tokenizer: Encodes, texts: Sequence[str], most: int, because: str, fewest: int = 0) -> int:
        """The length that texts are cut to: the one given, or that of nearly all of them, `fewest` at least.

        Raises:
            UserError: if the given one is over `most`.
        """
        given = self.given.max_length
        if given is None:
            return max(fewest, plan.covering_length(tokenizer.encode(texts, most), most))
        if given > most:
            raise UserError(f"--max-length {given}: {because} up to {most} word pieces. Use {most} or less.")
        return given

    def afford(self, model: keras.Model, schedule: Schedule, work: Work) -> tuple[Schedule, np.ndarray]:
        """The schedule, and the rows that fit into the minutes allowed; says what it will cost.

        A run that goes on does what it decided when it began, whatever the machine's speed is now.
        """
        decided = self.unfinished.recall()
        if decided is None:
            fits = plan.affordable(work.seconds, work.rows, schedule.epochs, self.given.minutes, work.once)
        else:
            seconds = decided["rows"] / work.rows * (work.once + work.seconds * decided["epochs"])
            fits = plan.Affordable(decided["epochs"], decided["rows"], seconds)
        self.unfinished.remember({"epochs": fits.epochs, "rows": fits.rows})
        kept = np.sort(np.random.default_rng(self.given.seed).permutation(work.rows)[: fits.rows])
        self.tell(
            f"{len(kept)} of {work.rows} {work.what}, {fits.epochs} epochs, "
            f"{model.count_params():,} weights: about {plan.duration(fits.seconds)}"
            + ("" if decided is None else " as a whole, going on where it was killed")
        )
        return replace(schedule, epochs=fits.epochs), kept

    def run(self) -> Run:
        """How to fit: seed, noise, and where a killed run left its state."""
        return Run(self.given.seed, self.given.quiet, self.unfinished.folder, self.unfinished.fingerprint)

    def compare_sizes(self, student: keras.Model, teacher: keras.Model) -> None:
        """Say so if the student isn't the smaller one."""
        if student.count_params() >= teacher.count_params():
            self.tell(
                f"Note: the student has {student.count_params():,} weights, the teacher {teacher.count_params():,}."
            )

    def finish(
        self,
        model: keras.Model,
        *,
        tokenizer: Any,
        max_length: int,
        scores: Mapping[str, Any],
        extra: Mapping[str, Any],
        examples: Sequence[str],
        labels: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Write the run folder of a model in float32, drop the state of the unfinished run; return what was made."""
        result = {"folder": str(self.given.out), **scores, **extra, "parameters": model.count_params()}
        bundle.save(
            self.given.out,
            model=model,
            tokenizer=tokenizer,
            labels=labels,
            task=self.given.task,
            max_length=max_length,
            metrics={name: value for name, value in scores.items() if isinstance(value, int | float)},
            command=settings.command(self.given),
            report=result,
            examples=examples,
        )
        self.unfinished.discard()
        return result
