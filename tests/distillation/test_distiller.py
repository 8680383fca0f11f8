"""The Distiller's step: what it trains on, what it records, what it leaves alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Needs,
    Outputs,
    RecordedTeacher,
    needing,
    soft_targets,
    true_labels,
)

LABELS = LossTerm("true_labels", 1.0, true_labels)
SOFT = LossTerm("soft_targets", 1.0, soft_targets(2.0))


def mixed(alpha, temperature=2.0):
    return [
        LossTerm("true_labels", alpha, true_labels),
        LossTerm("soft_targets", 1 - alpha, soft_targets(temperature)),
    ]


def compiled(student, teacher, terms, optimizer=None, run_eagerly=True, **options):
    """Eager by default: tracing a graph takes longer than these few steps. test_distiller_in_keras has the graphs."""
    distiller = Distiller(student, teacher, terms)
    distiller.compile(optimizer or keras.optimizers.SGD(0.5), run_eagerly=run_eagerly, **options)
    return distiller


def weights_of(model):
    return [variable.numpy().copy() for variable in model.variables]


def assert_same_weights(left, right, tolerance=0.0):
    for a, b in zip(weights_of(left), weights_of(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def numpy_mean_losses(student_logits, teacher_logits, labels, sample_weight, temperature):
    """Weighted means of cross-entropy over labelled rows and of T^2 KL over all rows, by loops in float64."""
    sums, weights = np.zeros(2), np.zeros(2)
    for q, p, label, weight in zip(student_logits, teacher_logits, labels, sample_weight, strict=True):
        q, p = q.astype("float64"), p.astype("float64")
        soft_q, soft_p = np.exp(q / temperature), np.exp(p / temperature)
        soft_q, soft_p = soft_q / soft_q.sum(), soft_p / soft_p.sum()
        if label != -1:
            sums[0] += weight * (np.log(np.exp(q).sum()) - q[label])
            weights[0] += weight
        sums[1] += weight * temperature**2 * np.sum(soft_p * np.log(soft_p / soft_q))
        weights[1] += weight
    return sums / weights


def test_the_loss_is_the_weighted_sum_of_both_means_by_a_float64_loop(classifier, rows):
    student, teacher, (x, labels) = classifier(), classifier(units=11), rows
    labels = labels.copy()
    labels[::3] = -1
    sample_weight = np.random.default_rng(3).uniform(0, 2, len(x)).astype("float32")
    distiller = compiled(student, teacher, mixed(0.3))
    want = numpy_mean_losses(student(x).numpy(), teacher(x).numpy(), labels, sample_weight, 2.0)
    logs = distiller.evaluate(x, labels, sample_weight=sample_weight, batch_size=len(x), return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["true_labels"], want[0], rtol=1e-5)
    np.testing.assert_allclose(logs["soft_targets"], want[1], rtol=1e-5)
    np.testing.assert_allclose(logs["loss"], 0.3 * want[0] + 0.7 * want[1], rtol=1e-5)
    # The same means whatever the batches: each is weighted by what it counts.
    split = distiller.evaluate(x, labels, sample_weight=sample_weight, batch_size=5, return_dict=True, verbose=0)
    np.testing.assert_allclose([split["true_labels"], split["soft_targets"]], want, rtol=1e-5)


@pytest.mark.parametrize("sample_weighted", [False, True])
def test_alpha_one_is_plain_supervised_training(classifier, rows, sample_weighted):
    x, labels = rows
    weight = np.random.default_rng(3).uniform(0, 2, len(x)).astype("float32") if sample_weighted else None
    student = classifier(kernel_regularizer=keras.regularizers.L2(0.01))
    plain = copy_of(student)
    # Keras' default divides by the number of rows, whatever their weights; a mean divides by the weights.
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight")
    plain.compile(keras.optimizers.AdamW(0.01), loss, metrics=["accuracy"], run_eagerly=True)
    distiller = compiled(student, classifier(), mixed(alpha=1.0), keras.optimizers.AdamW(0.01), metrics=["accuracy"])
    options = {"epochs": 3, "batch_size": 5, "shuffle": False, "verbose": 0, "sample_weight": weight}
    ours, theirs = distiller.fit(x, labels, **options).history, plain.fit(x, labels, **options).history
    assert_same_weights(student, plain, tolerance=1e-6)
    np.testing.assert_allclose(ours["accuracy"], theirs["accuracy"], rtol=1e-6)
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=1e-5)


def test_alpha_zero_ignores_the_labels(classifier, rows):
    x, labels = rows
    student = classifier()
    other, teacher = copy_of(student), classifier()
    compiled(student, teacher, mixed(alpha=0.0)).fit(x, labels, shuffle=False, verbose=0)
    compiled(other, teacher, mixed(alpha=0.0)).fit(x, labels[::-1], shuffle=False, verbose=0)
    assert_same_weights(student, other)


def test_unlabelled_rows_teach_by_the_teacher_alone(classifier, rows):
    x, labels = rows
    student = classifier()
    without_labels, teacher = copy_of(student), classifier()
    logs = compiled(student, teacher, mixed(0.5)).fit(x, np.full_like(labels, -1), shuffle=False, verbose=0)
    plain = compiled(without_labels, teacher, mixed(0.5)).fit(x, shuffle=False, verbose=0)
    assert logs.history["true_labels"] == plain.history["true_labels"] == [0.0]
    assert logs.history["soft_targets"] == plain.history["soft_targets"]
    assert logs.history["soft_targets"][0] > 0
    assert_same_weights(student, without_labels)


def test_metrics_leave_unlabelled_rows_out(classifier, rows):
    x, labels = rows
    student = classifier()
    partly = np.where(np.arange(len(x)) % 2, labels, -1)
    distiller = compiled(student, classifier(), mixed(0.5), metrics=["accuracy"])
    logs = distiller.evaluate(x, partly, batch_size=5, return_dict=True, verbose=0)
    right = np.argmax(student(x), -1) == labels
    np.testing.assert_allclose(logs["accuracy"], np.mean(right[1::2]), rtol=1e-6)


def test_unlabelled_training_can_be_validated_on_labelled_rows(classifier, rows):
    x, labels = rows
    distiller = compiled(classifier(), classifier(), mixed(0.5), metrics=["accuracy"])
    history = distiller.fit(x, validation_data=(x, labels), epochs=2, verbose=0).history
    right = np.argmax(distiller.student(x), -1) == labels
    np.testing.assert_allclose(history["val_accuracy"][-1], np.mean(right), rtol=1e-6)
    assert history["accuracy"] == [0.0, 0.0]
    assert history["val_true_labels"][-1] > 0


def test_logs_name_the_loss_each_term_and_the_metrics(classifier, rows):
    distiller = compiled(classifier(), classifier(), mixed(0.5), metrics=["accuracy"])
    history = distiller.fit(*rows, validation_data=rows, verbose=0).history
    names = ["accuracy", "loss", "true_labels", "soft_targets"]
    assert sorted(history) == sorted([*names, *(f"val_{name}" for name in names)])
    assert len(distiller.evaluate(*rows, verbose=0)) == len(names)
    assert history["loss"][0] > 0


def test_predict_and_call_give_the_students_logits(classifier, rows):
    student, x = classifier(dropout=0.5), rows[0]
    distiller = compiled(student, classifier(), mixed(0.5))
    np.testing.assert_allclose(distiller.predict(x, verbose=0), student(x), atol=1e-6)
    np.testing.assert_array_equal(distiller(x), student(x))


def test_the_students_regularisation_is_added_once(classifier, rows):
    student = classifier(kernel_regularizer=keras.regularizers.L2(0.1), activity_regularizer="l2")
    distiller = compiled(student, classifier(kernel_regularizer="l2"), mixed(0.5))
    logs = distiller.evaluate(*rows, batch_size=len(rows[0]), return_dict=True, verbose=0)
    student(rows[0])
    extra = float(sum(student.losses))
    assert extra > 0
    np.testing.assert_allclose(logs["loss"], 0.5 * logs["true_labels"] + 0.5 * logs["soft_targets"] + extra, rtol=1e-5)


def test_soft_targets_alone_bring_free_logits_to_the_teachers(rows):
    """600 Adam steps on keras.distillation's default end at 34%."""
    random = np.random.default_rng(0)
    ids, classes = np.arange(199, dtype="int32"), 11

    def table(values):
        inputs = keras.Input((), dtype="int32")
        return keras.Model(inputs, keras.layers.Embedding(len(ids), classes, embeddings_initializer=values)(inputs))

    teacher = table(keras.initializers.Constant(random.normal(size=(len(ids), classes)) * 3))
    student = table("zeros")
    distiller = compiled(student, teacher, [SOFT], keras.optimizers.Adam(0.1), False, steps_per_execution=100)
    distiller.fit(tf.data.Dataset.from_tensors(ids).repeat(400), shuffle=False, verbose=0)
    agreement = np.mean(np.argmax(student(ids), -1) == np.argmax(teacher(ids), -1))
    assert distiller.optimizer.iterations.numpy() == 400
    assert agreement >= 0.99


class Noisy(keras.layers.Layer):
    """Everything that a careless forward pass would change: statistics, a seed, and it counts its calls."""

    def __init__(self):
        super().__init__(name="noisy")
        self.norm, self.dropout, self.calls = keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=3), 0

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x, training=False):
        self.calls += 1
        return self.dropout(self.norm(x, training=training), training=training)


def noisy_model():
    inputs, noisy = keras.Input((7,)), Noisy()
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(noisy(inputs)))
    noisy.calls = 0
    return model, noisy


def test_the_teacher_is_bit_identical_after_fit_and_the_callers_models_are_as_they_were(rows, fingerprint):
    teacher, _ = noisy_model()
    student, _ = noisy_model()
    teacher.compile("adam", "mse")
    before = (
        fingerprint(teacher),
        teacher.get_config(),
        teacher.loss,
        teacher.optimizer,
        len(teacher.optimizer.variables),
    )
    flags = [layer.trainable for model in (student, teacher) for layer in model.layers]
    untrained = fingerprint(student)
    compiled(student, teacher, mixed(0.5), "adam").fit(*rows, epochs=2, validation_data=rows, verbose=0)
    after = (
        fingerprint(teacher),
        teacher.get_config(),
        teacher.loss,
        teacher.optimizer,
        len(teacher.optimizer.variables),
    )
    assert after == before
    assert [layer.trainable for model in (student, teacher) for layer in model.layers] == flags
    assert not student.compiled
    assert fingerprint(student) != untrained


def test_the_teachers_weights_are_nowhere_in_the_distiller(classifier, rows):
    student, teacher = classifier(), classifier(units=11)
    distiller = compiled(student, teacher, mixed(0.5), "adam", metrics=["accuracy"])
    distiller.fit(*rows, verbose=0)
    theirs = {id(variable) for variable in teacher.variables}
    ours = [*distiller.variables, *distiller.optimizer.variables, *distiller.metrics_variables]
    assert not theirs & {id(variable) for variable in ours}
    assert distiller.count_params() == student.count_params()
    assert len(distiller.optimizer.variables) == 2 * len(student.weights) + 2  # two moments; steps, learning rate


def test_each_side_runs_once_a_step_however_many_terms_ask(rows):
    (teacher, teacher_noise), (student, student_noise) = noisy_model(), noisy_model()

    @needing(student_taps=["logits", "noisy"], teacher_taps=["logits"])
    def distance(labels, student, teacher):
        return ops.mean(ops.square(student.taps["logits"] - teacher.taps["logits"]), -1)

    terms = [*mixed(0.5), LossTerm("near", 1.0, distance), LossTerm("nearer", 1.0, distance)]
    distiller = compiled(student, teacher, terms)
    teacher_noise.calls = student_noise.calls = 0
    distiller.fit(*rows, batch_size=len(rows[0]), verbose=0)
    assert (teacher_noise.calls, student_noise.calls) == (1, 1)
    distiller.evaluate(*rows, batch_size=len(rows[0]), verbose=0)
    assert (teacher_noise.calls, student_noise.calls) == (2, 2)


def test_a_student_equal_to_its_teacher_is_evaluated_at_zero_with_dropout_off(classifier, rows):
    student = classifier(dropout=0.5)
    distiller = compiled(student, copy_of(student), [SOFT])
    assert distiller.evaluate(*rows, return_dict=True, verbose=0)["soft_targets"] == 0.0


class Projected(keras.layers.Layer):
    """A loss with weights: squared distance of the teacher's hidden state from a projection of the student's."""

    def __init__(self, width):
        super().__init__()
        self.needs = Needs(student_taps=("hidden",), teacher_taps=("hidden",))
        self.projection = keras.layers.Dense(width, use_bias=False)

    def call(self, labels, student, teacher):
        return ops.mean(ops.square(self.projection(student.taps["hidden"]) - teacher.taps["hidden"]), axis=-1)


def test_a_loss_that_owns_weights_is_stepped_with_the_student(classifier, rows):
    student, teacher, loss = classifier(units=5), classifier(units=11), Projected(11)
    distiller = compiled(student, teacher, [SOFT, LossTerm("hidden", 1.0, loss)], "adam")
    history = distiller.fit(*rows, epochs=1, verbose=0).history
    first = loss.projection.kernel.numpy().copy()
    history = distiller.fit(*rows, epochs=5, verbose=0).history
    assert not np.array_equal(loss.projection.kernel, first)
    assert history["hidden"][-1] < history["hidden"][0]
    assert len(distiller.trainable_weights) == len(student.trainable_weights) + 1


def test_frozen_layers_of_the_student_stay(classifier, rows):
    student = classifier()
    student.get_layer("hidden").trainable = False
    before = student.get_layer("hidden").get_weights()
    compiled(student, classifier(), mixed(0.5)).fit(*rows, verbose=0)
    np.testing.assert_array_equal(before[0], student.get_layer("hidden").get_weights()[0])


def test_recorded_logits_train_exactly_as_the_live_teacher(classifier, rows):
    x, labels = rows
    student, teacher = classifier(), classifier(units=11)
    other = copy_of(student)
    options = {"epochs": 2, "batch_size": 5, "verbose": 0, "shuffle": False}
    live = compiled(student, teacher, mixed(0.5)).fit(x, labels, **options).history
    batch = {"features": x, "teacher_logits": teacher(x).numpy()}
    distiller = compiled(other, RecordedTeacher(), mixed(0.5))
    recorded = distiller.fit(batch, labels, validation_data=(batch, labels), **options).history
    np.testing.assert_allclose(recorded["loss"], live["loss"], rtol=1e-5)
    assert_same_weights(student, other, tolerance=1e-6)
    np.testing.assert_allclose(distiller.predict(batch, verbose=0), other(x), atol=1e-6)
    np.testing.assert_allclose(distiller.predict(x, verbose=0), other(x), atol=1e-6)


def test_padding_changes_nothing_in_a_token_model(tagger):
    student, teacher = tagger(), tagger()
    random = np.random.default_rng(3)
    ids = random.integers(1, 13, (5, 11)).astype("int32")
    ids[1, 4:] = 0
    labels = np.where(ids > 0, random.integers(0, 5, ids.shape), 0).astype("int32")
    distiller = compiled(student, teacher, mixed(0.5), metrics=["accuracy"])
    short = distiller.evaluate(ids, labels, return_dict=True, verbose=0)
    padded = [np.pad(array, ((0, 0), (0, 30))) for array in (ids, labels)]
    np.testing.assert_allclose(
        list(distiller.evaluate(*padded, return_dict=True, verbose=0).values()), list(short.values()), rtol=1e-6
    )
    real = ids > 0
    right = np.argmax(student(ids), -1)[real] == labels[real]
    np.testing.assert_allclose(short["accuracy"], np.mean(right), rtol=1e-6)


def test_eager_graph_and_xla_compute_the_same_loss(classifier, rows):
    x, labels = rows
    distiller = compiled(classifier(), classifier(units=11), mixed(0.3))
    weight = np.linspace(0, 2, len(x)).astype("float32")
    eager = distiller.compute_loss(x, labels, None, weight, training=False)
    for jit in (False, True):
        graph = tf.function(lambda: distiller.compute_loss(x, labels, None, weight, training=False), jit_compile=jit)
        np.testing.assert_allclose(graph(), eager, rtol=1e-6)
    given = Outputs(distiller.student(x), {})
    np.testing.assert_allclose(distiller.compute_loss(x, labels, given, weight), eager, rtol=1e-6)
    logs = distiller.evaluate(x, labels, sample_weight=weight, batch_size=len(x), return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["loss"], eager, rtol=1e-6)


def test_the_teachers_mask_serves_a_student_that_has_none(tagger):
    token_ids = keras.Input((None,), dtype="int32", name="token_ids")
    student = keras.Model(token_ids, keras.layers.Dense(5)(keras.layers.Embedding(13, 3)(token_ids)))
    distiller = compiled(student, tagger(), mixed(0.5), metrics=["accuracy"])
    ids, labels = np.array([[3, 5, 7]], "int32"), np.array([[1, 0, 4]], "int32")
    short = distiller.evaluate(ids, labels, return_dict=True, verbose=0)
    padded = [np.pad(array, ((0, 0), (0, 30))) for array in (ids, labels)]
    assert distiller.evaluate(*padded, return_dict=True, verbose=0) == pytest.approx(short, rel=1e-6)


@pytest.mark.parametrize("known", [5, 3])
def test_metrics_take_one_label_a_class_and_leave_unlabelled_rows_out(classifier, rows, known):
    x, _ = rows
    student, teacher = classifier(name="student"), classifier(name="teacher")
    classes = student.output.shape[-1]
    labels = np.eye(classes, dtype="float32")[np.arange(len(x)) % classes]
    labels[known:] = np.nan
    distiller = Distiller(student, teacher, [LossTerm("soft_targets", 1.0, soft_targets(2.0))])
    distiller.compile("sgd", metrics=["categorical_accuracy"])
    got = distiller.evaluate(x, labels, return_dict=True, verbose=0)["categorical_accuracy"]
    right = student.predict(x, verbose=0).argmax(axis=1) == np.arange(len(x)) % classes
    assert got == pytest.approx(right[:known].mean())
