"""A killed run goes on bit for bit: real SIGKILLs, interruptions at chosen batches, damaged and foreign states."""

import json
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from safetensors import numpy as safetensors_numpy

from keras_transformer.checks import UserError
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels
from keras_transformer.files import ModelFileError
from keras_transformer.training.checkpoints import Progress, RunState, resumable_fit

ROWS, FEATURES, CLASSES, BATCH = 25, 7, 3, 5
EPOCHS, STEPS = 3, ROWS // BATCH


def network(name=None):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(11, "relu")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Dropout(0.4)(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x), name=name)


def rows(seed=5):
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, np.argmax(x @ random.normal(size=(FEATURES, CLASSES)), -1).astype("int32")


def dataset(first_epoch, epochs, skip):
    """Shuffled anew in each epoch, the same again for the same epoch."""
    x, labels = rows()

    def batches():
        for epoch in range(first_epoch, first_epoch + epochs):
            order = np.random.default_rng(epoch).permutation(ROWS).reshape(STEPS, BATCH)
            for chosen in order[skip if epoch == first_epoch else 0 :]:
                yield x[chosen], labels[chosen]

    signature = (tf.TensorSpec((None, FEATURES)), tf.TensorSpec((None,), "int32"))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def plain(**options):
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.03, EPOCHS * STEPS), use_ema=True)
    model.compile(optimizer, loss, metrics=["accuracy"], **options)
    return model


def distiller(**options):
    teacher = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, kernel_initializer="ones")])
    terms = [LossTerm("true_labels", 0.5, true_labels), LossTerm("soft_targets", 0.5, soft_targets(2.0))]
    model = Distiller(network(), teacher, terms)
    model.compile(keras.optimizers.Adam(0.03), metrics=["accuracy"], **options)
    return model


def eager_distiller():
    return distiller(run_eagerly=True)


class StopAt(keras.callbacks.Callback):
    """What a kill between two batches leaves: nothing after it is run."""

    def __init__(self, batches):
        super().__init__()
        self.left = batches

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def run(make, folder, callbacks=(), seed=3, stop_at=None, **options):
    keras.utils.set_random_seed(seed)
    model = make()
    settings = {"epochs": EPOCHS, "steps_per_epoch": STEPS, "folder": folder, "every_seconds": 0.0}
    stopping = [] if stop_at is None else [StopAt(stop_at)]
    history = resumable_fit(
        model, dataset, **{**settings, **options}, callbacks=[*callbacks, *stopping], validation_data=rows(seed=6)
    )
    return model, history


def weights_of(model):
    return [variable.numpy().tobytes() for variable in [*model.variables, *model.optimizer.variables]]


def watching(folder):
    """Callbacks that learn something in the run, and lose it when the process dies."""
    return [
        keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(Path(folder) / "best.weights.h5", save_best_only=True, save_weights_only=True),
    ]


PROGRAM = f"""
import os, random, signal, sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_checkpoints as case
from pathlib import Path

most, make, folder = int(sys.argv[1]), getattr(case, sys.argv[2]), Path(sys.argv[3])
random.seed(sys.argv[2])

def start(place, seed):
    child = os.fork()  # TensorFlow has been imported and not used, so the child may use it
    if child:
        return child
    (folder / place).mkdir(exist_ok=True)
    model, history = case.run(make, folder / place, callbacks=case.watching(folder / place), seed=seed)
    (folder / place / "weights").write_bytes(b"".join(case.weights_of(model)))
    (folder / place / "history").write_text(case.json.dumps(history))
    os._exit(0)

def has_ended(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

def written():
    file = folder / "killed" / "state.safetensors"
    return file.stat().st_mtime_ns if file.exists() else 0

_, status = os.waitpid(start("whole", seed=3), 0)
assert status == 0
for kills in range(most + 1):
    before = written()
    child = start("killed", seed=91 + kills if before else 3)  # what is restored can't come from the seed
    while kills < most and written() == before and not has_ended(child):
        time.sleep(0.001)
    if kills < most:
        time.sleep(random.uniform(0, 0.1))  # anywhere: in a step, in validation, in the middle of writing
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status == 0:
        break
    assert status == signal.SIGKILL, status
print(kills)
"""


@pytest.mark.parametrize(
    ("make", "kills"),
    [
        ("plain", 2),
        pytest.param("plain", 20, marks=pytest.mark.slow),
        pytest.param("distiller", 20, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_again_and_again_ends_as_the_undisturbed_one(forked, make, kills, tmp_path):
    done = forked.run(PROGRAM, kills, make, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) >= 2
    for name in ("weights", "history"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    history = json.loads((tmp_path / "whole" / "history").read_text())
    assert len(history["loss"]) == len(history["val_accuracy"]) >= 2
    assert not list((tmp_path / "killed").glob(".*"))


@pytest.mark.parametrize("stop_at", [0, 5, 8])
def test_a_run_that_stops_at_any_batch_ends_as_the_undisturbed_one(stop_at, tmp_path, undisturbed):
    with pytest.raises(KeyboardInterrupt):
        run(eager_distiller, tmp_path, rate_changes(), stop_at=stop_at)
    callbacks = rate_changes()
    model, history = run(eager_distiller, tmp_path, callbacks, seed=3 if stop_at < 1 else 91)
    assert history == undisturbed.history
    assert weights_of(model) == undisturbed.weights
    assert {name: getattr(callbacks[0], name) for name in ("best", "wait", "cooldown_counter")} == undisturbed.learned


def rate_changes():
    plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, min_delta=0.5, factor=0.5, mode="min")
    return [plateau, keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.9 * rate)]


class Undisturbed(NamedTuple):
    history: dict
    weights: list
    learned: dict


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    callbacks = rate_changes()
    model, history = run(eager_distiller, tmp_path_factory.mktemp("whole"), callbacks)
    assert len(set(history["learning_rate"])) == EPOCHS
    learned = {name: getattr(callbacks[0], name) for name in ("best", "wait", "cooldown_counter")}
    return Undisturbed(history, weights_of(model), learned)


def test_a_resumable_fit_is_the_same_as_a_plain_fit(tmp_path):
    model, history = run(plain, tmp_path)
    keras.utils.set_random_seed(3)
    other = plain()
    theirs = other.fit(
        dataset(0, EPOCHS, 0),
        epochs=EPOCHS,
        steps_per_epoch=STEPS,
        validation_data=rows(seed=6),
        verbose=0,
        shuffle=False,
    ).history
    assert history == theirs
    assert weights_of(model) == weights_of(other)


def test_a_finished_run_is_not_run_again(tmp_path):
    model, history = run(plain, tmp_path)

    def no_data(first_epoch, epochs, skip):
        return dataset(first_epoch, epochs, skip).take(1)

    again = plain()
    repeated = resumable_fit(again, no_data, epochs=EPOCHS, steps_per_epoch=STEPS, folder=tmp_path)
    assert repeated == history
    assert weights_of(again) == weights_of(model)


def test_a_run_that_early_stopping_ended_stays_ended(tmp_path):
    class EndsHere(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

        def on_train_end(self, logs=None):
            raise KeyboardInterrupt  # killed between the last epoch's end and that of training

    with pytest.raises(KeyboardInterrupt):
        run(plain, tmp_path, [EndsHere()])
    assert RunState(tmp_path, {"epochs": EPOCHS, "steps_per_epoch": STEPS}).progress()[:4] == (2, 0, True, False)
    _, history = run(plain, tmp_path, [keras.callbacks.EarlyStopping(patience=5)])
    assert len(history["loss"]) == 2


def built(seed=3):
    keras.utils.set_random_seed(seed)
    model = plain()
    model.evaluate(*rows(), verbose=0)
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def saved(tmp_path):
    model, state = built(), RunState(tmp_path / "run", {"seed": 3, "sizes": (2, 3)})
    state.save(model, Progress(epoch=1, step=2, history={"loss": [0.5, float("nan")]}))
    return model, state


def test_everything_comes_back(saved):
    model, state = saved
    other = built(seed=4)
    assert weights_of(other) != weights_of(model)
    progress = state.restore(other)
    assert weights_of(other) == weights_of(model)
    assert [v.numpy().tobytes() for v in other.metrics_variables] == [
        v.numpy().tobytes() for v in model.metrics_variables
    ]
    assert (progress.epoch, progress.step, progress.finished) == (1, 2, False)
    assert progress.history["loss"][0] == 0.5
    assert np.isnan(progress.history["loss"][1])
    assert [path.name for path in state.path.parent.iterdir()] == ["state.safetensors"]


def test_bfloat16_variables_come_back_to_the_bit(tmp_path):
    def make():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype="bfloat16")])
        model.compile("adam", "mse")
        model.optimizer.build(model.trainable_variables)
        return model

    model, other = make(), make()
    RunState(tmp_path).save(model, Progress())
    RunState(tmp_path).restore(other)
    assert weights_of(other) == weights_of(model)


def test_no_state_is_the_beginning(tmp_path):
    assert RunState(tmp_path / "nothing").progress() == Progress(epoch=0, step=0, finished=False)


def test_a_state_cut_short_anywhere_is_told_with_the_fix(saved):
    _, state = saved
    whole = state.path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 100)):
        state.path.write_bytes(whole[:length])
        with pytest.raises(
            ModelFileError, match=r"state.safetensors: .*damaged.*Delete the folder .*run to start over"
        ):
            state.progress()


def test_a_flipped_bit_anywhere_is_told(saved):
    _, state = saved
    whole = state.path.read_bytes()
    for place in np.random.default_rng(0).integers(0, len(whole), 100):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(place) % 8
        state.path.write_bytes(flipped)
        with pytest.raises(ModelFileError, match=r"state\.safetensors: .*damaged"):
            state.progress()


def test_a_file_of_something_else_is_told(saved):
    _, state = saved
    safetensors_numpy.save_file({"a": np.zeros(3)}, state.path)
    with pytest.raises(ModelFileError, match=r"damaged \(its sha256 is not the recorded one\)"):
        state.progress()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"seed": 4, "sizes": (2, 3)}, r"whose seed was 3 and now is 4. Give the same options .* or delete the folder"),
        ({"seed": 3}, r"whose sizes was \[2, 3\] and now is None"),
        ({"seed": 3, "sizes": [2, 3], "data": "x"}, r"whose data was None and now is 'x'"),
    ],
)
def test_the_state_of_another_run_is_refused(saved, other, text):
    with pytest.raises(UserError, match=text):
        RunState(saved[1].path.parent, other).progress()


def test_the_state_of_another_model_is_refused(saved):
    other = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)])
    other.compile("adam", "mse")
    with pytest.raises(
        UserError, match=r"its metrics/00002 has shape \(\) and the model's has None. Build and compile"
    ):
        saved[1].restore(other)


def test_a_folder_that_cannot_be_written_is_told(saved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"state\.safetensors"):
        RunState(tmp_path / "file").save(saved[0], Progress())


def test_steps_that_do_not_fill_an_execution_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"steps_per_epoch=5 is no multiple of steps_per_execution=2: .*Compile with"):
        run(lambda: plain(steps_per_execution=2), tmp_path)
