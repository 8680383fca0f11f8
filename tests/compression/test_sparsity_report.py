"""What zeros save: counted against numbers by hand, against the converter's own file, and in the files we write."""

import gzip

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from weights import randomise

from keras_transformer import export
from keras_transformer.compression import MagnitudePruning, sparse_tensor_bytes, sparsity_report
from keras_transformer.compression.sparsity_choices import zeros_of
from keras_transformer.export.signatures import BareWeights
from keras_transformer.models import TextClassifier

TEXTS = ["a fine and funny film", "a dull film", "not funny at all", "fine acting, dull plot", "funny!"]
LABELS = ["negative", "neutral", "positive"]


def sparse_matrix(rows, columns, filled, seed=5):
    random = np.random.default_rng(seed)
    matrix = np.zeros(rows * columns, "float32")
    matrix[random.choice(rows * columns, filled, replace=False)] = random.normal(size=filled)
    return matrix.reshape(rows, columns)


def dense(*kernels, name=None):
    """A model of dense products with these kernels (inputs, outputs)."""
    x = inputs = keras.Input((len(kernels[0]),))
    for kernel in kernels:
        layer = keras.layers.Dense(kernel.shape[1], "relu")
        x = layer(x)
        layer.set_weights([kernel, np.linspace(0.1, 0.5, kernel.shape[1])])
    return keras.Model(inputs, x, name=name)


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.zeros((3, 5)), 4),  # 4 segments of a byte, all 0
        (np.eye(3, 5), 4 + 3 + 12),
        (np.ones((2, 200)), 3 * 2 + 400 * 1 + 400 * 4),  # 400 values: segments of two bytes, columns below 256
        (np.eye(2, 300, k=256), 3 + 2 * 2 + 2 * 4),  # columns 256 and 257: two bytes each
        (np.eye(2, 300, k=254), 3 + 2 * 1 + 2 * 4),  # columns 254 and 255
        (np.eye(1, 70_001, k=70_000), 2 + 4 + 4),
        (np.ones((255, 257)), 256 * 2 + 65_535 * (2 + 4)),
        (np.ones((256, 256)), 257 * 4 + 65_536 * (1 + 4)),
    ],
)
def test_bytes_of_a_sparse_tensor_are_those_of_its_segments_columns_and_values(matrix, expected):
    assert sparse_tensor_bytes(matrix) == expected


def test_the_converter_writes_just_these_bytes_and_litert_reads_its_file(tmp_path):
    kernels = [sparse_matrix(300, 67, 1700), sparse_matrix(67, 41, 251)]
    model = dense(*kernels)
    function = tf.function(model, input_signature=[tf.TensorSpec((1, 300))], autograph=False)
    tf.saved_model.save(BareWeights(model), tmp_path, signatures={"dense": function.get_concrete_function()})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["dense"])
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    content = converter.convert()
    made = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    sizes = {}
    for tensor in made.subgraphs[0].tensors:
        if tensor.sparsity is not None:
            rows, columns = tensor.sparsity.dimMetadata
            assert (rows.format, columns.format) == (schema.DimensionType.DENSE, schema.DimensionType.SPARSE_CSR)
            indices = columns.arraySegments.values, columns.arrayIndices.values
            sizes[tuple(tensor.shape)] = len(made.buffers[tensor.buffer].data) + sum(part.nbytes for part in indices)
    assert sizes == {(67, 300): sparse_tensor_bytes(kernels[0].T), (41, 67): sparse_tensor_bytes(kernels[1].T)}
    runner = Interpreter(model_content=content)
    runner.allocate_tensors()
    x = np.random.default_rng(7).normal(size=(1, 300)).astype("float32")
    runner.set_tensor(runner.get_input_details()[0]["index"], x)
    runner.invoke()
    np.testing.assert_allclose(runner.get_tensor(runner.get_output_details()[0]["index"]), model(x), atol=1e-5)
    assert "DENSIFY" in {operator["op_name"] for operator in runner._get_ops_details()}  # no less memory, no less time


def test_a_report_counts_each_tensor_and_all_of_them():
    kernels = [sparse_matrix(13, 7, 17), sparse_matrix(7, 11, 77)]
    report = sparsity_report(dense(*kernels))
    assert [(one.elements, one.zeros) for one in report.tensors] == [(91, 74), (7, 0), (77, 0), (11, 0)]
    assert [one.dense_bytes for one in report.tensors] == [364, 28, 308, 44]
    sparse = [sparse_tensor_bytes(kernel.T) for kernel in kernels]
    assert [one.sparse_bytes for one in report.tensors] == [sparse[0], 28, sparse[1], 44]
    total = report.total
    assert (total.path, total.elements, total.zeros, total.dense_bytes) == ("total", 186, 74, 744)
    assert total.sparse_bytes == sparse[0] + 28 + 308 + 44 < sum(one.sparse_bytes for one in report.tensors)
    assert total.sparsity == 74 / 186
    assert report.tensors[0].gzip_bytes == len(gzip.compress(kernels[0].tobytes(), 9))


def test_the_total_after_gzip_is_that_of_one_stream():
    kernel = sparse_matrix(31, 31, 211)
    report = sparsity_report(dense(kernel, kernel))
    assert report.total.gzip_bytes < 0.7 * sum(tensor.gzip_bytes for tensor in report.tensors)


def test_integers_and_seeds_are_not_counted():
    model = TextClassifier(29, 5, 1, 6, 3, 11, max_length=13, kept_pieces=17, dropout=0.1)
    assert any("int" in weight.dtype for weight in model.weights)
    assert {tensor.path for tensor in sparsity_report(model).tensors} == {
        weight.path for weight in model.weights if "float" in weight.dtype
    }


def test_a_model_without_weights_is_told():
    with pytest.raises(ValueError, match=r"'empty' has no float weights to count. Build it"):
        sparsity_report(keras.Sequential([keras.Input((3,)), keras.layers.ReLU()], name="empty"))


def pruned_classifier(pruning):
    model = randomise(TextClassifier(61, 3, 1, 8, 2, 16, max_length=13), scale=0.3)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, run_eagerly=True)
    ids = np.random.default_rng(5).integers(1, 61, (10, 7)).astype("int32")
    model.fit(ids, np.arange(10) % 3, batch_size=5, epochs=2, verbose=0, callbacks=[pruning])
    return model


def kernels_of(model):
    return {weight.path: weight.numpy() for weight in model.weights if weight.name == "kernel"}


def constants(path):
    """All tensors of a `.tflite` file that hold numbers from the start, as LiteRT has them."""
    runner = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    content = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    places = [
        index
        for index, tensor in enumerate(content.subgraphs[0].tensors)
        if content.buffers[tensor.buffer].data is not None
    ]
    runner.allocate_tensors()
    return [runner.get_tensor(place) for place in places]


def test_the_declared_zeros_are_in_the_keras_file_and_in_the_tflite_file(tmp_path, small_tokenizer):
    model = pruned_classifier(MagnitudePruning(0.83, end=2, every=1))
    kernels = kernels_of(model)
    for path, kernel in kernels.items():
        assert np.count_nonzero(kernel == 0) == zeros_of(0.83, kernel.size), path
    model.save(tmp_path / "model.keras")
    for path, kernel in kernels_of(keras.saving.load_model(tmp_path / "model.keras")).items():
        np.testing.assert_array_equal(kernel, kernels[path])
    options = {"tokenizer": small_tokenizer, "labels": LABELS, "max_length": 13, "examples": TEXTS}
    export.tflite(model, tmp_path / "model.tflite", **options, quantize="none")
    found = constants(tmp_path / "model.tflite")
    for path, kernel in kernels.items():
        # LiteRT has (outputs, inputs), and the scale of the queries in their kernel.
        assert any(np.array_equal(one == 0, kernel.T == 0) for one in found), path
