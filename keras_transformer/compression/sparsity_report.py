"""How many weights of a model are zero, and what that saves: bytes counted, no speed promised."""

import gzip
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.compression.prunable_kernels import is_kernel, pruned_model

VALUE_BYTES = 4  # float32


class TensorSparsity(NamedTuple):
    """One tensor, or all of them: how much of it is zero, and its bytes in three forms."""

    path: str
    elements: int
    zeros: int
    dense_bytes: int  # float32
    gzip_bytes: int  # those after gzip at its best level
    sparse_bytes: int  # as a sparse tensor of TFLite

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / self.elements


class SparsityReport(NamedTuple):
    """All float weights of a model, one by one and together."""

    tensors: list[TensorSparsity]
    total: TensorSparsity


def sparsity_report(model: keras.Model) -> SparsityReport:
    """Count the zeros of each float weight of `model`, and the bytes that they would take.

    Bytes are those of the numbers alone, in float32, without names and tables of a file. After gzip: each tensor by
    itself, and all of them in one stream for the total. As TFLite sparse tensors: by the rules that TensorFlow's
    converter keeps with `Optimize.EXPERIMENTAL_SPARSITY` where single weights are zero, see `sparse_tensor_bytes`; a
    kernel has its outputs as rows, any other weight all its axes but the last; weights of one axis stay dense. The
    total takes the smaller form of each tensor, dense or sparse.

    The converter does this for the kernels of fully connected operators with 30% zeros and more. LiteRT reads them and
    makes them dense again in memory (DENSIFY), so such a file takes no less memory and no less time to run.

    Args:
        model: built; of a `Distiller` its student is counted.

    Raises:
        ValueError: if it has no float weights.
    """
    counted = pruned_model(model)
    weights = [weight for weight in counted.weights if "float" in weight.dtype]
    if not weights:
        raise ValueError(f"model {counted.name!r} has no float weights to count. Build it: call it on one batch.")
    values = [np.asarray(weight.numpy(), dtype="float32") for weight in weights]
    tensors = [_of_tensor(weight, value) for weight, value in zip(weights, values, strict=True)]
    total = TensorSparsity(
        "total",
        sum(tensor.elements for tensor in tensors),
        sum(tensor.zeros for tensor in tensors),
        sum(tensor.dense_bytes for tensor in tensors),
        _gzip_bytes(b"".join(value.tobytes() for value in values)),
        sum(min(tensor.dense_bytes, tensor.sparse_bytes) for tensor in tensors),
    )
    return SparsityReport(tensors, total)


def sparse_tensor_bytes(matrix: np.ndarray) -> int:
    """Bytes of a matrix as a float32 sparse tensor in TFLite's format: compressed rows.

    The traversal order is [0, 1], without blocks; the rows are DENSE, and the columns SPARSE_CSR: `array_segments` says
    where each row begins and the last ends, `array_indices` gives the column of each value. Either is written in the
    smallest of uint8, uint16 and int32 that holds its largest number. To these come 4 bytes for each value.

    Args:
        matrix: (R, C).
    """
    columns = np.nonzero(matrix)[1]
    largest_column = int(columns.max(initial=0))
    segments = (len(matrix) + 1) * _index_bytes(len(columns))
    return segments + len(columns) * (_index_bytes(largest_column) + VALUE_BYTES)


def _of_tensor(weight: keras.Variable, value: np.ndarray) -> TensorSparsity:
    dense = value.size * VALUE_BYTES
    if value.ndim < 2:
        sparse = dense
    else:
        rows = value.reshape(-1, value.shape[-1])
        sparse = sparse_tensor_bytes(rows.T if is_kernel(weight) else rows)
    zeros = value.size - int(np.count_nonzero(value))
    return TensorSparsity(weight.path, value.size, zeros, dense, _gzip_bytes(value.tobytes()), sparse)


def _index_bytes(largest: int) -> int:
    return 1 if largest < 2**8 else 2 if largest < 2**16 else 4


def _gzip_bytes(content: bytes) -> int:
    return len(gzip.compress(content, compresslevel=9, mtime=0))
