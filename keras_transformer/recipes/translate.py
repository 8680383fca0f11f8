"""Train a translator on a user's own pairs, and distil a small one from it: data in, run folder out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np

from keras_transformer import bundle
from keras_transformer.checks import UserError
from keras_transformer.data.epochs import rounded_up
from keras_transformer.data.near_duplicates import essence
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.saved_tokenizers import reversible_pieces
from keras_transformer.data.text import Pairs, read_pairs, read_table
from keras_transformer.evaluation import evaluate_translations, require_sacrebleu
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import Translator
from keras_transformer.models import Seq2Seq
from keras_transformer.recipes import plan, token_start
from keras_transformer.recipes.fitting import Schedule
from keras_transformer.recipes.job import Job, Work
from keras_transformer.recipes.settings import Settings
from keras_transformer.recipes.start import SIZES
from keras_transformer.recipes.token_fitting import fit_on_teacher_tokens, fit_on_tokens
from keras_transformer.tasks import TRANSLATE
from keras_transformer.training import cost

LONGEST = 256  # word pieces of a text, where the data has longer ones and the user gives no number
LABEL_SMOOTHING = 0.1  # Vaswani et al. 2017, section 5.4
LENGTH_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class TrainSettings(Settings):
    """The options of `keras-transformer train translate`; None = the default that follows the data.

    `init` is "none" or an older run folder; None = "none".
    """

    task: ClassVar[str] = TRANSLATE

    source_column: str = "source"
    target_column: str = "target"


@dataclass(frozen=True, kw_only=True)
class DistillSettings(TrainSettings):
    """The options of `keras-transformer distill` with a translator as the teacher.

    `unlabelled` has more sources, which the teacher translates unless they are held back to measure; `beam` is the
    width of the teacher's search for what the student learns from: None = 1, greedy; 0 = nothing of the teacher's own,
    the true targets alone.
    """

    teacher: Path
    unlabelled: Path | None = None
    beam: int | None = None


class PairIds(NamedTuple):
    """Pairs as token ids, each ending in the end."""

    sources: list[list[int]]
    targets: list[list[int]]

    def rows(self, kept: np.ndarray) -> "PairIds":
        """Some of them."""
        return PairIds([self.sources[row] for row in kept], [self.targets[row] for row in kept])

    @property
    def lengths(self) -> tuple[list[int], list[int]]:
        """Of the sources and of the targets."""
        return [len(ids) for ids in self.sources], [len(ids) for ids in self.targets]


class Spent(NamedTuple):
    """What training on all pairs costs."""

    each_epoch: float  # seconds
    shows: int = 1  # how often an epoch shows a source
    once: float = 0.0  # seconds, before the first epoch


def train(settings: TrainSettings) -> dict[str, Any]:
    """Train on the file's pairs and write a run folder; the same settings again continue a killed run.

    A pair with a text of over `max_length` word pieces isn't trained on: its end would be missing.

    Returns:
        The run folder, BLEU and chrF on the pairs held back (greedy), and how much was trained.

    Raises:
        UserError: for a mistake in the file or the settings.
    """
    job, (training, held_out) = Job(settings), _read(settings)
    keras.utils.set_random_seed(settings.seed)
    both = [*training.sources, *training.targets]
    origin = token_start.choose(settings, both)
    max_length = job.max_length(origin.tokenizer, both, max(LONGEST, settings.max_length or 0), "a text has")
    if origin.older is None:
        model = _fresh(origin.tokenizer, SIZES[settings.size or "small"].arguments(), job.policy)
    else:
        model = with_policy(origin.older, job.policy)
    pairs = _encoded(job, origin.tokenizer, training, max_length)
    seconds = cost.BACKWARD * job.seconds(cost.pair_operations(model, *pairs.lengths))
    effort = plan.TRANSLATING if origin.older is None else plan.going_on(plan.TRANSLATING)
    schedule, kept = _afford(job, effort, model, pairs, max_length, Spent(seconds))
    batches = _batches(origin.tokenizer, pairs.rows(kept), schedule, settings.seed)
    fit_on_tokens(model, batches, schedule, label_smoothing=LABEL_SMOOTHING, title="training", run=job.run())
    extra = {"epochs": schedule.epochs, "rows": len(kept)}
    return _finish(job, Translator(with_policy(model, "float32"), origin.tokenizer, max_length), held_out, extra)


def distill(settings: DistillSettings) -> dict[str, Any]:
    """Train a small translator on the file's pairs and on a teacher, and write its run folder.

    Sequence-level (Kim and Rush 2016, section 3.2): each epoch shows every source twice, with its true translation and
    with the one that the teacher's search found, which is their section 3.3's interpolation at one half. Word-level
    (section 3.1): at each token of both the student also learns the teacher's whole distribution. It starts from its
    teacher's weights, narrowed, where they fit: see `compression.inherit`.

    Returns:
        As `train`, with the teacher's BLEU on the same held-out pairs.

    Raises:
        UserError: for a mistake in the files or the settings.
    """
    token_start.check_student(settings)
    loaded = bundle.load(settings.teacher, task=settings.task)
    job, (training, held_out) = Job(settings), _read(settings)
    tokenizer, most = reversible_pieces(loaded.tokenizer, settings.teacher), loaded.manifest.max_length
    both = [*training.sources, *training.targets]
    max_length = job.max_length(tokenizer, both, most, "the teacher was trained on texts of")
    pairs = _encoded(job, tokenizer, training, max_length)
    more = _more_sources(job, settings, tokenizer, max_length, held_out)
    keras.utils.set_random_seed(settings.seed)
    student = _fresh(tokenizer, token_start.student_size(settings.size, loaded.model), job.policy)
    job.compare_sizes(student, loaded.model)
    # What the teacher will write isn't known yet: it is taken to be as long as the true target, or as the source.
    expected = PairIds([*pairs.sources, *more], [*pairs.targets, *more])
    teacher = Translator(loaded.model, tokenizer, max_length)
    running = with_policy(loaded.model, job.policy)
    learning = cost.BACKWARD * job.seconds(cost.pair_operations(student, *expected.lengths))
    listening = job.seconds(cost.pair_operations(running, *expected.lengths))
    width = 1 if settings.beam is None else settings.beam
    shows = 2 if width else 1
    writing = width * cost.DECODING * listening
    spent = Spent(shows * (learning + listening), shows, writing if shows == 2 else 0.0)
    schedule, kept = _afford(job, plan.TRANSLATING, student, expected, max_length, spent)
    true = kept[kept < len(pairs.sources)]
    shown = [pairs.rows(true)]
    if shows == 2:
        shown.append(_of_teacher(job, teacher, expected.rows(kept), width, writing * len(kept) / len(expected.sources)))
    both_kinds = PairIds([ids for one in shown for ids in one.sources], [ids for one in shown for ids in one.targets])
    batches = _batches(tokenizer, both_kinds, schedule, settings.seed)
    token_start.start_from_teacher(student, loaded.model, batches, job.tell)
    fit_on_teacher_tokens(student, running, batches, schedule, title="distilling", run=job.run())
    teacher_scores = evaluate_translations(teacher, held_out)
    extra = {"epochs": schedule.epochs, "rows": len(kept), "teacher_bleu": teacher_scores.bleu}
    return _finish(job, Translator(with_policy(student, "float32"), tokenizer, max_length), held_out, extra)


def _read(settings: TrainSettings) -> tuple[Pairs, Pairs]:
    """The pairs to train on, and those held back."""
    require_sacrebleu()
    pairs = read_pairs(settings.data, settings.source_column, settings.target_column)
    measures = plan.held_out_pairs(pairs)

    def some(chosen: np.ndarray) -> Pairs:
        rows = np.flatnonzero(chosen)
        return Pairs([pairs.sources[row] for row in rows], [pairs.targets[row] for row in rows])

    return some(~measures), some(measures)


def _encoded(job: Job, tokenizer: ReversibleTokenizer, pairs: Pairs, max_length: int) -> PairIds:
    """The pairs whose texts both fit into `max_length`."""
    sources, targets = (tokenizer.encode(side, max_length + 1) for side in (pairs.sources, pairs.targets))
    fits = [max(len(source), len(target)) <= max_length for source, target in zip(sources, targets, strict=True)]
    if not any(fits):
        raise UserError(
            f"--max-length {max_length}: each of the {len(pairs)} pairs has a longer text. Use a larger number."
        )
    if not all(fits):
        job.tell(
            f"{fits.count(False)} of {len(pairs)} pairs are left out: they have a text of more than {max_length} word "
            "pieces (--max-length)"
        )
    return PairIds(sources, targets).rows(np.flatnonzero(fits))


def _more_sources(
    job: Job, settings: DistillSettings, tokenizer: ReversibleTokenizer, max_length: int, held_out: Pairs
) -> list[list[int]]:
    """The ids of the sources that the teacher alone translates: those that fit, and that no pair held back has."""
    if settings.unlabelled is None:
        return []
    if settings.beam == 0:
        raise UserError("--beam 0 with --unlabelled: nobody would translate those texts. Leave one of them out.")
    texts = read_table(settings.unlabelled, settings.source_column, None).texts
    measured = {essence(source) for source in held_out.sources}
    apart = [text for text in texts if essence(text) not in measured]
    fitting = [ids for ids in tokenizer.encode(apart, max_length + 1) if len(ids) <= max_length]
    if len(fitting) < len(texts):
        job.tell(
            f"{settings.unlabelled}: {len(texts) - len(apart)} texts are left out because they are held back to "
            f"measure, {len(apart) - len(fitting)} because they are longer than {max_length} word pieces"
        )
    return fitting


def _fresh(tokenizer: ReversibleTokenizer, size: dict[str, Any], policy: str) -> Seq2Seq:
    """A model of random weights; norms first, which trains without a long warm-up (Xiong et al. 2020)."""
    return Seq2Seq(tokenizer.vocab_size, norm_first=True, dtype=policy, **size)


def _afford(
    job: Job, effort: plan.Effort, model: Seq2Seq, pairs: PairIds, max_length: int, spent: Spent
) -> tuple[Schedule, np.ndarray]:
    given, (source_lengths, target_lengths) = job.given, pairs.lengths
    schedule = plan.token_schedule(
        effort,
        spent.shows * len(pairs.sources),
        spent.shows * (sum(source_lengths) + sum(target_lengths)),
        model.model_dim,
        longest=2 * rounded_up(max_length, LENGTH_MULTIPLE),
        epochs=given.epochs,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
    )
    what = f"pairs, up to {max_length} word pieces"
    return job.afford(model, schedule, Work(len(pairs.sources), spent.each_epoch, what, spent.once))


def _of_teacher(job: Job, teacher: Translator, pairs: PairIds, width: int, seconds: float) -> PairIds:
    """The sources with what the teacher makes of them, but for what didn't come to an end."""
    targets = job.unfinished.recall_answers()
    if targets is None:
        job.tell(f"Asking the teacher to translate {len(pairs.sources)} texts: about {plan.duration(seconds)} of that")
        targets = teacher.translate(pairs.sources, Decoding(beam=width))
        job.unfinished.remember_answers(targets)
    ended = [row for row, ids in enumerate(targets) if ids[-1:] == [teacher.tokenizer.end_id]]
    return PairIds(pairs.sources, targets).rows(np.array(ended, int))


def _batches(tokenizer: ReversibleTokenizer, pairs: PairIds, schedule: Schedule, seed: int) -> PairBatches:
    return PairBatches(
        pairs.sources,
        pairs.targets,
        max_tokens=schedule.batch_size,
        start_id=tokenizer.start_id,
        end_id=tokenizer.end_id,
        seed=seed,
        length_multiple=LENGTH_MULTIPLE,
    )


def _finish(job: Job, translator: Translator, held_out: Pairs, extra: dict[str, Any]) -> dict[str, Any]:
    """Score on the pairs held back, and write the run folder."""
    job.tell(f"Measuring on {len(held_out)} pairs held back")
    return job.finish(
        translator.model,
        tokenizer=translator.tokenizer,
        max_length=translator.max_length,
        scores=evaluate_translations(translator, held_out)._asdict(),
        extra=extra,
        examples=held_out.sources,
    )
