"""LayerNorms in fewer passes over the hidden states.

Keras writes x * s + (beta - mean * s) with s = gamma / sqrt(variance + epsilon), an outer product of T and D numbers:
six operators on all T * D. The same norm as (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the variance out
of the same differences, has five, and takes no difference of two large numbers that are nearly equal but x - mean.
"""

from typing import Any, NamedTuple

from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_transformer.export.lite_graph import Code, Kind, LiteGraph, packed

Options = schema.BuiltinOptions
DIFFERENCE = Kind(Code.SUB, Options.SubOptions, schema.SubOptionsT())
PRODUCT = Kind(Code.MUL, Options.MulOptions, schema.MulOptionsT())
SUM = Kind(Code.ADD, Options.AddOptions, schema.AddOptionsT())


class Norm(NamedTuple):
    """The operators of one LayerNorm as Keras writes it, named by what they give."""

    square: Any  # (x - mean)^2
    root: Any  # 1 / sqrt(variance + epsilon)
    scale: Any  # s = root * gamma
    minus_mean: Any
    shift: Any  # -mean * s
    offset: Any  # beta - mean * s
    product: Any  # x * s
    result: Any


def with_short_norms(flatbuffer: bytes) -> bytes:
    """Return the flatbuffer with five operators in place of six on the hidden states of each LayerNorm."""
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    changed = False
    for graph in (LiteGraph(model, graph) for graph in model.subgraphs):
        for square in graph.of_code(Code.SQUARED_DIFFERENCE):
            norm = _norm(graph, square)
            if norm is not None:
                _shorten(graph, norm)
                changed = True
        graph.drop_unmade()
    return packed(model) if changed else flatbuffer


def _norm(graph: LiteGraph, square: Any) -> Norm | None:
    """The LayerNorm that an operator belongs to; None if what follows it is something else."""
    x, mean = square.inputs
    scale = _after(graph, square, (Code.MEAN, Code.ADD, Code.RSQRT, Code.MUL))
    minus_mean = next((one for one in graph.readers(mean) if graph.code(one) == Code.NEG), None)
    if scale is None or minus_mean is None:
        return None
    shift = _after(graph, minus_mean, (Code.MUL,))
    offset = _after(graph, minus_mean, (Code.MUL, Code.ADD))
    result = _after(graph, minus_mean, (Code.MUL, Code.ADD, Code.ADD))
    product = next((one for one in graph.readers(scale.outputs[0]) if one is not shift), None)
    if shift is None or offset is None or result is None or product is None:
        return None
    root = next((one for one in map(graph.maker, scale.inputs) if _is_root(graph, one)), None)
    if root is None or not all(map(graph.is_plain, (square, scale, shift, offset, product, result))):
        return None
    parts = {frozenset(one.inputs) for one in (shift, product, result)}
    wanted = {
        frozenset((minus_mean.outputs[0], scale.outputs[0])),
        frozenset((x, scale.outputs[0])),
        frozenset((product.outputs[0], offset.outputs[0])),
    }
    if parts != wanted or graph.code(product) != Code.MUL or graph.only_reader(product.outputs[0]) is not result:
        return None
    if len(graph.readers(scale.outputs[0])) != 2 or graph.is_given(scale.outputs[0]):
        return None
    return Norm(square, root, scale, minus_mean, shift, offset, product, result)


def _is_root(graph: LiteGraph, operator: Any | None) -> bool:
    return operator is not None and graph.code(operator) == Code.RSQRT


def _after(graph: LiteGraph, operator: Any, codes: tuple[int, ...]) -> Any | None:
    """The last of some operators that follow one, each the only reader of the one before; None if others do."""
    for code in codes:
        operator = graph.only_reader(operator.outputs[0])
        if operator is None or graph.code(operator) != code:
            return None
    return operator


def _shorten(graph: LiteGraph, norm: Norm) -> None:
    """Let some of the operators compute something else, and take out two."""
    x, mean = norm.square.inputs
    gamma = next(one for one in norm.scale.inputs if one != norm.root.outputs[0])
    beta = next(one for one in norm.offset.inputs if one != norm.shift.outputs[0])
    difference = norm.minus_mean.outputs[0]
    graph.become(norm.minus_mean, DIFFERENCE, (x, mean))
    graph.set_lengths(difference, graph.lengths(x))
    graph.move(norm.minus_mean, before=norm.square)
    graph.become(norm.square, PRODUCT, (difference, difference))
    graph.become(norm.product, PRODUCT, (difference, norm.root.outputs[0]))
    graph.become(norm.scale, PRODUCT, (norm.product.outputs[0], gamma))
    graph.become(norm.result, SUM, (norm.scale.outputs[0], beta))
    for operator in (norm.product, norm.scale):
        graph.move(operator, before=norm.result)
    for operator in (norm.shift, norm.offset):
        graph.remove(operator)
