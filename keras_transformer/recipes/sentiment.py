"""The main job on the built-in data: teach, distil, write phone and server files, prove them, report.

One run of it is one row of every promise that the README makes; `keras-transformer demo` calls it.
"""

import csv
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer import benchmark, bundle, evaluation, report, serving
from keras_transformer.data import assets
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, Snippets, snippets
from keras_transformer.data.text import Table, label_ids
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.export import ExportReport, saved_model, tflite
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.files import staged
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.fitting import Run, Schedule, Soft, fit_on_labels, fit_on_teacher, record_answers
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.training.precision import fastest_policy

TASK = "classify"
SINGLE = "float32"
NAME = "sentiment"  # of the folder that TensorFlow Serving takes
MAX_LENGTH = 64  # word pieces: 99 of 100 snippets have fewer
QUICK_ROWS = 320  # of each part in a quick run, which only shows that everything works
LATENCY_TEXTS, QUICK_LATENCY_TEXTS = 100, 10
LATENCY_ROUNDS = 2

TEACHER = Schedule(epochs=2, batch_size=32, learning_rate=5e-5)
FROZEN = ("tokens", "encoder_0")  # of the teacher: more than half of its weights, and time that ten minutes lack
DROPOUT = 0.0  # drawing random numbers costs time that the ten minutes lack
STUDENT = Schedule(epochs=3, batch_size=64, learning_rate=7e-4)
STUDENT_STEPS = 750  # 2.3 times round all texts; the same for both students
PLAN = StudentPlan(layers=(1, 4), inner_dim=256, embedding_dim=192, min_count=3)
SOFT = Soft(weight=0.8, temperature=2.0)
LABELS_ONLY, DISTILLED = "student_labels_only", "student_distilled"

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Encoded:
    """The data as token ids and class numbers."""

    train: list[list[int]]
    train_labels: np.ndarray
    unlabelled: list[list[int]]


@dataclass(frozen=True)
class Form:
    """One model in one form, on disk."""

    name: str
    format: str
    path: Path


def demo(folder: Path | str, seed: int = 0, quick: bool = False, *, quiet: bool = False) -> report.Report:
    """Do the whole job and write everything below `folder`.

    Args:
        folder: gets report.json, report.md, report.png, a bundle a model, two `.tflite` files and `sentiment/1/`.
        seed: of new weights and of the order of the texts; the split of the data doesn't follow it.
        quick: a few hundred texts, to see that everything works; its scores mean nothing.
        quiet: show no progress.

    Raises:
        UserError: if data or weights can't be fetched, or the folder can't be written.
        ParityError: if a written file disagrees with its Keras model; the file isn't left.
    """
    place = Path(folder)
    tell: Tell = _silence if quiet else assets.tell_on_stderr
    minilm = assets.minilm_folder(tell)
    data = snippets(tell)
    if quick:
        data = Snippets(*(_some_rows(part, QUICK_ROWS) for part in data))
    started = time.perf_counter()  # the fetching above isn't part of the job
    keras.utils.set_random_seed(seed)
    run = Run(seed=seed, quiet=quiet)
    tokenizer = WordPiece.load(minilm)
    encoded = _encode(data, tokenizer)

    trained = _train_all(minilm, tokenizer, encoded, run, tell)
    command = _command(place, seed, quick)
    forms = _write_forms(trained, tokenizer, data, place, command, tell)
    exports = [exported for form, exported in forms if exported is not None]
    tell("Measuring: scores on the test set, latency of one text at a time in one thread")
    rows = _measure(
        [form for form, _ in forms], data.test, latency_texts=QUICK_LATENCY_TEXTS if quick else LATENCY_TEXTS
    )
    made = report.Report(
        seconds=round(time.perf_counter() - started, 1),
        seed=seed,
        data={name: len(part) for name, part in data._asdict().items()},
        models=rows,
        parity=[_parity_row(exported) for exported in exports],
        command=command,
        machine=benchmark.machine(),
    )
    report.write(made, place)
    return made


def write_data(folder: Path | str) -> dict[str, int]:
    """Write the built-in data as train.csv, test.csv (text,label) and unlabelled.csv (text); return their rows."""
    place = Path(folder)
    rows = {}
    for name, table in snippets()._asdict().items():
        columns = [table.texts] if table.labels is None else [table.texts, table.labels]
        with staged(place / f"{name}.csv") as staging, staging.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"][: len(columns)])
            writer.writerows(zip(*columns, strict=True))
        rows[name] = len(table)
    return rows


def _train_all(minilm: Path, tokenizer: WordPiece, data: Encoded, run: Run, tell: Tell) -> dict[str, TextClassifier]:
    """The teacher, and the student of one start trained twice; all in float32."""
    policy = fastest_policy()
    tell(f"Teacher: MiniLM, fine-tuned on {len(data.train)} labelled texts")
    teacher = TextClassifier.from_pretrained(minilm, len(CLASS_NAMES), dropout=DROPOUT, name="teacher", dtype=policy)
    untrained = teacher.get_weights()
    labelled = Batches(data.train, data.train_labels, batch_size=TEACHER.batch_size, seed=run.seed)
    for layer in FROZEN:
        teacher.get_layer(layer).trainable = False
    fit_on_labels(teacher, labelled, TEACHER, title="teacher", run=run)

    every = [*data.train, *data.unlabelled]
    tell(f"Asking the teacher about {len(every)} texts, {len(data.unlabelled)} of them unlabelled")
    every_label = np.concatenate([data.train_labels, np.full(len(data.unlabelled), UNLABELLED, dtype="int32")])
    answers = record_answers(teacher, every)
    answered = Batches(every, every_label, answers, batch_size=STUDENT.batch_size, seed=run.seed)

    distilled = _cut(minilm, untrained, every, tokenizer, policy)
    alone = TextClassifier.from_config({**distilled.get_config(), "name": LABELS_ONLY})
    alone.set_weights(distilled.get_weights())
    # One budget for both: as many steps of as many texts, at the same rate.
    steps = min(STUDENT_STEPS, STUDENT.epochs * answered.steps_per_epoch)  # fewer in a quick run
    labelled = Batches(data.train, data.train_labels, batch_size=STUDENT.batch_size, seed=run.seed)
    tell(f"Student, {alone.count_params():,} weights, on the labels alone: {steps} steps")
    fit_on_labels(alone, labelled, STUDENT, title="labels only", run=run, steps=steps)
    tell(f"Student of the same start, distilled from the teacher: {steps} steps")
    fit_on_teacher(distilled, answered, STUDENT, SOFT, title="distilled", run=run, steps=steps)
    return {model.name: with_policy(model, SINGLE) for model in (teacher, alone, distilled)}


def _cut(
    minilm: Path,
    weights: list[np.ndarray],
    token_ids: Sequence[Sequence[int]],
    tokenizer: WordPiece,
    policy: str,
) -> TextClassifier:
    """The student's start: cut out of MiniLM as it was before the teacher was trained."""
    source = TextClassifier.from_pretrained(minilm, len(CLASS_NAMES))
    source.set_weights(weights)
    return cut_student(
        source,
        PLAN,
        token_ids,
        always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
        max_length=MAX_LENGTH,
        dropout=DROPOUT,
        dtype=policy,
        name=DISTILLED,
    )


def _write_forms(
    models: dict[str, TextClassifier], tokenizer: WordPiece, data: Snippets, place: Path, command: str, tell: Tell
) -> list[tuple[Form, ExportReport | None]]:
    """Write every model as a run folder, and the distilled student for phones and servers, each file proved."""
    forms: list[tuple[Form, ExportReport | None]] = []
    for name, model in models.items():
        bundle.save(
            place / name,
            model=model,
            tokenizer=tokenizer,
            labels=CLASS_NAMES,
            task=TASK,
            max_length=MAX_LENGTH,
            metrics={},  # measured once all forms are written, side by side: report.json has them
            command=command,
            examples=data.train.texts,
        )
        forms.append((Form(name, "keras", place / name), None))
    student = models[DISTILLED]
    common: dict[str, Any] = {
        "tokenizer": tokenizer,
        "labels": CLASS_NAMES,
        "max_length": MAX_LENGTH,
        "examples": data.test.texts,
        "task": TASK,
    }
    tell("Writing the distilled student for TensorFlow Serving and for phones, and comparing each file with it")
    for form, write in (
        (Form(student.name, "saved_model", place / NAME), lambda path: saved_model(student, path, **common)),
        (
            Form(student.name, "tflite_float32", place / "student_float32.tflite"),
            lambda path: tflite(student, path, quantize="none", **common),
        ),
        (
            Form(student.name, "tflite_int8", place / "student_int8.tflite"),
            lambda path: tflite(student, path, quantize="dynamic", **common),
        ),
    ):
        exported = write(form.path)
        tell(f"  {form.path}: {exported.bytes:,} bytes, largest logit error {exported.max_abs_logit_error:.1e}")
        forms.append((form, replace(exported, format=form.format)))
    return forms


def _measure(forms: Sequence[Form], test: Table, latency_texts: int) -> list[report.ModelRow]:
    texts = test.texts[:: max(1, len(test) // latency_texts)][:latency_texts]
    keys = {f"{form.name}/{form.format}": form for form in forms}
    latencies = benchmark.in_one_thread({key: form.path for key, form in keys.items()}, texts, rounds=LATENCY_ROUNDS)
    rows = []
    for key, form in keys.items():
        predictor = serving.load_classifier(form.path)
        scores = evaluation.evaluate(predictor, test)
        rows.append(
            report.ModelRow(
                name=form.name,
                format=form.format,
                accuracy=scores.accuracy,
                recall=scores.recall,
                f1=scores.f1,
                parameters=predictor.parameters,
                bytes=predictor.bytes,
                latency_ms_p50=latencies[key].p50_ms,
                latency_ms_p95=latencies[key].p95_ms,
            )
        )
    return rows


def _parity_row(exported: ExportReport) -> report.ParityRow:
    return report.ParityRow(
        exported.format, exported.max_abs_logit_error, exported.top1_agreement, list(exported.flex_ops)
    )


def _encode(data: Snippets, tokenizer: WordPiece) -> Encoded:
    return Encoded(
        train=tokenizer.encode(data.train.texts, MAX_LENGTH),
        train_labels=label_ids(data.train.labels or [], CLASS_NAMES),
        unlabelled=tokenizer.encode(data.unlabelled.texts, MAX_LENGTH),
    )


def _some_rows(table: Table, rows: int) -> Table:
    """About so many rows, spread over the whole table: its first ones may be all of one kind."""
    step = max(1, len(table) // rows)
    return Table(table.texts[::step][:rows], None if table.labels is None else table.labels[::step][:rows])


def _command(place: Path, seed: int, quick: bool) -> str:
    words = ["keras-transformer", "demo", "--out", str(place), "--seed", str(seed), *(["--quick"] if quick else [])]
    return shlex.join(words)


def _silence(line: str) -> None:
    """Say nothing."""
