"""What of an encoder matters: its heads, its feed-forward units, the channels of its width.

The functions here look at a model made as `TextClassifier` is, on the tokenised texts of a domain, and don't change
it. `most_important` turns what they give into what `keep_heads`, `keep_units` and `keep_channels` take.
"""

from collections.abc import Callable, Sequence

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_transformer.checks import positive_integer
from keras_transformer.compression.activations import layer_activations, tapped_at_real_tokens
from keras_transformer.compression.encoders import encoder_config


def most_important(importance: np.ndarray, count: int) -> np.ndarray:
    """Return the places of the `count` largest numbers of (N,), going up; of equal ones the first.

    Raises:
        ValueError: if there are fewer than `count`, or a number is NaN.
    """
    positive_integer("count", count)
    if count > len(importance) or np.isnan(importance).any():
        raise ValueError(
            f"count={count} of {len(importance)} numbers, {int(np.isnan(importance).sum())} of them NaN, can't be "
            f"chosen. Use count={len(importance)} or less, and a model whose outputs are finite."
        )
    return np.sort(np.argsort(-importance, kind="stable")[:count])


def head_importance(
    model: keras.Model, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
) -> np.ndarray:
    """E_x |d loss(x) / d gate_h|, eq. 2 of Michel et al. 2019: how much the loss feels a factor on head h.

    Their second form, E_x |Att_h(x)^T d loss / d Att_h(x)|, is the same; here it is read off the head's rows of the
    output projection, sum W d loss / d W, since a factor on the head and one on those rows are one thing.

    Args:
        model: gives logits (B, C).
        token_ids: texts, one list of ids each, without padding. One backward pass a text.
        labels: a class a text, for the cross-entropy; None = the class that the model finds most likely.

    Returns:
        (layers, H) float64, at least 0.

    Raises:
        ValueError: if there is no text, not one label a text, or the model gives other logits or has decoder layers.
    """
    slopes = _gate_slopes(model, token_ids, labels, "encoder_{}/attention/output/kernel")  # (N, L, H d)
    width = model.get_config()["head_dim"]
    of_heads = slopes.reshape(*slopes.shape[:2], -1, width).sum(axis=-1)  # (N, L, H)
    return np.abs(of_heads).mean(axis=0)


def unit_slopes(
    model: keras.Model, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
) -> np.ndarray:
    """E_x |d loss(x) / d gate_f|: `head_importance` for the inner units of the feed-forward parts.

    `unit_importance` ranks by size alone and needs no labels.

    Args: as `head_importance`.

    Returns:
        (layers, F) float64, at least 0.

    Raises:
        ValueError: as `head_importance`.
    """
    return np.abs(_gate_slopes(model, token_ids, labels, "encoder_{}/feed_forward/outer/kernel")).mean(axis=0)


def head_norms(model: keras.Model) -> np.ndarray:
    """||W_V,h W_O,h||, the Frobenius norm of the map from what head h reads to what it adds. Needs no data.

    Returns:
        (layers, H) float64, at least 0.

    Raises:
        ValueError: if the model has decoder layers.
    """
    config = encoder_config(model)
    weights = {weight.path: weight.numpy().astype("float64") for weight in model.weights}
    norms = np.empty((config["num_layers"], config["num_heads"]))
    for layer, head in np.ndindex(*norms.shape):
        columns = slice(head * config["head_dim"], (head + 1) * config["head_dim"])
        attention = f"encoder_{layer}/attention"
        read = weights[f"{attention}/value/kernel"][:, columns]  # (D, d)
        norms[layer, head] = np.linalg.norm(read @ weights[f"{attention}/output/kernel"][columns])
    return norms


def channel_importance(model: keras.Model, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """sum over LayerNorms of mean |LN(x)_c| over real tokens: Muralidharan et al. 2024 (Minitron), section 2.2.

    Args:
        model: its width is ranked.
        token_ids: texts, one list of ids each, without padding; all run at once.

    Returns:
        (D,) float64, at least 0.

    Raises:
        ValueError: if the model has decoder layers.
    """
    config = encoder_config(model)
    outputs = [tapped_at_real_tokens(model, "embeddings", token_ids)]
    for layer in range(config["num_layers"]):
        activations = layer_activations(model, layer, token_ids)
        outputs += [activations.attention_norm, activations.feed_forward_norm]
    if config["norm_first"]:
        last = tapped_at_real_tokens(model, f"encoder/{config['num_layers'] - 1}/hidden", token_ids)
        outputs.append(ops.convert_to_numpy(ops.cast(model.get_layer("final_norm")(last), "float32")))
    return np.sum([np.abs(output, dtype="float64").mean(axis=0) for output in outputs], axis=0)


def _gate_slopes(
    model: keras.Model, token_ids: Sequence[Sequence[int]], labels: Sequence[int] | None, path: str
) -> np.ndarray:
    """d loss / d gate for a gate on each input of one product a layer: (texts, layers, inputs) float64."""
    config = encoder_config(model)
    if len(model.output.shape) != 2:
        raise ValueError(
            f"{model.name!r} gives logits of shape {model.output.shape}: the loss here is that of one class a text, "
            "logits (B, C). Use a TextClassifier, or rank by head_norms or unit_importance."
        )
    if not len(token_ids) or (labels is not None and len(labels) != len(token_ids)):
        raise ValueError(
            f"{len(token_ids)} texts and {'no' if labels is None else len(labels)} labels: importance is a mean over "
            "texts. Give at least one text, and one label a text or labels=None."
        )
    weights = {weight.path: weight for weight in model.weights}
    kernels = [weights[path.format(layer)] for layer in range(config["num_layers"])]
    slopes = _slopes_of_text(model, kernels)
    wanted = [-1] * len(token_ids) if labels is None else labels
    texts = zip(token_ids, wanted, strict=True)
    return np.stack([slopes(np.array([ids], "int32"), np.int32(label)).numpy() for ids, label in texts]).astype(
        "float64"
    )


def _slopes_of_text(model: keras.Model, kernels: Sequence[keras.Variable]) -> Callable[..., tf.Tensor]:
    """Return the function of one text's ids (1, T) and its class, -1 = the likeliest, to (layers, inputs)."""

    @tf.function(input_signature=[tf.TensorSpec((1, None), "int32"), tf.TensorSpec((), "int32")])
    def slopes(ids: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([kernel.value for kernel in kernels])  # frozen ones too
            logits = model(ids, training=False)[0]  # (C,)
            wanted = ops.where(label < 0, ops.argmax(logits), label)
            loss = -ops.log_softmax(ops.cast(logits, "float32"))[wanted]
        gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
        pairs = zip(kernels, gradients, strict=True)
        return tf.stack([tf.reduce_sum(kernel.value * gradient, axis=-1) for kernel, gradient in pairs])

    return slopes
