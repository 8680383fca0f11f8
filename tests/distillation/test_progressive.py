"""Stages: what trains in each, what stays, and that every flag is put back."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.distillation import (
    LossTerm,
    Needs,
    Stage,
    distil_in_stages,
    given,
    layerwise_stages,
    soft_targets,
    uniform,
)
from keras_transformer.models import TextClassifier

IDS = np.array([[2, 5, 7, 0], [3, 11, 0, 0], [2, 3, 5, 7], [7, 0, 0, 0], [5, 5, 2, 0]], "int32")


class Projected(keras.layers.Layer):
    """Mean square of projected student minus teacher over a row's real tokens: a loss that owns weights."""

    def __init__(self, pairs):
        super().__init__()
        ((ours, theirs),) = pairs
        self.needs = Needs(student_taps=(ours,), teacher_taps=(theirs,))
        self.projection = keras.layers.Dense(6)

    def call(self, labels, student, teacher):
        ours, theirs = (
            self.projection(student.taps[self.needs.student_taps[0]]),
            teacher.taps[self.needs.teacher_taps[0]],
        )
        real = ops.cast(student.mask, "float32")
        return ops.sum(ops.mean(ops.square(ours - theirs), axis=-1) * real, axis=1) / ops.sum(real, axis=1)


@pytest.fixture
def student():
    return TextClassifier(13, 3, 3, model_dim=4, num_heads=2, inner_dim=5, max_length=7, dropout=0.0, name="student")


@pytest.fixture
def teacher():
    return TextClassifier(13, 3, 4, model_dim=6, num_heads=2, inner_dim=5, max_length=7, name="teacher")


def values(model):
    return {weight.path: weight.numpy().copy() for weight in model.weights}


def moved(before, after):
    """The layers of which a weight changed."""
    return {path.split("/")[0] for path in before if not np.array_equal(before[path], after[path])}


def with_sgd(distiller):
    """Eager: tracing a graph takes longer than these few steps."""
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)


class Watch(keras.callbacks.Callback):
    """Which layers each fit changed."""

    def __init__(self, student):
        super().__init__()
        self.student, self.seen = student, []

    def on_train_begin(self, logs=None):
        self.before = values(self.student)

    def on_train_end(self, logs=None):
        self.seen.append(moved(self.before, values(self.student)))


@pytest.mark.parametrize(
    ("keep_training", "want"),
    [
        (False, [{"tokens", "encoder_0"}, {"encoder_1", "encoder_2"}]),
        (True, [{"tokens", "encoder_0"}, {"tokens", "encoder_0", "encoder_1", "encoder_2"}]),
    ],
)
def test_each_stage_trains_its_own_layers_and_learns_its_pair(student, teacher, keep_training, want):
    watch, untouched = Watch(student), values(teacher)
    stages = layerwise_stages(
        given([(0, 1), (2, 3)], student, teacher), Projected, with_first=["tokens"], keep_training=keep_training
    )
    histories = distil_in_stages(
        student,
        teacher,
        stages,
        IDS,
        # Decay would move whatever the optimizer is given, gradient or not.
        configure=lambda distiller: distiller.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), run_eagerly=True),
        epochs=4,
        batch_size=5,
        verbose=0,
        callbacks=[watch],
    )
    assert watch.seen == want
    assert list(histories) == ["layer_0", "layer_2"]
    for history in histories.values():
        assert history["hidden"][-1] < 0.9 * history["hidden"][0]
    assert moved(untouched, values(teacher)) == set()
    assert all(weight.trainable for weight in student.trainable_weights)
    assert len(student.trainable_weights) == len(student.weights)


def test_a_last_stage_may_train_the_whole_student_by_the_logits(student, teacher):
    watch = Watch(student)
    stages = [
        *layerwise_stages(uniform(1, 4), Projected),
        Stage("logits", None, (LossTerm("soft_targets", 1.0, soft_targets(2.0)),)),
    ]
    histories = distil_in_stages(student, teacher, stages, IDS, configure=with_sgd, verbose=0, callbacks=[watch])
    assert watch.seen[0] == {"encoder_0"}
    assert {"tokens", "encoder_0", "encoder_1", "encoder_2", "logits"} <= watch.seen[1]
    assert "soft_targets" in histories["logits"]


def test_every_flag_is_put_back_after_an_error_too(student, teacher):
    """What the caller froze stays frozen: a layer, a layer inside one, and a single weight."""
    student.get_layer("positions").trainable = False
    student.get_layer("encoder_1").attention.trainable = False
    student.get_layer("logits").bias.trainable = False
    watch = Watch(student)

    def flags():
        inside = student.get_layer("encoder_1")
        return (
            [
                layer.trainable
                for layer in [*student.layers, inside.attention, inside.attention.query_proj, inside.feed_forward]
            ],
            [weight.trainable for weight in student.weights],
        )

    def fail(epoch, logs):
        raise KeyboardInterrupt

    before = flags()
    stages = layerwise_stages(uniform(3, 4), Projected, with_first=["positions"], keep_training=True)
    options = {"configure": with_sgd, "verbose": 0}
    distil_in_stages(student, teacher, stages, IDS, **options, callbacks=[watch])
    assert flags() == before
    assert watch.seen[1] == {"encoder_0", "encoder_1"}  # not the positions
    with pytest.raises(KeyboardInterrupt):
        distil_in_stages(
            student, teacher, stages, IDS, **options, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=fail)]
        )
    assert flags() == before


def test_batch_statistics_of_frozen_layers_stay_in_a_compiled_step(rows):
    def network(units):
        inputs = keras.Input((7,))
        x = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(units, name="first")(inputs))
        return keras.Model(inputs, keras.layers.Dense(3, name="second")(x))

    student = network(5)
    watch = Watch(student)
    term = (LossTerm("soft_targets", 1.0, soft_targets(2.0)),)
    stages = [Stage("top", ("second",), term), Stage("all", None, term)]
    distil_in_stages(
        student,
        network(11),
        stages,
        rows[0],
        configure=lambda distiller: distiller.compile(keras.optimizers.SGD(0.1)),
        verbose=0,
        callbacks=[watch],
    )
    assert watch.seen == [{"second"}, {"first", "norm", "second"}]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda term: [], r"stages have the names \[\]: give at least one"),
        (lambda term: [Stage("a", None, term)] * 2, r"names \['a', 'a'\]: .* a name of its own"),
        (
            lambda term: [Stage("a", None, term), Stage("b", ("encoder_7",), term)],
            r"stage 'b' trains 'encoder_7', and 'student' has no such layer\. It has \[.*'encoder_2'",
        ),
        (
            lambda term: [Stage("a", None, term), Stage("b", ("pooling",), term)],
            r"stage 'b' has nothing to train: of \['pooling'\]",
        ),
        (
            lambda term: [Stage("a", None, term), *layerwise_stages(given([(0, 9)], 1, 10), Projected)],
            r"has no tap 'encoder/9/hidden'",
        ),
    ],
)
def test_a_wrong_stage_is_refused_before_anything_is_trained(student, teacher, make, message):
    before = values(student)
    with pytest.raises(ValueError, match=message):
        distil_in_stages(
            student,
            teacher,
            make((LossTerm("soft_targets", 1.0, soft_targets(2.0)),)),
            IDS,
            configure=with_sgd,
            verbose=0,
        )
    assert moved(before, values(student)) == set()
