"""Any model plus a list of names -> logits and the named tensors, in one forward pass."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import keras
from keras import ops

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.layers.masks import Tensor

PADDING_MASK = "padding_mask"
"""The input by which KerasHub models tell real tokens, 1, from padding, 0."""


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
            outputs = Outputs(found["output"], taps, found.get("mask"))
        elif self.names:
            return self._own_taps(chosen, training)
        else:
            logits = self.model(chosen, training=training)
            outputs = Outputs(_one_tensor(logits, f"model {self.model.name!r}"))
        if outputs.mask is not None:
            return outputs
        mask = _keras_mask(outputs.logits)
        return outputs._replace(mask=_mask_among(self.model, inputs) if mask is None else mask)

    def symbolic_outputs(self) -> Outputs | None:
        """Shapes and dtypes of what a call gives, as KerasTensors; None = only a call tells (no graph)."""
        if not _has_graph(self.model):
            return None
        found = {"output": _ends(self.model)[1], "taps": {}} if self.graph is None else self.graph.output
        mask = found.get("mask", _keras_mask(found["output"]))
        given = [tensor for tensor in self.model.inputs if tensor.name == PADDING_MASK]
        if mask is None and given:
            mask = keras.KerasTensor(given[0].shape, "bool")
        taps = {name: _same_shape(found["taps"][name]) for name in self.names}
        return Outputs(_same_shape(found["output"]), taps, None if mask is None else _same_shape(mask))

    def _own_taps(self, inputs: Any, training: bool) -> Outputs:
        outputs = Outputs(*self.model.taps(inputs, training=training))
        for name in self.names:
            if name not in outputs.taps:
                raise ValueError(_unknown(self.model, name, outputs.taps))
        return outputs._replace(taps={name: outputs.taps[name] for name in self.names})


def with_taps(model: keras.Model, names: Iterable[str] = ()) -> TappedModel:
    """Return `model` as one that gives its logits, the named taps and its mask in one forward pass.

    Where a name is looked up: in `model.tap_tensors`, a dict of name -> KerasTensor of the model's graph; or
    among the layers of a Functional or Sequential model, whose output it then is. Where a layer is such a
    model itself, a path goes on inside, to any depth: "gpt2_backbone/transformer_layer_1". A subclassed model
    without a graph offers `taps(inputs, training)`, which returns (logits, dict of taps) or
    (logits, taps, mask) of one forward pass.

    `Outputs.mask` is, the first of these that there is: a tap named "mask", (B, T) bool; the mask that Keras
    sends along the graph; the input named "padding_mask", as KerasHub's models have it.

    Args:
        model: any Keras model; it is not changed.
        names: which taps; none = the logits and the mask alone.

    Raises:
        ValueError: for an unknown name; the message lists what there is, and the nearest. For a model that
            has neither a graph nor `taps`, or more than one output; for a layer that gives several tensors or
            runs more than once.
    """
    wanted = tuple(dict.fromkeys(names))
    if not _has_graph(model):
        if wanted and not hasattr(model, "taps"):
            raise ValueError(
                f"model {model.name!r} ({type(model).__name__}) has no graph to find {list(wanted)} in: it "
                "is a subclassed or unbuilt model. Build it as a Functional model, or give it a method "
                "taps(inputs, training) that returns (logits, dict of taps)."
            )
        return TappedModel(model, wanted, None)
    _one_tensor(_ends(model)[1], f"model {model.name!r}")
    there = list(_paths(model))
    for name in wanted:
        if name not in there:
            raise ValueError(_unknown(model, name, there))
    if not wanted and "mask" not in getattr(model, "tap_tensors", {}):
        return TappedModel(model, (), None)
    return TappedModel(model, wanted, _graph_with(model, wanted))


def select_inputs(model: keras.Model, inputs: Any) -> Any:
    """Pick out of `inputs` what the graph of `model` takes by name; what isn't a dict passes as it is.

    So one batch serves a teacher and a student that take different inputs: a KerasHub teacher takes
    "token_ids" and "padding_mask" out of {"token_ids": ..., "padding_mask": ...}, and a `TextClassifier` the
    ids alone. A model with one input and a dict with one entry fit whatever their names.

    Raises:
        ValueError: if an input of the graph is missing; the message names what there is.
    """
    if not _has_graph(model):
        return inputs
    wanted, _ = _ends(model)
    if not isinstance(inputs, Mapping):
        _check_number(model, inputs)
        return inputs
    if isinstance(wanted, Mapping):
        return {name: _pick(model, inputs, name) for name in wanted}
    if isinstance(wanted, list | tuple):
        return [_pick(model, inputs, tensor.name) for tensor in model.inputs]
    return next(iter(inputs.values())) if len(inputs) == 1 else _pick(model, inputs, wanted.name)


class _CallRecorder:
    """Calls each layer of a graph again, as `clone_model` asks for it, and keeps what the names stand for."""

    def __init__(self, model: keras.Model, names: Iterable[str]) -> None:
        self.model, self.names = model, tuple(names)
        inputs = {tensor.name: tensor for tensor in model.inputs}  # their layers are not called
        self.seen: dict[str, list[Tensor]] = {name: [inputs[name]] if name in inputs else [] for name in self.names}
        self.nested: dict[str, keras.Model] = {}

    def __call__(self, layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        """Run `layer`, or a nested model with its own taps, which still is one run of it."""
        inside = [name for name in self.names if name.startswith(f"{layer.name}/")]
        if inside:
            paths = {name: name.partition("/")[2] for name in inside}
            if layer.name not in self.nested:
                self.nested[layer.name] = _graph_with(layer, paths.values())
            found = self.nested[layer.name](*args, **kwargs)
            for name, path in paths.items():
                self.seen[name].append(found["taps"][path])
            output = found["output"]
        else:
            output = layer(*args, **kwargs)
        if layer.name in self.seen:
            self.seen[layer.name].append(output)
        return output

    def found(self) -> dict[str, Tensor]:
        """Name -> the one tensor that it stands for."""
        for name, tensors in self.seen.items():
            if len(tensors) != 1:
                raise ValueError(
                    f"layer {name!r} of model {self.model.name!r} runs {len(tensors)} times in it, so its name "
                    "doesn't say which output is meant. Offer the tensor in `tap_tensors`, or tap the layer after it."
                )
        return {
            name: _one_tensor(tensors[0], f"layer {name!r} of model {self.model.name!r}")
            for name, tensors in self.seen.items()
        }


def _graph_with(model: keras.Model, names: Iterable[str]) -> keras.Model:
    """The graph of `model`, of the same layers, that gives {"output": ..., "taps": {...}, "mask": ...}.

    Layers are called anew (symbolically) rather than asked for their `output`: that is the one of the first
    graph they were ever called in, and inside a nested model it would make that part run twice.
    """
    inputs, output = _ends(model)
    offered = getattr(model, "tap_tensors", {})
    outputs = {"output": output, "taps": {name: offered[name] for name in names if name in offered}}
    if "mask" in offered:
        outputs["mask"] = offered["mask"]
    graph = keras.Model(inputs, outputs, name=f"{model.name}_with_taps")
    by_layer = [name for name in names if name not in offered]
    if not by_layer:
        return graph
    recorder = _CallRecorder(model, by_layer)
    again = keras.models.clone_model(
        graph, input_tensors=inputs, clone_function=lambda layer: layer, call_function=recorder
    ).output
    return keras.Model(inputs, {**again, "taps": {**again["taps"], **recorder.found()}}, name=graph.name)


def _has_graph(model: Any) -> bool:
    return isinstance(model, keras.Model) and getattr(model, "inputs", None) is not None


def _paths(model: keras.Model) -> Iterator[str]:
    """Every name that `with_taps` can find in `model`."""
    yield from getattr(model, "tap_tensors", {})
    for layer in model.layers:
        yield layer.name
        if _has_graph(layer):
            yield from (f"{layer.name}/{path}" for path in _paths(layer))


def _ends(model: keras.Model) -> tuple[Any, Any]:
    """What the graph of `model` takes and gives. (`Sequential.output` is that of a layer: of its first call.)"""
    if isinstance(model, keras.Sequential):
        return model.inputs[0], model.outputs[0]
    return model.input, model.output


def _check_number(model: keras.Model, inputs: Any) -> None:
    given = len(inputs) if isinstance(inputs, list | tuple) else 1
    if len(model.inputs) > given:
        names = [tensor.name for tensor in model.inputs]
        raise ValueError(
            f"model {model.name!r} takes the inputs {names} and the batch has {given}. "
            f"Pass x as a dict with {names}; each side picks its own by name."
        )


def _pick(model: keras.Model, inputs: Mapping[str, Any], name: str) -> Any:
    if name not in inputs:
        raise ValueError(
            f"model {model.name!r} takes an input {name!r} and the batch has {sorted(inputs)}. "
            f"Add {name!r} to the dict, or name the model's keras.Input after what the batch has."
        )
    return inputs[name]


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


def _same_shape(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """A new tensor: a call on the graph's own would add a node to the caller's layers."""
    return keras.KerasTensor(tensor.shape, tensor.dtype)


def _keras_mask(logits: Tensor) -> Tensor | None:
    """Read the mask that Embedding(mask_zero=True) sends along a graph; plain `fit` weighs by it too."""
    mask = getattr(logits, "_keras_mask", None)
    return mask if mask is not None and len(mask.shape) == 2 else None


def _mask_among(model: keras.Model, inputs: Any) -> Tensor | None:
    if not (_has_graph(model) and isinstance(inputs, Mapping) and PADDING_MASK in inputs):
        return None
    takes_it = any(tensor.name == PADDING_MASK for tensor in model.inputs)
    return ops.cast(inputs[PADDING_MASK], "bool") if takes_it else None
