"""Masked attention in operators that XNNPACK has: caps for a choice of scores, masked values for masked weights.

`attention_weights` chooses, at each of a layer's H * T * S scores, between the score and a number below all others.
XNNPACK has no such operator, so LiteRT computes it, and each layer falls into pieces. Here the choice is made once,
over the mask alone: a cap of 3e38 where a key may be seen and of -3e38 where it may not. The smaller of score and cap
is what the choice gave, to the bit, for each score in between.
"""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from keras_transformer.export.lite_graph import Code, Kind, LiteGraph, packed

Options = schema.BuiltinOptions
SELECT = Kind(Code.SELECT_V2, Options.SelectV2Options, schema.SelectV2OptionsT())
SMALLER = Kind(Code.MINIMUM, Options.MaximumMinimumOptions, schema.MaximumMinimumOptionsT())
Caps = dict[tuple[int, float], int]
"""A mask and what it puts in place of scores -> its cap."""
LOWEST = -1e38
"""What is put in place of scores and lies below that is a mask."""

HEADS_FIRST, HEADS_FIRST_TOKENS_LAST = (0, 2, 1, 3), (0, 2, 3, 1)  # of (B, S, H, d)


def with_capped_scores(flatbuffer: bytes) -> bytes:
    """Return the flatbuffer with caps for masked scores, and with masked values for masked weights.

    A row that may see no key leaves the softmax with weights of 1 / S; a product over all H * T * S weights sets them
    to 0. Where the mask is one of keys alone, (B, 1, 1, S), that product goes to the H * S * d values: what such a row
    gives is 0 as before, and in all others the weight of a masked key is 0 after the softmax already. The values then
    come as (B, H, d, S), in which XNNPACK packs them faster.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    found = [_rewrite(LiteGraph(model, graph)) for graph in model.subgraphs]
    return packed(model) if any(found) else flatbuffer


def _rewrite(graph: LiteGraph) -> bool:
    """Rewrite one graph; tell if there was anything to do."""
    caps: Caps = {}
    for softmax in graph.of_code(Code.SOFTMAX):
        select = graph.maker(softmax.inputs[0])
        if select is not None and graph.code(select) == Code.SELECT_V2 and _cap(graph, select, caps):
            _mask_values(graph, softmax)
    return bool(caps)


def _cap(graph: LiteGraph, select: Any, caps: Caps) -> bool:
    """Make a choice the smaller of score and cap, if it is a mask that has fewer numbers than the scores.

    Layers that share a mask share its cap.
    """
    mask, scores, other = select.inputs
    lengths, lowest = graph.lengths(mask), graph.constant(other)
    if lowest is None or lowest.size != 1 or lowest.item() > LOWEST or lengths == graph.lengths(scores):
        return False
    key = (mask, lowest.item())
    if key not in caps:
        highest = graph.add_constant("highest_score", np.array(-lowest.item(), np.float32))
        name, first = f"{graph.name(mask)}/cap", graph.readers(mask)[0]
        caps[key] = graph.add_operator(SELECT, (mask, highest, other), name, lengths, before=first)
    graph.become(select, SMALLER, (scores, caps[key]))
    return True


def _mask_values(graph: LiteGraph, softmax: Any) -> None:
    """Move the product of weights and mask to the values, if the mask is one of keys and the values are at hand."""
    weights = softmax.outputs[0]
    product = graph.only_reader(weights)
    if product is None or graph.code(product) != Code.MUL or not graph.is_plain(product):
        return
    masked = product.outputs[0]
    mask = next((tensor for tensor in product.inputs if tensor != weights), None)
    mixing = graph.only_reader(masked)
    if mask is None or mixing is None or not _mixes(graph, mixing, masked) or graph.lengths(mask)[1:-1] != (1, 1):
        return
    values = mixing.inputs[1]
    swap = graph.maker(values)
    if swap is None or graph.permutation(swap) != HEADS_FIRST or graph.only_reader(values) is None:
        return
    batch, heads, keys, width = graph.lengths(values)
    swap.inputs = [swap.inputs[0], graph.add_constant("tokens_last", np.array(HEADS_FIRST_TOKENS_LAST, np.int32))]
    for tensor in (values, masked):
        graph.set_lengths(tensor, (batch, heads, width, keys))
    product.inputs, mixing.inputs, mixing.builtinOptions.adjY = [values, mask], [weights, masked], True
    graph.move(product, before=mixing)


def _mixes(graph: LiteGraph, operator: Any, weights: int) -> bool:
    """If an operator is weights times values, neither of them turned."""
    if graph.code(operator) != Code.BATCH_MATMUL or operator.inputs[0] != weights:
        return False
    return not (operator.builtinOptions.adjX or operator.builtinOptions.adjY)
