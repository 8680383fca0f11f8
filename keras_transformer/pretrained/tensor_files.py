"""Folders in Hugging Face layout, config.json and model.safetensors: read, checked name by name, and written.

Each tensor of a file has exactly one place. Tensors are float32, float16 or bfloat16; the half ones widen without
loss, and are written back as float32.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError, read_json, staged

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
FLOATS, INTEGERS = ("F32", "F16", "BF16"), ("I64", "I32")  # as safetensors names them
MOST_NAMES = 4


class Place(NamedTuple):
    """Where a tensor of the file goes, by the paths of variables, and whether it is transposed on the way.

    A tensor with several paths is theirs side by side: it is cut along its last axis, in this order.
    """

    paths: tuple[str, ...]
    transposed: bool = False


def read_config(
    folder: Path | str, expected: Mapping[str, Any], counts: Collection[str], wanted: str
) -> dict[str, Any]:
    """Read `folder`/config.json and check what any importer must.

    Args:
        folder: in Hugging Face layout.
        expected: the one value that each of these may have; left out means this value.
        counts: names of whole numbers of at least 1.
        wanted: what kind of folder to give instead, a sentence.

    Raises:
        ModelFileError: if the file is missing, isn't a JSON object, lacks a number, or describes something else.
    """
    path = Path(folder) / CONFIG_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: holds no JSON object, so it isn't the config.json of a model. {wanted}")
    for name, value in expected.items():
        if content.get(name, value) != value:
            raise ModelFileError(
                f"{path}: {name}={content[name]!r}, but this importer reads {name}={value!r} only. {wanted}"
            )
    wrong = {name: content.get(name) for name in counts if not is_count(content.get(name))}
    if wrong:
        raise ModelFileError(f"{path}: has {wrong}, and each must be a whole number of at least 1. {wanted}")
    return content


def is_count(value: Any) -> bool:
    """Tell whether `value` is a whole number of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def read_tensors(
    path: Path, prefix: str, skipped: Callable[[str], bool], integers: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Read a safetensors file, by names without `prefix`.

    Args:
        path: of the file.
        prefix: what may stand in front of each name.
        skipped: tells of a name without prefix whether its tensor is left out, unread.
        integers: names of tensors that hold integers; the others hold floats.

    Raises:
        ModelFileError: if the file is missing or cut short, or a tensor is there twice or of another number format.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file. Give a Hugging Face folder with {WEIGHTS_FILE}.")
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for full_name in sorted(file.keys()):
                name = full_name.removeprefix(prefix)
                if name in tensors:
                    raise ModelFileError(
                        f"{path}: holds tensor {name!r} with the prefix {prefix!r} and without, and only one can be "
                        "used. Remove the other."
                    )
                if not skipped(name):
                    readable = INTEGERS if name in integers else FLOATS
                    _check_format(path, name, file.get_slice(full_name).get_dtype(), readable)
                    tensors[name] = file.get_tensor(full_name)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: can't be read as safetensors ({error}). Fetch it again.") from error
    return tensors


def check_names(path: Path, given: Collection[str], wanted: Collection[str], unused: Collection[str]) -> None:
    """Raise ModelFileError unless `given` has each name of `wanted`, and beyond it only names of `unused`."""
    missing, extra = sorted(set(wanted) - set(given)), sorted(set(given) - set(wanted) - set(unused))
    if missing or extra:
        raise ModelFileError(
            f"{path}: missing tensors {some(missing)}, extra tensors {some(extra)}. "
            "Each tensor must be used exactly once: take the weights that belong to this config.json."
        )


def check_copy(path: Path, tensors: Mapping[str, np.ndarray], copy: str, original: str) -> None:
    """Raise ModelFileError if tied weights, which a file may hold once or twice, aren't the same."""
    if copy in tensors and not np.array_equal(tensors[copy], tensors[original]):
        raise ModelFileError(
            f"{path}: tensor {copy!r} isn't the same as {original!r}, but this model has one weight for both. "
            "Take weights with tied embeddings."
        )


def assign(path: Path, tensors: Mapping[str, np.ndarray], places: Mapping[str, Place], model: Any) -> None:
    """Copy each tensor to its place; nothing is copied unless all of them fit.

    Raises:
        ModelFileError: if a tensor has another shape than its place, or holds NaN or infinity.
    """
    variables = variables_of(model)
    values: dict[str, np.ndarray] = {}
    for name, place in places.items():
        value = tensors[name].T if place.transposed else tensors[name]
        parts = [tuple(variables[part].shape) for part in place.paths]
        expected = (*parts[0][:-1], sum(shape[-1] for shape in parts))
        if value.shape != expected:
            raise ModelFileError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape}, which gives {value.shape} here, but the "
                f"model wants {expected}. Take the config.json that belongs to these weights."
            )
        if not np.isfinite(value.astype("float32")).all():
            raise ModelFileError(f"{path}: tensor {name!r} holds NaN or infinity. Fetch the file again.")
        ends = np.cumsum([shape[-1] for shape in parts])[:-1]
        values |= zip(place.paths, np.split(value, ends, axis=-1), strict=True)
    for variable_path, value in values.items():
        variables[variable_path].assign(value)


def tensors_of(model: Any, places: Mapping[str, Place]) -> dict[str, np.ndarray]:
    """The float32 tensors that `assign` would bring to the weights of `model`."""
    variables = variables_of(model)
    tensors = {}
    for name, place in places.items():
        value = np.concatenate([variables[path].numpy().astype("float32") for path in place.paths], axis=-1)
        tensors[name] = np.ascontiguousarray(value.T if place.transposed else value)
    return tensors


def write_folder(folder: Path | str, tensors: dict[str, np.ndarray], config: Mapping[str, Any]) -> None:
    """Write both files, the folder as a whole or not at all.

    Raises:
        UserError: if `folder` holds other files, which would be lost.
    """
    _refuse_other_files(Path(folder))
    with staged(folder) as staging:
        staging.mkdir()
        save_file(tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
        (staging / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def variables_of(model: Any) -> dict[str, Any]:
    """The model's weights by path, without the model's own name in front."""
    return {
        weight.path.split("/", 1)[1] if weight.path.startswith(f"{model.name}/") else weight.path: weight
        for weight in model.weights
    }


def some(names: list[str]) -> str:
    """The first few names: a file of another architecture has hundreds, and the message is one line."""
    more = len(names) - MOST_NAMES
    return (", ".join(map(repr, names[:MOST_NAMES])) or "none") + (f" and {more} more" if more > 0 else "")


def _check_format(path: Path, name: str, number_format: str, readable: tuple[str, ...]) -> None:
    if number_format not in readable:
        raise ModelFileError(
            f"{path}: tensor {name!r} holds {number_format} numbers, and this importer reads {', '.join(readable)}. "
            f"Convert it to {readable[0]}."
        )


def _refuse_other_files(folder: Path) -> None:
    """The folder is replaced as a whole: a tokenizer beside the weights would go with it."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names - {WEIGHTS_FILE, CONFIG_FILE})
    if others:
        raise UserError(f"{folder}: holds {some(others)}, which writing there would remove. Give a new folder.")
