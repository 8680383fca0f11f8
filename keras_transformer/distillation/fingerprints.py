"""A hash of a model, so that what was computed with it isn't taken for another one's."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

OF_A_LAYER = {"trainable", "layers", "batch_shape"}
"""Entries of which the config of a layer, a model or an input has one; that of a dtype policy has none."""
WITHOUT_EFFECT = {"trainable", "build_config"}
"""Entries of a config that change no output: shapes are seen in the weights."""


def model_fingerprint(model: keras.Model) -> str:
    """sha256 of what decides a model's outputs: its class, its config and its weights, as 64 hexadecimal digits.

    Names of layers are left out, since Keras numbers them anew each time that a model is built. A subclassed model
    that has no config counts by its class and weights alone.
    """
    digest = hashlib.sha256(type(model).__name__.encode())
    try:
        config = model.get_config()
    except NotImplementedError:  # a subclassed model whose constructor takes arguments
        config = {}
    places = {model.name: "layer"}
    for place, name in enumerate(_layer_names(config)):
        places.setdefault(name, f"layer {place}")
    digest.update(json.dumps(_without_names(config, places), sort_keys=True, default=str).encode())
    for weight in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def _layer_names(config: Any) -> Iterator[str]:
    """The name of every layer in a config, in order. A dtype policy has a name too, which says what it does."""
    parts = config.values() if isinstance(config, dict) else config if isinstance(config, list | tuple) else ()
    if isinstance(config, dict) and isinstance(config.get("name"), str) and OF_A_LAYER & config.keys():
        yield config["name"]
    for part in parts:
        yield from _layer_names(part)


def _without_names(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_names(part, places) for key, part in value.items() if key not in WITHOUT_EFFECT}
    if isinstance(value, list | tuple):
        return [_without_names(part, places) for part in value]
    return places.get(value, value) if isinstance(value, str) else value
