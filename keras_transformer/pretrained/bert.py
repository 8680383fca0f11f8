"""BERT weights in Hugging Face layout (config.json, model.safetensors) in and out of a model of ours.

Each tensor of a file has exactly one place. A dense kernel is the file's weight transposed; everything else is copied
as it is. `embeddings.position_ids` is the row 0, 1, 2, ... that the original keeps as a buffer: checked, not stored.
The output layer of a masked language model shares the token table and one bias: a second copy in the file is checked.
The first released BERTs call a norm's two vectors gamma and beta; they are read, and written under their newer names.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_transformer.files import ModelFileError
from keras_transformer.pretrained import tensor_files
from keras_transformer.pretrained.tensor_files import CONFIG_FILE, WEIGHTS_FILE, Place

POSITION_IDS = "embeddings.position_ids"
PREFIX = "bert."  # what `BertFor...` classes put in front of each name of the encoder
PREDICTIONS = "cls.predictions."
HEADS = ("cls.", "classifier.")  # other tasks' heads: named, so that leaving them out is a decision
POOLER = ("pooler.dense.weight", "pooler.dense.bias")


class BertConfig(NamedTuple):
    """What a config.json says of a model, under our names."""

    vocab_size: int
    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int
    max_length: int


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
COPIES = {
    f"{PREDICTIONS}decoder.weight": "embeddings.word_embeddings.weight",
    f"{PREDICTIONS}decoder.bias": f"{PREDICTIONS}bias",
}


OLD_NAMES = {".LayerNorm.gamma": ".LayerNorm.weight", ".LayerNorm.beta": ".LayerNorm.bias"}


class Heads(NamedTuple):
    """Which parts a model has on top of the encoder."""

    pooler: bool
    predictions: bool


def tensor_places(num_layers: int, heads: Heads) -> dict[str, Place]:
    """The place of each tensor of a BERT with so many layers, by its name in the file."""
    places = {
        "embeddings.word_embeddings.weight": Place(("tokens/table",)),
        "embeddings.position_embeddings.weight": Place(("positions/table",)),
        "embeddings.token_type_embeddings.weight": Place(("segments/table",)),
        **_norm("embeddings.LayerNorm", "embeddings_norm"),
    }
    for index in range(num_layers):
        theirs, ours = f"encoder.layer.{index}", f"encoder_{index}"
        for part, path in DENSE_PARTS.items():
            places |= _dense(f"{theirs}.{part}", f"{ours}/{path}")
        for part, path in NORM_PARTS.items():
            places |= _norm(f"{theirs}.{part}", f"{ours}/{path}")
    if heads.pooler:
        places |= _dense("pooler.dense", "pooling/dense")
    if heads.predictions:
        places |= _dense(f"{PREDICTIONS}transform.dense", "transform")
        places |= _norm(f"{PREDICTIONS}transform.LayerNorm", "transform_norm")
        places[f"{PREDICTIONS}bias"] = Place(("logits/bias",))
    return places


def read_config(folder: Path | str) -> BertConfig:
    """Read the sizes out of `folder`/config.json.

    Raises:
        ModelFileError: if the file is missing, isn't JSON, lacks a number, or describes another architecture.
    """
    content = tensor_files.read_config(folder, EXPECTED, CONFIG_NAMES, WANTED_FOLDER)
    config = BertConfig(**{ours: content[theirs] for theirs, ours in CONFIG_NAMES.items()})
    if config.model_dim % config.num_heads:
        raise ModelFileError(
            f"{Path(folder) / CONFIG_FILE}: num_attention_heads={config.num_heads} doesn't divide "
            f"hidden_size={config.model_dim}. {WANTED_FOLDER}"
        )
    return config


def load_weights(model: Any, folder: Path | str) -> None:
    """Copy the tensors of `folder`/model.safetensors into `model`; nothing is copied unless all of them fit.

    A model without a pooler has no use for the file's, and leaves it out; the head of next-sentence prediction and
    of other tasks is left out, too. Every other tensor must have its place, and every place its tensor.

    Args:
        model: has `num_layers` and `max_length`, and layers named as `TextClassifier` or `MaskedLM` names them.
        folder: a Hugging Face folder.

    Raises:
        ModelFileError: if the file is missing or cut short, or a tensor is missing, extra, twice there, of another
            shape or number format, or holds NaN or infinity. The message names it, and the model stays as it was.
        ValueError: if the model has parts that BERT's layout doesn't know.
    """
    _refuse_other_parts(model)
    path, heads = Path(folder) / WEIGHTS_FILE, _heads(model)

    def is_other_head(name: str) -> bool:
        return name.startswith(HEADS) and not (heads.predictions and name.startswith(PREDICTIONS))

    tensors = tensor_files.read_tensors(path, PREFIX, is_other_head, integers=(POSITION_IDS,))
    tensors = _under_new_names(path, tensors)
    places = tensor_places(model.num_layers, heads)
    unused = {POSITION_IDS, *(COPIES if heads.predictions else ()), *(() if heads.pooler else POOLER)}
    tensor_files.check_names(path, tensors, places, unused)
    for copy, original in COPIES.items():
        tensor_files.check_copy(path, tensors, copy, original)
    _check_position_ids(path, tensors.get(POSITION_IDS), model.max_length)
    tensor_files.assign(path, tensors, places, model)


def save(model: Any, folder: Path | str) -> None:
    """Write `model` as a Hugging Face folder; the float32 tensors that `load_weights` took go back byte for byte.

    A `MaskedLM` becomes a BertForMaskedLM, a `TextClassifier` a plain BertModel, without a pooler if it pools the
    mean; there its classification head has no place and stays behind.

    Raises:
        UserError: if `folder` holds other files, which would be lost.
        ValueError: if the model has parts that BERT's layout doesn't know.
    """
    _refuse_other_parts(model)
    heads = _heads(model)
    tensors = tensor_files.tensors_of(model, tensor_places(model.num_layers, heads))
    tensors[POSITION_IDS] = np.arange(model.max_length, dtype="int64")[None]
    if heads.predictions:
        tensors = {name if name.startswith(HEADS) else PREFIX + name: value for name, value in tensors.items()}
    config = {theirs: getattr(model, ours) for theirs, ours in CONFIG_NAMES.items()}
    architecture = "BertForMaskedLM" if heads.predictions else "BertModel"
    tensor_files.write_folder(folder, tensors, {"architectures": [architecture], **config, **EXPECTED})


def _under_new_names(path: Path, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for given, value in tensors.items():
        name = given
        for old, new in OLD_NAMES.items():
            name = name.replace(old, new)
        if name != given and name in tensors:
            raise ModelFileError(
                f"{path}: holds tensor {name!r} and its older name {given!r}, and only one can be used. "
                "Remove the other."
            )
        renamed[name] = value
    return renamed


def _dense(theirs: str, ours: str) -> dict[str, Place]:
    return {
        f"{theirs}.weight": Place((f"{ours}/kernel",), transposed=True),
        f"{theirs}.bias": Place((f"{ours}/bias",)),
    }


def _norm(theirs: str, ours: str) -> dict[str, Place]:
    return {f"{theirs}.weight": Place((f"{ours}/gamma",)), f"{theirs}.bias": Place((f"{ours}/beta",))}


def _heads(model: Any) -> Heads:
    paths = tensor_files.variables_of(model)
    return Heads(pooler="pooling/dense/kernel" in paths, predictions="transform/kernel" in paths)


def _refuse_other_parts(model: Any) -> None:
    odd_heads = model.num_heads * model.head_dim != model.model_dim
    kept_pieces = getattr(model, "kept_pieces", None)  # a masked language model can't have a map
    factors = model.embedding_dim is not None or bool(model.ranks)
    if factors or kept_pieces is not None or model.norm_first or odd_heads:
        raise ValueError(
            f"{model.name!r} has embedding_dim={model.embedding_dim}, ranks={model.ranks}, kept_pieces={kept_pieces}, "
            f"norm_first={model.norm_first}, and {model.num_heads} heads of {model.head_dim} in a width of "
            f"{model.model_dim}: factors, a map, pre-norm, heads that don't fill the width; "
            "BERT's layout knows none of these. Use a .keras file for this model."
        )


def _check_position_ids(path: Path, position_ids: np.ndarray | None, max_length: int) -> None:
    if position_ids is not None and not np.array_equal(np.ravel(position_ids), np.arange(max_length)):
        raise ModelFileError(
            f"{path}: {POSITION_IDS} isn't 0 to {max_length - 1} in order, so the positions mean something else. "
            "Take weights with absolute positions."
        )
