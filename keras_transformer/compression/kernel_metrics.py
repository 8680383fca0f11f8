"""What counts among the inputs of dense products: how they vary, and how the loss feels each row of a kernel."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_transformer.compression.dense_products import chosen_products, factored_ranks
from keras_transformer.compression.exchanged_products import exchanged
from keras_transformer.layers.masks import Tensor

Loss = Callable[[Tensor, Tensor], Tensor]
"""(labels, outputs of the model) -> one number."""


def input_moments(
    model: keras.Model, batches: Iterable[Any], names: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Sum X^T X over all rows X that go into each dense product, dropout off: the metric that weighs by activations.

    Each row counts alike, and padding is a row too: give texts without any, for example one by one. Some thousand
    rows, several times the width of the widest product, are enough to tell its directions apart.

    Args:
        model: isn't changed.
        batches: what the model takes, without labels.
        names: paths of products or shell patterns; None = all that can be factorised.

    Returns:
        Path -> (D, D) float64.

    Raises:
        TypeError: if `names` is one string.
        ValueError: if there is no batch, or as `kernel_spectra` for the names.
    """
    chosen = chosen_products(model, names)
    copy = exchanged(model, factored_ranks(model))  # only a copy may be listened to
    watched = chosen_products(copy, list(chosen))
    moments = {name: np.zeros((product.layer.kernel.shape[0],) * 2) for name, product in chosen.items()}
    for name, product in watched.items():
        _listen(product.layer, moments[name])
    seen = 0
    for batch in batches:
        copy(batch, training=False)
        seen += 1
    _refuse_nothing(seen, "batches")
    return moments


def row_fisher(
    model: keras.Model,
    examples: Iterable[tuple[Any, Any]],
    names: Sequence[str] | None = None,
    loss: Loss | None = None,
) -> dict[str, np.ndarray]:
    """sum_f E[(d loss / d W_df)^2]: the empirical Fisher information of each row of a kernel, Hsu et al. 2022 (FWSVD).

    That of a single weight can't weigh an SVD, so all weights of a row have their sum in common. Dropout is off.

    Args:
        model: isn't changed.
        examples: pairs of what the model takes and its labels, one example each (a batch of one): the square of a sum
            over several is another number.
        names: paths of products or shell patterns; None = all that can be factorised.
        loss: of labels and outputs; None = the cross-entropy of logits, summed over labels that aren't below 0.

    Returns:
        Path -> (D,) float64, at least 0.

    Raises:
        TypeError: if `names` is one string.
        ValueError: if there is no example, or a batch of several; as `kernel_spectra` for the names.
    """
    chosen = chosen_products(model, names)
    kernels = [product.layer.kernel for product in chosen.values()]
    squares = _squared_slopes(model, kernels, cross_entropy if loss is None else loss)
    sums = [np.zeros(kernel.shape[0]) for kernel in kernels]
    seen = 0
    for inputs, labels in examples:
        _refuse_several(inputs)
        for total, square in zip(sums, squares(inputs, labels), strict=True):
            total += square.numpy()
        seen += 1
    _refuse_nothing(seen, "examples")
    return {name: total / seen for name, total in zip(chosen, sums, strict=True)}


def cross_entropy(labels: Tensor, logits: Tensor) -> Tensor:
    """-sum log softmax(logits)[label], in float32: labels (B,) or (B, T), logits one axis more; below 0 = no label."""
    labels = ops.convert_to_tensor(labels)
    log_probabilities = ops.log_softmax(ops.cast(logits, "float32"))
    wanted = ops.expand_dims(ops.maximum(labels, 0), -1)
    picked = ops.squeeze(ops.take_along_axis(log_probabilities, wanted, axis=-1), -1)
    return -ops.sum(ops.where(labels >= 0, picked, 0.0))


def _listen(layer: keras.layers.Layer, moments: np.ndarray) -> None:
    """Let a layer add its inputs' moments to `moments` whenever it is called."""
    multiply = layer.call

    def call(inputs: Tensor, *args: Any, **options: Any) -> Tensor:
        rows = ops.convert_to_numpy(ops.cast(inputs, "float32")).reshape(-1, len(moments)).astype("float64")
        moments[...] += rows.T @ rows
        return multiply(inputs, *args, **options)

    layer.call = call


def _squared_slopes(
    model: keras.Model, kernels: Sequence[keras.Variable], loss: Loss
) -> Callable[..., list[tf.Tensor]]:
    """Return the function of inputs and labels to the squared gradients of each kernel, summed over its columns."""
    values = [kernel.value for kernel in kernels]

    @tf.function(reduce_retracing=True)
    def squares(inputs: Any, labels: Any) -> list[tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)  # frozen ones too
            found = loss(labels, model(inputs, training=False))
        slopes = tape.gradient(found, values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [tf.reduce_sum(tf.square(tf.cast(slope, "float64")), axis=1) for slope in slopes]

    return squares


def _refuse_several(inputs: Any) -> None:
    rows = {len(one) for one in keras.tree.flatten(inputs)}
    if rows != {1}:
        raise ValueError(
            f"examples has a batch of {max(rows)} rows, and the square of a sum over several is another number. "
            "Give batches of one."
        )


def _refuse_nothing(seen: int, name: str) -> None:
    if not seen:
        raise ValueError(
            f"{name} has nothing in it, so nothing was measured. Give at least one, not an iterator used up."
        )
