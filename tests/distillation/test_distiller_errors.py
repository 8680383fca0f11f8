"""What a user can get wrong is told before the first step, with both sides and the fix."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.distillation import Distiller, LossTerm, RecordedTeacher, needing, soft_targets, true_labels
from keras_transformer.distillation.combinations import refuse_what_keras_breaks

SOFT = LossTerm("soft_targets", 1.0, soft_targets(2.0))


@needing(student_taps=["hidden"], teacher_taps=["encoder"])
def tapped(labels, student, teacher):
    return student.logits[:, 0]


def test_a_loss_argument_is_refused_because_losses_are_terms(classifier):
    with pytest.raises(ValueError, match=r"loss='mse': a Distiller's losses are its terms. Leave `loss` out"):
        Distiller(classifier(), classifier(), [SOFT]).compile("adam", loss="mse")


def test_a_metric_with_the_name_of_a_term_is_refused(classifier):
    distiller = Distiller(classifier(), classifier(), [LossTerm("accuracy", 1.0, true_labels)])
    for metric in ("accuracy", keras.metrics.SparseCategoricalAccuracy(name="accuracy")):
        with pytest.raises(ValueError, match=r"metrics has 'accuracy', which is also the name of a LossTerm. Rename"):
            distiller.compile("adam", metrics=[metric])


def test_unequal_classes_are_told_before_a_weight_moves(classifier, rows, fingerprint):
    student, teacher = classifier(classes=3), classifier(classes=5)
    before = fingerprint(student)
    distiller = Distiller(student, teacher, [SOFT])
    distiller.compile("adam")
    with pytest.raises(ValueError, match=r"student's logits \(\S+ 3\) and the teacher's \(\S+ 5\).*5 classes"):
        distiller.fit(*rows, verbose=0)
    assert fingerprint(student) == before


def test_unequal_classes_are_fine_for_losses_that_compare_none(classifier, rows):
    distiller = Distiller(classifier(classes=3), classifier(classes=5), [LossTerm("labels", 1.0, true_labels)])
    distiller.compile("adam")
    assert np.isfinite(distiller.fit(*rows, verbose=0).history["loss"][0])


def test_a_missing_tap_is_told_when_the_distiller_is_made(classifier):
    with pytest.raises(ValueError, match=r"model 'big' has no tap 'encoder'. It has \['features', 'hidden'"):
        Distiller(classifier(), classifier(name="big"), [LossTerm("near", 1.0, tapped)])


def test_recorded_logits_that_are_not_there_are_told(classifier, rows):
    distiller = Distiller(classifier(), RecordedTeacher(), [SOFT])
    distiller.compile("adam")
    with pytest.raises(ValueError, match=r"no 'teacher_logits' in the batch, which has \['features'\]. Pass x as"):
        distiller.fit({"features": rows[0]}, rows[1], verbose=0)
    with pytest.raises(ValueError, match=r"holds logits alone and a term asks it for the taps \['encoder'\]"):
        Distiller(classifier(), RecordedTeacher(), [LossTerm("near", 1.0, tapped)])


@pytest.mark.parametrize("teacher", ["bert", None, RecordedTeacher])
def test_what_is_no_teacher_is_refused(classifier, teacher):
    with pytest.raises(TypeError, match=r"is no teacher: pass a keras.Model, or RecordedTeacher\(\)"):
        Distiller(classifier(), teacher, [SOFT])


def test_probabilities_are_refused_on_either_side(classifier):
    logits = classifier()
    dense = keras.Model(logits.input, keras.layers.Dense(3, "softmax")(logits.output), name="soft")
    layer = keras.Model(logits.input, keras.layers.Softmax()(logits.output), name="soft")
    for model in (dense, layer):
        with pytest.raises(ValueError, match=r"The student 'soft' ends in a softmax.*activation=None"):
            Distiller(model, logits, [SOFT])
        with pytest.raises(ValueError, match=r"The teacher 'soft' ends in a softmax"):
            Distiller(logits, model, [SOFT])


def in_a_model(features, nested):
    return keras.Model(features, nested(features))


class WithoutGraph(keras.Model):
    """Ends in a layer that was made last."""

    def __init__(self, last):
        super().__init__()
        self.hidden, self.last = keras.layers.Dense(5), last

    def call(self, x):
        return self.last(self.hidden(x))


ENDS = {
    "Dense": lambda x, end: keras.layers.Dense(3, end)(x),
    "Softmax in Dense": lambda x, end: keras.layers.Dense(3, end and keras.layers.Softmax())(x),
    "Activation": lambda x, end: keras.layers.Activation(end)(x),
    "ops": lambda x, end: ops.softmax(x) if end else x * 1.0,
    "linear in float32": lambda x, end: keras.layers.Activation("linear", dtype="float32")(
        keras.layers.Dense(3, end, dtype="mixed_bfloat16")(x)
    ),
    "cast": lambda x, end: ops.cast(keras.layers.Dense(3, end, dtype="mixed_bfloat16")(x), "float32"),
    "Functional": lambda x, end: in_a_model(keras.Input((7,)), keras.layers.Dense(3, end))(x),
    "Sequential": lambda x, end: keras.Sequential([keras.Input((7,)), keras.layers.Dense(3, end)])(x),
    "nested twice": lambda x, end: in_a_model(
        keras.Input((7,)), in_a_model(keras.Input((7,)), keras.layers.Dense(3, end))
    )(keras.layers.Identity()(x)),
    "without a graph": lambda x, end: WithoutGraph(keras.layers.Dense(3, end))(x),
    "a layer of each token": lambda x, end: keras.layers.Reshape((3,))(
        keras.layers.TimeDistributed(keras.layers.Dense(3, end))(keras.layers.Reshape((1, 7))(x))
    ),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_softmax_is_found_wherever_the_output_is_made(classifier, end):
    x = keras.Input((7,))
    soft, logits = (keras.Model(x, ENDS[end](x, activation), name="soft") for activation in ("softmax", None))
    with pytest.raises(ValueError, match=r"The student 'soft' ends in a softmax.*activation=None"):
        Distiller(soft, classifier(), [SOFT])
    with pytest.raises(ValueError, match=r"The teacher 'soft' ends in a softmax"):
        Distiller(classifier(), soft, [SOFT])
    Distiller(logits, logits, [SOFT])


def test_a_softmax_on_the_way_and_log_probabilities_are_no_probabilities(classifier):
    x = keras.Input((7,))
    hidden = keras.layers.Dense(5, "softmax")(x)
    for output in (keras.layers.Dense(3)(hidden), keras.layers.Dense(3, "log_softmax")(x), ops.log(hidden)):
        student = keras.Model(x, output)
        assert Distiller(student, classifier(), [SOFT]).student is student


def test_a_distiller_is_not_serialised(classifier, tmp_path):
    with pytest.raises(ValueError, match=r"would drag the teacher along. Use distiller.save\(path\)"):
        Distiller(classifier(), classifier(), [SOFT]).get_config()


def test_keras_distribution_is_refused_where_it_does_nothing(classifier):
    mesh = keras.distribution.DeviceMesh((1,), ["batch"], ["cpu:0"])
    distiller = Distiller(classifier(), classifier(), [SOFT])
    keras.distribution.set_distribution(keras.distribution.DataParallel(device_mesh=mesh))
    try:
        with pytest.raises(ValueError, match=r"set to DataParallel, which does nothing.*set_distribution\(None\)"):
            distiller.compile("sgd")
    finally:
        keras.distribution.set_distribution(None)
    distiller.compile("sgd")


def test_several_workers_are_refused():
    strategy = object.__new__(tf.distribute.MultiWorkerMirroredStrategy)  # a real one would have to wait for workers
    with pytest.raises(ValueError, match=r"MultiWorkerMirroredStrategy doesn't work.*Use tf.distribute.MirroredStr"):
        refuse_what_keras_breaks(SimpleNamespace(distribute_strategy=strategy))
