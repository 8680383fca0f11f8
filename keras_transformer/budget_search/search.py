"""The search: sensitivity, sizes as written, short lessons for a few, full ones for the best, one file handed over."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from keras_transformer import bundle, evaluation, serving
from keras_transformer.budget_search import report, sensitivity, shapes, trials
from keras_transformer.budget_search.estimates import Estimates, misfit
from keras_transformer.budget_search.journal import Journal
from keras_transformer.budget_search.learning import SINGLE, Lessons
from keras_transformer.budget_search.material import read
from keras_transformer.budget_search.outcome import FileRow, Wanted, best, explain
from keras_transformer.budget_search.sensitivity import Sensitivity
from keras_transformer.budget_search.settings import SearchSettings, command, fingerprint
from keras_transformer.budget_search.shapes import Shape
from keras_transformer.budget_search.trials import TEACHER, Clock, Cost
from keras_transformer.budget_search.wishes import Budget
from keras_transformer.checks import UserError
from keras_transformer.compression import count_pieces
from keras_transformer.data import assets
from keras_transformer.files import staged
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.start import Tell
from keras_transformer.tasks import CLASSIFY
from keras_transformer.training.precision import fastest_policy

MODEL, STUDENT = "model.tflite", "student"  # in the folder that is handed over
TRIED = 3  # candidates that are written and timed, for each one that learns
FLOAT32_BYTES = 4
FINALISTS = 2  # that learn in full at most


@dataclass(frozen=True)
class Trial:
    """A shape, and what its files cost untrained: form -> cost, of those within the budget."""

    shape: Shape
    costs: Mapping[str, Cost]

    @property
    def bytes(self) -> int:
        """Of its smallest file."""
        return min(cost.bytes for cost in self.costs.values())


def compress(settings: SearchSettings) -> dict[str, Any]:
    """Search, and write a folder: model.tflite, search.json, report.md, pareto.png, and the student's run folder.

    The same settings again go on where a killed search was.

    Returns:
        The file handed over with its cost and accuracy, the teacher's accuracy, whether all wishes are met ("met"),
        and if not what can be had instead ("instead").

    Raises:
        UserError: for a mistake in settings or files, and for a budget that no candidate fits into.
    """
    _refuse_foreign_folder(settings.out)
    journal = Journal(settings.out, fingerprint(settings))
    tell: Tell = _silence if settings.quiet else assets.tell_on_stderr
    if journal.goes_on:
        tell(f"Going on with the search in {journal.folder}")
    return _Search(settings, journal, tell).run()


class _Search:
    """One search.

    Args:
        settings: what is wanted.
        journal: what is known already.
        tell: says what takes time.
    """

    def __init__(self, settings: SearchSettings, journal: Journal, tell: Tell) -> None:
        keras.utils.set_random_seed(settings.seed)
        self.journal, self.tell = journal, tell
        self.material = read(settings)
        tenth = Budget(max_bytes=FLOAT32_BYTES * self.material.teacher.count_params() // 10)
        self.settings = settings = settings if str(settings.budget) else replace(settings, budget=tenth)
        table = None if settings.latency_table is None else trials.read_latencies(settings.latency_table)
        if table is not None and settings.budget.min_speedup is not None and TEACHER not in table:
            raise UserError(
                f"--latency-table {settings.latency_table}: has no row {TEACHER!r}, and --budget {settings.budget} "
                "asks for a speed beside the teacher's. Add its time, or ask for ms."
            )
        self.clock = Clock(self.material, table)
        self.lessons = Lessons(self.material, settings.epochs, settings.seed, quiet=settings.quiet)
        self.counts = count_pieces(self.material.corpus.token_ids, self.material.teacher.vocab_size)

    def run(self) -> dict[str, Any]:
        """Do all of it."""
        uncut = self.uncut()
        found = Sensitivity.from_json(self.journal.once("sensitivity", self._sensitivity))
        kept = self.candidates(found, uncut)
        accuracies = {trial.shape.name: self.try_out(trial) for trial in kept}
        ordered = sorted(kept, key=lambda trial: -accuracies[trial.shape.name])
        wanted = Wanted(self.settings.budget, self.settings.min_accuracy.wanted(uncut["accuracy"]))
        rows = [FileRow(**row) for row in uncut["rows"]]
        for number in range(FINALISTS):
            chosen = self._next(ordered, accuracies, rows, wanted, number)
            if chosen is None:
                break
            rows += self.finish(chosen)
        return self.hand_over(rows, wanted, uncut, kept, accuracies)

    def uncut(self) -> dict[str, Any]:
        """The teacher as it is, and its files in each form."""

        def find() -> dict[str, Any]:
            self.tell("The teacher: its accuracy, and its own files")
            material = self.material
            folder = self.journal.folder / TEACHER
            paths, refused = trials.write(material.teacher, folder, self.settings.forms, material, agreeing=True)
            rows = self._measured(TEACHER, paths)
            accuracy = material.accuracy(material.teacher, material.measuring)
            return {"accuracy": accuracy, "rows": [row.to_json() for row in rows], "refused": refused}

        return self.journal.once("teacher", find)

    def candidates(self, found: Sensitivity, uncut: Mapping[str, Any]) -> list[Trial]:
        """The least damaged shapes that fit into the budget as written and timed.

        Raises:
            UserError: if none fits; the message names the nearest.
        """
        budget = self.settings.budget
        estimates = Estimates(
            self.material.teacher, self.material.corpus, self.counts, self.settings.forms, budget, uncut["rows"]
        )
        open_shapes = self._by_damage(found)
        least = min(open_shapes, key=lambda shape: (estimates.operations(shape), estimates.bytes(shape)))
        kept: list[Trial] = []
        written: dict[str, Cost] = {}
        for _ in range(TRIED * self.settings.candidates):
            open_shapes = [shape for shape in open_shapes if self._has_room(shape, kept)]
            shape = next(filter(estimates.allow, open_shapes), None)
            if shape is None and not written:
                shape = least  # to see
            if shape is None:
                break
            open_shapes.remove(shape)
            found_costs = self.journal.once(f"cost/{shape.name}", partial(self._cost, shape))
            costs = {form: Cost(**cost) for form, cost in found_costs.items()}
            estimates.learn(shape, costs.values())
            written |= {f"{shape.name}/{form}": cost for form, cost in costs.items()}
            fitting = {form: cost for form, cost in costs.items() if misfit(budget, cost) <= 1}
            if fitting:
                kept.append(Trial(shape, fitting))
        if not kept:
            raise UserError(f"--budget {budget}: no candidate fits into it. {_nearest(written, budget)}")
        return kept

    def try_out(self, trial: Trial) -> float:
        """Accuracy of a candidate after a short lesson, on the rows that choose."""

        def find() -> float:
            self.tell(f"{trial.shape.name}: a short lesson")
            learned = self.lessons.short(self._build(trial.shape, fastest_policy()))
            return self.material.accuracy(learned, self.material.choosing)

        return self.journal.once(f"short/{trial.shape.name}", find)

    def finish(self, trial: Trial) -> list[FileRow]:
        """Teach a candidate in full, write its files, and measure them beside the teacher."""
        name = trial.shape.name
        folder = self.journal.folder / name

        def find() -> dict[str, Any]:
            self.tell(f"{name}: {self.lessons.epochs} epochs of {self.lessons.texts} texts")
            student = self._build(trial.shape, fastest_policy())
            mark = {"candidate": name, "epochs": self.lessons.epochs, "seed": self.settings.seed}
            learned = self.lessons.full(student, folder / "training", mark)
            paths, refused = trials.write(learned, folder, self.settings.forms, self.material, agreeing=True)
            rows = self._measured(name, paths)
            self._save(learned, folder / STUDENT)
            shutil.rmtree(folder / "training")
            return {"rows": [row.to_json() for row in rows], "refused": refused}

        return [FileRow(**row) for row in self.journal.once(f"full/{name}", find)["rows"]]

    def hand_over(
        self,
        rows: list[FileRow],
        wanted: Wanted,
        uncut: Mapping[str, Any],
        kept: list[Trial],
        accuracies: Mapping[str, float],
    ) -> dict[str, Any]:
        """Write the folder, whole or not at all."""
        if not rows:
            raise UserError(
                f"--quantize {' '.join(self.settings.forms)}: each file was refused, since it answers unlike its Keras "
                "model. Try --quantize float16."
            )
        chosen = best(rows, wanted)
        instead = explain(rows, wanted)
        result = {
            "folder": str(self.settings.out),
            **chosen.to_json(),
            "teacher_accuracy": uncut["accuracy"],
            "wanted_accuracy": wanted.accuracy,
            "met": not wanted.misses(chosen),
            **({"instead": instead} if instead else {}),
        }
        tries = [
            {
                "name": trial.shape.name,
                "accuracy": accuracies[trial.shape.name],
                "costs": {form: asdict(cost) for form, cost in trial.costs.items()},
            }
            for trial in kept
        ]
        record = {
            "command": command(self.settings),
            "result": result,
            "files": [row.to_json() for row in rows],
            "tries": tries,
            "choosing_rows": len(self.material.choosing),
            "measuring_rows": len(self.material.measuring),
        }
        with staged(self.settings.out) as staging:
            staging.mkdir()
            shutil.copy(self.journal.folder / chosen.name / f"{chosen.form}.tflite", staging / MODEL)
            student = self.journal.folder / chosen.name / STUDENT
            if student.is_dir():
                shutil.copytree(student, staging / STUDENT)
            report.write(record, rows, wanted, staging)
        self.journal.discard()
        return result

    def _sensitivity(self) -> dict[str, Any]:
        self.tell("What each cut alone does to the teacher's answers")
        return sensitivity.measure(self.material.teacher, self.material.corpus).to_json()

    def _by_damage(self, found: Sensitivity) -> list[Shape]:
        """Every shape whose time can be known, the least damaged first."""
        every = [shape for shape in shapes.every_shape(self.material.teacher, found.layers) if self._has_time(shape)]
        if not every:
            raise UserError(
                f"--latency-table {self.settings.latency_table}: none of its rows is a candidate of this teacher, such "
                f"as {shapes.whole(self.material.teacher).name}/{self.settings.forms[0]}. "
                "Take the names from search.json."
            )
        return sorted(every, key=lambda shape: (found.damage(shape), shape.name))

    def _has_room(self, shape: Shape, kept: list[Trial]) -> bool:
        """Whether one more may learn, and not half of them have this depth already."""
        candidates = self.settings.candidates
        as_deep = sum(len(trial.shape.layers) == len(shape.layers) for trial in kept)
        return len(kept) < candidates and as_deep < math.ceil(candidates / 2)

    def _has_time(self, shape: Shape) -> bool:
        """Whether its time can be known."""
        table = self.clock.table
        return table is None or any(f"{shape.name}/{form}" in table for form in self.settings.forms)

    def _cost(self, shape: Shape) -> dict[str, dict[str, float]]:
        self.tell(f"{shape.name}: its files, untrained")
        folder = self.journal.folder / "untrained"
        paths, _ = trials.write(self._build(shape, SINGLE), folder, self.settings.forms, self.material, agreeing=False)
        costs = self.clock.costs({f"{shape.name}/{form}": path for form, path in paths.items()})
        shutil.rmtree(folder)
        return {name.rpartition("/")[2]: asdict(cost) for name, cost in costs.items()}

    def _measured(self, name: str, paths: Mapping[str, Path]) -> list[FileRow]:
        costs = self.clock.costs({f"{name}/{form}": path for form, path in paths.items()})
        rows = []
        for form, path in paths.items():
            if f"{name}/{form}" in costs:
                scores = evaluation.evaluate(serving.load_classifier(path), self.material.measuring)
                rows.append(FileRow(name, form, **asdict(costs[f"{name}/{form}"]), accuracy=scores.accuracy))
        return rows

    def _next(
        self,
        ordered: list[Trial],
        accuracies: Mapping[str, float],
        rows: list[FileRow],
        wanted: Wanted,
        number: int,
    ) -> Trial | None:
        """The candidate to teach in full next: the most accurate; then a smaller one that may do, or the next best."""
        if number == 0:
            return ordered[0]
        rest, first = ordered[1:], ordered[0]
        reached = max((row.accuracy for row in rows if row.name == first.shape.name), default=0.0)
        if reached < wanted.accuracy:
            return rest[0] if rest else None
        least = accuracies[first.shape.name] - (reached - wanted.accuracy)
        smaller = [one for one in rest if one.bytes < first.bytes and accuracies[one.shape.name] >= least]
        return min(smaller, key=lambda one: one.bytes, default=None)

    def _build(self, shape: Shape, policy: str) -> TextClassifier:
        return shapes.build(self.material.teacher, shape, self.material.corpus, policy)

    def _save(self, model: TextClassifier, folder: Path) -> None:
        material = self.material
        bundle.save(
            folder,
            model=model,
            tokenizer=material.tokenizer,
            labels=material.loaded.labels,
            task=CLASSIFY,
            max_length=material.corpus.max_length,
            metrics={"accuracy": material.accuracy(model, material.measuring)},
            command=command(self.settings),
            examples=material.measuring.texts,
        )


def _nearest(written: Mapping[str, Cost], budget: Budget) -> str:
    if not written:
        return "None could be written. Try --quantize float16."
    name = min(written, key=lambda one: misfit(budget, written[one]))
    cost = written[name]
    return (
        f"The nearest of {len(written)} files tried, {name}, has {cost.bytes / 1e6:.3g} MB and takes {cost.ms:.3g} ms, "
        f"{cost.speedup:.3g} times faster than the teacher. Ask for less."
    )


def _refuse_foreign_folder(out: Path) -> None:
    """Raise UserError unless `out` is new, empty or of an older search."""
    if out.is_file():
        raise UserError(f"--out {out}: is a file, and a search writes a folder. Give another name.")
    ours = {MODEL, STUDENT, *report.FILES}
    foreign = sorted(path.name for path in out.iterdir() if path.name not in ours) if out.is_dir() else []
    if foreign:
        raise UserError(f"--out {out}: holds {foreign[0]!r}, which would be lost. Give a new or empty folder.")


def _silence(line: str) -> None:
    """Say nothing."""
