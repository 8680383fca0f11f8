"""A table that is looked up and multiplied by lies in an integer file once, a scale a row, and gives the right rows."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_transformer.export.integer_forms import FORMS, in_integers
from keras_transformer.export.lite_tables import with_shared_tables

NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
VOCABULARY, WIDTH = 113, 23
IDS = pytest.mark.parametrize("ids", [[7], [112, 0, 5], [3, 3, 1, 99, 2, 110, 4]])


def drawn(seed):
    """A table whose rows differ much in size."""
    random = np.random.default_rng(seed)
    sizes = np.exp(random.uniform(-3, 3, size=(VOCABULARY, 1)))
    return (sizes * random.normal(size=(VOCABULARY, WIDTH))).astype("float32")


def tied(rows, weights, dynamic=False):
    """token_ids (1, T) -> `rows` (1, T, D) of a table, `from_the_end`, and `logits` of half the rows by another."""
    rows, weights = tf.constant(rows), tf.constant(weights)

    @tf.function(input_signature=[tf.TensorSpec((1, None), tf.int32, "token_ids")], autograph=False)
    def call(token_ids):
        found = tf.gather(rows, token_ids)
        flat = tf.reshape(found / 2, (-1, WIDTH))
        from_the_end = tf.gather(rows, VOCABULARY - 1 - token_ids)
        logits = tf.expand_dims(tf.matmul(flat, weights, transpose_b=True), 0)
        return {"rows": found + 0.0, "from_the_end": from_the_end, "logits": logits}

    module = tf.Module()
    module.call = call
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
    converter.optimizations = [tf.lite.Optimize.DEFAULT] if dynamic else []
    return converter.convert()


def answers(content, ids):
    return Interpreter(model_content=content).get_signature_runner()(token_ids=np.array([ids], np.int32))


def calibration(_):
    yield "serving_default", {"token_ids": np.arange(VOCABULARY, dtype=np.int32)[None]}


def operators(content):
    """Of each graph: how many there are of each operator."""
    model = schema.Model.GetRootAs(content, 0)
    codes = [NAMES[model.OperatorCodes(place).BuiltinCode()] for place in range(model.OperatorCodesLength())]
    graphs = [model.Subgraphs(place) for place in range(model.SubgraphsLength())]
    return [
        Counter(codes[graph.Operators(place).OpcodeIndex()] for place in range(graph.OperatorsLength()))
        for graph in graphs
    ]


def tables(content, shape):
    """The buffers of all matrices of this shape, with the number of scales of each matrix."""
    model, found = schema.Model.GetRootAs(content, 0), []
    for graph in (model.Subgraphs(place) for place in range(model.SubgraphsLength())):
        for tensor in (graph.Tensors(place) for place in range(graph.TensorsLength())):
            if list(tensor.ShapeAsNumpy()) == list(shape) and model.Buffers(tensor.Buffer()).DataLength():
                found.append((tensor.Buffer(), tensor.Quantization().ScaleLength()))
    return found


@pytest.fixture(scope="module")
def table():
    return drawn(seed=5)


@pytest.fixture(scope="module")
def integers(table):
    """A function: number format -> the flatbuffer, in it, of a table that is looked up and multiplied by."""
    plain = tied(table, table)
    return ({"none": plain} | {form: in_integers(plain, form, calibration) for form in FORMS}).get


@pytest.mark.parametrize("form", FORMS)
@IDS
def test_rows_come_rounded_by_a_scale_of_their_own(integers, table, form, ids):
    scale = np.abs(table).max(axis=1, keepdims=True) / 127
    expected = np.round(table / scale) * scale
    found = answers(integers(form), ids)
    for name, rows in (("rows", expected[ids]), ("from_the_end", expected[::-1][ids])):
        np.testing.assert_allclose(found[name][0], rows, rtol=1e-5, atol=1e-6 * np.abs(rows).max())
    logits = expected[ids] / 2 @ table.T.astype("float64")
    assert (np.abs(found["logits"][0] - logits).max(axis=1) < 0.03 * np.abs(logits).max(axis=1)).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_table_that_is_looked_up_and_multiplied_by_lies_in_a_file_once(integers, form):
    buffers = {buffer for buffer, _ in tables(integers(form), (VOCABULARY, WIDTH))}
    assert len(buffers) == 1
    assert operators(integers(form))[0]["GATHER"] >= 4  # twice rows, and their scales for each use of them


def test_the_numbers_of_the_rows_alone_make_two_tables_one(table):
    """Another table of that shape stays, and one of which a row is another."""
    one_row = table.copy()
    one_row[np.abs(table).max(axis=1).argmax()] *= 1.1
    for other in (drawn(seed=6), one_row):
        content = tied(other, table, dynamic=True)
        assert len({buffer for buffer, _ in tables(content, (VOCABULARY, WIDTH))}) == 2
        assert with_shared_tables(content) == content


def test_a_float32_file_stays_as_it_is(integers):
    assert with_shared_tables(integers("none")) == integers("none")


@pytest.mark.parametrize("form", FORMS)
def test_a_language_model_has_one_table_of_tokens(lite_writer, writing_model, form):
    shape = writing_model("language-model").get_layer("tokens").table.shape
    content = Path(lite_writer("language-model", form).path).read_bytes()
    found = tables(content, shape)
    assert len({buffer for buffer, _ in found}) == 1
    assert {scales for _, scales in found} == {1, shape[0]}


@pytest.mark.parametrize("form", FORMS)
def test_a_translator_whose_tables_are_not_tied_has_two(lite_writer, writing_model, form):
    shape = writing_model("translate").get_layer("tokens").table.shape
    content = Path(lite_writer("translate", form).path).read_bytes()
    assert len({buffer for buffer, _ in tables(content, shape)}) == 2
