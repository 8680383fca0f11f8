"""Train a classifier on a user's own file, and distil a small one from it: data in, run folder out."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.data import assets
from keras_transformer.data.batching import UNLABELLED, Batches
from keras_transformer.data.text import Table, class_names, label_ids, read_table
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.files import sha256
from keras_transformer.models import TextClassifier
from keras_transformer.recipes import plan, start
from keras_transformer.recipes.fitting import (
    Run,
    Schedule,
    Soft,
    fit_on_labels,
    fit_on_teacher,
    record_answers,
    record_logits,
)
from keras_transformer.recipes.student import StudentPlan, cut_student
from keras_transformer.recipes.unfinished import Unfinished
from keras_transformer.training import cost
from keras_transformer.training.metrics import classification_scores
from keras_transformer.training.precision import fastest_policy

TASK = "classify"
SOFT = Soft()
WIDE = 256  # a token table of this width and more is factorised


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """The options of `keras-transformer train classify`; None = the default that follows the data.

    `init` None = "none": from nothing.
    """

    data: Path
    out: Path
    init: str | None = None
    size: str | None = None
    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    learning_rate: float | None = None
    minutes: float | None = None
    seed: int = 0
    text_column: str = "text"
    label_column: str = "label"
    quiet: bool = False


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings):
    """The options of `keras-transformer distill`.

    `init` "teacher" cuts the student out of the teacher, "none" starts from nothing; None = "teacher" without a size,
    "none" with one.
    """

    teacher: Path
    unlabelled: Path | None = None
    init: str | None = None


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train on the file's labelled texts and write a run folder; the same settings again continue a killed run.

    Returns:
        The run folder, the scores on the rows held back, and how much was trained.

    Raises:
        UserError: for a mistake in the file or the settings.
    """
    tell, unfinished = _teller(settings), _begin(settings)
    table = read_table(settings.data, settings.text_column, settings.label_column)
    names = class_names(table.labels or [])
    parts = plan.split(table)
    keras.utils.set_random_seed(settings.seed)
    origin = start.choose(settings.init or "none", settings.size, parts.training.texts, tell)
    max_length = _max_length(settings, origin.tokenizer, parts.training.texts, origin.max_length, "the model takes")
    model = origin.build(len(names), fastest_policy())
    for layer in origin.effort.frozen:
        model.get_layer(layer).trainable = False
    job = _Job(settings, origin.tokenizer, names, max_length, tell, unfinished)
    ids = origin.tokenizer.encode(parts.training.texts, max_length)
    schedule, kept = job.afford(model, ids, origin.effort)
    batches = Batches(
        [ids[row] for row in kept],
        label_ids(parts.training.labels or [], names)[kept],
        batch_size=schedule.batch_size,
        seed=settings.seed,
    )
    fit_on_labels(model, batches, schedule, title="training", run=job.run())
    return job.finish(model, parts, {"epochs": schedule.epochs, "rows": len(kept)})


def distill(settings: DistillSettings) -> dict[str, Any]:
    """Train a small model on the file's labels and on a teacher's answers, and write its run folder.

    Returns:
        As `train`, with the teacher's accuracy on the same held-out rows.

    Raises:
        UserError: for a mistake in the files or the settings.
    """
    _check_student_start(settings)
    teacher = bundle.load(settings.teacher, task=TASK)
    tell, unfinished = _teller(settings), _begin(settings)
    table = read_table(settings.data, settings.text_column, settings.label_column)
    parts = plan.split(table)
    labels = label_ids(parts.training.labels or [], teacher.labels)
    more = read_table(settings.unlabelled, settings.text_column, None).texts if settings.unlabelled else []
    most, because = teacher.manifest.max_length, "the teacher was trained on texts of"
    max_length = _max_length(settings, teacher.tokenizer, parts.training.texts, most, because)
    job = _Job(settings, teacher.tokenizer, teacher.labels, max_length, tell, unfinished)
    ids = teacher.tokenizer.encode([*parts.training.texts, *more], max_length)
    keras.utils.set_random_seed(settings.seed)
    student = _student(settings, teacher, ids, max_length)
    if student.count_params() >= teacher.model.count_params():
        tell(f"Note: the student has {student.count_params():,} weights, the teacher {teacher.model.count_params():,}.")
    effort = plan.CUT_STUDENT if _is_cut(settings) else plan.FROM_NOTHING
    schedule, kept = job.afford(student, ids, effort)
    running = start.with_policy(teacher.model, fastest_policy())
    tell(f"Asking the teacher about {len(kept)} texts: about {job.asking(running, [ids[row] for row in kept])}")
    answers = record_answers(running, [ids[row] for row in kept])
    every_label = np.concatenate([labels, np.full(len(more), UNLABELLED, dtype="int32")])
    batches = Batches(
        [ids[row] for row in kept],
        every_label[kept],
        answers,
        batch_size=schedule.batch_size,
        seed=settings.seed,
    )
    fit_on_teacher(student, batches, schedule, SOFT, title="distilling", run=job.run())
    teacher_scores = job.score(running, parts.held_out)
    extra = {"epochs": schedule.epochs, "rows": len(kept), "teacher_accuracy": teacher_scores.accuracy}
    return job.finish(student, parts, extra)


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


class _Job:
    """What `train` and `distill` share: the settings, and the steps that don't depend on where targets come from."""

    def __init__(
        self,
        settings: TrainSettings,
        tokenizer: WordPiece,
        names: Sequence[str],
        max_length: int,
        tell: start.Tell,
        unfinished: Unfinished,
    ) -> None:
        self.settings, self.tokenizer, self.names = settings, tokenizer, list(names)
        self.max_length, self.tell, self.unfinished = max_length, tell, unfinished
        self.speed = cost.operations_per_second(fastest_policy())

    def afford(
        self, model: TextClassifier, ids: Sequence[Sequence[int]], effort: plan.Effort
    ) -> tuple[Schedule, np.ndarray]:
        """The schedule, and the rows that fit into the minutes allowed; says what it will cost.

        A run that goes on does what it decided when it began, whatever the machine's speed is now.
        """
        given = self.settings
        schedule = plan.schedule(
            effort,
            len(ids),
            self.max_length,
            epochs=given.epochs,
            batch_size=given.batch_size,
            learning_rate=given.learning_rate,
        )
        lengths = [len(row) for row in ids]
        decided = self.unfinished.recall()
        if decided is None:
            fits = plan.affordable(model, lengths, schedule.epochs, given.minutes, self.speed)
        else:
            share = decided["rows"] / len(ids)
            seconds = share * cost.training_seconds(model, lengths, decided["epochs"], self.speed)
            fits = plan.Affordable(decided["epochs"], decided["rows"], seconds)
        self.unfinished.remember({"epochs": fits.epochs, "rows": fits.rows})
        kept = np.sort(np.random.default_rng(given.seed).permutation(len(ids))[: fits.rows])
        self.tell(
            f"{len(kept)} of {len(ids)} texts, up to {self.max_length} word pieces, {fits.epochs} epochs, "
            f"{model.count_params():,} weights: about {plan.duration(fits.seconds)}"
            + ("" if decided is None else " as a whole, going on where it was killed")
        )
        return replace(schedule, epochs=fits.epochs), kept

    def asking(self, model: TextClassifier, ids: Sequence[Sequence[int]]) -> str:
        """How long one forward pass over these texts will take."""
        return plan.duration(cost.prediction_seconds(model, [len(row) for row in ids], self.speed))

    def run(self) -> Run:
        """How to fit: seed, noise, and where a killed run left its state."""
        return Run(self.settings.seed, self.settings.quiet, self.unfinished.folder, self.unfinished.fingerprint)

    def score(self, model: TextClassifier, table: Table) -> Any:
        """Scores of a model on labelled rows."""
        logits = record_logits(model, self.tokenizer.encode(table.texts, self.max_length))
        return classification_scores(label_ids(table.labels or [], self.names), logits.argmax(axis=1))

    def finish(self, model: TextClassifier, parts: plan.Split, extra: dict[str, Any]) -> dict[str, Any]:
        """Score on the rows held back, write the run folder, drop the state of the unfinished run."""
        trained = start.with_policy(model, "float32")
        scores = self.score(trained, parts.held_out)._asdict()
        result = {"folder": str(self.settings.out), **scores, **extra, "parameters": trained.count_params()}
        bundle.save(
            self.settings.out,
            model=trained,
            tokenizer=self.tokenizer,
            labels=self.names,
            task=TASK,
            max_length=self.max_length,
            metrics=scores,
            command=command(self.settings),
            report=result,
            examples=parts.held_out.texts,
        )
        self.unfinished.discard()
        return result


def command(settings: TrainSettings) -> str:
    """The command line that asks for these settings."""
    words = ["keras-transformer"]
    words += ["distill", str(settings.teacher)] if isinstance(settings, DistillSettings) else ["train", TASK]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.name not in ("teacher", "quiet") and value is not None and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return shlex.join(words)


def _begin(settings: TrainSettings) -> Unfinished:
    """Refuse places that hold other things; return where the state of this run is kept.

    What must be the same for a killed run to go on: the settings, and the bytes of what they name.
    """
    bundle.refuse_foreign_folder(settings.out)
    own = {name: str(value) for name, value in asdict(settings).items() if name not in ("out", "quiet")}
    own["data_sha256"] = _content(settings.data)
    own["init_sha256"] = _content(settings.init)
    if isinstance(settings, DistillSettings):
        own["teacher_sha256"] = _content(settings.teacher)
        own["unlabelled_sha256"] = _content(settings.unlabelled)
    unfinished = Unfinished(settings.out, own)
    unfinished.refuse_foreign_folder()
    return unfinished


def _content(place: Path | str | None) -> str:
    """The sha256 of a file, or of each file in a folder; "" for what is neither, such as --init none."""
    path = Path(place or "")
    if place is None or not path.exists():
        return ""
    if path.is_file():
        return sha256(path)
    return " ".join(f"{file.name}:{sha256(file)}" for file in sorted(path.iterdir()) if file.is_file())


def _max_length(settings: TrainSettings, tokenizer: WordPiece, texts: Sequence[str], most: int, because: str) -> int:
    if settings.max_length is None:
        return plan.covering_length(tokenizer.encode(texts, most), most)
    if settings.max_length > most:
        raise UserError(f"--max-length {settings.max_length}: {because} up to {most} word pieces. Use {most} or less.")
    return settings.max_length


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
    big, policy = teacher.model, fastest_policy()
    if not _is_cut(settings):
        return start.fresh(settings.size or "tiny", teacher.tokenizer).build(len(teacher.labels), policy)
    tokenizer = teacher.tokenizer
    return cut_student(
        big,
        default_plan(big.num_layers, big.model_dim, big.inner_dim),
        ids,
        always=(tokenizer.pad_id, tokenizer.unknown_id, tokenizer.start_id, tokenizer.end_id),
        max_length=max_length,
        dtype=policy,
    )


def _teller(settings: TrainSettings) -> start.Tell:
    return _silence if settings.quiet else assets.tell_on_stderr


def _silence(line: str) -> None:
    """Say nothing."""
