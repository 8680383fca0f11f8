"""Pruning while `fit` runs: the same numbers as by hand, and zeros that nothing lifts."""

import keras
import numpy as np
import pytest
from pruning_oracles import cubic, magnitude_run

from keras_transformer.compression import KeepZeros, MagnitudePruning, NToMPruning, sparsity_report
from keras_transformer.compression.sparsity_choices import zeros_of
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels

ROWS, FEATURES, UNITS, CLASSES = 20, 12, 8, 3


def rows(seed=5):
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, (x @ random.normal(size=(FEATURES, CLASSES))).astype("float32")


def network(name=None, **options):
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(UNITS, "tanh", name="hidden", **options)(inputs)
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x), name=name)


def compiled(optimizer=None, network_options=None, run_eagerly=True, **options):
    """Eager where a test isn't about compiled steps: that takes a tenth of the time."""
    keras.utils.set_random_seed(3)
    model = network(**(network_options or {}))
    model.compile(optimizer or keras.optimizers.Adam(0.05), "mse", run_eagerly=run_eagerly, **options)
    return model


GRAPH = {"run_eagerly": False}


def fit(model, *callbacks, epochs=1, batch_size=5):
    return model.fit(*rows(), epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0, callbacks=list(callbacks))


def zeros(model):
    return {kernel.path: int(np.sum(kernel.numpy() == 0)) for kernel in (layer.kernel for layer in model.layers[1:])}


class Watch(keras.callbacks.Callback):
    """Zeros of each kernel after each call, by optimizer step."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def on_train_batch_end(self, batch, logs=None):
        self.seen[int(self.model.optimizer.iterations)] = zeros(self.model)


def linear(rate=0.3):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, name="logits")])
    model.compile(keras.optimizers.SGD(rate), "mse", run_eagerly=True)
    return model


@pytest.mark.parametrize(("begin", "end", "every", "initial"), [(0, 6, 2, 0.0), (1, 8, 3, 0.2), (2, 5, 1, 0.0)])
def test_magnitude_pruning_is_the_one_by_hand(begin, end, every, initial):
    model, (x, y) = linear(), rows()
    kernel, bias = model.get_weights()
    due = [*range(begin, end, every), end]
    counts = {step: int(cubic(step, 0.7, begin, end, initial) * kernel.size + 0.5) for step in due}
    expected = magnitude_run(kernel, bias, x, y, [0.3] * 8, counts)
    pruning = MagnitudePruning(0.7, begin=begin, end=end, every=every, initial_sparsity=initial)
    fit(model, pruning, epochs=8, batch_size=ROWS)
    np.testing.assert_allclose(model.get_weights()[0], expected[0], atol=2e-6)
    np.testing.assert_allclose(model.get_weights()[1], expected[1], atol=2e-6)
    assert np.count_nonzero(model.get_weights()[0]) == 36 - 25


HARD = {
    "graph": GRAPH,
    "eager": {},
    "xla": {**GRAPH, "jit_compile": True},
    "averaged": {"optimizer": lambda: keras.optimizers.AdamW(0.05, use_ema=True, ema_overwrite_frequency=3)},
    "accumulated": {**GRAPH, "optimizer": lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2)},
    "constrained": {"network_options": {"kernel_constraint": keras.constraints.MaxNorm(0.7)}},
    "float16": {**GRAPH, "policy": "mixed_float16"},
    "bfloat16": {"policy": "mixed_bfloat16"},
}


@pytest.mark.parametrize("name", HARD)
def test_the_declared_zeros_are_there_after_each_step(name):
    options = dict(HARD[name])
    keras.config.set_dtype_policy(options.pop("policy", "float32"))
    model, watch = compiled(**options | {key: make() for key, make in options.items() if key == "optimizer"}), Watch()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (name == "float16")
    history = fit(model, MagnitudePruning(0.75, begin=1, end=5, every=2), watch, epochs=3).history
    for step, found in watch.seen.items():
        due = max((step_due for step_due in (1, 3, 5) if step_due <= step), default=None)
        share = 0.0 if due is None else cubic(due, 0.75, 1, 5)
        assert found == {"hidden/kernel": zeros_of(share, 96), "logits/kernel": zeros_of(share, 24)}, step
    assert max(watch.seen) == (6 if name == "accumulated" else 12)
    assert zeros(model) == {"hidden/kernel": 72, "logits/kernel": 18}
    assert history["sparsity"][-1] == 0.75
    if name == "constrained":
        assert np.linalg.norm(model.get_layer("hidden").kernel, axis=0).max() < 0.7 + 1e-6


def test_a_step_that_was_compiled_before_learns_of_the_masks():
    model, watch = compiled(**GRAPH), Watch()
    fit(model)
    fit(model, MagnitudePruning(0.75, begin=4, end=4), watch)
    assert [found["hidden/kernel"] for found in watch.seen.values()] == [72] * 4


def test_masks_hold_inside_an_execution_of_several_steps():
    """Were they applied between calls alone, the steps inside would be others."""
    single, several = compiled(), compiled(**GRAPH, steps_per_execution=4)
    for model in (single, several):
        fit(model, NToMPruning(1, 4), epochs=2)
    for one, two in zip(single.get_weights(), several.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_masks_that_fall_due_inside_an_execution_are_chosen_after_it():
    model, watch = compiled(**GRAPH, steps_per_execution=4), Watch()
    fit(model, MagnitudePruning(0.75, begin=1, end=7, every=2), watch, epochs=2)
    assert list(watch.seen) == [4, 8]
    assert watch.seen[4]["hidden/kernel"] == zeros_of(cubic(3, 0.75, 1, 7), 96)
    assert watch.seen[8]["hidden/kernel"] == 72


def test_tensors_ranked_together_have_the_declared_zeros_together():
    model = compiled()
    model.get_layer("logits").kernel.assign(0.01 * model.get_layer("logits").kernel)
    fit(model, MagnitudePruning(0.5, end=0, across_tensors=True))
    found = zeros(model)
    assert sum(found.values()) == 60
    assert found["logits/kernel"] == 24


def test_every_group_of_inputs_keeps_n_of_m_while_training_goes_on():
    model = compiled()
    fit(model, NToMPruning(2, 4, begin=2, which=["hidden"]), epochs=2)
    kernel = model.get_layer("hidden").kernel.numpy()
    np.testing.assert_array_equal(np.count_nonzero(kernel.reshape(3, 4, UNITS), axis=1), np.full((3, UNITS), 2))
    assert zeros(model)["logits/kernel"] == 0


def test_the_step_is_free_again_after_the_run_and_its_constraint_is_back():
    norm = keras.constraints.MaxNorm(0.7)
    model = compiled(**GRAPH, network_options={"kernel_constraint": norm})
    fit(model, MagnitudePruning(0.75, end=2))
    assert model.get_layer("hidden").kernel.constraint is norm
    assert model.get_layer("logits").kernel.constraint is None
    assert zeros(model) == {"hidden/kernel": 72, "logits/kernel": 18}
    fit(model)
    assert zeros(model) == {"hidden/kernel": 0, "logits/kernel": 0}  # Adam moves them: only a mask holds zeros


@pytest.mark.parametrize("again", ["the same", "the same, compiled anew", "a new one", "KeepZeros, compiled anew"])
def test_zeros_survive_fine_tuning(again):
    model, pruning = compiled(), MagnitudePruning(0.75, end=2)
    fit(model, pruning)
    before = [layer.kernel.numpy() for layer in model.layers[1:]]
    if "anew" in again:
        model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
    new = {"a": MagnitudePruning(0.75, end=2), "KeepZeros,": KeepZeros(), "the": pruning}
    fit(model, new[again.split()[0]])
    for old, layer in zip(before, model.layers[1:], strict=True):
        np.testing.assert_array_equal(layer.kernel.numpy() == 0, old == 0)
        assert not np.allclose(layer.kernel, old, atol=1e-3)


def test_a_run_that_broke_off_goes_on_with_the_same_callback():
    class Breaks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model, pruning = compiled(), MagnitudePruning(0.75, end=3, every=1)
    with pytest.raises(KeyboardInterrupt):
        fit(model, pruning, Breaks())
    fit(model, pruning)
    assert zeros(model) == {"hidden/kernel": 72, "logits/kernel": 18}
    assert all(layer.kernel.constraint is None for layer in model.layers[1:])


def test_distillation_prunes_the_student_and_leaves_the_teacher():
    keras.utils.set_random_seed(3)
    student, teacher = network(name="student"), network(name="teacher")
    before = [value.copy() for value in teacher.get_weights()]
    terms = [LossTerm("true_labels", 0.5, true_labels), LossTerm("soft_targets", 0.5, soft_targets(2.0))]
    distiller = Distiller(student, teacher, terms)
    distiller.compile(keras.optimizers.Adam(0.05))
    labels = np.argmax(rows()[1], axis=-1).astype("int32")
    pruning = MagnitudePruning(0.75, end=3, every=1)
    history = distiller.fit(rows()[0], labels, batch_size=5, epochs=2, verbose=0, callbacks=[pruning]).history
    assert zeros(student) == {"hidden/kernel": 72, "logits/kernel": 18}
    assert sparsity_report(distiller).total.zeros == 90 + 0
    assert history["sparsity"] == [0.75, 0.75]
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_negative_weight_becomes_a_plain_zero():
    model = compiled()
    fit(model, MagnitudePruning(0.75, end=0))
    kernel = model.get_layer("hidden").kernel.numpy()
    assert not np.signbit(kernel[kernel == 0]).any()


def test_a_schedule_that_was_missed_is_refused():
    model = compiled()
    fit(model, epochs=2)
    rule = r"made 8 steps and pruning should have begun at begin=1.*Compile again.*or use begin=8, end=11"
    with pytest.raises(ValueError, match=rule):
        fit(model, MagnitudePruning(0.75, begin=1, end=4, every=3))
    fit(model, MagnitudePruning(0.75, begin=8, end=11, every=3))
    assert zeros(model)["hidden/kernel"] == 72


def test_a_model_of_no_weights_yet_is_refused():
    model = keras.Sequential([keras.layers.Dense(3)], name="lazy")
    model.compile("adam", "mse")
    with pytest.raises(ValueError, match=r"'lazy' isn't built.*Call it on one batch before fit"):
        fit(model, MagnitudePruning(0.5, end=2))


def test_what_makes_no_sense_is_told_before_training():
    model = compiled(metrics=[keras.metrics.MeanAbsoluteError(name="sparsity")])
    fit(model)
    with pytest.raises(ValueError, match=r"the logs already hold 'sparsity'. Use for example name='share_of_zeros'"):
        fit(model, MagnitudePruning(0.5, begin=4, end=5))
    model = compiled()
    with pytest.raises(ValueError, match=r"none of the 120 weights chosen in hidden/kernel.*is zero"):
        fit(model, KeepZeros())
    with pytest.raises(ValueError, match=r"hidden/kernel of shape \(12, 8\) has 12 inputs.*out_of=5: 12 % 5 = 2"):
        fit(model, NToMPruning(2, 5))
    with pytest.raises(ValueError, match=r"kept=4 out_of=4 drops nothing.*kept=2, out_of=4"):
        NToMPruning(4, 4)
    with pytest.raises(ValueError, match=r"kept=0 must be a whole number of at least 1"):
        NToMPruning(0, 4)
    with pytest.raises(ValueError, match=r"begin=-1 must be a whole number of steps"):
        NToMPruning(2, 4, begin=-1)
    with pytest.raises(ValueError, match=r"every=0 must be a whole number of at least 1"):
        MagnitudePruning(0.5, end=5, every=0)
