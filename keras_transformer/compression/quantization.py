"""Quantisation-aware training: a model that learns with the integers that its exported file will compute with.

>>> learning = quantization_aware(model, "int8")
>>> learning.compile(...)
>>> learning.fit(...)                      # or Distiller(learning, teacher, terms).fit(...)
>>> export.tflite(learning, path, quantize="int8", ...)

Jacob et al. 2018, section 3: the forward pass rounds weights and activations as the integer kernels will, the backward
pass lets gradients through. `export.tflite` writes the weights without the rounding, gives the quantiser the ranges
that were learned, and compares the file with the model that rounds.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

from keras_transformer.checks import one_of
from keras_transformer.layers.dense import Dense
from keras_transformer.layers.fake_quantization import MovingRange
from keras_transformer.layers.integer_policy import RANGES, ROWS, IntegerPolicy, policy_of_outputs

FORMS = {"int8": (8, RANGES), "int4": (4, ROWS)}
"""Number formats of `export.tflite` that can be trained for: bits of the weights, and how activations are taken."""

Model = TypeVar("Model", bound=keras.Model)


class Range(NamedTuple):
    """What an int8 tensor reaches from and to."""

    low: float
    high: float


class DenseRanges(NamedTuple):
    """A dense product and the ranges of what goes in and comes out of it."""

    kernel: np.ndarray  # (inputs, outputs)
    input: Range
    output: Range


def quantization_aware(
    model: Model, quantize: str = "int8", *, momentum: float = 0.99, attention_products: bool = False
) -> Model:
    """Return a copy of `model` that computes with fake integers, to be trained and then exported as `quantize`.

    The copy has the weights of `model` and is of its class; it is compiled, trained, saved, loaded, distilled and
    tapped as any other. Dense kernels have a scale an output channel. With "int8" what goes into a dense product and
    what comes out of it has a range that follows the batches while training; padding counts too. With "int4" what
    goes in has a range a row. The product that gives the logits has int8 weights and a range a row in both. The token
    table of our models has int8 numbers with one scale. Norms, softmax, GELU and the residual stream stay float32, as
    exported files have them. A table that also gives the logits gives them unrounded; an exported file rounds there.

    Our own models are rebuilt with another dtype policy, so one in mixed precision becomes one in float32. Of other
    Functional and Sequential models the `Dense` layers change and our layers, not those inside layers of others.

    Args:
        model: is not changed.
        quantize: "int8" or "int4", as `export.tflite` will be told.
        momentum: of the moving ranges, see `MovingRange`.
        attention_products: also take queries, keys, values and attention weights as int8. Train so for a target that
            computes whole attentions in integers. `export.tflite` leaves these products in float32, where
            they are faster; its file is then the more exact of the two.

    Raises:
        ValueError: for another format, a model that has fake integers already, one without a graph, or one without a
            dense product before the one that gives its outputs.
    """
    one_of("quantize", quantize, FORMS)
    if trained_form(model) is not None:
        raise ValueError(
            f"model {model.name!r} computes with fake integers already, for {trained_form(model)!r}. "
            "Train it as it is, or begin from plain(model)."
        )
    bits, activations = FORMS[quantize]
    copy = _with_policy(model, IntegerPolicy(bits, activations, momentum, attention_products))
    if not list(_dense_layers(copy, bits, activations)):
        raise ValueError(
            f"model {model.name!r} has no dense product before the one that gives its outputs, so nothing to train "
            "for: the last one has int8 weights in every form. Export it as it is."
        )
    return copy


def plain(model: Model) -> Model:
    """Return a float32 copy of what `quantization_aware` made, with its weights and without its rounding.

    Raises:
        ValueError: if `model` has no fake integers.
    """
    if trained_form(model) is None:
        raise ValueError(f"model {model.name!r} has no fake integers. Use it as it is.")
    return _with_policy(model, keras.DTypePolicy("float32"))


def trained_form(model: keras.Model) -> str | None:
    """The key of `FORMS` for which a model computes with fake integers; None for any other model."""
    policies = [layer.dtype_policy for layer in model._flatten_layers()]
    found = {(one.weight_bits, one.activations) for one in policies if isinstance(one, IntegerPolicy)}
    return next((name for name, form in FORMS.items() if form in found), None)


def dense_ranges(model: keras.Model) -> dict[str, DenseRanges]:
    """The learned ranges of a model for "int8", by the path of the kernel; none for "int4".

    Raises:
        ValueError: if the model was never trained, so that its ranges saw nothing.
    """
    found = {}
    for layer in _dense_layers(model, *FORMS["int8"]):
        moving = [one for one in (layer.input_range, layer.output_range) if one is not None]
        if not all(float(one.seen) for one in moving):
            raise ValueError(
                f"{layer.path} of model {model.name!r} has seen no batch, so its ranges are unknown. "
                "Train the model, or call it once with training=True on typical inputs."
            )
        ends = [Range(float(one.low), float(one.high)) for one in moving]
        found[layer.kernel.path] = DenseRanges(np.array(layer.kernel), *ends)
    return found


def _dense_layers(model: keras.Model, bits: int, activations: str) -> Iterator[Dense]:
    for layer in model._flatten_layers():
        policy = layer.dtype_policy
        among_integers = isinstance(layer, Dense) and isinstance(policy, IntegerPolicy)
        if among_integers and (policy.weight_bits, policy.activations) == (bits, activations):
            yield layer


def _with_policy(model: Model, policy: keras.DTypePolicy) -> Model:
    """A copy that computes by another policy, with the same weights but for the ranges."""
    config = model.get_config() if _is_built_by_config(model) else None
    twin = _clone(model, policy) if config is None else type(model).from_config({**config, "dtype": policy})
    for ours, theirs in zip(_weights(twin), _weights(model), strict=True):
        ours.assign(theirs)
    return twin


def _is_built_by_config(model: keras.Model) -> bool:
    """Whether `from_config` builds the model anew from its own arguments, as our models do, `dtype` among them."""
    return hasattr(model, "_arguments")


def _clone(model: keras.Model, policy: keras.DTypePolicy, inside: bool = False) -> keras.Model:
    if getattr(model, "inputs", None) is None:
        raise ValueError(
            f"model {model.name!r} ({type(model).__name__}) has no graph in which dense layers could be exchanged: it "
            "is a subclassed or unbuilt model. Build it as a Functional model."
        )

    def exchanged(layer: keras.Operation) -> keras.Operation:
        if isinstance(layer, keras.Model):
            return _clone(layer, policy, inside=True)
        if not isinstance(layer, keras.layers.Layer):
            return layer  # an operation of the graph has no weights and no policy
        is_dense = type(layer) is keras.layers.Dense
        is_last = not inside and any(layer.output is one for one in model.outputs)
        config = {**layer.get_config(), "dtype": policy_of_outputs(policy) if is_last else policy}
        return (Dense if is_dense else type(layer)).from_config(config)

    return keras.models.clone_model(model, clone_function=exchanged)


def _weights(model: keras.Model) -> list[Any]:
    """All weights but the ranges, in an order that doesn't depend on them."""
    ranges = {
        id(weight) for layer in model._flatten_layers() if isinstance(layer, MovingRange) for weight in layer.weights
    }
    return [weight for weight in model.weights if id(weight) not in ranges]
