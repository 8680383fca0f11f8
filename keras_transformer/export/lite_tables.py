"""A token table that a flatbuffer reads twice, by rows and as the weights of the logits, lies in it once.

A dense product of integers has a scale for each row of its weights, and GATHER gives rows of one scale for all. So the
two share no table, and quantisers write it twice. Here the rows are taken out of the weights as plain integers and
multiplied by their own scales: q[i] * s[i], in float32. EMBEDDING_LOOKUP does that by itself, but in TensorFlow Lite
2.17 not yet, the last one for iOS.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

GATHER, DEQUANTIZE = schema.BuiltinOperator.GATHER, schema.BuiltinOperator.DEQUANTIZE
DENSE, MUL = schema.BuiltinOperator.FULLY_CONNECTED, schema.BuiltinOperator.MUL
FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
ROUNDING = 0.51  # of a step: how far an integer may be from the number that it stands for


class _Table(NamedTuple):
    """A constant matrix of integers."""

    integers: np.ndarray  # (V, D), those around 0
    scale: np.ndarray  # (V, 1), or (1, 1) for all rows
    zero: np.ndarray  # as `scale`, what was taken off

    def is_like(self, other: "_Table") -> bool:
        """Whether both were made out of the same numbers."""
        apart = np.abs(self.integers * self.scale - other.integers * other.scale)
        return bool((apart <= ROUNDING * (self.scale + other.scale)).all())

    def has_a_scale_a_row(self) -> bool:
        """Whether the integers themselves are around 0, and each row of them has a scale."""
        return self.scale.size == len(self.integers) and not self.zero.any()


class _Lookup(NamedTuple):
    """Rows of a table that are some product's weights, too."""

    gather: Any
    dequantize: Any
    weights: int  # a tensor


def with_shared_tables(flatbuffer: bytes) -> bytes:
    """Return the integer flatbuffer without the tables of GATHERs that a dense product has as int8 weights too.

    The rows are as near to those of float32 as before, or nearer: the scale of a row is no larger than one for all. A
    table of other numbers, all of them within the rounding of the weights, can't be told from them and is taken for
    them too: its rows are then off by less than a step of each.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    changed = [_Graph(model, graph, f"row_{place}").share() for place, graph in enumerate(model.subgraphs)]
    if not any(changed):
        return flatbuffer
    _forget_unused(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _forget_unused(model: Any) -> None:
    """Empty the buffers that are read nowhere."""
    used = {entry.buffer for entry in model.metadata or []}
    for graph in model.subgraphs:
        read = [*graph.outputs, *(place for one in graph.operators for place in one.inputs if place >= 0)]
        used |= {graph.tensors[place].buffer for place in read}
    for place, buffer in enumerate(model.buffers):
        if place not in used:
            buffer.data = None


class _Graph:
    """A graph of a model, changed in place; `name` begins the names of what is added."""

    def __init__(self, model: Any, graph: Any, name: str) -> None:
        self.model, self.graph, self.tensors, self.name = model, graph, graph.tensors, name

    def share(self) -> bool:
        """Let GATHERs read the weights of products, where they can; tell whether any can."""
        lookups = {id(one): lookup for one in self.graph.operators if (lookup := self._lookup(one))}
        operators: list[Any] = []
        for operator in self.graph.operators:
            found = lookups.get(id(operator))
            operators += self._scaled(found) if found else [operator]
        self.graph.operators = operators
        return bool(lookups)

    def _lookup(self, operator: Any) -> _Lookup | None:
        """That of a DEQUANTIZE of a GATHER's rows, if nothing else reads them and they can come out of weights."""
        if self._code(operator) != DEQUANTIZE:
            return None
        rows = operator.inputs[0]
        makers = [one for one in self.graph.operators if rows in one.outputs and self._code(one) == GATHER]
        readers = {self._code(one) for one in self.graph.operators if rows in one.inputs}
        if len(makers) != 1 or readers != {DEQUANTIZE} or rows in self.graph.outputs or makers[0].builtinOptions.axis:
            return None
        weights = self._weights_like(makers[0].inputs[0])
        return None if weights is None else _Lookup(makers[0], operator, weights)

    def _weights_like(self, tensor: int) -> int | None:
        """A product's weights, with a scale a row, that have the numbers of a table."""
        table, shape = self._table(tensor), list(self.tensors[tensor].shape)
        for place in [one.inputs[1] for one in self.graph.operators if self._code(one) == DENSE]:
            if table and list(self.tensors[place].shape) == shape:
                weights = self._table(place)
                if weights and weights.has_a_scale_a_row() and table.is_like(weights):
                    return int(place)
        return None

    def _table(self, tensor: int) -> _Table | None:
        """A constant matrix of int8; None of other tensors."""
        one = self.tensors[tensor]
        data = self.model.buffers[one.buffer].data
        if data is None or one.type != INT8 or len(one.shape) != 2:
            return None
        integers = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.int8).reshape(one.shape)
        zero = np.array(one.quantization.zeroPoint, np.int32)[:, None]
        return _Table(integers - zero, np.array(one.quantization.scale, np.float32)[:, None], zero)

    def _scaled(self, lookup: _Lookup) -> list[Any]:
        """What takes the place of the DEQUANTIZE; its GATHER is given the weights, as integers of scale 1."""
        gather, rows = lookup.gather, lookup.dequantize.outputs[0]
        weights, plain = self.tensors[lookup.weights], schema.QuantizationParametersT(scale=[1.0], zeroPoint=[0])
        ids = gather.inputs[1]
        gather.inputs = [self._tensor(INT8, weights.shape, weights.buffer, plain), ids]
        self.tensors[gather.outputs[0]].quantization = plain
        scale = self._constant(np.array(weights.quantization.scale, np.float32)[:, None])  # (V, 1)
        *lengths, width = _lengths(self.tensors[gather.outputs[0]])
        integers, scales = self._tensor(FLOAT32, [*lengths, width]), self._tensor(FLOAT32, [*lengths, 1])
        multiply = self._place_of_multiplication()
        kind = schema.BuiltinOptions.MulOptions
        return [
            schema.OperatorT(lookup.dequantize.opcodeIndex, [gather.outputs[0]], [integers]),
            schema.OperatorT(
                gather.opcodeIndex, [scale, ids], [scales], gather.builtinOptionsType, gather.builtinOptions
            ),
            schema.OperatorT(multiply, [integers, scales], [rows], kind, schema.MulOptionsT()),
        ]

    def _code(self, operator: Any) -> int:
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def _place_of_multiplication(self) -> int:
        codes = self.model.operatorCodes
        place = next((place for place, one in enumerate(codes) if one.builtinCode == MUL), len(codes))
        if place == len(codes):
            codes.append(schema.OperatorCodeT(deprecatedBuiltinCode=MUL, builtinCode=MUL))
        return place

    def _constant(self, numbers: np.ndarray) -> int:
        content = np.frombuffer(numbers.tobytes(), np.uint8)
        known = [place for place, one in enumerate(self.model.buffers) if np.array_equal(one.data, content)]
        if not known:
            self.model.buffers.append(schema.BufferT(content))
        return self._tensor(FLOAT32, numbers.shape, (known or [len(self.model.buffers) - 1])[0])

    def _tensor(self, kind: int, lengths: Sequence[int], buffer: int = 0, quantization: Any = None) -> int:
        """A new tensor; -1 is an unknown length."""
        signature = list(lengths) if -1 in lengths else None
        name, shape = f"{self.name}_{len(self.tensors)}".encode(), [abs(int(length)) for length in lengths]
        self.tensors.append(
            schema.TensorT(shape, kind, buffer, name, quantization, shapeSignature=signature, hasRank=True)
        )
        return len(self.tensors) - 1


def _lengths(tensor: Any) -> list[int]:
    """Of each dimension; -1 = unknown."""
    return [int(length) for length in (tensor.shape if tensor.shapeSignature is None else tensor.shapeSignature)]
