"""Two replicas make the very update of one device: measured with SGD, since Adam would hide a constant factor."""

import json
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json, sys
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from keras_transformer.distillation import Distiller, LossTerm, Needs, soft_targets, true_labels

class Projected(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.needs = Needs(("hidden",), ("hidden",))
        self.projection = keras.layers.Dense(11, use_bias=False, kernel_initializer="ones")

    def call(self, labels, student, teacher):
        difference = self.projection(student.taps["hidden"]) - teacher.taps["hidden"]
        return keras.ops.mean(keras.ops.square(difference), axis=-1)

def model(units, seed):
    start = lambda: keras.initializers.GlorotUniform(seed)
    inputs = keras.Input((7,))
    x = keras.layers.Dense(units, "tanh", kernel_initializer=start(), kernel_regularizer="l2", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=start())(x))

def distiller(**options):
    terms = [
        LossTerm("labels", 0.4, true_labels),
        LossTerm("soft", 0.6, soft_targets(2.0)),
        LossTerm("hidden", 0.1, Projected()),
    ]
    made = Distiller(model(5, seed=1), model(11, seed=2), terms)
    made.compile(**{"optimizer": keras.optimizers.SGD(0.3), "metrics": ["accuracy"], **options})
    return made

random = np.random.default_rng(0)
x = random.normal(size=(25, 7)).astype("float32")
labels = np.where(np.arange(25) % 5 < 3, random.integers(0, 3, 25), -1).astype("int32")  # unequal on the replicas
weights = random.uniform(0, 2, 25).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, labels, weights)).batch(8)  # 8, 8, 8 and 1: then one replica has none

def trained(made):
    history = made.fit(data, epochs=2, shuffle=False, verbose=0).history
    return {"history": history, "weights": [value.tolist() for value in made.get_weights()]}

results = {"one": trained(distiller())}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    made = distiller()
    results["replicas"] = strategy.num_replicas_in_sync
results["two"] = trained(made)
refused = {}
with strategy.scope():
    for name, options in {
        "jit": {"jit_compile": True},
        "executions": {"steps_per_execution": 2},
        "accumulation": {"optimizer": keras.optimizers.SGD(0.3, gradient_accumulation_steps=2)},
        "averages": {"optimizer": keras.optimizers.SGD(0.3, use_ema=True, ema_overwrite_frequency=2)},
    }.items():
        try:
            distiller(**options)
        except ValueError as error:
            refused[name] = str(error)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        distiller()
    except ValueError as error:
        refused["float16"] = str(error)
json.dump({**results, "refused": refused}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    path = tmp_path_factory.mktemp("mirrored") / "results.json"
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


def test_two_replicas_make_the_update_of_one_device(measured):
    assert measured["replicas"] == 2
    for one, two in zip(measured["one"]["weights"], measured["two"]["weights"], strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_two_replicas_log_what_one_device_logs(measured):
    one, two = measured["one"]["history"], measured["two"]["history"]
    assert sorted(one) == sorted(two)
    for name in one:
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)


def test_what_replicas_cannot_do_is_refused_when_compiling(measured):
    for name, option in {
        "jit": "jit_compile=True",
        "executions": "steps_per_execution above 1",
        "accumulation": "gradient_accumulation_steps",
        "averages": "ema_overwrite_frequency",
        "float16": "mixed_float16",
    }.items():
        assert measured["refused"][name].startswith(f"{option} doesn't work with 2 replicas")
        assert "Leave it out, or train on one device." in measured["refused"][name]
