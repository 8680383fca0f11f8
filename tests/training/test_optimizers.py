"""The papers' optimizers against float64 loops, and what Keras' own do."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.training.optimizers import Lamb, WarmUpCosine, WarmUpInverseRoot, paper_adam
from keras_transformer.training.samples import SampleOutputs

STEPS = 5


def gradients() -> list[np.ndarray]:
    return list(np.random.default_rng(6).normal(size=(STEPS, 3, 5)))


def moved(optimizer: keras.optimizers.Optimizer, start: np.ndarray) -> np.ndarray:
    weight = keras.Variable(start, dtype="float32")
    for gradient in gradients():
        optimizer.apply([tf.constant(gradient, tf.float32)], [weight])
    return weight.numpy()


def loop_moments(beta_1: float, beta_2: float, epsilon: float):
    """m / (sqrt(v) + epsilon), bias-corrected, of each step."""
    m, v = 0.0, 0.0
    for step, gradient in enumerate(gradients(), 1):
        m, v = beta_1 * m + (1 - beta_1) * gradient, beta_2 * v + (1 - beta_2) * gradient**2
        yield (m / (1 - beta_1**step)) / (np.sqrt(v / (1 - beta_2**step)) + epsilon)


def loop_lamb(start: np.ndarray, rate: float, decay: float) -> np.ndarray:
    w = start.astype(np.float64)
    for ratio in loop_moments(0.9, 0.999, 1e-6):
        update = ratio + decay * w
        norms = np.sqrt((w**2).sum()), np.sqrt((update**2).sum())
        w = w - rate * (norms[0] / norms[1] if min(norms) > 0 else 1.0) * update
    return w


START = np.random.default_rng(7).normal(size=(3, 5)).astype(np.float32)


@pytest.mark.parametrize("start", [START, np.zeros((3, 5), np.float32)])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_lamb_is_algorithm_2(start, decay):
    got = moved(Lamb(0.1, epsilon=1e-6, weight_decay=decay or None), start)
    np.testing.assert_allclose(got, loop_lamb(start, 0.1, decay), atol=2e-6)


def test_lamb_of_keras_is_algorithm_2_without_decay_only():
    # Should this fail with a newer Keras, ours can go.
    plain = moved(keras.optimizers.Lamb(0.1, epsilon=1e-6), START)
    np.testing.assert_allclose(plain, loop_lamb(START, 0.1, 0.0), atol=2e-6)
    decayed = moved(keras.optimizers.Lamb(0.1, epsilon=1e-6, weight_decay=0.3), START)
    assert np.abs(decayed - loop_lamb(START, 0.1, 0.3)).max() > 1e-2


def test_lamb_leaves_excluded_weights_undecayed():
    optimizer = Lamb(0.1, epsilon=1e-6, weight_decay=0.3)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    weight = keras.Variable(START, name="bias")
    for gradient in gradients():
        optimizer.apply([tf.constant(gradient, tf.float32)], [weight])
    np.testing.assert_allclose(weight.numpy(), loop_lamb(START, 0.1, 0.0), atol=2e-6)


def test_paper_adam_has_the_numbers_of_the_paper():
    optimizer = paper_adam(0.1, global_clipnorm=1e9)
    w = START.astype(np.float64)
    for ratio in loop_moments(0.9, 0.98, 1e-9):
        w = w - 0.1 * ratio
    np.testing.assert_allclose(moved(optimizer, START), w, atol=2e-6)
    assert optimizer.get_config()["epsilon"] == 1e-9


def test_adamw_of_keras_decays_apart_from_the_gradient():
    # Loshchilov and Hutter 2019, algorithm 2: so there is no AdamW of our own.
    w = START.astype(np.float64)
    for ratio in loop_moments(0.9, 0.999, 1e-7):
        w = w - 0.1 * 0.3 * w - 0.1 * ratio
    # 1 - 0.999 has four digits in float32, which the steps of Adam inherit.
    np.testing.assert_allclose(moved(keras.optimizers.AdamW(0.1, weight_decay=0.3), START), w, atol=2e-5)


def test_the_warm_up_is_equation_3():
    schedule = WarmUpInverseRoot(512, warmup_steps=7, factor=2.0)
    got = [float(schedule(step)) for step in range(20)]
    expected = [2.0 * 512**-0.5 * min(n**-0.5, n * 7**-1.5) for n in range(1, 21)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert int(np.argmax(got)) == 6
    # The peak of the base model of the paper, table 3.
    assert float(WarmUpInverseRoot(512)(3999)) == pytest.approx(6.99e-4, rel=1e-3)


def test_the_warm_up_to_a_cosine_is_the_formula_and_what_keras_gives():
    schedule = WarmUpCosine(0.3, warmup_steps=5, decay_steps=13)
    got = [float(schedule(step)) for step in range(23)]
    falling = [0.15 * (1 + np.cos(np.pi * step / 13)) for step in range(13)]
    np.testing.assert_allclose(
        got, [*(0.3 * step / 5 for step in range(5)), *falling, *[0.0] * 5], rtol=1e-5, atol=1e-9
    )
    theirs = keras.optimizers.schedules.CosineDecay(0.0, 13, warmup_target=0.3, warmup_steps=5)
    np.testing.assert_allclose(got, [float(theirs(step)) for step in range(23)], rtol=2e-7)


def test_the_rate_is_asked_for_in_a_graph_without_branches():
    graph = tf.function(WarmUpCosine(0.3, 5, 13)).get_concrete_function(tf.TensorSpec((), tf.int64)).graph
    assert {"If", "StatelessIf", "While"}.isdisjoint(operation.type for operation in graph.get_operations())


def test_an_optimizer_with_the_schedule_comes_back_through_json():
    for optimizer in (
        paper_adam(WarmUpInverseRoot(64, 9, 0.5)),
        Lamb(WarmUpInverseRoot(64, 9, 0.5), weight_decay=0.1),
        Lamb(WarmUpCosine(0.3, 2, 9)),
    ):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(optimizer)))
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(optimizer)
        np.testing.assert_array_equal(moved(again, START), moved(optimizer, START))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_dim": 0}, "model_dim=0 must be a whole number"),
        ({"warmup_steps": 0}, "warmup_steps=0 must be a whole number"),
        ({"factor": 0}, "factor=0 must be finite and above 0"),
    ],
)
def test_a_schedule_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmUpInverseRoot(**{"model_dim": 8, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"peak": 0.0}, r"peak=0\.0 must be finite and above 0"),
        ({"warmup_steps": 0}, "warmup_steps=0 must be a whole number"),
        ({"decay_steps": 1.5}, r"decay_steps=1\.5 must be a whole number"),
    ],
)
def test_a_cosine_out_of_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmUpCosine(**{"peak": 0.1, "warmup_steps": 3, "decay_steps": 5, **options})


def fitted(callback: keras.callbacks.Callback, epochs: int) -> None:
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 1)), np.ones((2, 1)), epochs=epochs, verbose=0, callbacks=[callback])


@pytest.mark.parametrize(("every", "shown"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_samples_are_shown_on_standard_error_after_their_epochs(capsys, every, shown):
    fitted(SampleOutputs(lambda texts: [text.upper() for text in texts], ["ab", "c d"], every), 5)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "".join(f"Epoch {epoch}:\n  ab -> AB\n  c d -> C D\n" for epoch in shown)


def test_samples_that_cannot_be_shown_are_named():
    with pytest.raises(ValueError, match=r"texts=\[\] isn't a list with a text in it"):
        SampleOutputs(list, [])
    with pytest.raises(ValueError, match="texts='ab' isn't a list"):
        SampleOutputs(list, "ab")
    with pytest.raises(ValueError, match="generate gave 1 texts for 2: it must give one for each"):
        fitted(SampleOutputs(lambda texts: texts[:1], ["a", "b"]), 1)
