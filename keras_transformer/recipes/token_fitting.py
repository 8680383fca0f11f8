"""Fit models that learn each token of a text: on texts alone, or word by word on a teacher that runs beside them."""

import keras

from keras_transformer.data.epochs import Epochs
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels
from keras_transformer.recipes.fitting import Run, Schedule, Soft, fit
from keras_transformer.training.token_losses import MaskedCrossEntropy
from keras_transformer.training.token_metrics import TokenAccuracy

WORD_LEVEL = Soft(weight=0.5, temperature=1.0, pooled=0.0)  # Kim and Rush 2016, section 3.1: the teacher as it is


def fit_on_tokens(
    model: keras.Model, batches: Epochs, schedule: Schedule, *, label_smoothing: float, title: str, run: Run
) -> dict[str, list[float]]:
    """Train on the cross-entropy of each real token; return the history."""
    model.compile(
        schedule.optimizer(schedule.epochs * batches.steps_per_epoch),
        MaskedCrossEntropy(label_smoothing),
        metrics=[TokenAccuracy()],
        jit_compile=False,
    )
    return fit(model, batches, schedule.epochs, title, run)


def fit_on_teacher_tokens(
    student: keras.Model,
    teacher: keras.Model,
    batches: Epochs,
    schedule: Schedule,
    soft: Soft = WORD_LEVEL,
    *,
    title: str,
    run: Run,
) -> dict[str, list[float]]:
    """Train on the batches' labels and on the teacher's distribution at each real token; return the history.

    Word-level distillation, eq. 4 of Kim and Rush 2016 with the weight of its section 3.1. The teacher runs on each
    batch: to keep what it says of every token would take its vocabulary times the data.
    """
    terms = [
        LossTerm("true_labels", 1.0 - soft.weight, true_labels),
        LossTerm("soft_targets", soft.weight, soft_targets(soft.temperature)),
    ]
    distiller = Distiller(student, teacher, terms)
    distiller.compile(
        schedule.optimizer(schedule.epochs * batches.steps_per_epoch), metrics=[TokenAccuracy()], jit_compile=False
    )
    return fit(distiller, batches, schedule.epochs, title, run)
