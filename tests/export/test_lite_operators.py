"""The operators of a `.tflite` file are counted, and those that XNNPACK takes, as LiteRT itself shows it."""

import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_transformer.export.lite_operators import operator_names, signature_operators
from keras_transformer.export.lite_runner import LiteRunner
from keras_transformer.export.lite_steps import LiteSteps

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
FILES = ["none", "dynamic", "int8", "translate", "language-model"]


@pytest.fixture(params=FILES)
def path(request, lite, lite_writer):
    classifier = request.param in ("none", "dynamic", "int8")
    return Path((lite if classifier else lite_writer)(request.param).path)


def graphs_in_the_file(path):
    """Of each signature, in their order: the place of its graph in the file, and its operators by their names."""
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    for number in range(model.SignatureDefsLength()):
        index = model.SignatureDefs(number).SubgraphIndex()
        graph = model.Subgraphs(index)
        used = [graph.Operators(number).OpcodeIndex() for number in range(graph.OperatorsLength())]
        yield index, [NAMES[model.OperatorCodes(code).BuiltinCode()] for code in used]


def with_first(content, index):
    """The file with two graphs in each other's place: LiteRT shows the first one's nodes."""
    table, changed = schema.Model.GetRootAs(content, 0)._tab, bytearray(content)
    first = table.Vector(table.Offset(8))  # of the offsets of the graphs, each counted from itself
    other = first + 4 * index
    places = {at: at + struct.unpack_from("<I", content, at)[0] for at in (first, other)}
    struct.pack_into("<I", changed, first, places[other] - first)
    struct.pack_into("<I", changed, other, places[first] - other)
    return bytes(changed)


def test_what_was_counted_is_what_is_in_the_file(path):
    found = signature_operators(path)
    assert [one.in_file for one in found] == [Counter(graph) for _, graph in graphs_in_the_file(path)]
    assert [one.signature for one in found] == list(Interpreter(model_path=str(path)).get_signature_list())
    assert sorted(set().union(*(one.in_file for one in found))) == operator_names(path)


def test_what_xnnpack_took_is_what_it_takes_operator_by_operator(path):
    """With no two operators in a piece, each piece's results are those of the one operator that it replaced."""
    for one, (index, names) in zip(signature_operators(path), graphs_in_the_file(path), strict=True):
        content = with_first(path.read_bytes(), index)
        alone = Interpreter(model_content=content, experimental_disable_delegate_node_fusion=True)
        alone.allocate_tensors()
        nodes = alone._get_ops_details()
        made_by = {tensor: node["op_name"] for node in nodes[: len(names)] for tensor in node["outputs"]}
        taken = Counter(made_by[node["outputs"][0]] for node in nodes[len(names) :])
        assert {name: count for name, count in one.taken.items() if count} == taken
        assert 0 < sum(taken.values()) < len(names)
        assert list(one.taken) == list(one.in_file)


def test_the_pieces_are_those_of_the_interpreter_in_use(path, lite):
    if path.stem in ("none", "dynamic", "int8"):
        runner = LiteRunner(path)
        runner(np.array([[2, 5, 3]], np.int32))
        first = "tokens"
    else:
        runner, first = LiteSteps(path), "step"
    nodes = [node["op_name"] for node in runner._interpreter._get_ops_details()]
    pieces = {one.signature: one.pieces for one in signature_operators(path)}
    assert pieces[first] == nodes.count("DELEGATE") > 0


def test_without_xnnpack_nothing_is_taken(path):
    for one, before in zip(signature_operators(path, xnnpack=False), signature_operators(path), strict=True):
        assert one.in_file == before.in_file
        assert (set(one.taken.values()), one.pieces) == ({0}, 0)


def test_a_runner_without_xnnpack_has_no_delegate_and_the_same_answers(lite):
    ids, runners = np.array([[2, 5, 9, 3]], np.int32), {}
    for xnnpack in (True, False):
        runners[xnnpack] = LiteRunner(lite("none").path, threads=1, xnnpack=xnnpack)
    logits = {xnnpack: runner(ids) for xnnpack, runner in runners.items()}
    np.testing.assert_allclose(logits[True], logits[False], rtol=0, atol=1e-5)
    names = {key: {node["op_name"] for node in one._interpreter._get_ops_details()} for key, one in runners.items()}
    assert ("DELEGATE" in names[True], "DELEGATE" in names[False]) == (True, False)


def test_a_writer_without_xnnpack_writes_the_same(lite_writer):
    fast, slow = (LiteSteps(lite_writer("translate").path, xnnpack=xnnpack) for xnnpack in (True, False))
    np.testing.assert_allclose(slow.begin([5, 9, 2]).logits, fast.begin([5, 9, 2]).logits, rtol=0, atol=1e-4)
    assert "DELEGATE" not in {node["op_name"] for node in slow._interpreter._get_ops_details()}
