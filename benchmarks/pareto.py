"""What each way to make a teacher smaller keeps of its accuracy, for how many bytes and milliseconds.

Command: python benchmarks/pareto.py TEACHER_DIR DATA_DIR [--seeds 0 1 2] [--name film] [--quick]
         TEACHER_DIR: run folder of a classifier; DATA_DIR: train.csv, test.csv and unlabelled.csv, for the demo's
         teacher those of `keras-transformer demo --write-data DATA_DIR`. About half an hour a seed
Writes:  benchmarks/results/pareto_NAME.md and .png, out of saved_models/pareto_NAME/, which keeps what is done;
         with --quick, which trains next to nothing, all of it into a temporary folder

Each student starts from the teacher's own weights unless its row says otherwise, learns for a fixed number of steps,
and is written as .tflite in each form; test.csv scores the files and was in no training. A file that answers unlike its
Keras model is left out. The files of the first seed are timed together, in one thread, beside the teacher.
"""

import argparse
import gzip
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from seed_results import SeedResults

from keras_transformer import benchmark, evaluation, files, serving
from keras_transformer.budget_search import shapes, trials
from keras_transformer.budget_search.material import Material, read
from keras_transformer.budget_search.settings import SearchSettings
from keras_transformer.budget_search.shapes import Shape
from keras_transformer.budget_search.wishes import Budget, LeastAccuracy
from keras_transformer.compression import MagnitudePruning, MovementPruning
from keras_transformer.data.batching import Batches
from keras_transformer.data.text import Table
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import sentiment
from keras_transformer.recipes.fitting import Run, Soft, fit_on_labels, fit_on_teacher, record_answers
from keras_transformer.training.precision import fastest_policy

ROOT = Path(__file__).parents[1]
FORMS = ("dynamic", "int8")
TIMED_TEXTS, ROUNDS = 40, 5
LEARNING_RATE_UNCUT = 2e-4  # of a student with all layers: it starts near the teacher
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2", "#97bbf5", "#9c6b4e")


@dataclass(frozen=True)
class Way:
    """How a student comes about."""

    kind: str  # for the colour
    layers: tuple[int, ...] | None = None  # None = all
    heads: float = 1.0  # share that stays
    units: float = 1.0
    embedding: int | None = None  # the teacher's width over the rank of the token table; None = not factorised
    min_count: int = 1
    rank_share: float | None = None
    sparsity: float = 0.0
    movement: bool = False
    learns_from: str = "teacher"  # or "labels", or "" for nothing
    fresh: bool = False  # new weights in place of the teacher's


TWO = Way("combined", layers=(1, 4), heads=1.0, units=1 / 6, embedding=2, min_count=3)
WAYS = {
    "teacher": Way("teacher", learns_from=""),
    "half of the heads and units, not trained again": Way("shrink", heads=0.5, units=0.5, learns_from=""),
    "half of the heads and units": Way("shrink", heads=0.5, units=0.5),
    "half of the heads and units, on labels alone": Way("shrink", heads=0.5, units=0.5, learns_from="labels"),
    "vocabulary and token table": Way("shrink", embedding=4, min_count=3),
    "a quarter of the rank": Way("low rank", rank_share=0.25),
    "half of the weights zero": Way("pruning", sparsity=0.5),
    "nine of ten weights zero, by movement": Way("pruning", sparsity=0.9, movement=True),
    "three layers": Way("layers", layers=(1, 3, 4)),
    "two layers, narrow, small table": TWO,
    "the same, on labels alone": replace(TWO, kind="plain training", learns_from="labels"),
    "the same, from nothing": replace(TWO, kind="plain training", fresh=True),
    "the same, from nothing, on labels alone": replace(TWO, kind="plain training", fresh=True, learns_from="labels"),
    "two layers, half of the heads, smaller table": replace(TWO, heads=0.5, embedding=4),
    "two layers, a quarter of the rank": replace(TWO, units=0.5, rank_share=0.25),
    "one layer, half of the heads, smallest table": replace(TWO, layers=(4,), heads=0.5, embedding=8, min_count=8),
}


@dataclass(frozen=True)
class Size:
    """How much is trained, scored and timed."""

    steps: int  # of a student with half of the layers at most
    steps_uncut: int  # of one with more, whose steps take longer and which starts nearer to the teacher
    test_texts: int | None


FULL, QUICK = Size(sentiment.STUDENT_STEPS, 250, None), Size(4, 4, 60)


class Bench:
    """Teacher and texts, with the teacher's answers, for all seeds."""

    def __init__(self, teacher: Path, data: Path, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder
        self.material: Material = read(
            SearchSettings(
                teacher=teacher,
                data=data / "train.csv",
                test=data / "test.csv",
                unlabelled=data / "unlabelled.csv" if (data / "unlabelled.csv").exists() else None,
                out=folder / "unused",
                budget=Budget(),
                min_accuracy=LeastAccuracy(1.0, of_teacher=True),
            )
        )
        self.test = self.material.measuring
        if size.test_texts is not None:
            self.test = Table(self.test.texts[: size.test_texts], (self.test.labels or [])[: size.test_texts])
        ids = self.material.corpus.token_ids
        self.answers = record_answers(with_policy(self.material.teacher, fastest_policy()), ids)

    def complete(self, name: str, seed: int) -> dict[str, Any]:
        """Make the student, write its files, and score them: form -> bytes, gzip bytes, accuracy."""
        keras.utils.set_random_seed(seed)
        way = WAYS[name]
        model = self.student(way)
        if way.learns_from:
            self.fit(model, way, seed)
        folder = self.folder / f"seed_{seed}" / slug(name)
        folder.mkdir(parents=True, exist_ok=True)
        paths, refused = trials.write(with_policy(model, "float32"), folder, FORMS, self.material, agreeing=True)
        accuracy = self.material.accuracy(with_policy(model, "float32"), self.test)
        told: dict[str, Any] = {"weights": model.count_params(), "keras": accuracy, "refused": sorted(refused)}
        for form, path in paths.items():
            content = path.read_bytes()
            scores = evaluation.evaluate(serving.load_classifier(path), self.test)
            told[form] = {
                "bytes": len(content),
                "gzip": len(gzip.compress(content, mtime=0)),
                "accuracy": scores.accuracy,
            }
        return told

    def shape(self, way: Way) -> Shape:
        """What of the teacher stays."""
        teacher = self.material.teacher
        return replace(
            shapes.whole(teacher),
            layers=way.layers or tuple(range(teacher.num_layers)),
            num_heads=round(way.heads * teacher.num_heads),
            inner_dim=round(way.units * teacher.inner_dim),
            embedding_dim=way.embedding and teacher.model_dim // way.embedding,
            min_count=way.min_count,
            rank_share=way.rank_share,
        )

    def student(self, way: Way) -> TextClassifier:
        """The student before it learns, in the precision that it learns in."""
        if way.kind == "teacher":
            return self.material.teacher
        cut = shapes.build(
            self.material.teacher, self.shape(way), self.material.corpus, fastest_policy(), dropout=sentiment.DROPOUT
        )
        if not way.fresh:
            return cut
        fresh = type(cut).from_config(cut.get_config())
        # Which row of the table a piece has isn't learned.
        for new, old in zip(fresh.weights, cut.weights, strict=True):
            if not new.trainable:
                new.assign(old)
        return fresh

    def fit(self, model: TextClassifier, way: Way, seed: int) -> None:
        """Train."""
        deep = model.num_layers > self.material.teacher.num_layers // 2
        steps = self.size.steps_uncut if deep else self.size.steps
        schedule = sentiment.STUDENT
        if deep:
            schedule = replace(schedule, learning_rate=LEARNING_RATE_UNCUT)
        ids, labels, answers = self.material.corpus.token_ids, self.material.labels, self.answers
        if way.learns_from == "labels":
            few = int(np.sum(labels >= 0))
            ids, labels, answers = ids[:few], labels[:few], {}
        batches = Batches(ids, labels, answers, batch_size=schedule.batch_size, seed=seed)
        callbacks: list[keras.callbacks.Callback] = []
        if way.sparsity:
            end, every = max(1, round(0.7 * steps)), max(1, steps // 50)
            kind = MovementPruning if way.movement else MagnitudePruning
            callbacks.append(kind(way.sparsity, begin=steps // 10, end=end, every=every))
        common: dict[str, Any] = {"title": "student", "run": Run(seed), "steps": steps, "callbacks": callbacks}
        if answers:
            soft = sentiment.SOFT if model.model_dim == self.material.teacher.model_dim else Soft(pooled=0.0)
            fit_on_teacher(model, batches, schedule, soft, **common)
        else:
            fit_on_labels(model, batches, schedule, **common)

    def times(self, seed: int) -> dict[str, float]:
        """Median ms of one text of each file of a seed, and of the teacher as a Keras graph."""
        paths: dict[str, Path] = {trials.TEACHER: self.material.loaded.folder}
        for path in sorted((self.folder / f"seed_{seed}").glob("*/*.tflite")):
            paths[f"{path.parent.name}/{path.stem}"] = path
        texts = self.test.texts[:: max(1, len(self.test.texts) // TIMED_TEXTS)][:TIMED_TEXTS]
        return {name: one.p50_ms for name, one in benchmark.in_one_thread(paths, texts, rounds=ROUNDS).items()}


@dataclass(frozen=True)
class Point:
    """One kind of file, over the seeds."""

    name: str
    kind: str
    form: str
    megabytes: float
    gzipped: float
    ms: float | None
    accuracies: tuple[float, ...]

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.accuracies)


def slug(name: str) -> str:
    """A folder's name."""
    return name.replace(",", "").replace(" ", "_")


def points(results: SeedResults, times: dict[str, float]) -> list[Point]:
    """All that is done, in the order of `WAYS`."""
    found = []
    for name, way in WAYS.items():
        for form in FORMS:
            rows = [results.of(seed).get(name, {}).get(form) for seed in results.seeds]
            rows = [row for row in rows if row]
            if rows:
                size, zipped = (statistics.mean(row[key] for row in rows) / 1e6 for key in ("bytes", "gzip"))
                ms = times.get(f"{slug(name)}/{form}")
                found.append(Point(name, way.kind, form, size, zipped, ms, tuple(row["accuracy"] for row in rows)))
    return found


def front(every: Sequence[Point], cost: str) -> list[Point]:
    """The points that no cheaper one equals in accuracy, the cheapest first."""
    kept: list[Point] = []
    for point in sorted((one for one in every if getattr(one, cost) is not None), key=lambda one: getattr(one, cost)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def page(results: SeedResults, times: dict[str, float], command: str, size: Size, plot: str) -> str:
    """The Markdown page."""
    teacher = results.of(results.seeds[0])["teacher"]["keras"]
    every = points(results, times)
    by_bytes, by_time = front(every, "megabytes"), front(every, "ms")
    columns = [
        "way",
        "form",
        "MB",
        "MB after gzip",
        "ms",
        "times faster",
        "accuracy, mean",
        "spread",
        "of the teacher's",
    ]
    lines = [
        "# Accuracy against bytes and time",
        "",
        f"Command: `{command}`",
        "",
        f"Machine: {', '.join(f'{name} {value}' for name, value in benchmark.machine().items())}",
        "",
        f"Teacher: accuracy {teacher:.4f}. Seeds {', '.join(results.seeds)} of the students; the teacher is one. "
        f"{size.steps} steps of {sentiment.STUDENT.batch_size} texts at {sentiment.STUDENT.learning_rate:g}, or "
        f"{size.steps_uncut} at {LEARNING_RATE_UNCUT:g} with all layers; {sentiment.SOFT}. "
        "Times: median of one text in one thread, tokenising included, files of the first seed and the teacher as a "
        'Keras graph in turn. "bytes" and "time" say that no file that costs less is as accurate.',
        "",
        f"![accuracy against bytes and time]({plot})",
        "",
        f"| {' | '.join([*columns, 'on the front of'])} |",
        "|---|---|" + "---:|" * (len(columns) - 2) + "---|",
    ]
    for point in every:
        fast = "" if point.ms is None else f"{times[trials.TEACHER] / point.ms:.1f}"
        spread = f"{max(point.accuracies) - min(point.accuracies):.4f}" if len(point.accuracies) > 1 else ""
        fronts = [what for what, among in (("bytes", by_bytes), ("time", by_time)) if point in among]
        cells = [point.name, point.form, f"{point.megabytes:.2f}", f"{point.gzipped:.2f}"]
        cells += ["" if point.ms is None else f"{point.ms:.2f}", fast, f"{point.accuracy:.4f}", spread]
        lines.append(f"| {' | '.join([*cells, f'{point.accuracy / teacher:.1%}', ', '.join(fronts)])} |")
    refused = [
        f"{name} ({', '.join(told['refused'])}, seed {seed})"
        for seed in results.seeds
        for name, told in results.of(seed).items()
        if told["refused"]
    ]
    if refused:
        lines += ["", f"Left out, since the file answers unlike its Keras model: {'; '.join(refused)}."]
    return "\n".join([*lines, ""])


def draw(every: Sequence[Point], teacher: float, path: Path) -> None:
    """Accuracy against bytes and against time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    kinds = list(dict.fromkeys(way.kind for way in WAYS.values()))
    names = list(WAYS)
    for axes, cost, title in zip(
        figure.subplots(1, 2, sharey=True),
        ("megabytes", "ms"),
        ("megabytes", "ms of one text, one thread"),
        strict=True,
    ):
        for point in every:
            place = getattr(point, cost)
            if place is None:
                continue
            colour = COLOURS[kinds.index(point.kind)]
            axes.scatter(
                place, 100 * point.accuracy, color=colour, marker="os"[FORMS.index(point.form)], s=36, zorder=3
            )
            axes.annotate(
                str(1 + names.index(point.name)),
                (place, 100 * point.accuracy),
                xytext=(5, 3),
                textcoords="offset points",
                fontsize=7,
            )
        line = front(every, cost)
        axes.plot(
            [getattr(point, cost) for point in line],
            [100 * point.accuracy for point in line],
            color="#999999",
            linewidth=1,
        )
        axes.axhline(100 * teacher, color="#999999", linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
        axes.set_xlabel(f"{title} (logarithmic)")
        axes.grid(alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if cost == "megabytes":
            axes.set_ylabel("accuracy on the test texts (%)")
            axes.set_title("Circles: dynamic, squares: int8; dashed: the teacher in Keras", loc="left", fontsize=10)
    drawn = {point.name for point in every}
    handles = [
        figure.axes[0].scatter([], [], color=COLOURS[kinds.index(way.kind)], label=f"{1 + number} {name}")
        for number, (name, way) in enumerate(WAYS.items())
        if name in drawn
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=7, frameon=False)
    figure.savefig(path, format="png")


def main(teacher: Path, data: Path, seeds: list[int], name: str, size: Size, place: Path, runs: Path) -> None:
    """Do what isn't done yet, time the first seed's files, and write the page after each seed."""
    command = f"python benchmarks/pareto.py DEMO/teacher DATA --seeds {' '.join(map(str, seeds))} --name {name}"
    results = SeedResults(runs / "results.json", f"{size}, {files.sha256(teacher / 'model.keras')[:8]}", _nothing)
    bench = Bench(teacher, data, size, runs)
    for seed in seeds:
        for way in WAYS:
            results.complete(seed, way, partial(bench.complete, way, seed))
        if not (runs / "times.json").exists():
            files.write_json(runs / "times.json", bench.times(seeds[0]))
        times = files.read_json(runs / "times.json")
        text = page(results, times, command, size, f"pareto_{name}.png")
        draw(points(results, times), results.of(seeds[0])["teacher"]["keras"], place / f"pareto_{name}.png")
        (place / f"pareto_{name}.md").write_text(text, encoding="utf-8")
    print(text)


def _nothing(_: SeedResults) -> None:
    """The page is written after a seed."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="film", help="of the data, in the names of what is written")
    parser.add_argument("--quick", action="store_true", help="train next to nothing, to see that it works")
    given = parser.parse_args()
    if given.quick:
        with tempfile.TemporaryDirectory() as scratch:
            there = Path(scratch)
            main(given.teacher, given.data, given.seeds[:1], given.name, QUICK, there, there / "runs")
    else:
        kept = ROOT / "saved_models" / f"pareto_{given.name}"
        main(given.teacher, given.data, given.seeds, given.name, FULL, ROOT / "benchmarks" / "results", kept)
