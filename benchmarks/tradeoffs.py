"""What each way to make a model small costs in accuracy: cut, low rank, zeros, integers, distilled, and together.

Command: python benchmarks/tradeoffs.py [SEED ...] [--quick] [--runs FOLDER]   (default 0 1 2; 40 minutes a seed)
         python benchmarks/tradeoffs.py SEED ... --times        measures what is there; the machine must do nothing else
Needs:   the teachers of `python benchmarks/demo_seeds.py`, in saved_models/demo_seeds/seed_N, or in FOLDER/seed_N
Writes:  benchmarks/results/tradeoffs.md and tradeoffs.png, out of saved_models/tradeoffs, which keeps what is done;
         with --quick, which trains next to nothing, all into a temporary folder

The teacher is MiniLM, fine-tuned on the demo's film snippets. Each way ends in `.tflite` files, which are scored on the
demo's test texts, timed one text at a time in one thread, all in turn, and weighed as they are and after gzip.
"""

import argparse
import gzip
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from scheduling import command_prefix
from seed_results import Column, SeedResults

from keras_transformer import benchmark, bundle, files
from keras_transformer.compression import (
    MagnitudePruning,
    MovementPruning,
    NToMPruning,
    cut,
    factorise_kernels,
    head_importance,
    input_moments,
    keep_heads,
    keep_units,
    kernel_spectra,
    most_important,
    quantization_aware,
    ranks_of_share,
    unit_slopes,
)
from keras_transformer.compression.pruning import Pruning
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, snippets
from keras_transformer.data.text import label_ids
from keras_transformer.export import tflite
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.token_batches import run_in_batches
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import sentiment
from keras_transformer.recipes.fitting import Run, fit_on_labels, fit_on_teacher, record_answers
from keras_transformer.recipes.student import cut_student
from keras_transformer.report import tradeoffs
from keras_transformer.training.precision import fastest_policy

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
KEPT = ROOT / "saved_models" / "tradeoffs"
RUNS = ROOT / "saved_models" / "demo_seeds"
TEACHER, FORMS = "teacher", {"float32": "none", "int8": "dynamic", "int4": "int4"}
WHOLE = replace(sentiment.STUDENT, learning_rate=1e-4)  # of six layers that are trained already
KERNELS = ("encoder_*",)
PROBE = 512  # texts that importance and spectra are taken from
TIMED = 100  # texts
COLUMNS = (Column("MB", "megabytes", ".2f"), Column("MB after gzip", "gzipped", ".2f"), Column("ms", "p50_ms", ".2f"))


@dataclass(frozen=True)
class Way:
    """How a small model comes about."""

    group: str  # the colour in the picture
    shape: str = "student"  # the demo's student; "halved", half of the heads and of the units; "teacher", all of it
    fresh: bool = False  # random weights and not its teacher's
    training: str = "teacher"  # "" = none, "labels", "teacher"
    rank: float | None = None  # share of the full rank that the encoder's kernels keep
    zeros: str = ""  # "magnitude", "movement" or "2:4" of the encoder's kernels
    rounding: bool = False  # int8 while training


WAYS = {
    TEACHER: Way("teacher", "teacher", training=""),
    "plain training from nothing": Way("plain training", fresh=True, training="labels"),
    "plain training of the teacher's layers": Way("plain training", training="labels"),
    "cut": Way("cut", training=""),
    "cut, distilled": Way("cut"),
    "half of heads and units": Way("halved", "halved", training=""),
    "half of heads and units, trained on labels": Way("halved", "halved", training="labels"),
    "half of heads and units, distilled": Way("halved", "halved"),
    "a third of the rank, distilled": Way("low rank", "teacher", rank=1 / 3),
    "9 of 10 weights zero by magnitude, distilled": Way("zeros", "teacher", zeros="magnitude"),
    "9 of 10 weights zero by movement, distilled": Way("zeros", "teacher", zeros="movement"),
    "2 of 4 weights zero, distilled": Way("zeros", "teacher", zeros="2:4"),
    "cut, a third of the rank, distilled": Way("together", rank=1 / 3),
    "cut, half zero by movement, distilled": Way("together", zeros="half"),
    "cut, distilled with fake integers": Way("together", rounding=True),
}


class Size(NamedTuple):
    """How much is trained and scored."""

    student_steps: int  # of two layers
    whole_steps: int  # of six
    train_texts: int | None
    test_texts: int | None


FULL, QUICK = Size(sentiment.STUDENT_STEPS, 400, None, None), Size(3, 3, 256, 101)


class Bench:
    """Teacher and data of one seed."""

    def __init__(self, seed: int, runs: Path, size: Size, place: Path) -> None:
        self.seed, self.size, self.place = seed, size, place
        loaded = bundle.load(runs / f"seed_{seed}" / TEACHER)
        self.tokenizer, self.teacher = loaded.tokenizer, with_policy(loaded.model, "float32")
        data = snippets()
        self.labels = label_ids(data.train.labels or [], CLASS_NAMES)[: size.train_texts]
        unlabelled = data.unlabelled.texts[: size.train_texts]
        self.ids = self.encoded([*data.train.texts[: size.train_texts], *unlabelled])
        self.test_texts = data.test.texts[: size.test_texts]
        self.test = self.encoded(self.test_texts)
        self.truth = label_ids(data.test.labels or [], CLASS_NAMES)[: size.test_texts]
        self.answers = record_answers(with_policy(self.teacher, fastest_policy()), self.ids)

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return self.tokenizer.encode(texts, sentiment.MAX_LENGTH)

    def score(self, name: str) -> dict[str, Any]:
        """Make a model, write its files, and ask each of them."""
        way = WAYS[name]
        keras.utils.set_random_seed(self.seed)
        model = self.trained(way, self.start(way), name)
        forms = {"int8": FORMS["int8"]} if way.rounding else FORMS
        return {form: self.file(model, quantize, f"{name}, {form}") for form, quantize in forms.items()}

    def file(self, model: TextClassifier, quantize: str, name: str) -> dict[str, Any]:
        """One file: how good it is, and its bytes."""
        path = self.place / f"{name.replace(':', ' to ')}.tflite"
        path.parent.mkdir(parents=True, exist_ok=True)
        tflite(
            model,
            path,
            tokenizer=self.tokenizer,
            labels=CLASS_NAMES,
            max_length=sentiment.MAX_LENGTH,
            examples=self.test_texts,
            quantize=quantize,
            min_agreement=0.0,  # a bad file is a result here
        )
        logits = run_in_batches(
            LiteRunner(path), self.test, self.tokenizer, num_classes=len(CLASS_NAMES), batch_size=1, length=None
        )
        return {
            "accuracy": float(np.mean(logits.argmax(axis=1) == self.truth)),
            "megabytes": path.stat().st_size / 1e6,
            "gzipped": len(gzip.compress(path.read_bytes(), mtime=0)) / 1e6,
            "path": str(path),
        }

    def start(self, way: Way) -> TextClassifier:
        """The model before it is trained."""
        model = {"student": self.student, "halved": self.halved, TEACHER: lambda: self.teacher}[way.shape]()
        if way.fresh:
            fresh = TextClassifier.from_config(model.get_config())
            fresh.get_layer("tokens").piece_row.assign(model.get_layer("tokens").piece_row)  # nothing to learn
            model = fresh
        if way.rank is not None:
            moments = input_moments(model, [np.array([ids], "int32") for ids in self.ids[:PROBE]], KERNELS)
            spectra = kernel_spectra(model, KERNELS, moments)
            model = factorise_kernels(model, ranks_of_share(spectra, way.rank), spectra)
        return model

    def student(self) -> TextClassifier:
        """The demo's student, cut out of the fine-tuned teacher."""
        tokenizer = self.tokenizer
        return cut_student(
            self.teacher,
            sentiment.PLAN,
            self.ids,
            always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
            max_length=sentiment.MAX_LENGTH,
            dropout=sentiment.DROPOUT,
        )

    def halved(self) -> TextClassifier:
        """All layers, each without the half of its heads and units that the loss feels least (Michel et al. 2019)."""
        probe, labels = self.ids[:PROBE], self.labels[:PROBE]
        heads, units = head_importance(self.teacher, probe, labels), unit_slopes(self.teacher, probe, labels)
        return cut(
            self.teacher,
            keep_heads([most_important(one, len(one) // 2) for one in heads]),
            keep_units([most_important(one, len(one) // 2) for one in units]),
        )

    def trained(self, way: Way, model: TextClassifier, title: str) -> TextClassifier:
        """The model after it, in float32, or with its fake integers."""
        if not way.training:
            return model
        small = way.shape == "student"
        schedule, steps = (sentiment.STUDENT, self.size.student_steps) if small else (WHOLE, self.size.whole_steps)
        model = quantization_aware(model, "int8") if way.rounding else with_policy(model, fastest_policy())
        how: dict[str, Any] = {
            "title": title,
            "run": Run(seed=self.seed),
            "steps": steps,
            "callbacks": pruning(way.zeros, steps),
        }
        if way.training == "labels":
            fit_on_labels(model, self.batches(len(self.labels), {}), schedule, **how)
        else:
            fit_on_teacher(model, self.batches(len(self.ids), self.answers), schedule, sentiment.SOFT, **how)
        return model if way.rounding else with_policy(model, "float32")

    def batches(self, rows: int, extras: dict[str, np.ndarray]) -> Batches:
        """The first so many texts."""
        labels = np.concatenate([self.labels, np.full(rows - len(self.labels), UNLABELLED, "int32")])
        return Batches(self.ids[:rows], labels, extras, batch_size=sentiment.STUDENT.batch_size, seed=self.seed)


def pruning(zeros: str, steps: int) -> list[Pruning]:
    """Zeros from the first tenth of the steps to seven tenths; what is left is the cool-down."""
    span = {"begin": steps // 10, "end": max(1, steps * 7 // 10)}
    if not zeros:
        return []
    if zeros == "2:4":
        return [NToMPruning(2, 4, which=KERNELS)]
    kind = MagnitudePruning if zeros == "magnitude" else MovementPruning
    return [kind(0.5 if zeros == "half" else 0.9, every=max(1, steps // 20), which=KERNELS, **span)]


def main(seeds: Sequence[int], runs: Path, size: Size, place: Path, results: Path, times: bool) -> None:
    """Do what isn't done yet, and write the page after each way."""

    def told(found: SeedResults) -> None:
        results.mkdir(parents=True, exist_ok=True)
        (results / "tradeoffs.md").write_text(page(found, size, timed(place)), encoding="utf-8")

    found = SeedResults(place / "results.json", f"{size}, {WHOLE}", told)
    for seed in [] if times else seeds:
        missing = [name for name in WAYS if name not in found.of(seed)]
        bench = Bench(seed, runs, size, place / f"seed_{seed}") if missing else None
        for name in missing:
            found.complete(seed, name, partial(bench.score, name))
    if times or size == QUICK:
        measure(found, place, snippets().test.texts[:: 2014 // TIMED][:TIMED], 1 if size == QUICK else 3)
        picture(found, timed(place), results / "tradeoffs.png")
        told(found)
    print(page(found, size, timed(place)))


def measure(found: SeedResults, place: Path, texts: Sequence[str], rounds: int) -> None:
    """Time the files of the first seed, all in turn; those of another differ in their weights alone."""
    paths = {
        f"{name}, {form}": one["path"]
        for name, forms in found.of(found.seeds[0]).items()
        for form, one in forms.items()
    }
    latency = benchmark.in_one_thread(paths, texts, rounds)
    files.write_json(place / "times.json", {name: one.p50_ms for name, one in latency.items()})


def timed(place: Path) -> dict[str, float]:
    """Milliseconds by the name of a file; none before they were measured."""
    path = place / "times.json"
    return files.read_json(path) if path.is_file() else {}


def means(found: SeedResults) -> dict[str, dict[str, float]]:
    """Of each file, over the seeds."""
    made: dict[str, dict[str, float]] = {}
    seeds = found.seeds
    for name in WAYS:
        for form in FORMS:
            of_seeds = [found.of(seed)[name][form] for seed in seeds if form in found.of(seed).get(name, {})]
            if of_seeds:
                accuracies = [one["accuracy"] for one in of_seeds]
                made[f"{name}, {form}"] = {
                    "accuracy": float(np.mean(accuracies)),
                    "spread": max(accuracies) - min(accuracies),
                    "megabytes": float(np.mean([one["megabytes"] for one in of_seeds])),
                    "gzipped": float(np.mean([one["gzipped"] for one in of_seeds])),
                    "seeds": len(of_seeds),
                }
    return made


def picture(found: SeedResults, times: dict[str, float], path: Path) -> None:
    """Accuracy against bytes and against time; a colour for each kind of way."""
    drawn = [
        tradeoffs.Tried(WAYS[name.rpartition(", ")[0]].group, one["megabytes"], times[name], one["accuracy"])
        for name, one in means(found).items()
        if name in times
    ]
    tradeoffs.write(drawn, tradeoffs.Wished(), path)


def page(found: SeedResults, size: Size, times: dict[str, float]) -> str:
    """The Markdown page."""
    every = means(found)
    base, slow = every[f"{TEACHER}, float32"]["accuracy"], times.get(f"{TEACHER}, float32")
    rows = ["| way | seeds | accuracy | spread | of the teacher's | MB | MB after gzip | ms | times as fast |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name, one in every.items():
        ms = times.get(name)
        speed = ("", "") if ms is None or slow is None else (f"{ms:.2f}", f"{slow / ms:.1f}")
        accuracy, spread, megabytes, gzipped = (one[key] for key in ("accuracy", "spread", "megabytes", "gzipped"))
        cells = [name, f"{one['seeds']}", f"{accuracy:.4f}", f"{spread:.4f}", f"{accuracy / base:.1%}"]
        cells += [f"{megabytes:.2f}", f"{gzipped:.2f}", *speed]
        rows.append(f"| {' | '.join(cells)} |")
    command = f"python benchmarks/tradeoffs.py {' '.join(found.seeds)}"
    parts = [
        "# What each way to make a model small costs in accuracy",
        f"Command: `{command}`, then `{command_prefix()}{command} --times`",
        f"Machine: {', '.join(f'{name} {value}' for name, value in benchmark.machine().items())}",
        f"Film snippets, accuracy on {size.test_texts or '2,014'} test texts, whose standard error is 0.8 points; "
        f"spread: highest less lowest of the seeds. Two layers: {size.student_steps} steps of "
        f"{sentiment.STUDENT.batch_size} texts at {sentiment.STUDENT.learning_rate}; six: {size.whole_steps} at "
        f"{WHOLE.learning_rate}. ms: one text at batch 1 in one thread, median over {TIMED} texts, files of the first "
        "seed in turn. Zeros save bytes after gzip alone, and no time.",
        "\n".join(rows),
        *(["![accuracy against size and time](tradeoffs.png)"] if times else []),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="train next to nothing, to see that it works")
    parser.add_argument("--times", action="store_true", help="only measure what is there")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the demo's runs are")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            main(options.seeds[:1], options.runs, QUICK, Path(folder) / "kept", Path(folder), options.times)
    else:
        main(options.seeds, options.runs, FULL, KEPT, RESULTS, options.times)
