"""The ranges that a model was trained with, found again at the tensors of its flatbuffer."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

DENSE = schema.BuiltinOperator.FULLY_CONNECTED
ALIKE = 1e-5
"""Of the largest weight: what two kernels may differ in that are one but for a factor."""

Ends = tuple[float, float]
"""Low and high."""


class LearnedRange(NamedTuple):
    """A dense product, known by its kernel, with what its inputs and outputs reach from and to."""

    name: str  # for errors
    kernel: np.ndarray  # (inputs, outputs)
    input: Ends
    output: Ends


class Product(NamedTuple):
    """A dense product of a flatbuffer."""

    weights: np.ndarray  # (outputs, inputs)
    input: str  # name of the tensor
    output: str


def learned_tensors(flatbuffer: bytes, learned: Sequence[LearnedRange]) -> dict[str, Ends]:
    """Return tensor name -> range, for what goes into the learned products of the flatbuffer and comes out of them.

    A product is found by its kernel. The converter multiplies the kernel of the queries by 1 / sqrt(d), so a kernel
    counts as the same up to a positive factor, and its output's range is multiplied by it. A tensor that several
    products read has the widest of their ranges; one that a product gives has that product's.

    Raises:
        ValueError: if a learned product isn't in the flatbuffer.
    """
    inputs: dict[str, Ends] = {}
    outputs: dict[str, Ends] = {}
    products = list(_products(flatbuffer))
    for one in learned:
        found = [(product, _factor(product.weights, one.kernel.T)) for product in products]
        matches = [(product, factor) for product, factor in found if factor is not None]
        if not matches:
            raise ValueError(
                f"{one.name}: none of the {len(products)} dense products of the file has this kernel of shape "
                f"{one.kernel.shape}, so its ranges belong nowhere. Export the model that they were learned with."
            )
        for product, factor in matches:
            low, high = one.output
            inputs[product.input] = _widest(one.input, inputs.get(product.input, one.input))
            output = (low * factor, high * factor)
            outputs[product.output] = _widest(output, outputs.get(product.output, output))
    return inputs | outputs


def _products(flatbuffer: bytes) -> Iterator[Product]:
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    for graph in model.subgraphs:
        for operator in graph.operators:
            if model.operatorCodes[operator.opcodeIndex].builtinCode != DENSE:
                continue
            given, weights = (graph.tensors[place] for place in operator.inputs[:2])
            data = model.buffers[weights.buffer].data
            if data is not None:
                values = np.frombuffer(np.asarray(data, np.uint8).tobytes(), np.float32).reshape(weights.shape)
                yield Product(values, given.name.decode(), graph.tensors[operator.outputs[0]].name.decode())


def _factor(weights: np.ndarray, kernel: np.ndarray) -> float | None:
    """The positive factor by which `weights` are `kernel`; None if they aren't."""
    if weights.shape != kernel.shape:
        return None
    largest = np.unravel_index(np.argmax(np.abs(kernel)), kernel.shape)
    if kernel[largest] == 0.0:
        return None if weights.any() else 1.0
    factor = float(weights[largest] / kernel[largest])
    alike = np.abs(weights - factor * kernel).max() <= ALIKE * np.abs(weights[largest])
    return factor if factor > 0 and alike else None


def _widest(first: Ends, second: Ends) -> Ends:
    return min(first[0], second[0]), max(first[1], second[1])
