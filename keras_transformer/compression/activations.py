"""What flows inside an encoder layer, at the real tokens of some texts."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_transformer.compression.encoders import encoder_config
from keras_transformer.layers.masks import Tensor


class LayerActivations(NamedTuple):
    """What three parts of one encoder layer give at N real tokens, float32."""

    attention_norm: np.ndarray  # (N, D)
    feed_forward_norm: np.ndarray  # (N, D)
    inner: np.ndarray  # (N, F) of the feed-forward part, after its activation


def layer_activations(model: keras.Model, index: int, token_ids: Sequence[Sequence[int]]) -> LayerActivations:
    """Run some texts through encoder layer `index` by hand, dropout off: its graph shows only the layer's ends.

    Args:
        model: made as `TextClassifier` is.
        index: of the layer, from 0.
        token_ids: texts, one list of ids each, without padding; all run at once.

    Raises:
        ValueError: if the model has decoder layers.
    """
    encoder_config(model)
    padded = _padded(token_ids)
    before = "embeddings" if index == 0 else f"encoder/{index - 1}/hidden"
    x = keras.Model(model.input, model.tap_tensors[before])(padded)
    layer = model.get_layer(f"encoder_{index}")
    if layer.norm_first:
        normed = layer.attention_norm(x)
        fed = layer.feed_forward_norm(x + layer.attention(normed, normed, attention_mask=padded != 0).context)
        inner = layer.feed_forward.inner(fed)
        return LayerActivations(*(_at_real_tokens(part, padded) for part in (normed, fed, inner)))
    normed = layer.attention_norm(x + layer.attention(x, x, attention_mask=padded != 0).context)
    inner = layer.feed_forward.inner(normed)
    hidden = layer.feed_forward_norm(normed + layer.feed_forward.outer(inner))
    return LayerActivations(*(_at_real_tokens(part, padded) for part in (normed, hidden, inner)))


def tapped_at_real_tokens(model: keras.Model, tap: str, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Return a tap (B, T, D) of `model` at the N real tokens of some texts: (N, D) float32."""
    padded = _padded(token_ids)
    return _at_real_tokens(keras.Model(model.input, model.tap_tensors[tap])(padded), padded)


def _padded(token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    padded = np.zeros((len(token_ids), max(len(ids) for ids in token_ids)), dtype="int32")
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = ids
    return padded


def _at_real_tokens(values: Tensor, padded: np.ndarray) -> np.ndarray:
    return ops.convert_to_numpy(ops.cast(values, "float32"))[padded != 0]
