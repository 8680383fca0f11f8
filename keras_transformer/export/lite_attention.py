"""Where the products of self-attention are in a flatbuffer, and what has to be integer for them to be.

XNNPACK multiplies two int8 tensors if the second has the zero point 0. So the ranges of keys and values are made
symmetric. What moves numbers on the way from a dense product to them becomes integer too: a quarter of the bytes.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_transformer.export.lite_graph import Code, LiteGraph

MOVING = (Code.RESHAPE, Code.TRANSPOSE, Code.MUL)  # the last: of values and mask
BEFORE_SOFTMAX = (*MOVING, Code.ADD, Code.CONCATENATION, Code.DIV, Code.MINIMUM, Code.SELECT, Code.SELECT_V2, Code.SUB)
NAMES = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}

Ranges = dict[str, dict[str, np.ndarray]]
"""Name of a tensor -> its "min" and "max", as the quantiser's calibration finds them."""


class AttentionProducts(NamedTuple):
    """The products of all self-attentions of a flatbuffer."""

    operators: dict[str, list[str]]  # kind, "BATCH_MATMUL" and so on -> names of what those operators give
    right: list[str]  # names of the tensors that lead to the right-hand sides: keys and values


def attention_products(flatbuffer: bytes) -> AttentionProducts:
    """Find the products of queries and keys, and of weights and values, that come from dense products.

    Keys and values that come from a cache are left out: it would have to hold integers.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    found = AttentionProducts({}, [])
    for graph in (LiteGraph(model, graph) for graph in model.subgraphs):
        for product in graph.of_code(Code.BATCH_MATMUL):
            left, right = (list(_way(graph, tensor)) for tensor in product.inputs)
            scores = _begins(graph, left) == Code.FULLY_CONNECTED and _goes_to_a_softmax(graph, product)
            if _begins(graph, right) == Code.FULLY_CONNECTED and (scores or _begins(graph, left) == Code.SOFTMAX):
                _record(graph, found, [product, *_makers(graph, left), *_makers(graph, right)])
                _record(graph, found, _after(graph, product))
                found.right.extend(graph.name(tensor) for tensor in right)
    return found


def make_symmetric(ranges: Ranges, names: Sequence[str]) -> None:
    """Widen ranges so that their zero point as int8 is 0: from -128 to 127 steps of one length."""
    for name in names:
        one = ranges[name]
        largest = max(float(np.abs(end).max()) for end in one.values()) or 1.0
        one["min"] = np.full_like(one["min"], -largest * 128 / 127)
        one["max"] = np.full_like(one["max"], largest)


def _way(graph: LiteGraph, tensor: int) -> Iterator[int]:
    """A tensor, and those before it that have the same numbers, or some of them set to 0, in another order."""
    yield tensor
    maker = graph.maker(tensor)
    if maker is not None and graph.code(maker) in MOVING:
        yield from _way(graph, maker.inputs[0])


def _begins(graph: LiteGraph, way: list[int]) -> int | None:
    """What gives the first tensor of a way, the last in its list."""
    maker = graph.maker(way[-1])
    return None if maker is None else graph.code(maker)


def _goes_to_a_softmax(graph: LiteGraph, operator: Any) -> bool:
    """If what an operator gives becomes the weights of an attention, masks and biases between."""
    reader = graph.only_reader(operator.outputs[0])
    if reader is None or graph.code(reader) == Code.SOFTMAX:
        return reader is not None
    return graph.code(reader) in BEFORE_SOFTMAX and _goes_to_a_softmax(graph, reader)


def _makers(graph: LiteGraph, way: list[int]) -> list[Any]:
    """The operators that move along a way."""
    return [graph.maker(tensor) for tensor in way[:-1]]


def _after(graph: LiteGraph, product: Any) -> list[Any]:
    """The operators that move what a product gives, as long as nothing else reads it."""
    reader = graph.only_reader(product.outputs[0])
    if reader is None or graph.code(reader) not in (Code.RESHAPE, Code.TRANSPOSE):
        return []
    return [reader, *_after(graph, reader)]


def _record(graph: LiteGraph, found: AttentionProducts, operators: Sequence[Any]) -> None:
    for operator in operators:
        found.operators.setdefault(NAMES[graph.code(operator)], []).append(graph.name(operator.outputs[0]))
