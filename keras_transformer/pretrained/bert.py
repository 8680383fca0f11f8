"""BERT weights in Hugging Face layout (config.json, model.safetensors) in and out of a model of ours.

Each tensor of a file has exactly one place. A dense kernel is the file's weight transposed; everything else is copied
as it is. `embeddings.position_ids` is the row 0, 1, 2, ... that the original keeps as a buffer: checked, not stored.
Tensors are float32, float16 or bfloat16; the half ones widen without loss, and are written back as float32.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError, read_json, staged

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
POSITION_IDS = "embeddings.position_ids"
PREFIX = "bert."  # what `BertFor...` classes put in front of each name
FLOATS, INTEGERS = ("F32", "F16", "BF16"), ("I64", "I32")  # as safetensors names them
MOST_NAMES = 4
HEADS = ("cls.", "classifier.")  # other tasks' heads: named, so that leaving them out is a decision


class BertConfig(NamedTuple):
    """What a config.json says of a model, under our names."""

    vocab_size: int
    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int
    max_length: int


class Place(NamedTuple):
    """Where a tensor of the file goes: the variable's path in our model, and whether it is transposed on the way."""

    path: str
    transposed: bool


CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "num_hidden_layers": "num_layers",
    "hidden_size": "model_dim",
    "num_attention_heads": "num_heads",
    "intermediate_size": "inner_dim",
    "max_position_embeddings": "max_length",
}
EXPECTED = {
    "model_type": "bert",
    "is_decoder": False,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "position_embedding_type": "absolute",
    "type_vocab_size": 2,
}
WANTED_FOLDER = "Give the folder of a BERT encoder (post-norm, learned positions, exact GELU)."

DENSE_PARTS = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/output",
    "intermediate.dense": "feed_forward/inner",
    "output.dense": "feed_forward/outer",
}
NORM_PARTS = {"attention.output.LayerNorm": "attention_norm", "output.LayerNorm": "feed_forward_norm"}


def tensor_places(num_layers: int, with_pooler: bool) -> dict[str, Place]:
    """The place of each tensor of a BERT with so many layers, by its name in the file."""
    places = {
        "embeddings.word_embeddings.weight": Place("tokens/table", False),
        "embeddings.position_embeddings.weight": Place("positions/table", False),
        "embeddings.token_type_embeddings.weight": Place("segments/table", False),
        **_norm("embeddings.LayerNorm", "embeddings_norm"),
    }
    for index in range(num_layers):
        theirs, ours = f"encoder.layer.{index}", f"encoder_{index}"
        for part, path in DENSE_PARTS.items():
            places |= _dense(f"{theirs}.{part}", f"{ours}/{path}")
        for part, path in NORM_PARTS.items():
            places |= _norm(f"{theirs}.{part}", f"{ours}/{path}")
    if with_pooler:
        places |= _dense("pooler.dense", "pooling/dense")
    return places


def read_config(folder: Path | str) -> BertConfig:
    """Read the sizes out of `folder`/config.json.

    Raises:
        ModelFileError: if the file is missing, isn't JSON, lacks a number, or describes another architecture.
    """
    path = Path(folder) / CONFIG_FILE
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelFileError(f"{path}: holds no JSON object, so it isn't the config.json of a BERT. {WANTED_FOLDER}")
    for name, value in EXPECTED.items():
        if content.get(name, value) != value:
            raise ModelFileError(
                f"{path}: {name}={content[name]!r}, but this importer reads {name}={value!r} only. {WANTED_FOLDER}"
            )
    wrong = {name: content.get(name) for name in CONFIG_NAMES if not _is_count(content.get(name))}
    if wrong:
        raise ModelFileError(f"{path}: has {wrong}, and each must be a whole number of at least 1. {WANTED_FOLDER}")
    config = BertConfig(**{ours: content[theirs] for theirs, ours in CONFIG_NAMES.items()})
    if config.model_dim % config.num_heads:
        raise ModelFileError(
            f"{path}: num_attention_heads={config.num_heads} doesn't divide hidden_size={config.model_dim}. "
            f"{WANTED_FOLDER}"
        )
    return config


def load_weights(model: Any, folder: Path | str) -> None:
    """Copy the tensors of `folder`/model.safetensors into `model`; nothing is copied unless all of them fit.

    A model that pools the mean has no use for the file's pooler, and leaves it out; every other tensor must have its
    place, and every place its tensor.

    Args:
        model: has `num_layers` and `pooling`, and layers named as `TextClassifier` names them.
        folder: a Hugging Face folder.

    Raises:
        ModelFileError: if the file is missing or cut short, or a tensor is missing, extra, twice there, of another
            shape or number format, or holds NaN or infinity. The message names it, and the model stays as it was.
        ValueError: if the model has parts that BERT's layout doesn't know.
    """
    _refuse_other_parts(model)
    path = Path(folder) / WEIGHTS_FILE
    tensors = _read_tensors(path)
    places = tensor_places(model.num_layers, with_pooler=model.pooling == "first")
    _check_names(path, set(tensors), set(places), model.pooling)
    _check_position_ids(path, tensors.get(POSITION_IDS), model.max_length)
    variables = _variables(model)
    values = {}
    for name, place in places.items():
        value = tensors[name].T if place.transposed else tensors[name]
        expected = tuple(variables[place.path].shape)
        if value.shape != expected:
            raise ModelFileError(
                f"{path}: tensor {name!r} has shape {tensors[name].shape}, which gives {value.shape} here, but the "
                f"model wants {expected}. Take the config.json that belongs to these weights."
            )
        _check_finite(path, name, value)
        values[place.path] = value
    for variable_path, value in values.items():
        variables[variable_path].assign(value)


def save(model: Any, folder: Path | str) -> None:
    """Write `model` as a Hugging Face folder; the float32 tensors that `load_weights` took go back byte for byte.

    A model that pools the mean is written without a pooler. The classification head has no place in the layout of a
    plain BERT and stays behind.

    Raises:
        UserError: if `folder` holds other files, which would be lost.
        ValueError: if the model has parts that BERT's layout doesn't know.
    """
    _refuse_other_parts(model)
    _refuse_other_files(Path(folder))
    variables = _variables(model)
    tensors = {}
    for name, place in tensor_places(model.num_layers, with_pooler=model.pooling == "first").items():
        value = variables[place.path].numpy().astype("float32")
        tensors[name] = np.ascontiguousarray(value.T if place.transposed else value)
    tensors[POSITION_IDS] = np.arange(model.max_length, dtype="int64")[None]
    config = {theirs: getattr(model, ours) for theirs, ours in CONFIG_NAMES.items()}
    with staged(folder) as staging:
        staging.mkdir()
        save_file(tensors, staging / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps({"architectures": ["BertModel"], **config, **EXPECTED}, indent=2)
        (staging / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")


def _dense(theirs: str, ours: str) -> dict[str, Place]:
    return {f"{theirs}.weight": Place(f"{ours}/kernel", True), f"{theirs}.bias": Place(f"{ours}/bias", False)}


def _norm(theirs: str, ours: str) -> dict[str, Place]:
    return {f"{theirs}.weight": Place(f"{ours}/gamma", False), f"{theirs}.bias": Place(f"{ours}/beta", False)}


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _refuse_other_parts(model: Any) -> None:
    odd_heads = model.num_heads * model.head_dim != model.model_dim
    if model.embedding_dim is not None or model.kept_pieces is not None or model.norm_first or odd_heads:
        raise ValueError(
            f"{model.name!r} has embedding_dim={model.embedding_dim}, kept_pieces={model.kept_pieces}, "
            f"norm_first={model.norm_first}, and {model.num_heads} heads of {model.head_dim} in a width of "
            f"{model.model_dim}: a factor, a map, pre-norm, heads that don't fill the width; "
            "BERT's layout knows none of these. Use a .keras file for this model."
        )


def _refuse_other_files(folder: Path) -> None:
    """The folder is replaced as a whole: a tokenizer beside the weights would go with it."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(names - {WEIGHTS_FILE, CONFIG_FILE})
    if others:
        raise UserError(f"{folder}: holds {_some(others)}, which writing there would remove. Give a new folder.")


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such file. Give a Hugging Face folder with {WEIGHTS_FILE}.")
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for full_name in sorted(file.keys()):
                name = full_name.removeprefix(PREFIX)
                if name in tensors:
                    raise ModelFileError(
                        f"{path}: holds tensor {name!r} with the prefix {PREFIX!r} and without, and only one can be "
                        "used. Remove the other."
                    )
                if not name.startswith(HEADS):
                    _check_format(path, name, file.get_slice(full_name).get_dtype())
                    tensors[name] = file.get_tensor(full_name)
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: can't be read as safetensors ({error}). Fetch it again.") from error
    return tensors


def _check_names(path: Path, given: set[str], wanted: set[str], pooling: str) -> None:
    unused = {POSITION_IDS}
    if pooling == "mean":
        unused |= {"pooler.dense.weight", "pooler.dense.bias"}
    missing, extra = sorted(wanted - given), sorted(given - wanted - unused)
    if missing or extra:
        raise ModelFileError(
            f"{path}: missing tensors {_some(missing)}, extra tensors {_some(extra)}. "
            "Each tensor must be used exactly once: take the weights that belong to this config.json."
        )


def _some(names: list[str]) -> str:
    """The first few names: a file of another architecture has hundreds, and the message is one line."""
    more = len(names) - MOST_NAMES
    return (", ".join(map(repr, names[:MOST_NAMES])) or "none") + (f" and {more} more" if more > 0 else "")


def _check_format(path: Path, name: str, number_format: str) -> None:
    readable = INTEGERS if name == POSITION_IDS else FLOATS
    if number_format not in readable:
        raise ModelFileError(
            f"{path}: tensor {name!r} holds {number_format} numbers, and this importer reads {', '.join(readable)}. "
            f"Convert it to {readable[0]}."
        )


def _check_finite(path: Path, name: str, value: np.ndarray) -> None:
    if not np.isfinite(value.astype("float32")).all():
        raise ModelFileError(f"{path}: tensor {name!r} holds NaN or infinity. Fetch the file again.")


def _check_position_ids(path: Path, position_ids: np.ndarray | None, max_length: int) -> None:
    if position_ids is not None and not np.array_equal(np.ravel(position_ids), np.arange(max_length)):
        raise ModelFileError(
            f"{path}: {POSITION_IDS} isn't 0 to {max_length - 1} in order, so the positions mean something else. "
            "Take weights with absolute positions."
        )


def _variables(model: Any) -> dict[str, Any]:
    """The model's weights by path, without the model's own name in front."""
    return {
        weight.path.split("/", 1)[1] if weight.path.startswith(f"{model.name}/") else weight.path: weight
        for weight in model.weights
    }
