"""A flatbuffer of two dense products, and what those of any flatbuffer read."""

import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter


def kernels():
    """Of the two products, (7, 11) and (11, 3)."""
    random = np.random.default_rng(3)
    return [random.normal(size=shape).astype("float32") for shape in ((7, 11), (11, 3))]


def plain(between=tf.nn.relu):
    """x (1, 7) -> a dense layer of 11 units, relu or what else is between, and one of 3, `logits`."""
    inner, outer = (tf.constant(kernel) for kernel in kernels())

    @tf.function(input_signature=[tf.TensorSpec((1, 7), tf.float32, "x")], autograph=False)
    def call(x):
        return {"logits": between(x @ inner) @ outer}

    module = tf.Module()
    module.call = call
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
    return converter.convert()


def dense_inputs(content):
    """The types of what each dense product reads, in order, and the details of all tensors."""
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    tensors = {one["index"]: one for one in interpreter.get_tensor_details()}
    model = schema.Model.GetRootAs(content, 0)
    graph, found = model.Subgraphs(0), []
    for place in range(graph.OperatorsLength()):
        operator = graph.Operators(place)
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == schema.BuiltinOperator.FULLY_CONNECTED:
            found.append(tensors[operator.Inputs(0)])
    return found


def seen(*rows):
    """Inputs from which the ranges come."""

    def calibration(_):
        for row in rows:
            yield "serving_default", {"x": np.full((1, 7), row, np.float32)}

    return calibration
