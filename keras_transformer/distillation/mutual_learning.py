"""Two students that teach each other, with no teacher at all."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_transformer.distillation.combinations import refuse_what_keras_breaks
from keras_transformer.distillation.distiller import Distiller, unpacked
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.taps import with_taps
from keras_transformer.distillation.terms import LossTerm, needs_of
from keras_transformer.layers.masks import Tensor


class MutualLearner(keras.Model):
    """Trains two students at once, each with the other as its teacher (Zhang et al. 2018, section 3.1).

    With the terms `true_labels` and `soft_targets(1.0)`, both of weight 1, the loss is that of their equations 4 and
    5: L_1 = CE(y, p_1) + KL(p_2 || p_1) and L_2 = CE(y, p_2) + KL(p_1 || p_2). No gradient goes through what a
    student says as a teacher. Each step runs each student once, with dropout, and steps both from the same
    predictions (theirs takes turns within a step). Masks, sample weights and unlabelled rows count as in a
    `Distiller`.

    The logs hold "loss", the sum of both, and what a Distiller logs under the student's name: "small_loss",
    "small_true_labels", "small_accuracy". `predict` and calling it give {name: logits}. Save the students
    themselves.

    Args:
        students: two Keras models of different names.
        terms: the `LossTerm`s of each; losses without weights of their own.
        name: of this model.

    Raises:
        ValueError: if there aren't two students, their names are the same, or a loss owns weights.
    """

    def __init__(
        self, students: Sequence[keras.Model], terms: Iterable[LossTerm], *, name: str = "mutual_learner"
    ) -> None:
        _check_students(students)
        every = tuple(terms)
        for term in every:
            if isinstance(term.loss, keras.layers.Layer):
                raise ValueError(
                    f"LossTerm {term.name!r} owns weights, which two students can't share. Use a loss without weights."
                )
        sides = [Distiller(own, peer, every) for own, peer in (students, students[::-1])]
        in_float16 = [side.dtype_policy for side in sides if side.dtype_policy.compute_dtype == "float16"]
        super().__init__(name=name, dtype=(in_float16 or [sides[0].dtype_policy])[0], autocast=False)
        taps = [tap for term in every for tap in (*needs_of(term.loss).student_taps, *needs_of(term.loss).teacher_taps)]
        self.sides = sides
        self.forwards = [with_taps(student, taps) for student in students]
        self.built = all(student.built for student in students)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """Those of both students, so that each epoch starts them anew."""
        return [metric for side in self.sides for metric in side.metrics]

    def call(self, inputs: Any, training: bool | None = None) -> dict[str, Tensor]:
        """Return the logits of each student by its name."""
        return {side.student.name: side(inputs, training=training) for side in self.sides}

    def compile(
        self,
        optimizer: Any = "rmsprop",
        metrics: list[Any] | None = None,
        *,
        run_eagerly: bool = False,
        jit_compile: bool | str = "auto",
    ) -> None:
        """Configure training; one optimizer steps both students, and each gets its own copy of `metrics`.

        Raises:
            ValueError: as `Distiller.compile`.
        """
        for side in self.sides:
            side.compile("sgd", metrics=keras.tree.map_structure(_copied, metrics))
        # Keras is told of the metrics so that it calls `compute_metrics` before the first batch, as replicas need it.
        super().compile(optimizer=optimizer, weighted_metrics=metrics, run_eagerly=run_eagerly, jit_compile=jit_compile)
        refuse_what_keras_breaks(self)

    def train_step(self, batch: Any) -> dict[str, Tensor]:
        """Predict, weigh, step, record: for both."""
        x, labels, sample_weight = unpacked(batch)
        with tf.GradientTape() as tape:
            outputs = [forward(x, training=True) for forward in self.forwards]
            weighed = self._weighed(labels, outputs, sample_weight)
            scaled = self.optimizer.scale_loss(weighed[0].loss + weighed[1].loss)
        weights = [weight for side in self.sides for weight in side.trainable_weights]
        self.optimizer.apply(tape.gradient(scaled, weights), weights)
        return self._recorded(weighed, labels, outputs)

    def test_step(self, batch: Any) -> dict[str, Tensor]:
        """Predict without dropout, weigh, record."""
        x, labels, sample_weight = unpacked(batch)
        outputs = [forward(x, training=False) for forward in self.forwards]
        return self._recorded(self._weighed(labels, outputs, sample_weight), labels, outputs)

    def _weighed(self, labels: Tensor | None, outputs: Sequence[Outputs], sample_weight: Tensor | None) -> list[Any]:
        pairs = zip(self.sides, outputs, reversed(outputs), strict=True)
        return [side.weigh_terms(labels, own, _constant(peer), sample_weight) for side, own, peer in pairs]

    def _recorded(self, weighed: Sequence[Any], labels: Tensor | None, outputs: Sequence[Outputs]) -> dict[str, Tensor]:
        for side, own, values in zip(self.sides, outputs, weighed, strict=True):
            side.record(values, labels, own)
        return self.get_metrics_result()

    def compute_metrics(
        self, x: Any, y: Tensor | None, y_pred: dict[str, Tensor], sample_weight: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update the metrics given to `compile` of each student by its logits and return all metrics."""
        for side in self.sides:
            side.compute_metrics(x, y, y_pred[side.student.name])
        return self.get_metrics_result()

    def get_metrics_result(self) -> dict[str, Tensor]:
        """What both students log, under their names, and the sum of their losses."""
        logs: dict[str, Tensor] = {"loss": 0.0}
        for side in self.sides:
            results = side.get_metrics_result()
            logs["loss"] = logs["loss"] + results["loss"]
            logs |= {f"{side.student.name}_{key}": value for key, value in results.items()}
        return logs

    def get_config(self) -> dict[str, Any]:
        """Refuse: the students are what is saved.

        Raises:
            ValueError: always.
        """
        raise ValueError("A MutualLearner can't be saved or copied. Save its students: student.save(path).")


def _constant(outputs: Outputs) -> Outputs:
    """What a student says as a teacher: no gradient goes through it."""
    taps = {name: ops.stop_gradient(tap) for name, tap in outputs.taps.items()}
    return Outputs(ops.stop_gradient(outputs.logits), taps, outputs.mask)


def _copied(metric: Any) -> Any:
    return metric.__class__.from_config(metric.get_config()) if isinstance(metric, keras.metrics.Metric) else metric


def _check_students(students: Sequence[keras.Model]) -> None:
    if len(students) != 2:
        raise ValueError(f"students has {len(students)}: mutual learning takes two. Give two Keras models.")
    if students[0].name == students[1].name:
        raise ValueError(
            f"Both students are called {students[0].name!r}, and names are the keys of the logs. Build one with "
            "another name=."
        )
