"""What training with fake integers is worth: the demo's student in int8 and int4, film snippets, several seeds.

Command: python benchmarks/quantization.py [SEED ...] [--quick] [--runs FOLDER]   (default 0 1 2; 15 minutes)
Needs:   the runs of `python benchmarks/demo_seeds.py`, in saved_models/demo_seeds/seed_N, or in FOLDER/seed_N
Writes:  benchmarks/results/quantization.md, out of saved_models/quantization/results.json, which keeps what is done;
         with --quick, which trains next to nothing, both into a temporary folder

All start from the one distilled student of a seed. Training with fake integers is training for longer, so each such row
has a neighbour that was trained as long without, and quantised then. Files are scored on the demo's test texts.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from seed_results import Column, SeedResults

from keras_transformer import benchmark, bundle
from keras_transformer.compression import quantization_aware
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, snippets
from keras_transformer.data.text import label_ids
from keras_transformer.export import tflite
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.token_batches import run_in_batches
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import sentiment
from keras_transformer.recipes.fitting import Run, fit_on_labels, fit_on_teacher, record_answers, record_logits
from keras_transformer.training.precision import fastest_policy

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "quantization.md"
DONE = ROOT / "saved_models" / "quantization" / "results.json"
RUNS = ROOT / "saved_models" / "demo_seeds"
FORMS = ("int8", "int4")
FLOAT = "float32, as it came"
SCHEDULE = replace(sentiment.STUDENT, learning_rate=1e-4)  # it is trained already
COLUMNS = (
    Column("megabytes", "megabytes", ".2f"),
    Column("same label as its Keras model", "agreement", ".2%"),
    Column("same label as the float32 student", "kept", ".2%"),
)


class Size(NamedTuple):
    """How much is trained and scored."""

    steps: int
    train_texts: int | None
    test_texts: int | None


FULL, QUICK = Size(150, None, None), Size(3, 256, 101)


class Way(NamedTuple):
    """How a file comes about."""

    form: str
    training: str  # "", "labels" or "teacher"
    rounding: bool  # while training


def ways() -> dict[str, Way]:
    """A title for each."""
    made = {}
    for form in FORMS:
        made[f"{form}: no more training"] = Way(form, "", False)
        for training in ("labels", "teacher"):
            made[f"{form}: more training, {training}"] = Way(form, training, False)
            made[f"{form}: training with fake integers, {training}"] = Way(form, training, True)
    return made


class Bench:
    """Student, teacher and data of one seed."""

    def __init__(self, seed: int, runs: Path, size: Size) -> None:
        self.seed, self.size = seed, size
        loaded = bundle.load(runs / f"seed_{seed}" / sentiment.DISTILLED)
        self.tokenizer, self.student = loaded.tokenizer, with_policy(loaded.model, "float32")
        data = snippets()
        self.labels = label_ids(data.train.labels or [], CLASS_NAMES)[: size.train_texts]
        few = data.unlabelled.texts[: size.train_texts]
        self.ids = self.encoded([*data.train.texts[: size.train_texts], *few])
        self.test_texts = data.test.texts[: size.test_texts]
        self.test = self.encoded(self.test_texts)
        self.truth = label_ids(data.test.labels or [], CLASS_NAMES)[: size.test_texts]
        teacher = bundle.load(runs / f"seed_{seed}" / "teacher").model
        self.answers = record_answers(with_policy(teacher, fastest_policy()), self.ids)
        self.best = record_logits(self.student, self.test).argmax(axis=1)
        self.trained: dict[str, TextClassifier] = {}  # without rounding, by what it was trained on

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return self.tokenizer.encode(texts, sentiment.MAX_LENGTH)

    def score(self, way: Way | None) -> dict[str, Any]:
        """Train, write the file, and ask it; None = what the student itself says."""
        if way is None:
            megabytes = self.student.count_params() * 4 / 1e6
            return {"accuracy": self.accuracy(self.best), "megabytes": megabytes, "agreement": 1.0, "kept": 1.0}
        model = self.model(way)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "student.tflite"
            report = tflite(
                model,
                path,
                tokenizer=self.tokenizer,
                labels=CLASS_NAMES,
                max_length=sentiment.MAX_LENGTH,
                examples=self.test_texts,
                quantize=way.form,
                min_agreement=0.0,  # a bad file is a result here
            )
            logits = run_in_batches(
                LiteRunner(path), self.test, self.tokenizer, num_classes=len(CLASS_NAMES), batch_size=1, length=None
            )
        best = logits.argmax(axis=1)
        return {
            "accuracy": self.accuracy(best),
            "megabytes": report.bytes / 1e6,
            "agreement": report.top1_agreement,
            "kept": float(np.mean(best == self.best)),
        }

    def accuracy(self, best: np.ndarray) -> float:
        """Share of the test texts whose best label is right."""
        return float(np.mean(best == self.truth))

    def model(self, way: Way) -> TextClassifier:
        """What is exported."""
        if way.rounding:
            return self.fitted(quantization_aware(self.student, way.form), way.training)
        if not way.training:
            return self.student
        if way.training not in self.trained:
            self.trained[way.training] = self.fitted(with_policy(self.student, "float32"), way.training)
        return self.trained[way.training]

    def fitted(self, model: TextClassifier, training: str) -> TextClassifier:
        """The model, trained on the labels, or on labels and teacher with the texts that have none."""
        keras.utils.set_random_seed(self.seed)
        run, steps = Run(seed=self.seed), self.size.steps
        if training == "labels":
            batches = self.batches(len(self.labels), {})
            fit_on_labels(model, batches, SCHEDULE, title=training, run=run, steps=steps)
        else:
            batches = self.batches(len(self.ids), self.answers)
            fit_on_teacher(model, batches, SCHEDULE, sentiment.SOFT, title=training, run=run, steps=steps)
        return model

    def batches(self, rows: int, extras: dict[str, np.ndarray]) -> Batches:
        """The first so many texts."""
        labels = np.concatenate([self.labels, np.full(rows - len(self.labels), UNLABELLED, "int32")])
        return Batches(self.ids[:rows], labels, extras, batch_size=SCHEDULE.batch_size, seed=self.seed)


def main(seeds: Sequence[int], runs: Path, size: Size, result: Path, done: Path) -> None:
    """Do what isn't done yet, and write the page after each file."""
    results = SeedResults(done, f"{size}, {SCHEDULE}", lambda found: _write(result, page(found, size)))
    for seed in seeds:
        missing = [name for name in (FLOAT, *ways()) if name not in results.of(seed)]
        bench = Bench(seed, runs, size) if missing else None
        for name in missing:
            results.complete(seed, name, partial(bench.score, ways().get(name)))
    print(page(results, size))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def page(results: SeedResults, size: Size) -> str:
    """The Markdown page."""
    machine = ", ".join(f"{name} {value}" for name, value in benchmark.machine().items())
    parts = [
        "# Training with fake integers",
        f"Command: `python benchmarks/quantization.py {' '.join(results.seeds)}{' --quick' if size == QUICK else ''}`",
        f"Machine: {machine}",
        f"The demo's distilled student, {size.steps} more steps of {SCHEDULE.batch_size} texts at "
        f"{SCHEDULE.learning_rate}; accuracy of the file on the test texts ({size.test_texts or '2,014'}), whose "
        "standard error is 0.8 points on all. Rows of one form differ in how it was trained, not in what it is. "
        "Ranges of the rows without fake integers come from every second test text, as `export` has them.",
        results.table([FLOAT, *ways()], Column("accuracy", "accuracy", ".4f"), COLUMNS, FLOAT),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="train next to nothing, to see that it works")
    parser.add_argument("--runs", type=Path, default=RUNS, help="where the demo's runs are")
    options = parser.parse_args()
    if options.quick:
        with tempfile.TemporaryDirectory() as place:
            main(options.seeds[:1], options.runs, QUICK, Path(place) / "page.md", Path(place) / "results.json")
    else:
        main(options.seeds, options.runs, FULL, RESULT, DONE)
