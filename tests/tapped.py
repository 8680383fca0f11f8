"""What the tests of losses on taps share: one case of both sides, with padding, and a loss run on it."""

import numpy as np
import tensorflow as tf

from keras_transformer.distillation import Outputs

B, T = 3, 5
MASK = np.arange(T) < np.array([[5], [2], [3]])
"""(B, T): texts of 5, 2 and 3 tokens."""

STUDENT_SHAPES = {
    "hidden": (B, T, 4),
    "second": (B, T, 6),
    "embeddings": (B, T, 2),
    "pooled": (B, 4),
    "picture": (B, 2, 3, 4),
    "attention": (B, 2, T, T),
    "layer/query": (B, 2, T, 3),
    "layer/key": (B, 2, T, 3),
    "layer/value": (B, 2, T, 3),
}
TEACHER_SHAPES = STUDENT_SHAPES | {
    "hidden": (B, T, 7),
    "pooled": (B, 7),
    "picture": (B, 2, 3, 7),
    "embeddings": (B, T, 3),
    "attention": (B, 3, T, T),
    "layer/query": (B, 3, T, 4),
    "layer/key": (B, 3, T, 4),
    "layer/value": (B, 3, T, 4),
}


def taps_of(shapes, seed, scale=1.0):
    """Random taps; "attention" has rows that sum to 1 over the real keys."""
    random = np.random.default_rng(seed)
    taps = {name: (scale * random.normal(size=shape)).astype("float32") for name, shape in shapes.items()}
    weights = np.exp(taps["attention"].astype("float64") / scale) * MASK[:, None, None, :]
    taps["attention"] = (weights / weights.sum(-1, keepdims=True)).astype("float32")
    return taps


def student_taps(scale=1.0):
    return taps_of(STUDENT_SHAPES, seed=1, scale=scale)


def teacher_taps(scale=1.0):
    return taps_of(TEACHER_SHAPES, seed=2, scale=scale)


def value_and_gradients(loss, student, teacher, mask=MASK):
    """The loss's values as numpy, and the gradient of their sum over real tokens by each tap that it used."""
    taps = {name: tf.convert_to_tensor(value) for name, value in student.items()}
    others = {name: tf.convert_to_tensor(value) for name, value in teacher.items()}
    mask = None if mask is None else tf.constant(mask)
    with tf.GradientTape() as tape:
        tape.watch(taps)
        value = loss(None, Outputs(None, taps, mask), Outputs(None, others, mask))
        total = tf.reduce_sum(value if mask is None or len(value.shape) == 1 else tf.where(mask, value, 0.0))
    gradients = tape.gradient(total, taps)
    return value.numpy(), {k: tf.cast(g, "float32").numpy() for k, g in gradients.items() if g is not None}
