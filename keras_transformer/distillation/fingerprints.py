"""Hashes of models and functions, so that what was computed with one isn't taken for another one's."""

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator
from types import CodeType
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


def function_fingerprint(function: Callable[..., Any]) -> str:
    """sha256 of a function at the top of a module: its module and name, its code and its defaults.

    What it calls, and what it reads of its module, counts by name alone. Comments and docstrings don't count; another
    version of Python, which compiles to other code, makes another function of it.

    Raises:
        TypeError: for a lambda, a function made inside another one, a method, a functools.partial or another object:
            of these two may do different things under one name.
    """
    if not (inspect.isfunction(function) and function.__qualname__.isidentifier() and function.__closure__ is None):
        raise TypeError(
            f"{function!r} has no fingerprint: only a function at the top of a module is told from others by its name "
            "and code, no lambda, partial, method or function made inside another one. Write it with `def` at the top "
            "of a module, its numbers in its body."
        )
    options = (function.__defaults__, function.__kwdefaults__)
    parts = [function.__module__, function.__qualname__, _code_text(function.__code__, function.__doc__), repr(options)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _code_text(code: CodeType, docstring: str | None) -> str:
    """What a function does, the same in each process: neither addresses nor the order of a set are in it."""
    constants = []
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            constants.append(_code_text(constant, None))
        elif isinstance(constant, frozenset):
            constants.append(repr(sorted(map(repr, constant))))
        elif constant is not docstring:
            constants.append(repr(constant))
    return repr((code.co_code.hex(), code.co_names, constants))


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
