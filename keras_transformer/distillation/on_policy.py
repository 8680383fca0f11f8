"""Distillation on what the student writes itself: on-policy, and generalised to mix that with data (Agarwal 2024)."""

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, NamedTuple, Protocol

import keras
import tensorflow as tf

from keras_transformer.distillation.distiller import Distiller
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.teachers import Teacher, is_recorded
from keras_transformer.distillation.terms import LossTerm
from keras_transformer.distillation.uncertainty import UncertaintyWeighting
from keras_transformer.layers.masks import Tensor

LARGEST_SEED = 2**63 - 1
CHANCES = 2**24
"""Equal parts that a step's chance is counted in: float32 tells them apart."""


class OwnSamples(Protocol):
    """How a student writes, as `models.OwnTargets` and `models.OwnContinuations` do; TensorFlow inside."""

    def write(self, student: keras.Model, inputs: Any, seed: Tensor) -> Any:
        """Return the inputs of a batch with the student's own tokens in them, of the same names and shapes.

        `seed` is an int64 tensor of shape (): the same one draws the same tokens.
        """
        ...

    def counted(self, inputs: Any) -> Tensor | None:
        """(B, T) bool, which real tokens of such a batch are asked for; None = all. `inputs` are those of the data."""
        ...


class OnPolicyBatch(NamedTuple):
    """The inputs of a batch that may be the student's own, as they go through a step."""

    inputs: Any
    counted: Tensor | None  # as `Outputs.counted`


class OnPolicyDistiller(Distiller):
    """Trains on what the student writes itself: generalised knowledge distillation, algorithm 1 of Agarwal et al. 2024.

    Before each step u is drawn from [0, 1). Where u < `share`, lambda in the paper, the student writes an answer y to
    the batch's inputs x at its present weights, and the step goes on with x and y; else with the batch as it is. The
    loss is that of any Distiller, with D one of `soft_targets`, `reverse_targets` and `jensen_shannon`:

        L = mean over the tokens y_n of D(teacher(. | y_1 .. y_n-1, x), student(. | y_1 .. y_n-1, x))

    No gradient goes through the drawing of y: what the student wrote is data. It is drawn without dropout.

    Which tokens count: of a batch of data, those that count in a Distiller. Of an own batch, those that the student
    drew, the one that ends a text included, in every term of (B, T). Nothing labels these, so `true_labels`, each other
    loss that needs labels, and the metrics given to `compile` leave them out; a loss that gets labels gets -1 (NaN,
    if they are floats). A weight a row stays the row's. On the replicas of a MirroredStrategy all take their own
    samples in the same steps, and each draws others.

    `evaluate`, `compute_loss` and `predict` are those of a Distiller, on data alone. `save_weights` keeps the number of
    steps drawn, too: a run that goes on draws what it would have drawn.

    >>> samples = OwnTargets(start_id=1, end_id=2)
    >>> terms = [LossTerm("divergence", 1.0, jensen_shannon(0.5))]
    >>> OnPolicyDistiller(student, teacher, terms, samples=samples, share=0.5)

    Args:
        student: as a Distiller's; `samples` must be able to let it write.
        teacher: as a Distiller's, but it has to run: what was recorded is about the data's tokens.
        terms: the `LossTerm`s.
        samples: how the student writes.
        share: of the steps, at least 0 and at most 1. 0 makes this a Distiller, 1 is purely on-policy.
        seed: of the draws; the same one makes the same run.
        weighing: as a Distiller's.
        name: of this model.

    Raises:
        ValueError: for a share or seed out of range, and for what a Distiller refuses; in the first step, for a
            recorded teacher, for sample weights (B, T), and for inputs or a student that `samples` can't use.
        TypeError: if `samples` has no `write` and `counted`.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Teacher,
        terms: Iterable[LossTerm],
        *,
        samples: OwnSamples,
        share: float,
        seed: int = 0,
        weighing: UncertaintyWeighting | None = None,
        name: str = "on_policy_distiller",
    ) -> None:
        _check_arguments(samples, share, seed)
        super().__init__(student, teacher, terms, weighing=weighing, name=name)
        self.samples, self.share, self.seed = samples, float(share), int(seed)
        self.steps_drawn = self.add_weight(
            name="steps_drawn",
            shape=(),
            initializer="zeros",
            dtype="int64",
            trainable=False,
            aggregation="only_first_replica",
        )

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """Draw whether the student writes the batch; then predict, weigh, step, record."""
        if not self.share:
            return super().train_step(batch)
        x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        _refuse_what_is_about_other_tokens(x, sample_weight)
        is_own, seed = self.draw()
        inputs = tf.cond(is_own, lambda: self._written(x, seed), lambda: x)
        counted = self.samples.counted(x)
        if counted is not None:
            counted = tf.logical_or(counted, tf.logical_not(is_own))
        return super().train_step((OnPolicyBatch(inputs, counted), _unlabelled_if(is_own, labels), sample_weight))

    def teacher_outputs(self, x: Any) -> Outputs:
        """As a Distiller."""
        return super().teacher_outputs(x.inputs if isinstance(x, OnPolicyBatch) else x)

    def student_outputs(self, x: Any, training: bool) -> Outputs:
        """As a Distiller, and which tokens count."""
        if not isinstance(x, OnPolicyBatch):
            return super().student_outputs(x, training)
        return super().student_outputs(x.inputs, training)._replace(counted=x.counted)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Whether the next step is on own samples, the same on each replica, and a seed for them, another on each."""
        key = tf.stack([tf.constant(self.seed, tf.int64), tf.convert_to_tensor(self.steps_drawn.value)])
        self.steps_drawn.assign_add(1)
        context = tf.distribute.get_replica_context()
        replica = 0 if context is None else context.replica_id_in_sync_group
        of_samples = tf.random.experimental.stateless_fold_in(key, replica + 1)
        seed = tf.random.stateless_uniform((), of_samples, minval=None, maxval=None, dtype=tf.int64)
        # A whole number: XLA draws the same ones, but other fractions.
        chance = tf.random.stateless_uniform((), key, maxval=CHANCES, dtype=tf.int32)
        return tf.cast(chance, tf.float32) < self.share * CHANCES, seed

    def _written(self, x: Any, seed: Tensor) -> Any:
        return tf.nest.map_structure(_as_before, self.samples.write(self.student, x, seed), x)


def _as_before(written: Tensor, given: Tensor) -> Tensor:
    """`written`, known to have the shape of `given`: both ways of a `tf.cond` end in the same."""
    written = tf.convert_to_tensor(written)
    if not written.shape.is_compatible_with(given.shape) or written.dtype != given.dtype:
        raise ValueError(
            f"samples.write gave {written.dtype.name} {tuple(written.shape)} for {given.dtype.name} "
            f"{tuple(given.shape)}: a step takes own samples and data alike. Pad or cut them to the batch's shape."
        )
    return tf.ensure_shape(written, given.shape)


def _unlabelled_if(is_own: Tensor, labels: Tensor | None) -> Tensor | None:
    if labels is None:
        return None
    labels = tf.convert_to_tensor(labels)
    if labels.dtype.is_unsigned:
        labels = tf.cast(labels, tf.int64)
    none = tf.constant(float("nan") if labels.dtype.is_floating else -1, labels.dtype)
    return tf.where(is_own, none, labels)


def _refuse_what_is_about_other_tokens(x: Any, sample_weight: Tensor | None) -> None:
    recorded = [name for name in x if is_recorded(name)] if isinstance(x, Mapping) else []
    if recorded:
        raise ValueError(
            f"x holds {recorded[0]!r}, which was recorded on the data's tokens: on those that the student writes the "
            "teacher must run. Give the teacher itself, or share=0."
        )
    if sample_weight is not None and len(sample_weight.shape) > 1 and sample_weight.shape[-1] != 1:
        raise ValueError(
            f"sample_weight has shape {tuple(sample_weight.shape)}: weights of the data's tokens say nothing of those "
            "that the student writes. Give one weight a row, (B,), or share=0."
        )


def _check_arguments(samples: Any, share: float, seed: int) -> None:
    if not (hasattr(samples, "write") and hasattr(samples, "counted")) or isinstance(samples, type):
        raise TypeError(
            f"samples={samples!r} can't let a student write: it needs the methods write and counted. Use "
            "models.OwnTargets(start_id, end_id) for a Seq2Seq, models.OwnContinuations(prompt_length, end_id) for a "
            "CausalLM."
        )
    if isinstance(share, bool) or not 0 <= share <= 1:
        raise ValueError(
            f"share={share!r} must be at least 0 and at most 1: of all steps, those on the student's own samples. "
            "Use for example share=0.5."
        )
    if isinstance(seed, bool) or not isinstance(seed, Integral) or abs(seed) > LARGEST_SEED:
        raise ValueError(f"seed={seed!r} must be a whole number of at most {LARGEST_SEED}. Use for example seed=0.")
