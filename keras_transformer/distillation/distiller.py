"""The training loop of distillation, as a Keras model: compile, fit, evaluate, predict."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from keras_transformer.distillation.combinations import refuse_what_keras_breaks
from keras_transformer.distillation.log_names import names_of_metrics, names_of_terms, weight_name
from keras_transformer.distillation.loss_layers import (
    loss_layers,
    make_weights,
    refuse_late_weights,
    refuse_lost_weights,
    unbuilt,
)
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.taps import select_inputs, with_taps
from keras_transformer.distillation.teachers import Teacher, refuse_probabilities, teacher_of
from keras_transformer.distillation.terms import LossTerm, checked_terms, needs_of, variables_of
from keras_transformer.distillation.uncertainty import UncertaintyWeighting
from keras_transformer.distillation.uncounted import defused_inputs, defused_outputs
from keras_transformer.distillation.weighing import TermMean, fixed_weights, labelled, shared_mask, term_mean
from keras_transformer.layers.masks import Tensor


class Weighed(NamedTuple):
    """The loss of one batch, and each term's mean in the order of the terms."""

    loss: Tensor  # scalar float32; on one replica out of many: its share, and the shares add up to the loss
    means: list[TermMean]
    mask: Tensor | None  # (B, T) bool, of either side


class Distiller(keras.Model):
    """Trains `student` on a weighted sum of losses that may look at `teacher` (Hinton et al. 2015 and after).

    One step: the teacher's forward pass, with `training=False` and outside the tape; one forward pass of the
    student; loss = sum_k weight_k * mean_k + the student's own regularisation losses; one step of the
    student's trainable weights and of those that a loss owns. mean_k is the weighted mean over the rows (or
    tokens) that term k counts: sample weights, the padding mask and unlabelled rows (label -1) are seen to
    here, so no loss can forget them. Over the replicas of a MirroredStrategy it is the mean over the whole
    batch.

    The logs hold "loss", one entry a term (its mean, unweighted) and the metrics given to `compile`, which
    look at the student's logits on labelled rows. `predict` and calling it give the student's logits.
    `fit(x)` without labels works, and so do batches that mix both.

    The teacher is only called: it isn't frozen, copied, saved, or part of `weights`. `save` and `export`
    write the student alone. `save_weights` writes what training needs to go on: the student, the losses'
    weights, the optimizer.

    Args:
        student: a Keras model that gives logits (B, C) or (B, T, V).
        teacher: a Keras model, or a `Teacher` such as `RecordedTeacher()`.
        terms: the `LossTerm`s.
        weighing: `UncertaintyWeighting()` learns the weights of the terms, which the logs then hold as
            "<term>_weight"; None = the weights that the terms have.
        name: of this model.

    Raises:
        ValueError: if there is no term, two have one name, a term asks for a tap that its side doesn't have,
            a loss with weights can't compare its taps, or a model ends in a softmax instead of logits.
        TypeError: if a term isn't a `LossTerm`, or the teacher isn't one.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | Teacher,
        terms: Iterable[LossTerm],
        *,
        weighing: UncertaintyWeighting | None = None,
        name: str = "distiller",
    ) -> None:
        # autocast=False: the student casts its inputs by its own policy, recorded logits stay as they are.
        super().__init__(name=name, dtype=_policy_of(student), autocast=False)
        refuse_probabilities("student", student)
        self.terms = checked_terms(terms)
        needs = [needs_of(term.loss) for term in self.terms]
        self.student = student
        self.loss_layers = loss_layers(self.terms)
        self.student_forward = with_taps(student, (tap for need in needs for tap in need.student_taps))
        self.teacher = teacher_of(teacher)
        self.read_teacher = self.teacher.reader(
            tuple(dict.fromkeys(tap for need in needs for tap in need.teacher_taps))
        )
        make_weights(self.loss_layers, (self.student_forward, self.read_teacher))
        self.reserved_names = names_of_terms(self.terms, weighed=weighing is not None)
        self.metric_names: list[str] = []
        self.term_metrics = [keras.metrics.Mean(name=term.name) for term in self.terms]
        self.weighing = weighing
        self.weight_metrics: list[keras.metrics.Mean] = []
        if weighing is not None:
            weighing.start(self.terms)
            self.weight_metrics = [keras.metrics.Mean(name=weight_name(term)) for term in self.terms]
        self.built = student.built

    def call(self, inputs: Any, training: bool | None = None) -> Tensor:
        """Return the student's logits; the teacher isn't called."""
        return self.student(select_inputs(self.student, self.teacher.student_inputs(inputs)), training=training)

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: None = None,
        metrics: list[Any] | None = None,
        *,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Configure training as `keras.Model.compile` does, without a loss: the terms are the loss.

        `metrics` see labels and student logits, on labelled and unmasked rows, each with weight 1.

        Raises:
            ValueError: if `loss` is given, if two entries of the logs would have one name, or for a combination that
                Keras gets wrong (see `combinations`).
        """
        if loss is not None:
            raise ValueError(
                f"loss={loss!r}: a Distiller's losses are its terms. Leave `loss` out, and give "
                "Distiller(..., terms=[LossTerm('true_labels', 0.5, true_labels), ...])."
            )
        self.metric_names = names_of_metrics(metrics, self.reserved_names)
        super().compile(
            optimizer=optimizer,
            weighted_metrics=metrics,  # weighted, so that unlabelled rows can get weight 0
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        refuse_what_keras_breaks(self)

    @property
    def resumed_variables(self) -> list[keras.Variable]:
        """Weights and temperatures that callbacks may have changed: part of a run's state, not of `weights`."""
        return [variable for term in self.terms for variable in variables_of(term)]

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """Predict, weigh, step, record."""
        x, labels, sample_weight = unpacked(batch)
        teacher = self.teacher_outputs(x)  # outside the tape: no gradient
        new = unbuilt(self.loss_layers)
        with tf.GradientTape() as tape:
            student = self.student_outputs(x, training=True)  # one forward, taps included
            weighed = self.weigh_terms(labels, student, teacher, sample_weight)
            scaled = self.optimizer.scale_loss(weighed.loss)
        refuse_late_weights(new, self.optimizer)
        weights = self.trainable_weights  # the student's, and the losses' own
        self.optimizer.apply(tape.gradient(scaled, weights), weights)
        return self.record(weighed, labels, student)

    def test_step(self, batch: Any) -> dict[str, Tensor]:
        """Predict without dropout, weigh, record."""
        x, labels, sample_weight = unpacked(batch)
        teacher = self.teacher_outputs(x)
        student = self.student_outputs(x, training=False)
        return self.record(self.weigh_terms(labels, student, teacher, sample_weight), labels, student)

    def teacher_outputs(self, x: Any) -> Outputs:
        """Run or read the teacher, with `training=False`."""
        return self.read_teacher(x)

    def student_outputs(self, x: Any, training: bool) -> Outputs:
        """Run the student once, with the taps that the terms named."""
        return self.student_forward(self.teacher.student_inputs(x), training=training)

    def weigh_terms(
        self, labels: Tensor | None, student: Outputs, teacher: Outputs, sample_weight: Tensor | None
    ) -> Weighed:
        """Loss = sum_k weight_k * mean_k + regularisation, with `keras.ops`; each loss is called once.

        `weighing` has the form that it takes with learned weights.
        """
        student, teacher = (defused_outputs(side, sample_weight) for side in (student, teacher))
        means = [term_mean(term, labels, student, teacher, sample_weight) for term in self.terms]
        replicas = self.distribute_strategy.num_replicas_in_sync
        regularisation = [ops.sum(ops.cast(extra, "float32")) / replicas for extra in self.losses]
        weighing = fixed_weights(self.terms) if self.weighing is None else self.weighing.weigh
        weighted = [part * share_of_replicas(value.count) for part, value in zip(weighing(means), means, strict=True)]
        return Weighed(sum(weighted + regularisation), means, shared_mask(student, teacher))

    def compute_loss(
        self,
        x: Any = None,
        y: Tensor | None = None,
        y_pred: Outputs | None = None,
        sample_weight: Tensor | None = None,
        training: bool = True,
    ) -> Tensor:
        """Return the loss of a batch as `train_step` takes it, by Keras' own signature.

        `y_pred` is the student's `Outputs` on `x`; None = run it.
        """
        x = defused_inputs(x, sample_weight)
        teacher = self.teacher_outputs(x)
        student = self.student_outputs(x, training=training) if y_pred is None else y_pred
        return self.weigh_terms(y, student, teacher, sample_weight).loss

    def record(self, weighed: Weighed, labels: Tensor | None, student: Outputs) -> dict[str, Tensor]:
        """Update all metrics and return them.

        A term's epoch mean is weighted by what it counted, so it is the mean over the epoch; that of the loss
        by the number of rows, as in any Keras model.
        """
        for metric, value in zip(self.term_metrics, weighed.means, strict=True):
            metric.update_state(value.mean, sample_weight=value.count)
        if self.weighing is not None:
            for metric, weight in zip(self.weight_metrics, self.weighing.weights_of_terms(), strict=True):
                metric.update_state(weight)
        replicas = self.distribute_strategy.num_replicas_in_sync
        rows = sum_over_replicas(ops.cast(ops.shape(student.logits)[0], "float32"))
        total = next(metric for metric in self.metrics if metric.name == "loss")
        # Each replica adds its share of loss * rows; together they add rows once.
        total.update_state(weighed.loss * replicas, sample_weight=rows / replicas)
        return self.compute_metrics(None, labels, student.logits, sample_weight=weighed.mask)

    def compute_metrics(
        self, x: Any, y: Tensor | None, y_pred: Tensor, sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update the metrics given to `compile` on labelled rows and return all metrics.

        `sample_weight` is used for tokens alone: 0 leaves one out, as a mask does. Without labels (None) the metrics
        stay as they are: which shape of labels they would take, only labels tell.
        """
        if y is None:
            return self.get_metrics_result()
        known = labelled(y)
        # Of many labels a row, as many as logits, all must be known, as in the terms.
        rows = ops.all(known, axis=-1) if len(known.shape) == len(y_pred.shape) else known
        weights = ops.cast(rows, "float32")
        if sample_weight is not None and len(sample_weight.shape) == len(weights.shape) > 1:
            weights = weights * ops.cast(sample_weight, "float32")
        # Some metrics can't take a class -1, whatever its weight.
        return super().compute_metrics(x, ops.where(known, y, ops.zeros_like(y)), y_pred, sample_weight=weights)

    def get_metrics_result(self) -> dict[str, Tensor]:
        """Results of all metrics; 0 for those given to `compile` that haven't seen a label yet."""
        results: dict[str, Tensor] = {}
        for metric in self.metrics:
            if getattr(metric, "built", True):
                result = metric.result()
                results |= result if isinstance(result, dict) else {metric.name: result}
            else:  # those of `compile`, all in one
                results |= {name: ops.zeros(()) for name in self.metric_names}
        return results

    def load_weights(self, filepath: str | Path, skip_mismatch: bool = False, **options: Any) -> None:
        """Load what `save_weights` wrote; see `keras.Model.load_weights`.

        Raises:
            ValueError: if the file holds weights of a loss whose own are yet to be made, with the first batch.
        """
        refuse_lost_weights(self.loss_layers, self.layers, filepath)
        super().load_weights(filepath, skip_mismatch=skip_mismatch, **options)

    def save(self, filepath: str | Path, overwrite: bool = True, zipped: bool | None = None) -> None:
        """Save the student alone; the file loads without this class."""
        self.student.save(filepath, overwrite=overwrite, zipped=zipped)

    def export(self, filepath: str | Path, **export_options: Any) -> None:
        """Export the student alone; see `keras.Model.export`."""
        self.student.export(filepath, **export_options)

    def get_config(self) -> dict[str, Any]:
        """Refuse: a Distiller isn't saved.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "A Distiller can't be saved or copied: it would drag the teacher along. Use distiller.save(path) "
            "for the student, and build the Distiller again to go on training."
        )


def unpacked(batch: Any) -> tuple[Any, Tensor | None, Tensor | None]:
    """Inputs, labels and sample weights of a batch; rows of weight 0 with nothing in them that could do harm."""
    x, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    return defused_inputs(x, sample_weight), labels, sample_weight


def sum_over_replicas(value: Tensor) -> Tensor:
    """Sum of `value` over the replicas of the running tf.distribute strategy; alone, `value` itself."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def share_of_replicas(count: Tensor) -> Tensor:
    """What this replica's mean weighs in that of the whole batch: count / sum of counts; alone, 1."""
    total = sum_over_replicas(count)
    return 1.0 if total is count else ops.divide_no_nan(count, total)


def _policy_of(student: keras.Model) -> Any:
    """The student's dtype policy, or mixed_float16 if a layer at any depth computes so: the loss needs scaling then."""
    in_float16 = any(layer.compute_dtype == "float16" for layer in student._flatten_layers())
    return "mixed_float16" if in_float16 else student.dtype_policy
