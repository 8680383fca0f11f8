"""Pruning that is cut off and started again ends as the run that nobody disturbed."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.compression import KeepZeros, MagnitudePruning, MovementPruning
from keras_transformer.distillation import Distiller, LossTerm, true_labels
from keras_transformer.training.checkpoints import resumable_fit

ROWS, FEATURES, CLASSES, BATCH, EPOCHS = 25, 12, 3, 5, 3
STEPS = ROWS // BATCH
MAKES = {
    "magnitude": lambda: MagnitudePruning(0.7, begin=2, end=11, every=3),
    "movement": lambda: MovementPruning(0.7, begin=2, end=11, every=3),
}


def network():
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dropout(0.2)(keras.layers.Dense(8, "tanh", name="hidden")(inputs))
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x))


def distiller(seed):
    keras.utils.set_random_seed(seed)
    made = Distiller(network(), network(), [LossTerm("true_labels", 1.0, true_labels)])
    made.compile(keras.optimizers.Adam(0.03), run_eagerly=True)
    return made


def rows():
    random = np.random.default_rng(5)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, np.argmax(x @ random.normal(size=(FEATURES, CLASSES)), -1).astype("int32")


def batches(first_epoch, epochs, skip):
    """Shuffled anew in each epoch, the same again for the same epoch."""
    x, labels = rows()
    orders = [np.random.default_rng(epoch).permutation(ROWS) for epoch in range(first_epoch, first_epoch + epochs)]
    chosen = np.concatenate(orders).reshape(-1, BATCH)[skip:]
    return tf.data.Dataset.from_tensor_slices((x[chosen], labels[chosen]))


class StopAt(keras.callbacks.Callback):
    """What a kill between two batches leaves."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_begin(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise KeyboardInterrupt


def resumable_run(folder, pruning, seed=3, stop_at=None):
    model = distiller(seed)
    history = resumable_fit(
        model,
        batches,
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        folder=folder,
        callbacks=[pruning, StopAt(stop_at)],
        every_seconds=0.0,
    )
    known = [*model.variables, *model.optimizer.variables, *pruning.resumed_variables]
    return history, pruning.chosen_at, [np.asarray(variable.numpy()) for variable in known]


@pytest.mark.parametrize("make", MAKES.values(), ids=MAKES)
def test_a_killed_run_goes_on_bit_for_bit(make, tmp_path):
    """Killed between two choices of masks, so that neither weights nor scores alone could tell what they were."""
    history, chosen_at, whole = resumable_run(tmp_path / "whole", make())
    for seed, stop_at in ((3, 1), (91, 7)):
        with pytest.raises(KeyboardInterrupt):
            resumable_run(tmp_path / "killed", make(), seed, stop_at)
    again = resumable_run(tmp_path / "killed", make(), seed=92)
    assert again[:2] == (history, chosen_at)
    assert history["sparsity"][0] < history["sparsity"][-1]
    for one, two in zip(whole, again[2], strict=True):
        np.testing.assert_array_equal(one, two)
    finished = resumable_run(tmp_path / "killed", make(), seed=93)
    np.testing.assert_array_equal(finished[2][0], whole[0])


def test_zeros_that_are_kept_come_back_after_a_kill(tmp_path):
    def run(folder, seed, stop_at=None):
        keras.utils.set_random_seed(seed)
        model = network()
        for name in ("hidden", "logits"):
            kernel = model.get_layer(name).kernel
            kernel.assign(kernel * (np.arange(np.prod(kernel.shape)) % 3 > 0).reshape(kernel.shape))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.03), loss, run_eagerly=True)
        callbacks = [KeepZeros(), StopAt(stop_at)]
        resumable_fit(
            model, batches, epochs=EPOCHS, steps_per_epoch=STEPS, folder=folder, callbacks=callbacks, every_seconds=0.0
        )
        return model.get_weights()

    whole = run(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", 3, stop_at=7)
    for one, two in zip(whole, run(tmp_path / "killed", 91), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.count_nonzero(whole[0] == 0) == 32


def plain(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8, "tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.03), loss, run_eagerly=True)
    return model


def backed_up_run(folder, make, seed=3, stop_at=None):
    model = plain(seed)
    x, labels = rows()
    callbacks = [make(), keras.callbacks.BackupAndRestore(folder), StopAt(stop_at)]
    options = {"batch_size": BATCH, "epochs": EPOCHS, "shuffle": False, "verbose": 0}
    model.fit(x, labels, **options, callbacks=callbacks)
    return model.get_weights()


def test_magnitude_pruning_goes_on_from_a_backup_of_keras(tmp_path):
    make = MAKES["magnitude"]
    whole = backed_up_run(tmp_path / "whole", make)
    with pytest.raises(KeyboardInterrupt):
        backed_up_run(tmp_path / "killed", make, stop_at=7)  # the backup is that of step 5
    for one, two in zip(whole, backed_up_run(tmp_path / "killed", make, seed=91), strict=True):
        np.testing.assert_array_equal(one, two)
    assert np.count_nonzero(whole[0] == 0) == 67


def test_movement_pruning_refuses_a_backup_of_keras_that_has_no_scores(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        backed_up_run(tmp_path, MAKES["movement"], stop_at=7)
    with pytest.raises(ValueError, match=r"made 5 steps .* begin=2, but nothing is known.*resumable_fit"):
        backed_up_run(tmp_path, MAKES["movement"], seed=91)
