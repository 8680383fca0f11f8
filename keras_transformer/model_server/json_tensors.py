"""The JSON of TensorFlow Serving's REST interface, by rows and by columns, into arrays and back."""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.data.well_formed import well_formed
from keras_transformer.model_server.refusal import INVALID, RefusedError

ROWS, COLUMNS = "instances", "inputs"
BYTES = "b64"


class Asked(NamedTuple):
    """The body of a predict request."""

    signature_name: str
    by_row: bool
    values: Any  # of the field "instances" or "inputs"


def parse(body: bytes) -> Asked:
    """Read the body of a predict request.

    Raises:
        RefusedError: if it isn't a JSON object with one of "instances" and "inputs".
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError(INVALID, f"the body isn't JSON: {error}.") from error
    if not isinstance(content, dict) or (ROWS in content) == (COLUMNS in content):
        raise RefusedError(
            INVALID,
            'the body must be an object with either "instances", a list of rows, or "inputs", columns by name.',
        )
    name = content.get("signature_name", "")
    if not isinstance(name, str):
        raise RefusedError(INVALID, f"signature_name {name!r} must be a string.")
    by_row = ROWS in content
    values = content[ROWS if by_row else COLUMNS]
    if by_row and (not isinstance(values, list) or not values):
        raise RefusedError(INVALID, '"instances" must be a list of at least one row. Use "inputs" for columns.')
    return Asked(name, by_row, values)


def arrays(asked: Asked, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the arrays of a request, by the names of the signature's inputs; strings as bytes.

    Args:
        asked: what `parse` returned.
        inputs: TensorInfo by name.

    Raises:
        RefusedError: if names, types or lengths don't fit.
    """
    columns = _columns(asked, sorted(inputs))
    return {
        name: _array(name, column, tf.as_dtype(inputs[name].dtype)) if name in inputs else np.zeros(0)
        for name, column in columns.items()
    }


def answer(outputs: Mapping[str, np.ndarray], by_row: bool) -> dict[str, Any]:
    """Return the body of the answer: "predictions" by row, or "outputs" by column; a single output without its name.

    Raises:
        RefusedError: if rows are asked for and an output hasn't one value a row.
    """
    columns = {name: _plain(name, value) for name, value in outputs.items()}
    (single,) = columns.values() if len(columns) == 1 else (None,)
    if not by_row:
        return {"outputs": columns if single is None else single}
    if len({value.shape[:1] for value in outputs.values()} | {()}) > 2 or any(not v.ndim for v in outputs.values()):
        raise RefusedError(
            INVALID, 'the outputs have different numbers of rows. Ask with "inputs" instead of "instances".'
        )
    if single is not None:
        return {"predictions": single}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _columns(asked: Asked, names: list[str]) -> dict[str, Any]:
    values = asked.values
    named = [_is_named(row) for row in values] if asked.by_row else [_is_named(values)]
    if not any(named):
        if len(names) != 1:
            raise RefusedError(INVALID, f"the signature has several inputs. Give an object with {names}.")
        return {names[0]: values}
    if not asked.by_row:
        return dict(values)
    if not all(named) or any(set(row) != set(values[0]) for row in values):
        raise RefusedError(INVALID, f"each row of instances must be an object with the same names. Use {names}.")
    return {name: [row[name] for row in values] for name in values[0]}


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and set(value) != {BYTES}


def _array(name: str, value: Any, dtype: Any) -> np.ndarray:
    leaves: list[Any] = []
    shape = _flatten(name, value, leaves)
    made = [_leaf(name, leaf, dtype) for leaf in leaves]
    flat = np.empty(len(made), object) if dtype == tf.string else np.empty(len(made), dtype.as_numpy_dtype)
    flat[:] = made
    return flat.reshape(shape)


def _flatten(name: str, value: Any, leaves: list[Any]) -> tuple[int, ...]:
    """Put what is in nested lists into `leaves`, and return its shape."""
    if not isinstance(value, list):
        leaves.append(value)
        return ()
    shapes = {_flatten(name, each, leaves) for each in value}
    if len(shapes) > 1:
        raise RefusedError(
            INVALID, f"input {name!r} has rows of different lengths. Give rows of one length, or one a request."
        )
    return (len(value), *(shapes.pop() if shapes else ()))


def _leaf(name: str, leaf: Any, dtype: Any) -> Any:
    """A JSON value as the signature's type."""
    if dtype == tf.string:
        if isinstance(leaf, str):
            return well_formed(leaf).encode()
        if isinstance(leaf, dict) and isinstance(leaf.get(BYTES), str):
            try:
                return base64.b64decode(leaf[BYTES], validate=True)
            except binascii.Error as error:
                raise RefusedError(INVALID, f"input {name!r} has {BYTES!r} that isn't base64: {error}.") from error
    elif dtype.is_integer:
        limits = np.iinfo(dtype.as_numpy_dtype)
        if isinstance(leaf, int) and not isinstance(leaf, bool) and limits.min <= leaf <= limits.max:
            return leaf
    elif dtype.is_floating and isinstance(leaf, int | float) and not isinstance(leaf, bool):
        return leaf
    raise RefusedError(
        INVALID, f"input {name!r} has the value {str(leaf)[:40]!r}, and the signature takes {dtype.name}."
    )


def _plain(name: str, value: np.ndarray) -> Any:
    """An array as JSON; the bytes of a name that ends in _bytes as base64, as TensorFlow Serving writes them."""
    if value.dtype != object:
        return value.tolist()
    as_text = np.empty(value.shape, object)
    for place, content in np.ndenumerate(value):
        encoded = name.endswith("_bytes")
        as_text[place] = {BYTES: base64.b64encode(content).decode()} if encoded else content.decode("utf-8", "replace")
    return as_text.tolist()
