"""One SavedModel, open to be asked by signature: what doesn't fit is refused with the reason."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from keras_transformer import places
from keras_transformer.export.served_name import served_name
from keras_transformer.export.serving_session import ServingSession
from keras_transformer.export.signature_names import DEFAULT
from keras_transformer.files import ModelFileError
from keras_transformer.model_server.refusal import INVALID, MISSING, NOT_READY, RefusedError

CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}  # TensorFlow has the same numbers


class ServedModel:
    """The newest version in a folder that `export` wrote, or one version's own folder. Threads may share it.

    `name` is what clients call it, `version` the number of its folder.

    Args:
        folder: the model's, for example `out/sentiment`, or `out/sentiment/1`.

    Raises:
        ModelFileError: if there is no SavedModel of ours, or a damaged one.
    """

    def __init__(self, folder: Path | str) -> None:
        found = places.find(folder)
        if found.form != places.SAVED_MODEL:
            raise ModelFileError(
                f"{folder}: is no SavedModel, which is what a server takes. Write one with "
                f"`keras-transformer export RUN_FOLDER --format saved_model --out FOLDER`."
            )
        numbered = found.path.name.isdecimal()
        self.name = served_name(found.path.parent if numbered else found.path)
        self.version = int(found.path.name) if numbered else 1
        self._session = ServingSession(found.path)
        self.signatures: dict[str, Any] = self._session.signatures

    def close(self) -> None:
        """Free the model; requests that are under way are cancelled."""
        self._session.close()

    def check_name(self, name: str, version: int | None = None, label: str = "") -> None:
        """Raise RefusedError unless this is the model that a request asks for."""
        if not name:
            raise RefusedError(INVALID, f"the request names no model. Ask for {self.name!r}.")
        if name != self.name:
            raise RefusedError(MISSING, f"there is no model {name!r} here. Ask for {self.name!r}.")
        if label:
            raise RefusedError(
                MISSING, f"version label {label!r}: this server gives none. Ask for version {self.version}."
            )
        if version not in (None, self.version):
            raise RefusedError(MISSING, f"there is no version {version} of {name!r}. Ask for version {self.version}.")

    def signature(self, name: str) -> Any:
        """Return the SignatureDef `name`, or that of "serving_default" for "".

        Raises:
            RefusedError: if there is none.
        """
        found = self.signatures.get(name or DEFAULT)
        if found is None:
            raise RefusedError(NOT_READY, f"there is no signature {name!r}. Use one of {sorted(self.signatures)}.")
        return found

    def predict(
        self, signature_name: str, inputs: Mapping[str, np.ndarray], wanted: Iterable[str] = ()
    ) -> dict[str, np.ndarray]:
        """Return the outputs of a signature.

        Args:
            signature_name: "" for "serving_default".
            inputs: arrays by their names; those of strings hold bytes.
            wanted: names of outputs; none for all.

        Raises:
            RefusedError: for another name, type or shape than the signature has, and for what the model refuses itself.
        """
        signature = self.signature(signature_name)
        _check_names(inputs, signature)
        for name, value in inputs.items():
            _check_tensor(name, value, signature.inputs[name])
        chosen = list(wanted) or sorted(signature.outputs)
        for name in chosen:
            if name not in signature.outputs or chosen.count(name) > 1:
                raise RefusedError(INVALID, f"output {name!r}: ask once for each of {sorted(signature.outputs)}.")
        try:
            outputs = self._session.run(signature_name or DEFAULT, **inputs)
        except tf.errors.OpError as error:
            raise RefusedError(CODE_NAMES.get(error.error_code, "UNKNOWN"), _reason(error.message)) from error
        return {name: outputs[name] for name in chosen}


def _shape(tensor: Any) -> str:
    """The shape of a TensorInfo in words, such as "(any, 3)"."""
    axes = ["any" if axis.size < 0 else str(axis.size) for axis in tensor.tensor_shape.dim]
    return f"({', '.join(axes)}{',' if len(axes) == 1 else ''})"


def _check_names(inputs: Mapping[str, np.ndarray], signature: Any) -> None:
    missing, extra = set(signature.inputs) - set(inputs), set(inputs) - set(signature.inputs)
    if missing or extra:
        raise RefusedError(
            INVALID,
            f"inputs {sorted(inputs)}: the signature takes {sorted(signature.inputs)}. "
            f"Missing: {sorted(missing)}; not known: {sorted(extra)}.",
        )


def _check_tensor(name: str, value: np.ndarray, tensor: Any) -> None:
    wanted = tf.as_dtype(tensor.dtype)
    given = tf.string if value.dtype == object else tf.as_dtype(value.dtype)
    if given != wanted:
        raise RefusedError(
            INVALID, f"input {name!r} is of type {given.name}, and the signature takes {wanted.name}. Send that."
        )
    axes = [axis.size for axis in tensor.tensor_shape.dim]
    fits = len(axes) == value.ndim and all(axis in (-1, size) for axis, size in zip(axes, value.shape, strict=True))
    if not fits:
        raise RefusedError(
            INVALID,
            f"input {name!r} has shape {value.shape}, and the signature takes {_shape(tensor)}. Nest the values so.",
        )


def _reason(message: str) -> str:
    """What a kernel said, out of TensorFlow's message: the last line before the names of nodes."""
    lines = message.partition("[[{{node")[0].strip().splitlines() or [message]
    return re.sub(r"\{\{node .*?\}\}\s*", "", lines[-1]).strip()
