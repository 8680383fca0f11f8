"""What each method of distillation is worth: one student, one budget of steps, the film snippets, several seeds.

Command: python benchmarks/distill_quality.py [SEED ...]   (default 0 1 2; about 20 minutes a seed on two cores)
         taskset -c 0 env TF_NUM_INTRAOP_THREADS=1 python benchmarks/distill_quality.py 0     a core for each seed
Needs:   the teachers of `python benchmarks/demo_seeds.py`, in saved_models/demo_seeds/seed_N
Writes:  benchmarks/results/distill_quality.md, out of saved_models/distill_quality/results.json, which keeps what is
         done: a run that was stopped goes on with the next method.

All students of the first table have the same sizes, so the same bytes, and the same budget. The second table has what
one twentieth of the teacher's bytes can hold when training may take longer. Methods are compared on the demo's test
texts: what is chosen by these tables is chosen on them, and its score there is a little too good.
"""

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer import benchmark, bundle, files
from keras_transformer.data import assets
from keras_transformer.data.augmentation import WholeWords, augment, nearest_words
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, snippets
from keras_transformer.data.text import label_ids
from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    attention_scores,
    hidden_states,
    named_pairs,
    relations,
    soft_targets,
    tap_pairs,
    true_labels,
    uniform,
)
from keras_transformer.export import tflite
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import sentiment
from keras_transformer.recipes.fitting import Run as FitRun
from keras_transformer.recipes.fitting import fit_on_labels, fit_on_teacher, record_answers, record_logits
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.training.precision import fastest_policy
from keras_transformer.training.progress import ProgressBar

Results = dict[str, dict[str, dict[str, float]]]
"""Seed -> method -> what was measured of it."""

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
RESULT = HERE / "results" / "distill_quality.md"
TEACHERS = ROOT / "saved_models" / "demo_seeds"
DONE = ROOT / "saved_models" / "distill_quality" / "results.json"
PLAN, STEPS = StudentPlan(layers=(1, 4), inner_dim=256, embedding_dim=96, min_count=3), 500
FEATURE_WEIGHT = 0.5  # of a term on features, beside the soft targets
ASSISTANT = StudentPlan(layers=(0, 1, 2, 3), inner_dim=768, embedding_dim=192, min_count=3)


@dataclass(frozen=True)
class Method:
    """What is added to the labels."""

    soft: bool = True
    unlabelled: bool = True
    pooled: float = 0.0  # weight of the teacher's pooled vector
    features: str = ""  # "hidden", "attention", "relations" of the teacher
    start: str = "nothing"  # "nothing", "pretrained" = layers of MiniLM, "teacher" = layers of the fine-tuned teacher
    augmented: bool = False
    assistant: bool = False
    plan: StudentPlan = PLAN
    steps: int = STEPS


METHODS = {
    "labels only": Method(soft=False, unlabelled=False),
    "soft targets": Method(unlabelled=False),
    "soft targets, unlabelled texts": Method(),
    "… and hidden states": Method(features="hidden"),
    "… and attention": Method(features="attention"),
    "… and relations": Method(features="relations"),
    "labels only, from MiniLM's layers": Method(soft=False, unlabelled=False, start="pretrained"),
    "soft targets, unlabelled texts, from MiniLM's layers": Method(start="pretrained"),
    "… and the pooled vector": Method(start="pretrained", pooled=sentiment.SOFT.pooled),
    "… and the pooled vector, from the fine-tuned teacher's layers": Method(
        start="teacher", pooled=sentiment.SOFT.pooled
    ),
    "… from MiniLM's layers, and augmentation": Method(start="pretrained", augmented=True),
    "… from MiniLM's layers, by a teacher assistant": Method(start="pretrained", assistant=True),
}
LONGER = 1500
THREE_LAYERS = StudentPlan(layers=(0, 2, 4), inner_dim=256, embedding_dim=96, min_count=3)
SMALL = {
    f"the demo's student, {LONGER} steps": Method(
        start="pretrained", pooled=sentiment.SOFT.pooled, plan=sentiment.PLAN, steps=LONGER
    ),
    f"three layers and rank 96, {LONGER} steps": Method(
        start="pretrained", pooled=sentiment.SOFT.pooled, plan=THREE_LAYERS, steps=LONGER
    ),
}


class Bench:
    """Data and teacher of one seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.run = FitRun(seed=seed)
        loaded = bundle.load(TEACHERS / f"seed_{seed}" / "teacher")
        self.tokenizer, self.teacher = loaded.tokenizer, loaded.model
        self.running = with_policy(self.teacher, fastest_policy())
        self.pretrained = TextClassifier.from_pretrained(assets.minilm_folder(), len(CLASS_NAMES))
        data = snippets()
        self.labels = label_ids(data.train.labels or [], CLASS_NAMES)
        self.ids = self.encoded([*data.train.texts, *data.unlabelled.texts])
        self.test_texts = data.test.texts
        self.test, self.truth = self.encoded(self.test_texts), label_ids(data.test.labels or [], CLASS_NAMES)
        self.answers = record_answers(self.running, self.ids)

    def encoded(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return self.tokenizer.encode(texts, sentiment.MAX_LENGTH)

    def accuracy(self, model: TextClassifier) -> float:
        """Share of the test texts that `model` gets right."""
        return float(np.mean(record_logits(model, self.test).argmax(axis=1) == self.truth))

    def times_smaller(self, student: TextClassifier) -> float:
        """How often the student's int8 file goes into the teacher's `.keras` file."""
        with tempfile.TemporaryDirectory() as folder:
            exported = tflite(
                student,
                Path(folder) / "student.tflite",
                tokenizer=self.tokenizer,
                labels=CLASS_NAMES,
                max_length=sentiment.MAX_LENGTH,
                examples=self.test_texts,
            )
        return (TEACHERS / f"seed_{self.seed}" / "teacher" / bundle.MODEL).stat().st_size / exported.bytes

    def student(self, start: str, plan: StudentPlan = PLAN) -> TextClassifier:
        """The student before training."""
        tokenizer = self.tokenizer
        cut = cut_student(
            self.teacher if start == "teacher" else self.pretrained,
            plan,
            self.ids,
            always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
            max_length=sentiment.MAX_LENGTH,
            dropout=sentiment.DROPOUT,
            dtype=fastest_policy(),
        )
        if start != "nothing":
            return cut
        fresh = TextClassifier.from_config(cut.get_config())  # the same sizes, weights as they are drawn
        fresh.get_layer("tokens").piece_row.assign(cut.get_layer("tokens").piece_row)  # no weight to learn: which piece
        return fresh

    def batches(self, method: Method, answers: dict[str, np.ndarray] | None) -> Batches:
        """The texts that a method sees, with recorded answers if it has them."""
        rows = len(self.ids) if method.unlabelled else len(self.labels)
        labels = np.concatenate([self.labels, np.full(rows - len(self.labels), UNLABELLED, "int32")])
        extras = {name: values[:rows] for name, values in (answers or {}).items()}
        return Batches(self.ids[:rows], labels, extras, batch_size=sentiment.STUDENT.batch_size, seed=self.seed)

    def train(self, method: Method, title: str) -> TextClassifier:
        """The trained student."""
        keras.utils.set_random_seed(self.seed)
        student, run = self.student(method.start, method.plan), self.run
        if not method.soft:
            data = self.batches(method, None)
            fit_on_labels(student, data, sentiment.STUDENT, title=title, run=run, steps=method.steps)
        elif method.features or method.augmented:
            self.with_live_teacher(student, method, title)
        else:
            data = self.batches(method, self.of_assistant() if method.assistant else self.answers)
            soft = replace(sentiment.SOFT, pooled=method.pooled)
            fit_on_teacher(student, data, sentiment.STUDENT, soft, title=title, run=run, steps=method.steps)
        return student

    def of_assistant(self) -> dict[str, np.ndarray]:
        """Answers of a model between teacher and student, itself distilled (Mirzadeh et al. 2020)."""
        assistant = self.student("pretrained", ASSISTANT)
        data = self.batches(Method(), self.answers)
        fit_on_teacher(assistant, data, sentiment.STUDENT, sentiment.SOFT, title="assistant", run=self.run, steps=STEPS)
        return record_answers(assistant, self.ids)

    def with_live_teacher(self, student: TextClassifier, method: Method, title: str) -> None:
        """Train where the teacher has to run: its features are wanted, or its answers to texts that are new."""
        soft = sentiment.SOFT
        terms = [
            LossTerm("true_labels", 1.0 - soft.weight, true_labels),
            LossTerm("soft_targets", soft.weight, soft_targets(soft.temperature)),
        ]
        if method.features:
            terms.append(LossTerm(method.features, FEATURE_WEIGHT, self.feature_loss(student, method.features)))
        distiller = Distiller(student, self.running, terms)
        distiller.compile(sentiment.STUDENT.optimizer(STEPS), jit_compile=False)
        batches = self.batches(method, None)
        data = batches.dataset(0, 1 + STEPS // batches.steps_per_epoch)
        if method.augmented:
            whole = WholeWords.of(self.tokenizer.vocab)
            near = nearest_words(self.pretrained.get_layer("tokens").table.numpy(), whole)
            data = augment(data, whole, near, copies=1, probability=0.2, seed=self.seed)
        distiller.fit(
            data.take(STEPS), steps_per_epoch=STEPS, callbacks=[ProgressBar(title, STEPS)], shuffle=False, verbose=0
        )

    def feature_loss(self, student: TextClassifier, kind: str) -> Any:
        """The term on features, by a uniform layer map; relations as in MiniLMv2, of the last layers."""
        layers = uniform(student, self.teacher)
        if kind == "hidden":
            return hidden_states(tap_pairs(layers, "hidden"))
        if kind == "attention":
            return attention_scores(named_pairs(layers, "encoder/{}"))
        return relations(named_pairs(layers, "encoder/{}")[-1], relation_heads=self.teacher.num_heads)


def main(seeds: Sequence[int]) -> None:
    """Train what isn't done yet, and write the table after each method."""
    every = METHODS | SMALL
    for seed in seeds:
        missing = [name for name in ("teacher", *every) if name not in results().get(str(seed), {})]
        bench = Bench(seed) if missing else None
        for name in missing:
            model = bench.teacher if name == "teacher" else bench.train(every[name], name)
            exact = with_policy(model, "float32")
            smaller = {"times_smaller": bench.times_smaller(exact)} if name in SMALL else {}
            keep(seed, name, {"accuracy": bench.accuracy(exact), **smaller})
    RESULT.write_text(page(results()), encoding="utf-8")
    print(page(results()))


def results() -> Results:
    """What is done: seed -> method -> its accuracy. Read anew each time: another process may do other seeds."""
    return files.read_json(DONE) if DONE.exists() else {}


def keep(seed: int, name: str, found: dict[str, float]) -> None:
    """Add a result to the others, and write the page."""
    done = results()
    done.setdefault(str(seed), {})[name] = found
    print(f"seed {seed}, {name}: {found}", flush=True)
    files.write_json(DONE, done)
    RESULT.write_text(page(done), encoding="utf-8")


def page(done: Results) -> str:
    """The Markdown page: the methods at one budget, and the students that have more time."""
    seeds = sorted(done, key=int)
    machine = ", ".join(f"{name} {value}" for name, value in benchmark.machine().items())
    smaller = [one["times_smaller"] for seed in seeds for one in done[seed].values() if "times_smaller" in one]
    parts = [
        "# What each method of distillation is worth",
        f"Command: `python benchmarks/distill_quality.py {' '.join(seeds)}`",
        f"Machine: {machine}",
        f"Each student: {PLAN}, {STEPS} steps of {sentiment.STUDENT.batch_size} texts, accuracy on 2,014 "
        "test texts, whose standard error is 0.8 points. Spread: highest less lowest of the seeds.",
        table(["teacher", *METHODS], done),
        "## At one twentieth of the bytes, with more time",
        f"The demo's student is {sentiment.PLAN}, the other one {THREE_LAYERS}; both start from MiniLM's layers and "
        "learn from soft targets, unlabelled texts and the pooled vector. Aim: 98% of the teacher's accuracy.",
        table(list(SMALL), done),
    ]
    if smaller:
        parts.append(f"Their int8 files are {min(smaller):.1f} to {max(smaller):.1f} times smaller than the teacher's.")
    return "\n\n".join(parts) + "\n"


def table(names: Sequence[str], done: Results) -> str:
    """Accuracy of each method, seed by seed, mean, spread, and what of the teacher it keeps."""
    seeds = sorted(done, key=int)
    lines = [
        "| method | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean | spread | of the teacher |",
        "|---|" + "---:|" * (len(seeds) + 3),
    ]
    for name in names:
        told = {seed: done[seed][name]["accuracy"] for seed in seeds if name in done[seed]}
        if not told:
            continue
        kept = statistics.mean(value / done[seed]["teacher"]["accuracy"] for seed, value in told.items())
        cells = [f"{told[seed]:.4f}" if seed in told else "" for seed in seeds]
        spread = f"{max(told.values()) - min(told.values()):.4f}" if len(told) > 1 else ""
        lines.append(
            f"| {name} | " + " | ".join([*cells, f"{statistics.mean(told.values()):.4f}", spread, f"{kept:.1%}"]) + " |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    main(parser.parse_args().seeds)
