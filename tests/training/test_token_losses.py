"""The token loss against a float64 loop, and its weight of each token: padding, splits, replicas, accumulation."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from weights import normal

from keras_transformer.training.token_losses import MaskedCrossEntropy, token_cross_entropy
from keras_transformer.training.token_metrics import TokenAccuracy, TokenCrossEntropy

VOCAB = 11


def loop_values(targets, logits, smoothing: float) -> np.ndarray:
    """The definition: cross-entropy against (1 - e) one-hot + e uniform, in float64."""
    out = np.zeros(targets.shape)
    for place in np.ndindex(*targets.shape):
        if targets[place] > 0:
            z = logits[place].astype(np.float64)
            log_p = z - z.max() - np.log(np.exp(z - z.max()).sum())
            wanted = np.full(len(z), smoothing / len(z))
            wanted[targets[place]] += 1 - smoothing
            out[place] = -(wanted * log_p).sum()
    return out


def example(rows: int = 5, length: int = 7, scale: float = 3.0, seed: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Targets with 1 to `length` real tokens a row, one row with none and an unlabelled token; logits."""
    random = np.random.default_rng(seed)
    targets = random.integers(1, VOCAB, (rows, length)).astype(np.int32)
    for row in range(rows):
        targets[row, length - row :] = 0
    targets[1] = 0
    targets[0, 3] = -1
    return targets, (scale * random.normal(size=(rows, length, VOCAB))).astype(np.float32)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_values_are_those_of_the_loop(smoothing, scale):
    targets, logits = example(scale=scale)
    got = ops.convert_to_numpy(token_cross_entropy(targets, logits, smoothing))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, loop_values(targets, logits, smoothing), rtol=2e-6, atol=2e-6)


def test_half_precision_is_computed_in_float32_and_gradients_are_finite():
    targets, logits = example(scale=1e4)
    with tf.GradientTape() as tape:
        given = tf.Variable(logits.astype(np.float16))
        loss = MaskedCrossEntropy(0.1)(targets, given)
    expected = loop_values(targets, logits.astype(np.float16).astype(np.float64), 0.1).sum() / (targets > 0).sum()
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(tape.gradient(loss, given).numpy()).all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_is_probability_minus_wanted(smoothing):
    targets, logits = example()
    given = tf.Variable(logits)
    with tf.GradientTape() as tape:
        loss = MaskedCrossEntropy(smoothing)(targets, given)
    real = targets > 0
    wanted = (1 - smoothing) * np.eye(VOCAB)[np.maximum(targets, 0)] + smoothing / VOCAB
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(tape.gradient(loss, given), (p - wanted) * real[..., None] / real.sum(), atol=1e-7)


def test_the_loss_is_the_mean_over_real_tokens_whatever_the_padding():
    targets, logits = example()
    expected = loop_values(targets, logits, 0.1).sum() / (targets > 0).sum()
    wide = np.pad(targets, [(0, 2), (0, 9)])
    room = np.pad(logits, [(0, 2), (0, 9), (0, 0)], constant_values=1e6)
    for one, other in ((targets, logits), (wide, room)):
        assert float(MaskedCrossEntropy(0.1)(one, other)) == pytest.approx(expected, rel=1e-6)
    assert float(MaskedCrossEntropy()(np.zeros((2, 3), np.int32), logits[:2, :3])) == 0.0


def test_sample_weights_weigh_rows_or_tokens():
    targets, logits = example()
    for weights in (np.arange(5.0), np.random.default_rng(1).uniform(size=targets.shape)):
        spread = np.broadcast_to(weights.reshape(5, -1), targets.shape) * (targets > 0)
        expected = (spread * loop_values(targets, logits, 0.0)).sum() / spread.sum()
        assert float(MaskedCrossEntropy()(targets, logits, weights)) == pytest.approx(expected, rel=1e-5)


def model() -> keras.Model:
    keras.utils.set_random_seed(3)
    ids = keras.Input((None,), dtype="int32")
    return keras.Model(ids, keras.layers.Dense(VOCAB)(keras.layers.Embedding(VOCAB, 4)(ids)))


def ragged_batches() -> tuple[np.ndarray, np.ndarray]:
    """Six rows, of which the first three have 3 real tokens and the others 18."""
    random = np.random.default_rng(4)
    ids = random.integers(1, VOCAB, (6, 6)).astype(np.int32)
    labels = random.integers(1, VOCAB, (6, 6)).astype(np.int32)
    labels[:3, 1:] = 0
    return ids, labels


def trained(batch_size: int, loss, **options) -> list[np.ndarray]:
    ids, labels = ragged_batches()
    trainee = model()
    trainee.compile(keras.optimizers.SGD(0.5, **options), loss)
    data = tf.data.Dataset.from_tensor_slices((ids, labels)).batch(batch_size)
    trainee.fit(data, epochs=2, shuffle=False, verbose=0)
    return trainee.get_weights()


def assert_same(ours, theirs, atol=1e-6):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=atol)


def test_with_tokens_per_step_accumulated_batches_weigh_tokens_as_one_batch_does():
    whole = trained(6, MaskedCrossEntropy(0.1, tokens_per_step=21))
    assert_same(trained(6, MaskedCrossEntropy(0.1)), whole)
    # Two batches of 3 rows: Keras takes the mean of the two gradients, so each counts half of the 21 tokens.
    split = trained(3, MaskedCrossEntropy(0.1, tokens_per_step=10.5), gradient_accumulation_steps=2)
    assert_same(split, whole)
    unequal = trained(3, MaskedCrossEntropy(0.1), gradient_accumulation_steps=2)
    assert max(np.abs(one - other).max() for one, other in zip(unequal, whole, strict=True)) > 1e-3


REPLICAS = """
import json, sys
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from keras_transformer.training.token_losses import MaskedCrossEntropy
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
ids, labels, weights = (np.array(array) for array in json.load(sys.stdin))
found = []
for tokens_per_step in (None, 21):
    with strategy.scope():
        inputs = keras.Input((None,), dtype="int32")
        trainee = keras.Model(inputs, keras.layers.Embedding(*np.shape(weights))(inputs))
        trainee.set_weights([weights])
        loss = MaskedCrossEntropy(0.1, tokens_per_step=tokens_per_step)
        trainee.compile(keras.optimizers.SGD(0.5), loss)
    trainee.fit(tf.data.Dataset.from_tensor_slices((ids, labels)).batch(6), epochs=2, shuffle=False, verbose=0)
    found.append(trainee.get_weights()[0].tolist())
print(json.dumps(found))
"""


def test_on_replicas_it_is_the_mean_over_the_tokens_of_the_whole_batch(forked):
    """One replica has the three rows with one token each, the other those with six; SGD shows any constant factor."""
    ids, labels = ragged_batches()
    table = np.random.default_rng(8).normal(size=(VOCAB, VOCAB)).astype(np.float32)
    expected = table.astype(np.float64)
    for _ in range(2):
        p = np.exp(expected[ids])
        p /= p.sum(-1, keepdims=True)
        slope = (p - 0.9 * np.eye(VOCAB)[labels] - 0.1 / VOCAB) * (labels > 0)[..., None] / 21
        expected = expected.copy()
        np.subtract.at(expected, ids, 0.5 * slope)
    given = json.dumps([ids.tolist(), labels.tolist(), table.tolist()])
    done = forked.run(REPLICAS, given=given)
    assert done.returncode == 0, done.stderr
    for weights in json.loads(done.stdout.splitlines()[-1]):
        np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_metrics_are_means_over_all_tokens_not_over_batches():
    ids, labels = ragged_batches()
    trainee = model()
    trainee.compile("sgd", MaskedCrossEntropy(0.1), metrics=[TokenAccuracy(), TokenCrossEntropy()])
    scores = trainee.evaluate(ids, labels, batch_size=3, return_dict=True, verbose=0)
    logits = trainee.predict(ids, verbose=0)
    real = labels > 0
    right = (logits.argmax(-1) == labels)[real]
    assert scores["token_accuracy"] == pytest.approx(right.mean())
    assert 0 < right.mean() < 1
    expected = loop_values(labels, logits, 0.0).sum() / real.sum()
    assert scores["token_cross_entropy"] == pytest.approx(expected, rel=1e-5)


def test_metrics_honour_sample_weights_and_start_again():
    targets, logits = example()
    metric = TokenAccuracy()
    weights = np.arange(5.0)
    metric.update_state(targets, logits, weights)
    spread = weights[:, None] * (targets > 0)
    expected = (spread * (logits.argmax(-1) == targets)).sum() / spread.sum()
    assert float(metric.result()) == pytest.approx(expected)
    metric.reset_state()
    assert float(metric.result()) == 0.0


def test_configs_come_back_through_json():
    for thing in (MaskedCrossEntropy(0.1, tokens_per_step=99, name="ce"), TokenAccuracy("a"), TokenCrossEntropy("b")):
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))
        again = keras.saving.deserialize_keras_object(config)
        assert type(again) is type(thing)
        assert again.get_config() == thing.get_config()


def test_it_runs_under_xla_as_it_does_eagerly():
    targets, logits = example()
    compiled = tf.function(MaskedCrossEntropy(0.1), jit_compile=True)
    assert float(compiled(targets, logits)) == pytest.approx(float(MaskedCrossEntropy(0.1)(targets, logits)), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: token_cross_entropy(np.ones((2, 3)), np.ones((2, 3, 4)), 1.0), "label_smoothing=1.0 must be at least"),
        (lambda: token_cross_entropy(np.ones((2, 3)), np.ones((2, 4, 5))), r"\(2, 3\) don't belong to .* \(2, 4, 5\)"),
        (lambda: token_cross_entropy(np.ones((2, 3, 4)), np.ones((2, 3, 4))), "Give ids, not one-hot rows"),
        (lambda: MaskedCrossEntropy(-0.1), "label_smoothing=-0.1"),
        (lambda: MaskedCrossEntropy(tokens_per_step=0), "tokens_per_step=0 must be finite and above 0.*=4096"),
    ],
)
def test_what_does_not_fit_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_gradient_of_the_gradient_is_that_of_the_formula():
    targets, start = np.array([[3, 0, 1, 4]], "int32"), normal(1, 4, 5, seed=6)

    def plain(logits):
        log_p = tf.nn.log_softmax(logits)
        chosen = tf.gather(log_p, targets, batch_dims=2)
        return tf.where(targets > 0, -0.9 * chosen - 0.1 * tf.reduce_mean(log_p, -1), 0.0)

    found = []
    for loss in (lambda logits: token_cross_entropy(targets, logits, 0.1), plain):
        logits = tf.Variable(start)
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                total = tf.reduce_sum(loss(logits) ** 2)
            slope = inner.gradient(total, logits)
            length = tf.reduce_sum(slope**2)
        found.append(outer.gradient(length, logits))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-6)
