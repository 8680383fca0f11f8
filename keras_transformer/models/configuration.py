"""The arguments of a model as its attributes and its config: what each model class of the package does alike."""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

Model = TypeVar("Model", bound=keras.Model)


def argument(model: keras.Model, name: str) -> Any:
    """Return a constructor argument that the model keeps in `_arguments`: the end of its `__getattr__`.

    Raises:
        AttributeError: if there is none of that name.
    """
    arguments = model.__dict__.get("_arguments", {})
    if name in arguments:
        return arguments[name]
    raise AttributeError(f"{type(model).__name__} has no attribute {name!r}")


def config_of(model: keras.Model, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments, name and dtype policy, and the names of the layers that are frozen."""
    policy = keras.saving.serialize_keras_object(model.dtype_policy)
    frozen = [layer.name for layer in model.layers if not layer.trainable]
    return {**arguments, "name": model.name, "dtype": policy, "frozen": frozen}


def model_of(make: Callable[..., Model], config: dict[str, Any]) -> Model:
    """Build the model from what `config_of` returned, its frozen layers frozen."""
    arguments = dict(config)
    frozen = arguments.pop("frozen", [])
    model = make(**arguments)
    for name in frozen:  # else the optimizer of a loaded file doesn't fit
        model.get_layer(name).trainable = False
    return model
