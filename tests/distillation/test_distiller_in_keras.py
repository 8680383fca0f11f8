"""The Distiller among the rest of Keras: precision, XLA, callbacks, files."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels


def terms(alpha=0.5):
    return [
        LossTerm("true_labels", alpha, true_labels),
        LossTerm("soft_targets", 1 - alpha, soft_targets(2.0)),
    ]


def compiled(student, teacher, optimizer="adam", run_eagerly=True, **options):
    """Eager by default: tracing a graph takes longer than these few steps."""
    distiller = Distiller(student, teacher, terms())
    distiller.compile(optimizer, run_eagerly=run_eagerly, **options)
    return distiller


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("options", [{"steps_per_execution": 2}, {"jit_compile": True}], ids=["graph", "xla"])
def test_a_graph_and_xla_train_as_eager_code_does(classifier, rows, options):
    x, labels = rows[0], np.where(np.arange(len(rows[1])) % 3, rows[1], -1)
    student, teacher = classifier(), classifier()
    other = copy_of(student)
    fit = {"epochs": 2, "batch_size": 6, "shuffle": False, "verbose": 0}
    eager = compiled(student, teacher, keras.optimizers.SGD(0.5), metrics=["accuracy"]).fit(x, labels, **fit)
    graph = compiled(other, teacher, keras.optimizers.SGD(0.5), run_eagerly=False, metrics=["accuracy"], **options)
    history = graph.fit(x, labels, **fit).history
    for name, values in eager.history.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-5, err_msg=name)
    for a, b in zip(student.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_weights_and_losses(classifier, rows, policy):
    student = classifier(dtype=policy)
    distiller = compiled(student, classifier(dtype="float32"), keras.optimizers.SGD(0.5))
    loss = distiller.compute_loss(*rows, training=False)
    history = distiller.fit(*rows, epochs=3, verbose=0).history
    assert loss.dtype == "float32"
    assert {weight.dtype for weight in student.weights} == {"float32"}
    assert student(rows[0]).dtype == policy.removeprefix("mixed_")
    assert history["loss"][-1] < history["loss"][0]


def test_float16_training_scales_the_loss_and_recovers_from_overflow(classifier, rows):
    student = classifier(dtype="mixed_float16")
    exact = classifier()
    exact.set_weights(student.get_weights())
    teacher = classifier()
    scaling = compiled(student, teacher, keras.optimizers.SGD(0.5), run_eagerly=False)
    assert isinstance(scaling.optimizer, keras.optimizers.LossScaleOptimizer)
    scaling.fit(*rows, batch_size=len(rows[0]), shuffle=False, verbose=0)
    compiled(exact, teacher, keras.optimizers.SGD(0.5)).fit(*rows, batch_size=len(rows[0]), shuffle=False, verbose=0)
    for a, b in zip(student.get_weights(), exact.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
    scaling.optimizer.dynamic_scale.assign(2.0**60)  # any gradient overflows float16 now
    before = student.get_weights()
    scaling.fit(*rows, batch_size=len(rows[0]), verbose=0)
    assert scaling.optimizer.dynamic_scale.numpy() == 2.0**59
    for a, b in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_student_in_float16_inside_another_model_is_trained_with_a_scaled_loss(classifier, rows):
    inputs = keras.Input((7,))
    inner = keras.Model(inputs, keras.Sequential([classifier(dtype="mixed_float16")], name="deeper")(inputs))
    student = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(inner(inputs)))
    distiller = compiled(student, classifier())
    assert isinstance(distiller.optimizer, keras.optimizers.LossScaleOptimizer)
    assert distiller.dtype_policy.name == "mixed_float16"  # what several replicas refuse
    assert not isinstance(compiled(classifier(), inner).optimizer, keras.optimizers.LossScaleOptimizer)
    assert np.isfinite(distiller.fit(*rows, verbose=0).history["loss"]).all()


def test_gradient_accumulation_equals_one_large_batch(classifier, rows):
    x, labels = rows[0][:20], rows[1][:20]
    student, teacher = classifier(), classifier()
    other = copy_of(student)
    compiled(student, teacher, keras.optimizers.SGD(0.5)).fit(x, labels, batch_size=20, shuffle=False, verbose=0)
    optimizer = keras.optimizers.SGD(0.5, gradient_accumulation_steps=4)
    compiled(other, teacher, optimizer).fit(x, labels, batch_size=5, shuffle=False, verbose=0)
    for a, b in zip(student.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_weights_and_temperature_can_be_changed_while_fit_runs(classifier, rows):
    weight, temperature = keras.Variable(0.0), keras.Variable(1.0)
    student, teacher = classifier(), classifier()
    distiller = Distiller(student, teacher, [LossTerm("soft", weight, soft_targets(temperature))])
    distiller.compile(keras.optimizers.SGD(0.0))

    class Anneal(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            weight.assign(float(epoch))
            temperature.assign(1.0 + epoch)

    history = distiller.fit(*rows, epochs=3, callbacks=[Anneal()], verbose=0).history
    means = [float(distiller.compute_loss(rows[0], training=False))]
    assert history["loss"][0] == 0.0
    np.testing.assert_allclose(history["loss"], np.arange(3) * history["soft"], rtol=1e-5)
    assert history["soft"][0] != history["soft"][2]
    np.testing.assert_allclose(means, history["loss"][2], rtol=1e-5)


def test_callbacks_work_on_the_student(classifier, rows, tmp_path):
    student, teacher = classifier(), classifier(units=11)
    distiller = compiled(student, teacher, keras.optimizers.Adam(0.01), metrics=["accuracy"])
    file = tmp_path / "best.keras"
    history = distiller.fit(
        *rows,
        epochs=4,
        verbose=0,
        validation_data=rows,
        callbacks=[
            keras.callbacks.ModelCheckpoint(file, monitor="val_loss", save_best_only=True),
            keras.callbacks.EarlyStopping(monitor="val_loss", patience=0, restore_best_weights=True),
            keras.callbacks.TensorBoard(tmp_path / "logs"),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        ],
    ).history
    saved = keras.models.load_model(file)
    assert saved.count_params() == student.count_params()
    assert (tmp_path / "log.csv").read_text().startswith("epoch,accuracy,loss,soft_targets,true_labels,val_accuracy")
    assert history["val_loss"] == sorted(history["val_loss"], reverse=True)
    np.testing.assert_allclose(saved(rows[0]), student(rows[0]), atol=1e-6)


def test_backup_and_restore_goes_on_with_the_optimizers_state(classifier, rows, tmp_path):
    student, teacher = classifier(), classifier()
    whole, cut = copy_of(student), copy_of(student)
    fit = {"batch_size": 5, "shuffle": False, "verbose": 0}
    compiled(whole, teacher).fit(*rows, epochs=4, **fit)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    with pytest.raises(KeyboardInterrupt):
        compiled(cut, teacher).fit(*rows, epochs=4, callbacks=[backup, Stop()], **fit)
    again = copy_of(student)
    restored = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    compiled(again, teacher).fit(*rows, epochs=4, callbacks=[restored], **fit)
    for a, b in zip(whole.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_moving_averages_are_the_students(classifier, rows):
    student = classifier()
    distiller = compiled(student, classifier(), keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5))
    distiller.fit(*rows, epochs=2, verbose=0, callbacks=[keras.callbacks.SwapEMAWeights()], validation_data=rows)
    assert len(distiller.optimizer.variables) == 3 * len(student.weights) + 2


def test_the_saved_student_loads_in_a_fresh_process_that_knows_no_distiller(forked, classifier, rows, tmp_path):
    student = classifier()
    distiller = compiled(student, classifier(units=211))
    distiller.fit(*rows, verbose=0)
    distiller.save(tmp_path / "student.keras")
    np.save(tmp_path / "x.npy", rows[0])
    program = (
        "import sys, keras, numpy as np; model = keras.models.load_model(sys.argv[1] + '/student.keras');"
        "np.save(sys.argv[1] + '/y.npy', model(np.load(sys.argv[1] + '/x.npy')));"
        "assert 'keras_transformer' not in sys.modules; print(model.count_params())"
    )
    done = forked.run(program, tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == student.count_params()
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), student(rows[0]), atol=1e-6)


def test_files_are_as_large_as_the_student_alone(classifier, rows, tmp_path):
    student, teacher = classifier(), classifier(units=997)
    distiller = compiled(student, teacher)
    distiller.fit(*rows, verbose=0)
    student.save(tmp_path / "alone.keras")
    distiller.save(tmp_path / "distiller.keras")
    assert (tmp_path / "distiller.keras").stat().st_size == (tmp_path / "alone.keras").stat().st_size
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    teacher_bytes = 4 * teacher.count_params()
    assert (tmp_path / "distiller.weights.h5").stat().st_size < teacher_bytes
    distiller.export(tmp_path / "served", verbose=False)
    exported = tf.saved_model.load(tmp_path / "served")
    np.testing.assert_allclose(exported.serve(rows[0]), student(rows[0]), atol=1e-6)
    assert sum(variable.shape.num_elements() for variable in exported.variables) == student.count_params()


def test_numpy_tf_data_and_generators_train_the_same(classifier, rows):
    x, labels = rows[0][:20], rows[1][:20]
    students = [classifier()]
    students += [copy_of(students[0]) for _ in range(2)]
    teacher = classifier()
    batches = [(x[i : i + 5], labels[i : i + 5]) for i in range(0, 20, 5)]
    compiled(students[0], teacher).fit(x, labels, batch_size=5, shuffle=False, verbose=0)
    compiled(students[1], teacher).fit(
        tf.data.Dataset.from_tensor_slices((x, labels)).batch(5), shuffle=False, verbose=0
    )
    compiled(students[2], teacher).fit((batch for batch in batches), steps_per_epoch=4, shuffle=False, verbose=0)
    for other in students[1:]:
        for a, b in zip(students[0].get_weights(), other.get_weights(), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)


def test_the_same_seed_gives_the_same_history_twice(classifier, rows):
    histories = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        distiller = compiled(classifier(dropout=0.3), classifier(units=11))
        histories.append(distiller.fit(*rows, epochs=3, batch_size=5, verbose=0).history)
    assert histories[0] == histories[1]
