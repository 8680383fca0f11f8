"""The logs: a key for each thing, none twice, and the same keys whether a batch has labels or not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    MutualLearner,
    UncertaintyWeighting,
    soft_multi_labels,
    soft_targets,
    true_labels,
)
from keras_transformer.training.checkpoints import resumable_fit

SOFT = LossTerm("soft", 1.0, soft_multi_labels(2.0))


def compiled(student, teacher, metrics, terms=(SOFT,), **options):
    distiller = Distiller(student, teacher, terms)
    distiller.compile("sgd", metrics=metrics, **{"run_eagerly": True, **options})
    return distiller


def multi_labels(rows, classes=3):
    return np.random.default_rng(7).integers(0, 2, (rows, classes)).astype("float32")


METRICS = {
    "binary_accuracy": lambda: "binary_accuracy",
    "categorical_accuracy": lambda: "categorical_accuracy",
    "mse": lambda: "mse",
    "mae": lambda: "mae",
    "auc": lambda: keras.metrics.AUC(multi_label=True, num_labels=3, name="auc"),
    "precision": lambda: keras.metrics.Precision(name="precision"),
    "f1": lambda: keras.metrics.F1Score(average="macro", name="f1"),
    "r2": lambda: keras.metrics.R2Score(name="r2"),
    "top_k": lambda: keras.metrics.TopKCategoricalAccuracy(2, name="top_k"),
}


@pytest.mark.parametrize("name", METRICS)
def test_unlabelled_rows_are_fitted_with_any_metric_and_validated_on_many_labels_a_row(classifier, rows, name):
    x, _ = rows
    y = multi_labels(len(x))
    distiller = compiled(classifier(), classifier(), [METRICS[name]()])
    assert distiller.fit(x, verbose=0).history[name] == [0.0]
    history = distiller.fit(x, validation_data=(x, y), epochs=2, batch_size=9, verbose=0).history
    assert sorted(history) == sorted(["loss", "soft", name, "val_loss", "val_soft", f"val_{name}"])
    assert len(history[name]) == 2
    metric = keras.metrics.get(METRICS[name]())
    if isinstance(metric, keras.metrics.Metric):
        metric.update_state(y, distiller.student(x))
        want = metric.result()
    else:
        want = np.mean(metric(y, distiller.student(x)))
    np.testing.assert_allclose(history[f"val_{name}"][-1], want, rtol=1e-4)


def test_unlabelled_rows_are_fitted_in_a_graph_too(classifier, rows):
    x, _ = rows
    y = multi_labels(len(x))
    distiller = compiled(classifier(), classifier(), ["accuracy"], run_eagerly=False)
    history = distiller.fit(x, validation_data=(x, y), epochs=2, verbose=0).history
    right = np.argmax(distiller.student(x), -1) == np.argmax(y, -1)
    np.testing.assert_allclose(history["val_accuracy"][-1], np.mean(right), rtol=1e-6)
    assert history["accuracy"] == [0.0, 0.0]


def test_a_batch_without_labels_leaves_the_metrics_as_they_are(classifier, rows):
    distiller = compiled(classifier(), classifier(), ["accuracy"])
    before = distiller.test_on_batch(*rows, return_dict=True)["accuracy"]
    assert before > 0
    logs = distiller.test_step((tf.constant(rows[0]),))  # test_on_batch would start the metrics anew
    assert float(logs["accuracy"]) == before


def test_a_run_on_unlabelled_rows_that_was_cut_off_goes_on_with_its_metrics(classifier, rows, tmp_path):
    x, labels = rows
    student, teacher = classifier(), classifier()

    def run(*callbacks):
        distiller = compiled(keras.models.clone_model(student), teacher, ["accuracy"], run_eagerly=False)
        data = tf.data.Dataset.from_tensor_slices(x).batch(len(x)).repeat()
        sizes = {"epochs": 2, "steps_per_epoch": 1, "validation_data": (x, labels), "callbacks": callbacks}
        return resumable_fit(distiller, lambda *epochs: data, folder=tmp_path / "state", **sizes)

    class Stops(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Stops())
    history = run()
    assert history["accuracy"] == [0.0, 0.0]
    assert len(history["val_accuracy"]) == 2


def test_two_students_are_fitted_on_unlabelled_rows_with_any_metric(classifier, rows):
    x, _ = rows
    learner = MutualLearner([classifier(name="a"), classifier(name="b")], [SOFT])
    learner.compile("sgd", metrics=["binary_accuracy"], run_eagerly=True)
    history = learner.fit(x, validation_data=(x, multi_labels(len(x))), verbose=0).history
    keys = ["loss", "a_loss", "a_soft", "a_binary_accuracy", "b_loss", "b_soft", "b_binary_accuracy"]
    assert sorted(history) == sorted([*keys, *(f"val_{key}" for key in keys)])
    assert history["a_binary_accuracy"] == [0.0]
    assert history["val_b_binary_accuracy"][0] > 0


def test_a_metric_with_a_key_that_is_taken_is_refused(classifier):
    terms = [LossTerm("a", 1.0, soft_targets(2.0)), LossTerm("b", 1.0, true_labels)]
    distiller = Distiller(classifier(), classifier(), terms, weighing=UncertaintyWeighting())
    for name, owner in (
        ("loss", "in the logs the sum of all terms"),
        ("a", "also the name of a LossTerm"),
        ("b_weight", "in the logs the learned weight of LossTerm 'b'"),
    ):
        metric = keras.metrics.SparseCategoricalAccuracy(name=name)
        with pytest.raises(ValueError, match=rf"metrics has '{name}', which is {owner}. Rename one of them."):
            distiller.compile("sgd", metrics=[[metric]])
    with pytest.raises(ValueError, match="metrics has the name 'accuracy' twice: names are the keys of the logs"):
        distiller.compile("sgd", metrics=["accuracy", keras.metrics.SparseCategoricalAccuracy(name="accuracy")])
    plain = Distiller(classifier(), classifier(), terms)
    plain.compile("sgd", metrics=[keras.metrics.SparseCategoricalAccuracy(name="b_weight")])  # no weight is logged


def test_a_term_with_the_key_of_a_learned_weight_is_refused(classifier):
    terms = [LossTerm("a", 1.0, soft_targets(2.0)), LossTerm("a_weight", 1.0, true_labels)]
    with pytest.raises(ValueError, match=r"the name 'a_weight', under which the learned weight of LossTerm 'a' is log"):
        Distiller(classifier(), classifier(), terms, weighing=UncertaintyWeighting())
    Distiller(classifier(), classifier(), terms)


@pytest.mark.parametrize("metrics", [[["accuracy"]], {"logits": ["accuracy"]}])
def test_metrics_are_taken_in_any_nesting_that_keras_takes(classifier, rows, metrics):
    logs = compiled(classifier(), classifier(), metrics).fit(*rows, verbose=0).history
    assert sorted(logs) == ["accuracy", "loss", "soft"]
    assert logs["accuracy"][0] > 0
