"""Two replicas make the very update of one device: measured with SGD, since Adam would hide a constant factor."""

import json

import numpy as np
import pytest

PROGRAM = """
import json, sys, tempfile
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from keras_transformer.compression import MagnitudePruning
from keras_transformer.distillation import (
    Distiller, LossTerm, MutualLearner, Needs, OnPolicyDistiller, RecordedTeacher, SeveralTeachers, cache_teacher,
    hidden_states, soft_targets, true_labels,
)

class Projected(keras.layers.Layer):
    def __init__(self, tap="hidden"):
        super().__init__()
        self.needs, self.tap = Needs((tap,), (tap,)), tap
        self.projection = keras.layers.Dense(11, use_bias=False, kernel_initializer="ones")

    def call(self, labels, student, teacher):
        difference = self.projection(student.taps[self.tap]) - teacher.taps[self.tap]
        return keras.ops.mean(keras.ops.square(difference), axis=-1)

def model(units, seed, name=None):
    start = lambda: keras.initializers.GlorotUniform(seed)
    inputs = keras.Input((7,), name="inputs")
    x = keras.layers.Dense(units, "tanh", kernel_initializer=start(), kernel_regularizer="l2", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, kernel_initializer=start())(x), name=name)

def distiller(**options):
    terms = [
        LossTerm("labels", 0.4, true_labels),
        LossTerm("soft", 0.6, soft_targets(2.0)),
        LossTerm("hidden", 0.1, Projected()),
    ]
    made = Distiller(model(5, seed=1), model(11, seed=2), terms)
    made.compile(**{"optimizer": keras.optimizers.SGD(0.3), "metrics": ["accuracy"], **options})
    return made

def tagger(units, seed):
    start = lambda: keras.initializers.GlorotUniform(seed)
    inner, token_ids = keras.Input((None,), dtype="int32"), keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(13, 3, mask_zero=True, embeddings_initializer=start())(inner)
    x = keras.layers.Dense(units, "tanh", kernel_initializer=start(), name="hidden")(x)
    encoder = keras.Model(inner, keras.layers.Dense(7, kernel_initializer=start())(x), name="encoder")
    return keras.Model(token_ids, keras.layers.Dense(3, kernel_initializer=start())(encoder(token_ids)))

def token_distiller():
    terms = [
        LossTerm("labels", 0.4, true_labels),
        LossTerm("soft", 0.6, soft_targets(2.0)),
        LossTerm("hidden", 0.1, Projected("encoder/hidden")),
    ]
    made = Distiller(tagger(5, seed=1), tagger(11, seed=2), terms)
    made.compile(keras.optimizers.SGD(0.3), metrics=["accuracy"])
    return made

class Mirrored:  # what is written in the place of ids doesn't hang on the seed: that differs on the replicas
    def write(self, student, inputs, seed):
        return tf.where(inputs == 0, 0, 13 - inputs)

    def counted(self, inputs):
        return inputs % 2 == 0

def on_policy():
    terms = [LossTerm("labels", 0.4, true_labels), LossTerm("soft", 0.6, soft_targets(2.0))]
    made = OnPolicyDistiller(tagger(5, seed=1), tagger(11, seed=2), terms, samples=Mirrored(), share=0.5, seed=3)
    made.compile(keras.optimizers.SGD(0.3), metrics=["accuracy"])
    return made

random = np.random.default_rng(0)
x = random.normal(size=(25, 7)).astype("float32")
labels = np.where(np.arange(25) % 5 < 3, random.integers(0, 3, 25), -1).astype("int32")  # unequal on the replicas
weights = random.uniform(0, 2, 25).astype("float32")
data = tf.data.Dataset.from_tensor_slices((x, labels, weights)).batch(8)  # 8, 8, 8 and 1: then one replica has none

ids = np.where(np.arange(9) < random.integers(1, 10, (25, 1)), random.integers(1, 13, (25, 9)), 0).astype("int32")
tags = random.integers(-1, 3, (25, 9)).astype("int32")
tokens = tf.data.Dataset.from_tensor_slices((ids, tags, weights)).batch(8)

cached = cache_teacher(model(11, seed=2), data, tempfile.mkdtemp() + "/cache", taps=["hidden"])
attached = cached.attach(data)

def projected_distiller(teacher, *taps):
    keras.utils.set_random_seed(3)  # of the projections
    made = Distiller(model(5, seed=1), teacher, [
        LossTerm("soft", 0.6, soft_targets(2.0)),
        LossTerm("near", 0.1, hidden_states([("hidden", tap) for tap in taps])),
    ])
    made.compile(keras.optimizers.SGD(0.3))
    return made

def of_several():
    several = SeveralTeachers([cached, model(13, seed=3)])
    return projected_distiller(several, "0/hidden", "1/hidden")

def mutual(**options):
    terms = [LossTerm("labels", 0.4, true_labels), LossTerm("soft", 0.6, soft_targets(2.0))]
    made = MutualLearner([model(5, seed=1, name="small"), model(11, seed=2, name="large")], terms)
    made.compile(**{"optimizer": keras.optimizers.SGD(0.3), "metrics": ["accuracy"], **options})
    return made

def trained(made, data=data):
    history = made.fit(data, epochs=2, shuffle=False, verbose=0).history
    return {"history": history, "weights": [value.tolist() for value in made.get_weights()]}

results = {"one": trained(distiller())}
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
with strategy.scope():
    made = distiller()
    results["replicas"] = strategy.num_replicas_in_sync
results["two"] = trained(made)
results["one, masked"] = trained(token_distiller(), tokens)
with strategy.scope():
    made = token_distiller()
results["two, masked"] = trained(made, tokens)
for name, make, source in (
    ("projected", of_several, attached), ("mutual", mutual, data), ("on-policy", on_policy, tokens)
):
    results[f"one, {name}"] = trained(make(), source)
    with strategy.scope():
        made = make()
    results[f"two, {name}"] = trained(made, source)
refused = {}
with strategy.scope():
    made = projected_distiller(RecordedTeacher(["hidden"]), "hidden")
try:
    made.fit(attached, verbose=0)
except ValueError as error:
    refused["late"] = str(error)
try:
    made.fit(attached, verbose=0, callbacks=[MagnitudePruning(0.5, end=2)])
except ValueError as error:
    refused["pruning"] = str(error)
with strategy.scope():
    for name, options in {
        "jit": {"jit_compile": True},
        "executions": {"steps_per_execution": 2},
        "accumulation": {"optimizer": keras.optimizers.SGD(0.3, gradient_accumulation_steps=2)},
        "averages": {"optimizer": keras.optimizers.SGD(0.3, use_ema=True, ema_overwrite_frequency=2)},
        "clipping": {"optimizer": keras.optimizers.SGD(0.3, clipnorm=1.0)},
        "global clipping": {"optimizer": keras.optimizers.SGD(0.3, global_clipnorm=1.0)},
        "clipping of values": {"optimizer": keras.optimizers.SGD(0.3, clipvalue=1.0)},
    }.items():
        try:
            distiller(**options)
        except ValueError as error:
            refused[name] = str(error)
        if name not in ("executions", "global clipping", "clipping of values"):
            try:
                mutual(**options)
            except ValueError as error:
                refused[f"{name}, mutual"] = str(error)
    inputs = keras.Input((7,))
    inner = keras.Sequential([keras.Input((7,)), keras.layers.Dense(3, dtype="mixed_float16")])
    nested = Distiller(keras.Model(inputs, inner(inputs)), model(11, seed=2), [LossTerm("s", 1.0, soft_targets(2.0))])
    try:
        nested.compile("sgd")
    except ValueError as error:
        refused["nested float16"] = str(error)
    keras.config.set_dtype_policy("mixed_float16")
    try:
        distiller()
    except ValueError as error:
        refused["float16"] = str(error)
json.dump({**results, "refused": refused}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def measured(forked, tmp_path_factory):
    path = tmp_path_factory.mktemp("mirrored") / "results.json"
    done = forked.run(PROGRAM, path)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(path.read_text())


KINDS = {
    "rows": "",
    "masked tokens of a nested model": ", masked",
    "projections to a cached and a live teacher": ", projected",
    "two students": ", mutual",
    "tokens that a student wrote": ", on-policy",
}
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


@every_kind
def test_two_replicas_make_the_update_of_one_device(measured, kind):
    assert measured["replicas"] == 2
    for one, two in zip(measured[f"one{kind}"]["weights"], measured[f"two{kind}"]["weights"], strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


@every_kind
def test_two_replicas_log_what_one_device_logs(measured, kind):
    one, two = measured[f"one{kind}"]["history"], measured[f"two{kind}"]["history"]
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
        "nested float16": "mixed_float16",
        "jit, mutual": "jit_compile=True",
        "accumulation, mutual": "gradient_accumulation_steps",
        "averages, mutual": "ema_overwrite_frequency",
        "clipping, mutual": "clipnorm",
        "clipping": "clipnorm",
        "global clipping": "global_clipnorm",
        "clipping of values": "clipvalue",
    }.items():
        assert measured["refused"][name].startswith(f"{option} doesn't work with 2 replicas")
        assert "Leave it out, or train on one device." in measured["refused"][name]


def test_weights_that_come_too_late_for_the_replicas_are_told_with_the_way_out(measured):
    message = measured["refused"]["late"]
    assert "loss 'hidden_states' made its weights with a batch" in message
    assert "as the teacher what cache_teacher returns" in message


def test_pruning_on_replicas_is_refused(measured):
    assert measured["refused"]["pruning"] == "MagnitudePruning doesn't work with 2 replicas. Train on one device."
