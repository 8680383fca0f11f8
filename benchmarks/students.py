"""Which student? Every candidate learns from the same teacher, with the demo's one budget of steps.

Command: python benchmarks/students.py RUN [NAME ...]    (RUN: the demo's --out folder; about a minute a candidate)
Writes:  benchmarks/results/students.md

The teacher is the one of that demo. A candidate is built from MiniLM as it was before the teacher was trained, or where
its name says so from the fine-tuned teacher, or from nothing. One seed: differences below a point mean little.
"""

import argparse
import shlex
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np

from keras_transformer import benchmark, bundle
from keras_transformer.data import assets
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.catalog.movie_snippets import CLASS_NAMES, snippets
from keras_transformer.data.text import label_ids
from keras_transformer.export import tflite
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TINY, TextClassifier
from keras_transformer.recipes import sentiment
from keras_transformer.recipes.fitting import Run, fit_on_teacher, record_answers, record_logits
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.training.precision import fastest_policy

RESULT = Path(__file__).parent / "results" / "students.md"
PLAN = sentiment.PLAN
FRESH = "2 x 128 from nothing"
FROM_TEACHER, NO_UNLABELLED = "chosen, cut from the fine-tuned teacher", "chosen, without the unlabelled texts"
CANDIDATES: dict[str, StudentPlan] = {
    "chosen": PLAN,
    FROM_TEACHER: PLAN,
    NO_UNLABELLED: PLAN,
    "layers 0, 1": replace(PLAN, layers=(0, 1)),
    "layers 0, 5": replace(PLAN, layers=(0, 5)),
    "layers 4, 5": replace(PLAN, layers=(4, 5)),
    "layers 0, 2, 4 with 512 units, rank 128": StudentPlan((0, 2, 4), 512, 128, 2),
    "layer 1": replace(PLAN, layers=(1,)),
    "rank 96": replace(PLAN, embedding_dim=96),
    FRESH: PLAN,
}


def main(run: Path, names: list[str]) -> None:
    """Train each candidate and write the table."""
    minilm, data = assets.minilm_folder(), snippets()
    teacher = bundle.load(run / "teacher")
    tokenizer, length = teacher.tokenizer, sentiment.MAX_LENGTH
    ids = tokenizer.encode([*data.train.texts, *data.unlabelled.texts], length)
    labels = label_ids(data.train.labels or [], CLASS_NAMES)
    every_label = np.concatenate([labels, np.full(len(data.unlabelled), UNLABELLED, "int32")])
    answers = record_answers(with_policy(teacher.model, fastest_policy()), ids)
    test, truth = tokenizer.encode(data.test.texts, length), label_ids(data.test.labels or [], CLASS_NAMES)
    teacher_accuracy = float(np.mean(record_logits(teacher.model, test).argmax(axis=1) == truth))
    everything = Batches(ids, every_label, answers, batch_size=sentiment.STUDENT.batch_size)
    few = {name: values[: len(labels)] for name, values in answers.items()}
    labelled = Batches(ids[: len(labels)], labels, few, batch_size=sentiment.STUDENT.batch_size)
    steps = sentiment.STUDENT_STEPS
    lines = []
    for name in names or list(CANDIDATES):
        source = teacher.model if name == FROM_TEACHER else TextClassifier.from_pretrained(minilm, len(CLASS_NAMES))
        student = build(name, source, ids, tokenizer)
        start = time.perf_counter()
        batches = labelled if name == NO_UNLABELLED else everything
        fit_on_teacher(student, batches, sentiment.STUDENT, sentiment.SOFT, title=name, run=Run(), steps=steps)
        seconds = time.perf_counter() - start
        exact = with_policy(student, "float32")
        accuracy = float(np.mean(record_logits(exact, test).argmax(axis=1) == truth))
        with tempfile.TemporaryDirectory() as folder:
            proof = tflite(
                exact,
                Path(folder) / "student.tflite",
                tokenizer=tokenizer,
                labels=CLASS_NAMES,
                max_length=length,
                examples=data.test.texts[:300],
                min_agreement=0.0,  # a bad candidate is a result here
            )
        lines.append(
            f"| {name} | {student.count_params():,} | {proof.bytes / 1e6:.2f} | {accuracy:.4f} | "
            f"{accuracy / teacher_accuracy:.4f} | {seconds:.0f} |"
        )
        write(run, names, teacher_accuracy, steps, lines)


def build(name: str, source: TextClassifier, ids: list[list[int]], tokenizer: object) -> TextClassifier:
    """The student of a candidate, in the precision that training uses."""
    keras.utils.set_random_seed(0)
    if name == FRESH:
        return TextClassifier(
            source.vocab_size, 2, max_length=sentiment.MAX_LENGTH, dtype=fastest_policy(), **TINY.arguments()
        )
    return cut_student(
        source,
        CANDIDATES[name],
        ids,
        always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
        max_length=sentiment.MAX_LENGTH,
        dropout=sentiment.DROPOUT,
        dtype=fastest_policy(),
    )


def write(run: Path, names: list[str], teacher_accuracy: float, steps: int, lines: list[str]) -> None:
    """Write the page after each candidate, so that a run that is stopped leaves what it has."""
    command = shlex.join(["python", "benchmarks/students.py", str(run), *names])
    machine = ", ".join(f"{name} {value}" for name, value in benchmark.machine().items())
    text = "\n\n".join(
        [
            "# Which student",
            f"Command: `{command}`",
            f"Machine: {machine} (not quiet: accuracy doesn't depend on it, the seconds do)",
            f"Teacher: accuracy {teacher_accuracy:.4f} on the 2,014 test texts. Each candidate: {steps} steps of "
            f"{sentiment.STUDENT.batch_size} texts at {sentiment.STUDENT.learning_rate}, seed 0, on labels and the "
            f"teacher's answers ({sentiment.SOFT}) over labelled and unlabelled texts. "
            f"Chosen: {PLAN}.",
            "The candidates are compared on those test texts themselves, so what the chosen one reaches on them is a "
            "little flattered by the choice. No candidate was trained on them.",
            "| student | weights | int8 file, MB | accuracy | share kept | s |\n"
            "|---|---:|---:|---:|---:|---:|\n" + "\n".join(lines),
        ]
    )
    RESULT.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a demo")
    parser.add_argument("names", nargs="*", choices=[[], *CANDIDATES], metavar="NAME", help="of the candidates")
    options = parser.parse_args()
    main(options.run, options.names)
