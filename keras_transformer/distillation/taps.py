"""Any model plus a list of names -> logits and the named tensors, in one forward pass."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import keras

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.layers.masks import Tensor


@dataclass(frozen=True)
class TappedModel:
    """A model that answers with `Outputs`. It shares all weights with the model that it was made of.

    A plain object on purpose: what holds it is not made to own the model's weights.
    """

    model: keras.Model  # the caller's own
    names: tuple[str, ...]
    graph: keras.Model | None  # the same layers with more outputs; None = `model` itself is called

    def __call__(self, inputs: Any, training: bool = False) -> Outputs:
        """Run one forward pass; `inputs` may hold more than the model takes, if they are a dict."""
        chosen = select_inputs(self.model, inputs)
        if self.graph is not None:
            found = self.graph(chosen, training=training)
            taps = {name: found["taps"][name] for name in self.names}
            return Outputs(found["logits"], taps, found.get("mask", _keras_mask(found["logits"])))
        if not self.names:
            logits = self.model(chosen, training=training)
            return Outputs(_one_tensor(logits, f"model {self.model.name!r}"), {}, _keras_mask(logits))
        return self._own_taps(chosen, training)

    def symbolic_outputs(self) -> Outputs | None:
        """What a call gives, as KerasTensors of its shapes and dtypes; None = only a call tells (no graph)."""
        if self.graph is not None:
            found = self.graph.output
            outputs = Outputs(found["logits"], found.get("taps", {}), found.get("mask", _keras_mask(found["logits"])))
        elif getattr(self.model, "inputs", None) is None or self.names:
            return None
        else:
            logits = _ends(self.model)[1]
            outputs = Outputs(logits, {}, _keras_mask(logits))
        # New tensors: a call on the graph's own would add a node to the caller's layers.
        return keras.tree.map_structure(
            lambda tensor: None if tensor is None else keras.KerasTensor(tensor.shape, tensor.dtype), outputs
        )

    def _own_taps(self, inputs: Any, training: bool) -> Outputs:
        outputs = Outputs(*self.model.taps(inputs, training=training))
        for name in self.names:
            if name not in outputs.taps:
                raise ValueError(_unknown(self.model, name, outputs.taps))
        return outputs._replace(taps={name: outputs.taps[name] for name in self.names})


def with_taps(model: keras.Model, names: Iterable[str] = ()) -> TappedModel:
    """Return `model` as one that gives its logits, the named taps and its mask in one forward pass.

    Where a name is looked up: in `model.tap_tensors`, a dict of name -> KerasTensor of the model's graph; or
    among the layers of a Functional or Sequential model, whose output it then is. A subclassed model without
    a graph offers `taps(inputs, training)`, which returns (logits, dict of taps) or (logits, taps, mask) of
    one forward pass. A tap named "mask", (B, T) bool, becomes `Outputs.mask`; without one the mask that Keras
    computes along the graph does.

    Args:
        model: any Keras model; it is not changed.
        names: which taps; none = the logits and the mask alone.

    Raises:
        ValueError: for an unknown name; the message lists what there is, and the nearest. For a model that
            has neither a graph nor `taps`, or more than one output.
    """
    wanted = tuple(dict.fromkeys(names))
    if getattr(model, "inputs", None) is None:  # no graph
        if wanted and not hasattr(model, "taps"):
            raise ValueError(
                f"model {model.name!r} ({type(model).__name__}) has no graph to find {list(wanted)} in: it "
                "is a subclassed or unbuilt model. Build it as a Functional model, or give it a method "
                "taps(inputs, training) that returns (logits, dict of taps)."
            )
        return TappedModel(model, wanted, None)
    inputs, output = _ends(model)
    logits = _one_tensor(output, f"model {model.name!r}")
    offered = getattr(model, "tap_tensors", {})
    outputs: dict[str, Any] = {"logits": logits}
    if "mask" in offered:
        outputs["mask"] = offered["mask"]
    if wanted:
        outputs["taps"] = {name: _find(model, offered, name) for name in wanted}
    if len(outputs) == 1:
        return TappedModel(model, (), None)
    return TappedModel(model, wanted, keras.Model(inputs, outputs, name=f"{model.name}_with_taps"))


def select_inputs(model: keras.Model, inputs: Any) -> Any:
    """Pick out of `inputs` what the graph of `model` takes by name; what isn't a dict passes as it is.

    A model with one input and a dict with one entry fit whatever their names.

    Raises:
        ValueError: if an input of the graph is missing; the message names what there is.
    """
    graph_inputs = getattr(model, "inputs", None)
    if graph_inputs is None or not isinstance(inputs, Mapping):
        return inputs
    wanted, _ = _ends(model)
    if isinstance(wanted, Mapping):
        return {name: _pick(model, inputs, name) for name in wanted}
    if isinstance(wanted, list | tuple):
        return [_pick(model, inputs, tensor.name) for tensor in graph_inputs]
    return next(iter(inputs.values())) if len(inputs) == 1 else _pick(model, inputs, wanted.name)


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """What the graph of `model` takes and gives. (`Sequential.output` is that of a layer: of its first call.)"""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _pick(model: keras.Model, inputs: Mapping[str, Any], name: str) -> Any:
    if name not in inputs:
        raise ValueError(
            f"model {model.name!r} takes an input {name!r} and the batch has {sorted(inputs)}. "
            f"Add {name!r} to the dict, or name the model's keras.Input after what the batch has."
        )
    return inputs[name]


def _find(model: keras.Model, offered: Mapping[str, Tensor], name: str) -> Tensor:
    if name in offered:
        return offered[name]
    layers = {layer.name: layer for layer in model.layers}
    if name not in layers:
        raise ValueError(_unknown(model, name, [*offered, *layers]))
    return _one_tensor(layers[name].output, f"layer {name!r} of model {model.name!r}")


def _unknown(model: keras.Model, name: str, offered: Iterable[str]) -> str:
    there = list(offered)
    nearest = get_close_matches(name, there, n=1, cutoff=0.0)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return f"model {model.name!r} has no tap {name!r}. It has {there}.{hint}"


def _one_tensor(output: Any, owner: str) -> Tensor:
    if isinstance(output, Mapping | list | tuple):
        raise ValueError(
            f"{owner} gives {len(output)} tensors where one is wanted. "
            "Wrap it in a keras.Model with that one output, or offer the tensor in `tap_tensors`."
        )
    return output


def _keras_mask(logits: Tensor) -> Tensor | None:
    """Read the mask that Embedding(mask_zero=True) sends along a graph; plain `fit` weighs by it too."""
    mask = getattr(logits, "_keras_mask", None)
    return mask if mask is not None and len(mask.shape) == 2 else None
