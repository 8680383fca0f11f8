"""Movement pruning: scores, masks and weights are those of the equations, with any optimizer and however compiled."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from pruning_oracles import cubic, gradients, movement_run

from keras_transformer.compression import MovementPruning
from keras_transformer.distillation import Distiller, LossTerm, true_labels

ROWS, FEATURES, CLASSES, STEPS = 20, 7, 3, 16
RATES = [0.5] * 5 + [0.2] * (STEPS - 5)


def rows(seed=5):
    random = np.random.default_rng(seed)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, (x @ random.normal(size=(FEATURES, CLASSES))).astype("float32")


def sgd(momentum=0.0):
    return keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 0.2]), momentum)


def linear(optimizer, run_eagerly=True, **options):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES, name="logits")])
    model.compile(optimizer, "mse", run_eagerly=run_eagerly, **options)
    return model


GRAPH = {"run_eagerly": False}


def counts(final, begin, end, every, size=FEATURES * CLASSES):
    due = [*range(begin, end, every), end]
    return {step: int(cubic(step, final, begin, end) * size + 0.5) for step in due}


def fit(model, *callbacks, epochs=STEPS, batch_size=ROWS, data=None):
    x, y = data or rows()
    return model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, callbacks=list(callbacks))


@pytest.mark.parametrize(
    ("schedule", "options"),
    [
        ((2, 11, 1), GRAPH),
        ((2, 11, 1), {}),
        ((0, 13, 3), {**GRAPH, "jit_compile": True}),
        ((4, 12, 4), {**GRAPH, "steps_per_execution": 4}),
    ],
    ids=["graph", "eager", "xla", "several steps an execution"],
)
def test_it_is_the_one_by_hand(schedule, options):
    model, (x, y) = linear(sgd(), **options), rows()
    begin, end, every = schedule
    pruning = MovementPruning(0.6, begin=begin, end=end, every=every)
    expected = movement_run(*model.get_weights(), x, y, RATES, counts(0.6, begin, end, every))
    many = options.get("steps_per_execution", 1)
    # Several batches a call: the same rows again and again, so that each step sees all of them.
    fit(model, pruning, epochs=STEPS // many, data=(np.tile(x, (many, 1)), np.tile(y, (many, 1))))
    kernel, bias = model.get_weights()
    mask, scores, _ = (variable.numpy() for variable in pruning.resumed_variables)
    np.testing.assert_array_equal(mask, expected[3][-1])
    np.testing.assert_allclose(scores, expected[2], atol=5e-6)
    np.testing.assert_allclose(kernel, expected[0], atol=5e-6)
    np.testing.assert_allclose(bias, expected[1], atol=5e-6)
    assert np.count_nonzero(kernel == 0) == int(0.6 * 21 + 0.5)
    assert np.abs(expected[2]).max() > 0.1


def test_momentum_has_no_gradient_of_a_weight_out_of_sight():
    """Else a weight that comes back would be thrown about by what it missed."""
    model, (x, y) = linear(sgd(momentum=0.5)), rows()
    expected = movement_run(*model.get_weights(), x, y, RATES, counts(0.6, 2, 11, 1), momentum=0.5)
    assert any((~early & late).any() for early, late in pairwise(expected[3]))
    fit(model, MovementPruning(0.6, begin=2, end=11))
    np.testing.assert_allclose(model.get_weights()[0], expected[0], atol=5e-6)


def test_by_hand_a_weight_goes_and_comes_back():
    """Else the test above wouldn't tell whether values out of sight are kept."""
    model, (x, y) = linear(sgd()), rows()
    masks = movement_run(*model.get_weights(), x, y, RATES, counts(0.6, 2, 11, 1))[3]
    assert any((~early & late).any() for early, late in pairwise(masks))


class Remembers(keras.callbacks.Callback):
    """The weights before each batch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_begin(self, batch, logs=None):
        self.weights.append([value.copy() for value in self.model.get_weights()])


@pytest.mark.parametrize(
    ("make", "policy", "batch_size", "tolerance"),
    [
        (lambda: keras.optimizers.Adam(0.1), "float32", ROWS, 1e-6),
        (lambda: keras.optimizers.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2), "float32", ROWS // 2, 1e-6),
        (lambda: keras.optimizers.Adam(0.1), "mixed_float16", ROWS, 2e-3),
    ],
    ids=["Adam", "accumulated", "float16"],
)
def test_a_score_is_the_sum_of_rate_gradient_and_weight_with_any_optimizer(make, policy, batch_size, tolerance):
    keras.config.set_dtype_policy(policy)
    model, (x, y) = linear(make(), **GRAPH), rows()
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    pruning, remembers = MovementPruning(0.6, begin=50, end=60), Remembers()
    fit(model, pruning, remembers, epochs=5, batch_size=batch_size)
    expected = 0.0
    for kernel, bias in remembers.weights[:: ROWS // batch_size]:
        expected = expected - 0.1 * gradients(kernel.astype("float64"), bias, x, y)[0] * kernel
    np.testing.assert_allclose(pruning.resumed_variables[1], expected, atol=tolerance)
    assert np.abs(expected).max() > 0.05


def test_clipped_gradients_are_what_is_scored():
    model, (x, y) = linear(keras.optimizers.SGD(0.5, clipvalue=0.01)), rows()
    kernel, bias = model.get_weights()
    pruning = MovementPruning(0.6, begin=50, end=60)
    fit(model, pruning, epochs=1)
    expected = -0.5 * np.clip(gradients(kernel, bias, x, y)[0], -0.01, 0.01) * kernel
    np.testing.assert_allclose(pruning.resumed_variables[1], expected, atol=1e-7)


def test_a_weight_out_of_sight_is_not_moved_by_momentum():
    model = linear(keras.optimizers.Adam(0.1))
    pruning = MovementPruning(0.6, begin=2, end=4)
    fit(model, pruning, epochs=4)
    mask, _, hidden = (variable.numpy() for variable in pruning.resumed_variables)
    fit(model, pruning, epochs=4)
    np.testing.assert_array_equal(pruning.resumed_variables[2].numpy()[~mask], hidden[~mask])
    assert (hidden[~mask] != 0).all()
    np.testing.assert_array_equal(model.get_weights()[0] == 0, ~mask)  # masks stay after `end`


def test_scores_of_all_tensors_are_ranked_together():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(5, "tanh", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="logits")(x))
    model.compile(keras.optimizers.SGD(0.3), "mse", run_eagerly=True)
    pruning = MovementPruning(0.5, begin=3, end=3, across_tensors=True)
    fit(model, pruning, epochs=3)
    masks, scores = pruning.resumed_variables[:2], pruning.resumed_variables[2:4]
    kept = np.concatenate([score.numpy()[mask.numpy()] for mask, score in zip(masks, scores, strict=True)])
    gone = np.concatenate([score.numpy()[~mask.numpy()] for mask, score in zip(masks, scores, strict=True)])
    assert (kept.size, gone.size) == (25, 25)
    assert kept.min() > gone.max()
    assert [np.count_nonzero(mask.numpy()) for mask in masks] != [17, 8]


def test_a_table_that_is_read_and_written_is_scored_once_for_both():
    """Its gradient comes in slices from the look-up and whole from the logits; the score has their sum."""
    keras.utils.set_random_seed(3)
    ids, y = np.array([[1, 2, 2], [4, 0, 3]]), np.ones((2, 3, 5), "float32")
    tokens = keras.Input((3,), dtype="int32")
    embedding = keras.layers.Embedding(5, 7, name="table")
    hidden = embedding(tokens)
    model = keras.Model(tokens, keras.layers.Lambda(lambda x: x @ keras.ops.transpose(embedding.embeddings))(hidden))
    model.compile(keras.optimizers.SGD(0.3), "mse", run_eagerly=True)
    table = embedding.embeddings.numpy().astype("float64")
    error = 2 * (table[ids] @ table.T - y) / y.size
    expected = np.einsum("btv,btd->vd", error, table[ids])
    np.add.at(expected, ids, error @ table)
    pruning = MovementPruning(0.5, begin=5, end=5, which=lambda weight: weight.name == "embeddings")
    fit(model, pruning, epochs=1, data=(ids, y))
    assert len(pruning.resumed_variables) == 3
    np.testing.assert_allclose(pruning.resumed_variables[1], -0.3 * expected * table, atol=1e-6)


def test_the_optimizer_is_as_it_was_afterwards():
    keras.config.set_dtype_policy("mixed_float16")
    model = linear(keras.optimizers.Adam(0.1), **GRAPH)
    fit(model, MovementPruning(0.6, end=3), epochs=4)
    assert "update_step" not in vars(model.optimizer.inner_optimizer)
    assert np.count_nonzero(model.get_weights()[0] == 0) == 13
    fit(model, epochs=1)
    assert np.count_nonzero(model.get_weights()[0] == 0) == 0


def test_distillation_scores_the_student():
    keras.utils.set_random_seed(3)
    student, teacher = linear(sgd()), linear(sgd())
    before = [value.copy() for value in teacher.get_weights()]
    distiller = Distiller(student, teacher, [LossTerm("true_labels", 1.0, true_labels)])
    distiller.compile(keras.optimizers.Adam(0.1))
    x, y = rows()
    distiller.fit(x, y.argmax(-1), epochs=6, verbose=0, callbacks=[MovementPruning(0.6, end=4)])
    assert np.count_nonzero(student.get_weights()[0] == 0) == 13
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_what_makes_no_sense_is_told():
    with pytest.raises(ValueError, match=r"end=0 must be a whole number of at least 1"):
        MovementPruning(0.5, end=0)
    with pytest.raises(ValueError, match=r"every=0 must be a whole number of at least 1"):
        MovementPruning(0.5, end=5, every=0)
    with pytest.raises(ValueError, match=r"begin=6 comes after end=5"):
        MovementPruning(0.5, begin=6, end=5)
    model = linear(sgd())
    fit(model, epochs=3)
    with pytest.raises(ValueError, match=r"made 3 steps .* begin=1, .*or use begin=3, end=8.*resumable_fit"):
        fit(model, MovementPruning(0.5, begin=1, end=6))
