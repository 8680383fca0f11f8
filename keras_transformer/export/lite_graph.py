"""The graphs of a `.tflite` file, to be rewritten: who makes a tensor, who reads it, and new operators between them."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Code = schema.BuiltinOperator
TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.int32): schema.TensorType.INT32,
}
"""Of the constants that a rewrite adds."""
NONE = -1  # in place of an input that an operator does without


class Kind(NamedTuple):
    """What a new operator is."""

    code: int  # of `Code`
    options_type: int  # of schema.BuiltinOptions
    options: Any  # an object of the schema


class LiteGraph:
    """A graph of a model, both as objects of the schema; tensors are places in the graph's list.

    Its operators run in the order of the list, so a new one goes in front of one that reads what it gives.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._model, self._graph = model, graph
        self._added: dict[tuple[str, bytes], int] = {}

    def of_code(self, code: int) -> list[Any]:
        """The operators of one kind, in order."""
        return [operator for operator in self._graph.operators if self.code(operator) == code]

    def code(self, operator: Any) -> int:
        """What an operator does, of `Code`."""
        known = self._model.operatorCodes[operator.opcodeIndex]
        return int(max(known.builtinCode, known.deprecatedBuiltinCode))

    def is_plain(self, operator: Any) -> bool:
        """If no activation is fused into what an operator gives."""
        return not getattr(operator.builtinOptions, "fusedActivationFunction", 0)

    def maker(self, tensor: int) -> Any | None:
        """The operator that gives a tensor; None for a constant or an input."""
        return next((operator for operator in self._graph.operators if tensor in operator.outputs), None)

    def readers(self, tensor: int) -> list[Any]:
        """The operators that take a tensor, in order; an output of the graph has one reader more, which isn't told."""
        return [operator for operator in self._graph.operators if tensor in operator.inputs]

    def is_given(self, tensor: int) -> bool:
        """If a tensor is an output of the graph."""
        return tensor in self._graph.outputs

    def only_reader(self, tensor: int) -> Any | None:
        """The one operator that takes a tensor; None if there are others, or the graph gives it."""
        readers = self.readers(tensor)
        return readers[0] if len(readers) == 1 and not self.is_given(tensor) else None

    def name(self, tensor: int) -> str:
        """The name of a tensor."""
        return str(self._graph.tensors[tensor].name.decode())

    def lengths(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor; -1 for a length that isn't known before it runs."""
        one = self._graph.tensors[tensor]
        known = one.shape if one.shapeSignature is None or len(one.shapeSignature) == 0 else one.shapeSignature
        return tuple(int(length) for length in (() if known is None else known))

    def constant(self, tensor: int) -> np.ndarray | None:
        """The values of a float32 constant; None for any other tensor."""
        one = self._graph.tensors[tensor]
        data = self._model.buffers[one.buffer].data
        if data is None or one.type != schema.TensorType.FLOAT32:
            return None
        return np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(self.lengths(tensor))

    def permutation(self, operator: Any) -> tuple[int, ...] | None:
        """The constant order in which a transpose takes the axes of its input; None for any other operator."""
        if self.code(operator) != Code.TRANSPOSE:
            return None
        data = self._model.buffers[self._graph.tensors[operator.inputs[1]].buffer].data
        return None if data is None else tuple(np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.int32).tolist())

    def add_constant(self, name: str, values: np.ndarray) -> int:
        """A constant, float32 or int32; one of this name and these values that was added before is taken again."""
        known = self._added.get((name, values.tobytes()))
        if known is not None:
            return known
        self._model.buffers.append(schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
        buffer = len(self._model.buffers) - 1
        tensor = schema.TensorT(shape=list(values.shape), type=TYPES[values.dtype], buffer=buffer, name=name.encode())
        self._added[name, values.tobytes()] = place = self._add(tensor)
        return place

    def add_operator(self, kind: Kind, inputs: Sequence[int], name: str, lengths: Sequence[int], *, before: Any) -> int:
        """A new operator in front of another; returns the float32 tensor that it gives.

        Args:
            kind: what it does.
            inputs: tensors.
            name: of what it gives.
            lengths: of what it gives; -1 for one that isn't known before it runs.
            before: an operator of the graph.
        """
        given = self._add(schema.TensorT(type=schema.TensorType.FLOAT32, name=name.encode()))
        self.set_lengths(given, lengths)
        operator = schema.OperatorT(
            opcodeIndex=self._opcode(kind.code),
            inputs=list(inputs),
            outputs=[given],
            builtinOptionsType=kind.options_type,
            builtinOptions=kind.options,
        )
        self._graph.operators.insert(self._place(before), operator)
        return given

    def become(self, operator: Any, kind: Kind, inputs: Sequence[int]) -> None:
        """Let an operator do something else; what it gives keeps its name and shape."""
        operator.opcodeIndex, operator.inputs = self._opcode(kind.code), list(inputs)
        operator.builtinOptionsType, operator.builtinOptions = kind.options_type, kind.options

    def move(self, operator: Any, *, before: Any) -> None:
        """Let an operator run right before another."""
        self._graph.operators.remove(operator)
        self._graph.operators.insert(self._place(before), operator)

    def remove(self, operator: Any) -> None:
        """Take an operator out; nobody may read what it gave, and `drop_unmade` must follow."""
        self._graph.operators.remove(operator)

    def drop_unmade(self) -> None:
        """Take out the tensors that nobody gives or takes any more: the quantiser asks for the values of all."""
        used = {*self._graph.inputs, *self._graph.outputs}
        used.update(tensor for one in self._graph.operators for tensor in (*one.inputs, *one.outputs))
        kept = sorted(used - {NONE})
        places = {int(tensor): place for place, tensor in enumerate(kept)} | {NONE: NONE}
        self._graph.tensors = [self._graph.tensors[tensor] for tensor in kept]
        for one in (self._graph, *self._graph.operators):
            one.inputs = [places[int(tensor)] for tensor in one.inputs]
            one.outputs = [places[int(tensor)] for tensor in one.outputs]
        for signature in self._model.signatureDefs or []:
            if self._model.subgraphs[signature.subgraphIndex] is self._graph:
                for given in (*signature.inputs, *signature.outputs):
                    given.tensorIndex = places[given.tensorIndex]

    def set_lengths(self, tensor: int, lengths: Sequence[int]) -> None:
        """Give a tensor another shape; -1 for a length that isn't known before it runs."""
        one = self._graph.tensors[tensor]
        one.shape = [max(length, 1) for length in lengths]
        one.shapeSignature = list(lengths) if -1 in lengths else None

    def _place(self, operator: Any) -> int:
        return self._graph.operators.index(operator)  # objects of the schema are equal if they are one

    def _add(self, tensor: Any) -> int:
        """Add a tensor under a name that no other of the model has: the quantiser asks for that."""
        taken = {one.name for graph in self._model.subgraphs for one in graph.tensors}
        tensor.name = next(name for name in _numbered(tensor.name) if name not in taken)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _opcode(self, code: int) -> int:
        """The place of a kind of operator among those of the model, in its first version."""
        codes = self._model.operatorCodes
        found = (place for place, one in enumerate(codes) if one.builtinCode == code and one.version == 1)
        place = next(found, None)
        if place is None:
            codes.append(schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=min(code, 127)))
            place = len(codes) - 1
        return place


def packed(model: Any) -> bytes:
    """The flatbuffer of a model that was rewritten; kinds of operators that it lost aren't named in it."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    kept = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[place] for place in kept]
    for operator in operators:
        operator.opcodeIndex = kept.index(operator.opcodeIndex)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _numbered(name: bytes) -> Iterator[bytes]:
    """A name, and with a number behind it."""
    yield name
    yield from (name + f"_{number}".encode() for number in itertools.count(1))
