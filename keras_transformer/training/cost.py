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
DECODING = 5  # token by token a forward pass takes about so many times as long: a guess
ENCODER = "encoder_"  # what the names of a Seq2Seq's encoder layers begin with
BACKWARD = 3  # forward and backward together cost three forward passes


def forward_operations(model: keras.Model, lengths: Sequence[int]) -> float:
    """Multiplications and additions of one forward pass over texts of these lengths.

    2 P a token, with P the numbers in all dense kernels and in a token table that gives the logits too, and 4 T D a
    token and layer for the two products of attention (T the length, D the width), which adds up over the layers of
    `model` (`num_layers`, `model_dim`).
    """
    tokens, squares = sum(lengths), sum(length * length for length in lengths)
    numbers = _kernels(model, "") + _tied_table(model)
    return 2.0 * numbers * tokens + 4.0 * model.model_dim * model.num_layers * squares


def pair_operations(model: keras.Model, source_lengths: Sequence[int], target_lengths: Sequence[int]) -> float:
    """The same for a `Seq2Seq` and pairs of texts: the encoder works on the sources, all else on the targets.

    A decoder layer's cross-attention takes 4 S D a token of the target, S being the length of the source.
    """
    source, target = np.array(source_lengths, float), np.array(target_lengths, float)
    encoder = _kernels(model, ENCODER)
    decoder = _kernels(model, "") - encoder + _tied_table(model)
    products = model.num_layers * source**2 + model.num_decoder_layers * (target**2 + source * target)
    kernels = encoder * source.sum() + decoder * target.sum()
    return float(2.0 * kernels + 4.0 * model.model_dim * products.sum())


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


def forward_seconds(operations: float, speed: float) -> float:
    """Expected seconds of a forward pass of so many operations; right within a factor of two on a quiet machine.

    `speed` is what `operations_per_second` told. Training takes BACKWARD times as long.
    """
    return operations / (SHARE_OF_PEAK * speed)


def _kernels(model: keras.Model, of: str) -> int:
    """The numbers in the dense kernels of layers whose names begin with `of`."""
    weights = [weight for weight in model.trainable_weights if weight.path.endswith("/kernel")]
    return sum(int(np.prod(weight.shape)) for weight in weights if weight.path.startswith(of))


def _tied_table(model: keras.Model) -> int:
    """The numbers in the token table where it makes the logits, too."""
    tied = getattr(model, "tie_embeddings", False)
    return model.vocab_size * (model.embedding_dim or model.model_dim) if tied else 0
