"""Train a classifier on a user's own file, and distil a small one from it: data in, run folder out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.saved_tokenizers import word_pieces
from keras_transformer.data.text import Table, class_names, label_ids, read_table
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import plan, start
from keras_transformer.recipes.fitting import (
    Schedule,
    Soft,
    fit_on_labels,
    fit_on_teacher,
    record_answers,
    record_logits,
)
from keras_transformer.recipes.job import Job, Work
from keras_transformer.recipes.settings import Settings
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.tasks import CLASSIFY
from keras_transformer.training import cost
from keras_transformer.training.metrics import ClassificationScores, classification_scores
from keras_transformer.training.precision import fastest_policy

SOFT = Soft()
WIDE = 256  # a token table of this width and more is factorised


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The options of `keras-transformer train classify`; None = the default that follows the data.

    `init` None = "none": from nothing.
    """

    task: ClassVar[str] = CLASSIFY

    text_column: str = "text"
    label_column: str = "label"


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings):
    """The options of `keras-transformer distill` with a classifier as the teacher.

    `init` "teacher" cuts the student out of the teacher, "none" starts from nothing; None = "teacher" without a size,
    "none" with one.
    """

    teacher: Path
    unlabelled: Path | None = None


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train on the file's labelled texts and write a run folder; the same settings again continue a killed run.

    Returns:
        The run folder, the scores on the rows held back, and how much was trained.

    Raises:
        UserError: for a mistake in the file or the settings.
    """
    job = Job(settings)
    table = read_table(settings.data, settings.text_column, settings.label_column)
    names = class_names(table.labels or [])
    parts = plan.split(table)
    keras.utils.set_random_seed(settings.seed)
    origin = start.choose(settings.init or "none", settings.size, parts.training.texts, job.tell)
    max_length = job.max_length(origin.tokenizer, parts.training.texts, origin.max_length, "the model takes")
    model = origin.build(len(names), job.policy)
    for layer in origin.effort.frozen:
        model.get_layer(layer).trainable = False
    ids = origin.tokenizer.encode(parts.training.texts, max_length)
    schedule, kept = _afford(job, model, ids, max_length, origin.effort)
    batches = Batches(
        [ids[row] for row in kept],
        label_ids(parts.training.labels or [], names)[kept],
        batch_size=schedule.batch_size,
        seed=settings.seed,
    )
    fit_on_labels(model, batches, schedule, title="training", run=job.run())
    reader = _Reader(origin.tokenizer, names, max_length)
    return _finish(job, model, reader, parts.held_out, {"epochs": schedule.epochs, "rows": len(kept)})


def distill(settings: DistillSettings) -> dict[str, Any]:
    """Train a small model on the file's labels and on a teacher's answers, and write its run folder.

    Returns:
        As `train`, with the teacher's accuracy on the same held-out rows.

    Raises:
        UserError: for a mistake in the files or the settings.
    """
    _check_student_start(settings)
    teacher = bundle.load(settings.teacher, task=settings.task)
    job, tokenizer = Job(settings), word_pieces(teacher.tokenizer, settings.teacher)
    table = read_table(settings.data, settings.text_column, settings.label_column)
    parts = plan.split(table)
    labels = label_ids(parts.training.labels or [], teacher.labels)
    more = read_table(settings.unlabelled, settings.text_column, None).texts if settings.unlabelled else []
    most, because = teacher.manifest.max_length, "the teacher was trained on texts of"
    max_length = job.max_length(tokenizer, parts.training.texts, most, because)
    ids = tokenizer.encode([*parts.training.texts, *more], max_length)
    keras.utils.set_random_seed(settings.seed)
    student = _student(settings, teacher, ids, max_length)
    job.compare_sizes(student, teacher.model)
    effort = plan.CUT_STUDENT if _is_cut(settings) else plan.FROM_NOTHING
    schedule, kept = _afford(job, student, ids, max_length, effort)
    running = with_policy(teacher.model, job.policy)
    kept_ids = [ids[row] for row in kept]
    asking = job.seconds(cost.forward_operations(running, [len(row) for row in kept_ids]))
    job.tell(f"Asking the teacher about {len(kept)} texts: about {plan.duration(asking)}")
    every_label = np.concatenate([labels, np.full(len(more), UNLABELLED, dtype="int32")])
    batches = Batches(
        kept_ids,
        every_label[kept],
        record_answers(running, kept_ids),
        batch_size=schedule.batch_size,
        seed=settings.seed,
    )
    fit_on_teacher(student, batches, schedule, SOFT, title="distilling", run=job.run())
    reader = _Reader(tokenizer, teacher.labels, max_length)
    teacher_scores = reader.score(running, parts.held_out)
    extra = {"epochs": schedule.epochs, "rows": len(kept), "teacher_accuracy": teacher_scores.accuracy}
    return _finish(job, student, reader, parts.held_out, extra)


def default_plan(num_layers: int, model_dim: int, inner_dim: int) -> StudentPlan:
    """The first half of the teacher's layers, a third of their units, a third of the rank of a wide token table.

    `benchmarks/students.py` compares this with other choices.
    """
    return StudentPlan(
        layers=tuple(range(max(1, num_layers // 2))),
        inner_dim=max(1, inner_dim // 3),
        embedding_dim=model_dim // 3 if model_dim >= WIDE else None,
        min_count=2,
    )


@dataclass(frozen=True)
class _Reader:
    """What turns a table into ids and label numbers, and a model's answers into scores."""

    tokenizer: WordPiece
    names: Sequence[str]
    max_length: int

    def score(self, model: TextClassifier, table: Table) -> ClassificationScores:
        """Scores of a model on labelled rows."""
        logits = record_logits(model, self.tokenizer.encode(table.texts, self.max_length))
        return classification_scores(label_ids(table.labels or [], self.names), logits.argmax(axis=1))


def _afford(
    job: Job, model: TextClassifier, ids: Sequence[Sequence[int]], max_length: int, effort: plan.Effort
) -> tuple[Schedule, np.ndarray]:
    given = job.given
    schedule = plan.schedule(
        effort,
        len(ids),
        max_length,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )
    seconds = cost.BACKWARD * job.seconds(cost.forward_operations(model, [len(row) for row in ids]))
    return job.afford(model, schedule, Work(len(ids), seconds, f"texts, up to {max_length} word pieces"))


def _finish(job: Job, model: TextClassifier, reader: _Reader, held_out: Table, extra: dict[str, Any]) -> dict[str, Any]:
    """Score on the rows held back, and write the run folder."""
    trained = with_policy(model, "float32")
    return job.finish(
        trained,
        tokenizer=reader.tokenizer,
        max_length=reader.max_length,
        scores=reader.score(trained, held_out)._asdict(),
        extra=extra,
        examples=held_out.texts,
        labels=reader.names,
    )


def _is_cut(settings: DistillSettings) -> bool:
    """True if the student is cut out of its teacher, and doesn't start from nothing."""
    return settings.size is None and settings.init != "none"


def _check_student_start(settings: DistillSettings) -> None:
    if settings.init not in (None, "teacher", "none"):
        raise UserError(
            f"--init {settings.init}: a student is cut out of its teacher, or starts from nothing. "
            "Leave --init out, or use --init none with --size tiny, small or base."
        )
    if settings.init == "teacher" and settings.size is not None:
        raise UserError(
            f"--size {settings.size}: a student cut out of its teacher has half of its layers, narrower. "
            "Leave --size out, or use --init none."
        )


def _student(
    settings: DistillSettings, teacher: bundle.Bundle, ids: Sequence[Sequence[int]], max_length: int
) -> TextClassifier:
    """The student to train: cut out of the teacher, or from nothing of the size that the settings name, or tiny."""
    big, tokenizer, policy = teacher.model, word_pieces(teacher.tokenizer, settings.teacher), fastest_policy()
    if not _is_cut(settings):
        return start.fresh(settings.size or "tiny", tokenizer).build(len(teacher.labels), policy)
    return cut_student(
        big,
        default_plan(big.num_layers, big.model_dim, big.inner_dim),
        ids,
        always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
        max_length=max_length,
        dtype=policy,
    )
