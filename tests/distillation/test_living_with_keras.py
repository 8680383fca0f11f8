"""A term that owns weights, and what callbacks change, live through all of Keras that `fit` offers."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from keras_transformer.distillation import Distiller, LossTerm, Needs, contrastive, soft_targets, true_labels
from keras_transformer.training.checkpoints import resumable_fit

ROWS, FEATURES, CLASSES, BATCH = 25, 7, 3, 5
EPOCHS, STEPS = 3, ROWS // BATCH


class Projected(keras.layers.Layer):
    """Squared distance of the teacher's hidden state from a dropped-out projection of the student's."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.needs = Needs(("hidden",), ("hidden",))
        self.projection, self.dropout = keras.layers.Dense(11), keras.layers.Dropout(dropout)
        self.projection.build((None, 5))

    def call(self, labels, student, teacher):
        projected = self.dropout(self.projection(student.taps["hidden"]), training=True)
        return ops.mean(ops.square(projected - teacher.taps["hidden"]), axis=-1)


def network(units, dropout=0.0, dtype=None):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(units, "tanh", name="hidden", dtype=dtype)(inputs)
    x = keras.layers.Dropout(dropout)(keras.layers.BatchNormalization(dtype=dtype)(x))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, dtype=dtype)(x))


def rows(seed=5):
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, np.argmax(x @ random.normal(size=(FEATURES, CLASSES)), -1).astype("int32")


def distiller(optimizer=None, dropout=0.0, dtype=None, run_eagerly=True, **options):
    teacher = network(11)
    teacher.set_weights([np.cos(np.arange(w.size)).reshape(w.shape) ** 2 for w in teacher.get_weights()])
    weight, temperature = (keras.Variable(value, trainable=False) for value in (1.0, 4.0))
    terms = [
        LossTerm("true_labels", 0.5, true_labels),
        LossTerm("soft_targets", 0.5, soft_targets(temperature)),
        LossTerm("hidden", weight, Projected(dropout)),
    ]
    made = Distiller(network(5, dropout, dtype), teacher, terms)
    made.compile(optimizer or keras.optimizers.Adam(0.03), metrics=["accuracy"], run_eagerly=run_eagerly, **options)
    return made


def projection_of(made):
    return made.loss_layers[0].projection.kernel


def test_accumulated_gradients_are_those_of_one_large_batch():
    x, labels = (part[:20] for part in rows())
    whole = distiller(keras.optimizers.SGD(0.5))
    parts = distiller(keras.optimizers.SGD(0.5, gradient_accumulation_steps=4), run_eagerly=False)
    for made in (whole, parts):
        made.student.layers[2].trainable = False  # statistics of 20 rows aren't those of 5
    parts.set_weights(whole.get_weights())
    before = projection_of(whole).numpy()
    whole.fit(x, labels, batch_size=20, shuffle=False, verbose=0)
    parts.fit(x, labels, batch_size=5, shuffle=False, verbose=0)
    assert not np.allclose(projection_of(whole), before, atol=1e-3)
    for a, b in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_the_student_and_the_projection_in_float32(policy):
    made = distiller(keras.optimizers.SGD(0.3), dtype=policy)
    assert isinstance(made.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    before = projection_of(made).numpy()
    history = made.fit(*rows(), epochs=4, verbose=0).history
    assert {variable.dtype for variable in made.trainable_variables} == {"float32"}
    assert np.max(np.abs(projection_of(made).numpy() - before)) > 1e-3
    assert history["hidden"][-1] < history["hidden"][0]
    assert history["soft_targets"][-1] < history["soft_targets"][0]


def test_early_stopping_puts_back_the_best_student_and_projection():
    class Worsens(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["val_loss"] = [3.0, 1.0, 2.0][epoch]
            if epoch == 1:
                kept.extend(self.model.get_weights())

    kept, made = [], distiller()
    stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)
    history = made.fit(*rows(), epochs=9, validation_data=rows(6), callbacks=[Worsens(), stopping], verbose=0).history
    assert len(history["loss"]) == 3
    for a, b in zip(made.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(a, b)


class Averages(keras.callbacks.Callback):
    """The moving average of a weight by hand, and the weight while it is evaluated."""

    def __init__(self, weight, momentum):
        super().__init__()
        self.weight, self.momentum, self.mean, self.evaluated = weight, momentum, None, None

    def on_train_batch_end(self, batch, logs=None):
        now = self.weight.numpy().astype("float64")
        self.mean = now if self.mean is None else self.momentum * self.mean + (1 - self.momentum) * now

    def on_test_batch_begin(self, batch, logs=None):
        self.evaluated = self.weight.numpy()


def test_averaged_weights_are_what_is_evaluated_and_written(tmp_path):
    made, file = distiller(keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.7)), tmp_path / "student.keras"
    kernel = made.student.get_layer("hidden").kernel
    averages = Averages(kernel, 0.7)
    callbacks = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True), keras.callbacks.ModelCheckpoint(file), averages]
    made.fit(*rows(), batch_size=5, epochs=2, validation_data=rows(6), callbacks=callbacks, verbose=0)
    for found in (averages.evaluated, kernel, keras.models.load_model(file).get_layer("hidden").kernel):
        np.testing.assert_allclose(found, averages.mean, atol=1e-5)


def test_tensorboard_gets_the_loss_each_term_and_the_metrics(tmp_path):
    distiller().fit(
        *rows(),
        validation_data=rows(6),
        callbacks=[keras.callbacks.TensorBoard(tmp_path, write_graph=False)],
        verbose=0,
    )
    found = {}
    for part in ("train", "validation"):
        log = EventAccumulator(str(tmp_path / part))
        log.Reload()
        found[part] = {tag for tag in log.Tags()["tensors"] if tag.startswith("epoch_")}
    names = {"epoch_loss", "epoch_true_labels", "epoch_soft_targets", "epoch_hidden", "epoch_accuracy"}
    assert found["train"] >= names
    assert found["validation"] == names


class Anneals(keras.callbacks.Callback):
    """Changes weight and temperature by what they are, so a new start with their first values would differ."""

    def on_train_batch_end(self, batch, logs=None):
        for variable in self.model.resumed_variables:
            variable.assign(0.9 * variable)


def batches(first_epoch, epochs, skip):
    """Shuffled anew in each epoch, the same again for the same epoch."""
    x, labels = rows()
    chosen = []
    for epoch in range(first_epoch, first_epoch + epochs):
        order = np.random.default_rng(epoch).permutation(ROWS).reshape(STEPS, BATCH)
        chosen.extend(order[skip if epoch == first_epoch else 0 :])
    return tf.data.Dataset.from_tensor_slices((x[np.array(chosen)], labels[np.array(chosen)]))


def resumable_run(folder, seed, die_at=None):
    """Train; at batch `die_at` be killed as `kill -9` does it."""
    keras.utils.set_random_seed(seed)
    made = distiller(dropout=0.4)

    class Dies(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if int(made.optimizer.iterations) == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    history = resumable_fit(
        made,
        batches,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        folder=folder,
        callbacks=[Anneals(), Dies()],
        validation_data=rows(6),
        every_seconds=0.0,
    )
    state = [*made.variables, *made.optimizer.variables, *made.resumed_variables]
    return history, b"".join(variable.numpy().tobytes() for variable in state)


PROGRAM = f"""
import json, os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_living_with_keras as case
from pathlib import Path

folder = Path(sys.argv[1])

def run(place, seed, die_at=None):
    child = os.fork()  # TensorFlow has been imported and not used, so the child may use it
    if child:
        return os.waitpid(child, 0)[1]
    (folder / place).mkdir(exist_ok=True)
    history, state = case.resumable_run(folder / place, seed, die_at)
    (folder / place / "state").write_bytes(state)
    (folder / place / "history").write_text(json.dumps(history))
    os._exit(0)

assert run("whole", seed=3) == 0
assert run("killed", seed=3, die_at=3) == signal.SIGKILL
assert run("killed", seed=91, die_at=10) == signal.SIGKILL
assert run("killed", seed=92) == 0
"""


def test_a_killed_run_goes_on_with_projection_dropout_and_schedules(forked, tmp_path):
    done = forked.run(PROGRAM, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    whole, killed = ((tmp_path / place / "history").read_text() for place in ("whole", "killed"))
    assert killed == whole
    assert len(json.loads(whole)["hidden"]) == EPOCHS
    assert (tmp_path / "killed" / "state").read_bytes() == (tmp_path / "whole" / "state").read_bytes()


def test_what_callbacks_may_change_is_found_in_weights_and_in_losses():
    made = distiller()
    assert sorted(float(variable) for variable in made.resumed_variables) == [1.0, 4.0]
    # No weights of the model: nobody steps them, and nothing else writes them to a file.
    assert not {id(variable) for variable in made.resumed_variables} & {id(variable) for variable in made.variables}


def weighted_by(variable, loss):
    """A loss around a loss, as a user may write it."""

    def weighed(labels, student, teacher):
        return variable * loss(labels, student, teacher)

    return weighed


def scaled(labels, student, teacher, factor):
    return factor * ops.mean(ops.square(student.logits - teacher.logits), axis=-1)


def test_variables_are_found_behind_closures_partials_and_layers(classifier):
    variables = {
        name: keras.Variable(value) for name, value in [("T", 0.5), ("U", 2.0), ("a", 3.0), ("b", 5.0), ("c", 7.0)]
    }
    near = contrastive("hidden", "hidden", temperature=variables["T"])

    def last(labels, student, teacher, factor=variables["c"]):
        return later(student.logits) * factor

    terms = [
        LossTerm("near", 1.0, near),
        LossTerm("last", 0.0, last),
        LossTerm("soft", 1.0, weighted_by(variables["a"], soft_targets(variables["U"]))),
        LossTerm("scaled", 1.0, partial(scaled, factor=variables["b"])),
    ]
    made = Distiller(classifier(), classifier(units=11), terms)
    found = made.resumed_variables
    assert sorted(float(variable) for variable in found) == [0.5, 2.0, 3.0, 5.0, 7.0]

    def later(logits):  # the cell of `last` was empty until here
        return logits[:, 0]

    assert {id(variable) for variable in found} == {id(variable) for variable in variables.values()}
    assert [tuple(weight.shape) for weight in near.variables] == [(5, 11)]  # the temperature isn't trained
    assert not {id(variable) for variable in found} & {id(variable) for variable in made.variables}
