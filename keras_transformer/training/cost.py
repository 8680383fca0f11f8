"""How long training will take, said before it starts."""

import time
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

PROBE_SHAPE = (1024, 1024, 1024)  # rows, inner, columns of the timed product: about those of a batch of texts
PROBE_ROUNDS = 5
# Of that product's speed, in a whole training step: less than MiniLM reaches on short texts and more than on long ones.
SHARE_OF_PEAK = 0.45
BACKWARD = 3  # forward and backward together cost three forward passes


def forward_operations(model: keras.Model, lengths: Sequence[int]) -> float:
    """Multiplications and additions of one forward pass over texts of these lengths.

    2 P a token, with P the numbers in all dense kernels, and 4 T D a token and layer for the two products of
    attention (T the length, D the width), which adds up over the layers of `model` (`num_layers`, `model_dim`).
    """
    kernels = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights if weight.path.endswith("/kernel"))
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    return 2.0 * kernels * tokens + 4.0 * model.model_dim * model.num_layers * squares


def operations_per_second(policy: str) -> float:
    """What this machine reaches in a plain matrix product, best of a few: takes about a tenth of a second."""
    dtype = keras.dtype_policies.get(policy).compute_dtype
    rows, inner, columns = PROBE_SHAPE
    left, right = tf.ones((rows, inner), dtype), tf.ones((inner, columns), dtype)
    product = tf.function(tf.matmul)
    product(left, right)
    times = []
    for _ in range(PROBE_ROUNDS):
        start = time.perf_counter()
        product(left, right).numpy()
        times.append(time.perf_counter() - start)
    return 2.0 * rows * inner * columns / min(times)


def training_seconds(model: keras.Model, lengths: Sequence[int], epochs: int, speed: float) -> float:
    """Expected seconds of `epochs` over texts of these lengths; right within a factor of two on a quiet machine.

    `speed` is what `operations_per_second` told.
    """
    return epochs * BACKWARD * forward_operations(model, lengths) / (SHARE_OF_PEAK * speed)


def prediction_seconds(model: keras.Model, lengths: Sequence[int], speed: float) -> float:
    """Expected seconds of one forward pass over texts of these lengths; see `training_seconds`."""
    return forward_operations(model, lengths) / (SHARE_OF_PEAK * speed)
