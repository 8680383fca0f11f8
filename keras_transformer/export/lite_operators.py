"""The operators of a `.tflite` file, signature by signature, and which of them the XNNPACK delegate takes.

Imports neither TensorFlow nor Keras.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

DELEGATE = "DELEGATE"
"""The name that LiteRT gives a node that stands for several operators of the file."""

FILE_IDENTIFIER = b"TFL3"


class SignatureOperators(NamedTuple):
    """What one signature of a file is made of."""

    signature: str
    in_file: Mapping[str, int]  # operator -> how many
    taken: Mapping[str, int]  # the same operators -> how many of them XNNPACK computes; LiteRT's kernels do the rest
    pieces: int  # how many runs of operators XNNPACK took; between two of them LiteRT computes, and data change hands


def operator_names(path: Path | str) -> list[str]:
    """Names of the operators in a `.tflite` file, sorted; TensorFlow operators begin with "Flex"."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(Path(path).read_bytes(), 0)
    codes = (model.OperatorCodes(index) for index in range(model.OperatorCodesLength()))
    return sorted({_name(schema.OperatorCodeT.InitFromObj(code)) for code in codes})


def signature_operators(path: Path | str, xnnpack: bool = True) -> list[SignatureOperators]:
    """Count the operators of each signature, and those that XNNPACK takes when LiteRT prepares the file here.

    LiteRT tells of the nodes of a file's first graph alone. So each signature is looked at in a copy of the file that
    has no other, kept in memory.

    Args:
        path: a `.tflite` file.
        xnnpack: False for a file that runs without it: nothing is taken then.

    Raises:
        RuntimeError, ValueError: whatever LiteRT says of a file that it can't use.
    """
    model = _content(path)
    graphs, signatures = model.subgraphs, model.signatureDefs
    return [_of_signature(model, graphs[one.subgraphIndex], one, xnnpack) for one in signatures]


def _content(path: Path | str) -> Any:
    """The flatbuffer as objects of its schema."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(Path(path).read_bytes(), 0))


def _name(code: Any) -> str:
    """The name of an operator code of the schema."""
    from ai_edge_litert import schema_py_generated as schema

    if code.customCode:
        return code.customCode.decode()
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    # Files of old converters keep small codes in the deprecated field alone.
    return names[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _of_signature(model: Any, graph: Any, signature: Any, xnnpack: bool) -> SignatureOperators:
    names = [_name(code) for code in model.operatorCodes]
    nodes = [names[operator.opcodeIndex] for operator in graph.operators]
    pieces = _pieces(_file_of(model, graph, signature), len(nodes)) if xnnpack else []
    in_file = Counter(nodes)
    taken = Counter(nodes[node] for piece in pieces for node in piece)
    return SignatureOperators(
        signature.signatureKey.decode(), dict(in_file), {name: taken[name] for name in in_file}, len(pieces)
    )


def _file_of(model: Any, graph: Any, signature: Any) -> bytes:
    """The flatbuffer of one signature alone; `model` is left as it was."""
    import flatbuffers

    before = model.subgraphs, model.signatureDefs, signature.subgraphIndex
    builder = flatbuffers.Builder()
    try:
        model.subgraphs, model.signatureDefs, signature.subgraphIndex = [graph], [signature], 0
        builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    finally:
        model.subgraphs, model.signatureDefs, signature.subgraphIndex = before
    return bytes(builder.Output())


def _pieces(content: bytes, count: int) -> list[set[int]]:
    """Of each run of operators that XNNPACK took, the numbers of its nodes; `count` is how many the file has."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()  # only now the delegate is asked
    nodes = _nodes(interpreter)
    made_by = {tensor: number for number, node in enumerate(nodes[:count]) for tensor in node["outputs"]}
    return [_behind(node, nodes, made_by) for node in nodes[count:] if node["op_name"] == DELEGATE]


def _nodes(interpreter: "Interpreter") -> list[dict[str, Any]]:
    """The file's nodes in the file's order, then those of the delegate, which stand for some of the former."""
    found: list[dict[str, Any]] = interpreter._get_ops_details()
    return found


def _behind(delegate: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], made_by: Mapping[int, int]) -> set[int]:
    """The nodes that a delegate's node stands for: those between its outputs and its inputs."""
    given, waiting, found = set(delegate["inputs"]), list(delegate["outputs"]), set[int]()
    while waiting:
        tensor = waiting.pop()
        number = made_by.get(tensor)
        if number is None or tensor in given or number in found:  # a constant, what comes in, or met before
            continue
        found.add(number)
        waiting.extend(nodes[number]["inputs"])  # an array, which += would add up
    return found
