"""One way to fit: AdamW, warm-up and cosine decay, progress, and state that survives a kill."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_transformer.data.batching import Batches
from keras_transformer.data.epochs import Epochs
from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    RecordedTeacher,
    hidden_states,
    soft_targets,
    true_labels,
    with_taps,
)
from keras_transformer.distillation.teachers import RECORDED_LOGITS, RECORDED_TAP
from keras_transformer.export.keras_runner import KerasRunner
from keras_transformer.models import TextClassifier
from keras_transformer.training.checkpoints import resumable_fit
from keras_transformer.training.optimizers import WarmUpCosine
from keras_transformer.training.progress import ProgressBar

PREDICTION_BATCH_SIZE = 64
POOLED = "pooled"  # the tap of `TextClassifier` that the head reads: one vector a text, cheap to keep


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    epochs: int
    batch_size: int
    learning_rate: float
    warmup_share: float = 0.1  # of all steps: Devlin et al. 2019, appendix A.2, warm up over the first part too
    weight_decay: float = 0.01  # Devlin et al. 2019, appendix A.2
    beta_2: float = 0.999  # 0.98: Vaswani et al. 2017, section 5.3
    clip_norm: float | None = None  # of all gradients together

    def optimizer(self, steps: int) -> keras.optimizers.Optimizer:
        """AdamW whose rate climbs in a line over the first steps, then falls to 0 as half a cosine."""
        warmup = max(1, int(steps * self.warmup_share))
        rate = WarmUpCosine(self.learning_rate, warmup, max(1, steps - warmup))
        return keras.optimizers.AdamW(
            rate, weight_decay=self.weight_decay, beta_2=self.beta_2, global_clipnorm=self.clip_norm
        )


@dataclass(frozen=True)
class Soft:
    """How a teacher is listened to.

    `weight` is that of its soft targets, 1 - `weight` that of the labels; `pooled` that of the squared distance
    between its pooled vector and the student's, as a share of its own mean square: 0 = not asked for.
    """

    weight: float = 0.8
    temperature: float = 2.0
    pooled: float = 0.25


@dataclass(frozen=True)
class Run:
    """What isn't learning: the seed, whether to be quiet, and where the state of a killed run is kept."""

    seed: int = 0
    quiet: bool = False
    state: Path | None = None  # None = a killed run starts over
    fingerprint: Mapping[str, Any] = field(default_factory=dict)


def fit_on_labels(
    model: TextClassifier, batches: Batches, schedule: Schedule, *, title: str, run: Run, steps: int | None = None
) -> dict[str, list[float]]:
    """Train on cross-entropy with the labels alone; return the history.

    `steps` is a budget that takes the place of the schedule's epochs: as many batches, however often they come round.
    """
    model.compile(
        schedule.optimizer(steps or schedule.epochs * batches.steps_per_epoch),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[accuracy()],
        jit_compile=False,
    )
    return fit(model, batches, schedule.epochs, title, run, steps)


def fit_on_teacher(
    student: TextClassifier,
    batches: Batches,
    schedule: Schedule,
    soft: Soft,
    *,
    title: str,
    run: Run,
    steps: int | None = None,
) -> dict[str, list[float]]:
    """Train on labels and on a teacher's recorded answers, which travel in the batches; return the history.

    The batches' extras are what `record_answers` gave; `steps` is as for `fit_on_labels`.
    """
    terms = [
        LossTerm("true_labels", 1.0 - soft.weight, true_labels),
        LossTerm("soft_targets", soft.weight, soft_targets(soft.temperature)),
    ]
    if soft.pooled:
        mean_square = float(np.mean(np.square(batches.extras[RECORDED_TAP + POOLED], dtype="float32")))
        terms.append(LossTerm("pooled", soft.pooled / mean_square, hidden_states([(POOLED, POOLED)])))
    distiller = Distiller(student, RecordedTeacher([POOLED], _shapes(batches.extras)), terms)
    distiller.compile(
        schedule.optimizer(steps or schedule.epochs * batches.steps_per_epoch),
        metrics=[accuracy()],
        jit_compile=False,
    )
    return fit(distiller, batches, schedule.epochs, title, run, steps)


def record_logits(model: TextClassifier, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """The model's logits on each text, (N, C) float32: one forward pass, batches of texts of like length."""
    runner = KerasRunner(model)
    return _on_each_text(lambda ids: {RECORDED_LOGITS: runner(ids)}, token_ids)[RECORDED_LOGITS]


def record_answers(teacher: TextClassifier, token_ids: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
    """The teacher's logits (N, C) float32 and pooled vectors (N, D) float16 on each text, in one forward pass.

    Named as `RecordedTeacher` wants them, to be the extras of `Batches`.
    """
    tapped = with_taps(teacher, [POOLED])

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)], autograph=False)
    def answers(ids: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = tapped(ids)
        return {RECORDED_LOGITS: outputs.logits, RECORDED_TAP + POOLED: tf.cast(outputs.taps[POOLED], tf.float16)}

    return _on_each_text(answers, token_ids)


def _on_each_text(
    answers: Callable[[np.ndarray], Mapping[str, Any]], token_ids: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """Run `answers` on batches of texts of like length; put its rows back into the order of `token_ids`."""
    by_length = np.argsort([len(ids) for ids in token_ids], kind="stable")
    ordered = Batches([token_ids[row] for row in by_length], batch_size=PREDICTION_BATCH_SIZE, shuffle=False)
    batches = [answers(ordered.batch(rows)[0]["token_ids"]) for rows in ordered.plan(epoch=0)]
    back = np.argsort(by_length)
    return {name: np.concatenate([batch[name] for batch in batches])[back] for name in batches[0]}


def accuracy() -> keras.metrics.Metric:
    """What `metrics=["accuracy"]` is for class numbers, but with its variables already made: see `fit`."""
    return keras.metrics.SparseCategoricalAccuracy(name="accuracy")


def _shapes(answers: Mapping[str, np.ndarray]) -> dict[str, keras.KerasTensor]:
    """What each batch holds of recorded answers."""
    return {name: keras.KerasTensor((None, *values.shape[1:]), str(values.dtype)) for name, values in answers.items()}


def fit(
    model: keras.Model, batches: Epochs, epochs: int, title: str, run: Run, steps: int | None = None
) -> dict[str, list[float]]:
    """Train a compiled model; return the history. A run whose state is kept goes on where it was killed."""
    # A variable made while the first step is traced has it traced a second time.
    model.optimizer.build(model.trainable_variables)
    if steps is not None:
        rounds = math.ceil(steps / batches.steps_per_epoch)
        bar = [] if run.quiet else [ProgressBar(title, steps)]
        # One long epoch: several short ones would trace nothing new, but a part of one can't be asked for.
        data = batches.dataset(0, rounds).take(steps)
        return model.fit(data, steps_per_epoch=steps, callbacks=bar, shuffle=False, verbose=0).history
    bar = [] if run.quiet else [ProgressBar(title, epochs * batches.steps_per_epoch)]
    if run.state is None:
        return model.fit(
            batches.dataset(0, epochs),
            epochs=epochs,
            steps_per_epoch=batches.steps_per_epoch,
            callbacks=bar,
            shuffle=False,
            verbose=0,
        ).history
    return resumable_fit(
        model,
        batches.dataset,
        epochs=epochs,
        steps_per_epoch=batches.steps_per_epoch,
        folder=run.state,
        fingerprint=run.fingerprint,
        callbacks=bar,
    )
