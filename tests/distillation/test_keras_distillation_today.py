"""What keras.distillation still gets wrong, by its number in our list: a test that fails here is good news.

Then they have mended it: say so in the docs, and delete the test. Number 8 is in test_peer_defects.py, with ours.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.distillation import Distiller, FeatureDistillation, LogitsDistillation

RIGHT = keras.losses.KLDivergence()
"""The loss object with which LogitsDistillation does what its name says."""


def distilled(student, teacher, losses=None, student_loss_weight=0.5, loss=None, **options):
    distiller = Distiller(
        teacher, student, losses or LogitsDistillation(2.0, RIGHT), student_loss_weight=student_loss_weight, **options
    )
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile("sgd", loss=loss, run_eagerly=True)
    return distiller


def evaluated(distiller, *data, **options):
    return distiller.evaluate(*data, batch_size=64, return_dict=True, verbose=0, **options)


def features(student_layer="hidden", teacher_layer="hidden", loss="mse"):
    return FeatureDistillation(loss, teacher_layer_name=teacher_layer, student_layer_name=student_layer)


def test_01_the_default_loss_is_no_divergence():
    teacher, student = np.array([[1.0, 2.0, 4.0]], "float32"), np.array([[3.0, 1.0, 0.0]], "float32")
    right = LogitsDistillation(temperature=2.0, loss=RIGHT).compute_loss(teacher, student)
    default = LogitsDistillation(temperature=2.0).compute_loss(teacher, student)
    assert abs(float(default) - float(right)) > 1


def test_02_confident_disagreement_is_clipped_and_has_no_gradient():
    far = tf.constant([[80.0, 0.0, -80.0]])
    with tf.GradientTape() as tape:
        student = -far
        tape.watch(student)
        value = LogitsDistillation(temperature=1.0, loss=RIGHT).compute_loss(far, student)
    assert value < 17  # the true value is 160
    np.testing.assert_array_equal(tape.gradient(value, student), np.zeros((1, 3)))


def test_03_padding_changes_both_terms(tagger):
    distiller = distilled(tagger(), tagger(), loss="sparse_categorical_crossentropy")
    ids, labels = np.array([[3, 5, 7]], "int32"), np.array([[1, 0, 4]], "int32")
    short = evaluated(distiller, ids, labels)
    long = evaluated(distiller, *(np.pad(array, ((0, 0), (0, 30))) for array in (ids, labels)))
    for name in ("distillation_loss", "student_loss"):
        assert abs(long[name] / short[name] - 1) > 0.01


def test_04_sample_weights_do_not_count(classifier, rows):
    distiller = distilled(classifier(), classifier())
    weighted = evaluated(distiller, *rows, sample_weight=np.zeros(len(rows[0])))
    assert weighted == evaluated(distiller, *rows)
    assert weighted["loss"] > 0


def test_05_added_losses_are_dropped(classifier, rows):
    student = classifier(kernel_regularizer=keras.regularizers.L2(10.0))
    distiller = distilled(student, classifier())
    logs = evaluated(distiller, *rows)
    assert logs["loss"] < float(sum(distiller.losses))


class Counted(keras.layers.Layer):
    """Identity that counts its calls and notes whether it was training."""

    def __init__(self):
        super().__init__(name="hidden")
        self.seen = []

    def call(self, x, training=False):
        self.seen.append(bool(training))
        return x


def test_06_07_the_student_runs_twice_and_as_in_training_even_when_evaluated(rows):
    inputs, layer = keras.Input((7,)), Counted()
    student = keras.Model(inputs, keras.layers.Dense(3)(layer(inputs)))
    other = keras.Input((7,))
    teacher = keras.Model(other, keras.layers.Dense(3)(Counted()(other)))
    distiller = distilled(student, teacher, [features()])
    layer.seen.clear()
    evaluated(distiller, *rows)
    assert layer.seen == [False, True]


def test_09_the_name_of_a_student_layer_alone_is_ignored(classifier, rows):
    student, teacher = classifier(units=3), classifier()
    distiller = distilled(student, teacher, FeatureDistillation("mse", student_layer_name="hidden"))
    got = evaluated(distiller, *rows)["distillation_loss"]
    assert got == pytest.approx(np.mean(np.square(student(rows[0]) - teacher(rows[0]))), rel=1e-5)


@pytest.mark.parametrize("loss", ["mse", "cosine_similarity"])
def test_10_unequal_widths_are_refused(classifier, rows, loss):
    distiller = distilled(classifier(units=5), classifier(units=11), features(loss=loss))
    with pytest.raises((ValueError, tf.errors.InvalidArgumentError), match="Incompatible shapes"):
        evaluated(distiller, *rows)


def test_11_a_teacher_of_another_precision_is_refused(classifier):
    with pytest.raises(ValueError, match="output dtypes must match"):
        distilled(classifier(), classifier(dtype="mixed_float16"))


def test_12_layers_of_a_nested_backbone_are_not_found(classifier):
    inputs = keras.Input((7,))
    teacher = keras.Model(inputs, keras.layers.Dense(3)(classifier(name="backbone")(inputs)))
    for name in ("hidden", "backbone/hidden"):
        with pytest.raises(ValueError, match="No such layer"):
            distilled(classifier(), teacher, features(teacher_layer=name))


class Subclassed(keras.Model):
    """Has no graph."""

    def __init__(self):
        super().__init__()
        self.hidden, self.head = keras.layers.Dense(5), keras.layers.Dense(3)

    def call(self, x):
        return self.head(self.hidden(x))


def test_13_features_of_subclassed_models_are_refused():
    with pytest.raises(ValueError, match="requires Functional or Sequential"):
        distilled(Subclassed(), Subclassed(), features())


def test_14_unequal_classes_are_refused_for_features_alone(classifier):
    with pytest.raises(ValueError, match="output shapes are incompatible"):
        distilled(classifier(classes=3), classifier(classes=5), features())


def test_15_16_the_teacher_is_saved_and_the_loaded_distiller_does_not_train(classifier, rows, tmp_path):
    teacher = classifier(units=4999)
    distiller = distilled(classifier(), teacher)
    distiller.fit(*rows, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    assert (tmp_path / "distiller.keras").stat().st_size > 4 * teacher.count_params()
    with pytest.warns(UserWarning, match="compile"):
        again = keras.models.load_model(tmp_path / "distiller.keras")
    with pytest.raises(AttributeError, match="_student_loss"):
        again.fit(*rows, verbose=0)


def test_17_a_loss_on_labels_is_asked_for_where_it_has_no_weight(classifier):
    distiller = Distiller(classifier(), classifier(), LogitsDistillation(2.0, RIGHT), student_loss_weight=0.0)
    with pytest.raises(ValueError, match="'loss' cannot be `None`"):
        distiller.compile("sgd")


def test_18_the_terms_are_lumped_together_and_the_loss_is_there_twice(classifier, rows):
    distiller = distilled(classifier(), classifier(), [LogitsDistillation(2.0, RIGHT), features()])
    assert sorted(evaluated(distiller, *rows)) == ["distillation_loss", "loss", "student_loss", "total_loss"]


def test_19_the_weight_of_a_single_loss_is_dropped(classifier):
    distiller = distilled(classifier(), classifier(), distillation_loss_weights=[0.1])
    assert distiller.distillation_loss_weights == [1.0]


def test_20_the_temperature_cannot_change_while_fit_runs(classifier, rows):
    with pytest.raises(ValueError, match="temperature must be a number"):
        LogitsDistillation(keras.Variable(2.0), RIGHT)
    kl = LogitsDistillation(2.0, RIGHT)
    distiller = Distiller(classifier(), classifier(), kl)
    distiller.compile("sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    before = evaluated(distiller, *rows)
    kl.temperature = 5.0
    assert evaluated(distiller, *rows) == before


def test_21_the_loss_of_their_examples_takes_logits_for_probabilities(classifier, rows):
    student = classifier()
    right, wrong = distilled(student, classifier()), distilled(student, classifier())
    wrong.compile("sgd", loss="sparse_categorical_crossentropy", run_eagerly=True)
    difference = evaluated(wrong, *rows)["student_loss"] - evaluated(right, *rows)["student_loss"]
    assert abs(difference) > 0.1


def test_22_the_callers_teacher_is_frozen(classifier):
    teacher = classifier()
    distiller = distilled(classifier(), teacher)
    assert not teacher.trainable
    teacher.trainable = True
    assert {id(w) for w in teacher.weights} <= {id(w) for w in distiller.trainable_weights}


def test_23_the_message_about_a_wrong_structure_crashes(classifier, rows):
    distiller = distilled(classifier(), classifier(), features(loss=["mse", "mse"]))
    with pytest.raises(AttributeError, match="structure"):
        evaluated(distiller, *rows)


def test_24_neither_several_teachers_nor_recorded_logits_are_taken(classifier):
    for teacher in ([classifier(), classifier()], None):
        with pytest.raises(ValueError, match=r"Teacher must be a keras\.Model"):
            distilled(classifier(), teacher)
