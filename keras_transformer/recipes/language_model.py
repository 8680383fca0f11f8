"""Train a language model on a user's own texts, and distil a small one from it: data in, run folder out."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np

from keras_transformer import bundle
from keras_transformer.data.continuations import WHOLE
from keras_transformer.data.packing import PackedBatches
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.saved_tokenizers import reversible_pieces
from keras_transformer.data.text import read_table
from keras_transformer.evaluation import evaluate_language
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.generation.keras_writers import Continuer
from keras_transformer.models import CausalLM
from keras_transformer.recipes import plan, token_start
from keras_transformer.recipes.fitting import Schedule
from keras_transformer.recipes.job import Job, Work
from keras_transformer.recipes.settings import Settings
from keras_transformer.recipes.start import SIZES
from keras_transformer.recipes.token_fitting import fit_on_teacher_tokens, fit_on_tokens
from keras_transformer.tasks import LANGUAGE_MODEL
from keras_transformer.training import cost

FEWEST, LONGEST = 128, 512  # word pieces that a model reads, unless the user gives a number; short texts are packed


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The options of `keras-transformer train language-model`; None = the default that follows the data.

    `init` is "none" or an older run folder; None = "none".
    """

    task: ClassVar[str] = LANGUAGE_MODEL

    text_column: str = "text"


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings):
    """The options of `keras-transformer distill` with a language model as the teacher."""

    teacher: Path


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train on the file's texts and write a run folder; the same settings again continue a killed run.

    Returns:
        The run folder, the perplexity on the texts held back, and how much was trained.

    Raises:
        UserError: for a mistake in the file or the settings.
    """
    job, (training, held_out) = Job(settings), _read(settings)
    keras.utils.set_random_seed(settings.seed)
    origin = token_start.choose(settings, training)
    if origin.older is None:
        most, because = max(LONGEST, settings.max_length or 0), "a model reads"
    else:
        most, because = origin.older.max_length, "the model has learned positions for"
    max_length = job.max_length(origin.tokenizer, training, most, because, fewest=min(FEWEST, most))
    if origin.older is None:
        model = _fresh(origin.tokenizer, SIZES[settings.size or "small"].arguments(), max_length, job.policy)
    else:
        model = with_policy(origin.older, job.policy)
    ids = _encoded(origin.tokenizer, training)
    lengths = _packed_lengths(ids, max_length)
    seconds = cost.BACKWARD * job.seconds(cost.forward_operations(model, lengths))
    effort = plan.CONTINUING if origin.older is None else plan.going_on(plan.CONTINUING)
    schedule, kept = _afford(job, effort, model, ids, max_length, seconds)
    batches = _batches(origin.tokenizer, [ids[row] for row in kept], max_length, schedule, settings.seed)
    fit_on_tokens(model, batches, schedule, label_smoothing=0.0, title="training", run=job.run())
    extra = {"epochs": schedule.epochs, "rows": len(kept)}
    return _finish(job, Continuer(with_policy(model, "float32"), origin.tokenizer, max_length), held_out, extra)


def distill(settings: DistillSettings) -> dict[str, Any]:
    """Train a small language model on the file's texts and on a teacher's distribution at each token of them.

    It starts from its teacher's weights, narrowed, where they fit: see `compression.inherit`.

    Returns:
        As `train`, with the teacher's perplexity on the same held-out texts.

    Raises:
        UserError: for a mistake in the files or the settings.
    """
    token_start.check_student(settings)
    teacher = bundle.load(settings.teacher, task=settings.task)
    job, (training, held_out) = Job(settings), _read(settings)
    tokenizer, most = reversible_pieces(teacher.tokenizer, settings.teacher), teacher.manifest.max_length
    max_length = job.max_length(tokenizer, training, most, "the teacher reads", fewest=most)
    keras.utils.set_random_seed(settings.seed)
    size = token_start.student_size(settings.size, teacher.model)
    student = _fresh(tokenizer, size, max_length, job.policy)
    job.compare_sizes(student, teacher.model)
    ids = _encoded(tokenizer, training)
    lengths = _packed_lengths(ids, max_length)
    running = with_policy(teacher.model, job.policy)
    learning = cost.BACKWARD * job.seconds(cost.forward_operations(student, lengths))
    listening = job.seconds(cost.forward_operations(running, lengths))
    schedule, kept = _afford(job, plan.CONTINUING, student, ids, max_length, learning + listening)
    batches = _batches(tokenizer, [ids[row] for row in kept], max_length, schedule, settings.seed)
    token_start.start_from_teacher(student, teacher.model, batches, job.tell)
    fit_on_teacher_tokens(student, running, batches, schedule, title="distilling", run=job.run())
    teacher_scores = evaluate_language(Continuer(teacher.model, tokenizer, max_length), held_out)
    extra = {"epochs": schedule.epochs, "rows": len(kept), "teacher_perplexity": teacher_scores.perplexity}
    return _finish(job, Continuer(with_policy(student, "float32"), tokenizer, max_length), held_out, extra)


def _read(settings: TrainSettings) -> tuple[list[str], list[str]]:
    """The texts to train on, and those held back."""
    texts = read_table(settings.data, settings.text_column, None).texts
    measures = plan.held_out_texts(texts)
    training = [text for text, kept_back in zip(texts, measures, strict=True) if not kept_back]
    return training, [text for text, kept_back in zip(texts, measures, strict=True) if kept_back]


def _encoded(tokenizer: ReversibleTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids of whole texts, without the end: packing puts it between them."""
    return [ids[:-1] for ids in tokenizer.encode(texts, WHOLE)]


def _packed_lengths(token_ids: Sequence[Sequence[int]], max_length: int) -> list[int]:
    """The lengths of the rows that the texts will fill."""
    return [max_length] * -(-sum(len(ids) + 1 for ids in token_ids) // max_length)


def _fresh(tokenizer: ReversibleTokenizer, size: dict[str, Any], max_length: int, policy: str) -> CausalLM:
    return CausalLM(tokenizer.vocab_size, max_length=max_length, dtype=policy, **size)


def _afford(
    job: Job, effort: plan.Effort, model: CausalLM, ids: Sequence[Sequence[int]], max_length: int, seconds: float
) -> tuple[Schedule, np.ndarray]:
    given = job.given
    schedule = plan.token_schedule(
        effort,
        len(ids),
        sum(len(row) + 1 for row in ids),
        model.model_dim,
        longest=max_length,
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )
    return job.afford(model, schedule, Work(len(ids), seconds, f"texts, in rows of {max_length} word pieces"))


def _batches(
    tokenizer: ReversibleTokenizer, ids: Sequence[Sequence[int]], max_length: int, schedule: Schedule, seed: int
) -> PackedBatches:
    rows = max(1, schedule.batch_size // max_length)
    return PackedBatches(ids, length=max_length, batch_size=rows, end_id=tokenizer.end_id, seed=seed)


def _finish(job: Job, continuer: Continuer, held_out: list[str], extra: dict[str, Any]) -> dict[str, Any]:
    """Score on the texts held back, and write the run folder."""
    return job.finish(
        continuer.model,
        tokenizer=continuer.tokenizer,
        max_length=continuer.max_length,
        scores=evaluate_language(continuer, held_out)._asdict(),
        extra=extra,
        examples=held_out,
    )
