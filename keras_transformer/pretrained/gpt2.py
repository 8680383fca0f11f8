"""GPT-2 weights in Hugging Face layout (config.json, model.safetensors) in and out of a `CausalLM`.

Each tensor of a file has exactly one place. Kernels are (in, out) as ours, and everything is copied as it is; `c_attn`
holds the kernels of query, key and value side by side. The output layer shares the token table: a second copy in the
file is checked. Older files keep each layer's causal mask as a buffer, which is left out by its name.
"""

from pathlib import Path
from typing import Any, NamedTuple

from keras_transformer.files import ModelFileError
from keras_transformer.pretrained import tensor_files
from keras_transformer.pretrained.tensor_files import CONFIG_FILE, WEIGHTS_FILE, Place

PREFIX = "transformer."  # what `GPT2LMHeadModel` puts in front of each name but that of the output layer
TABLE, OUTPUT = "wte.weight", "lm_head.weight"
BUFFERS = ("bias", "masked_bias")  # of each layer's attention


class Gpt2Config(NamedTuple):
    """What a config.json says of a model, under our names."""

    vocab_size: int
    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int
    max_length: int
    activation: str
    epsilon: float
    tie_embeddings: bool


CONFIG_NAMES = {
    "vocab_size": "vocab_size",
    "n_layer": "num_layers",
    "n_embd": "model_dim",
    "n_head": "num_heads",
    "n_positions": "max_length",
}
EXPECTED = {
    "model_type": "gpt2",
    "add_cross_attention": False,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
WANTED_FOLDER = "Give the folder of a GPT-2 language model."
INNER_FACTOR = 4  # the inner width is so many times the width where n_inner is null

KERNEL_PARTS = {
    "attn.c_attn": ("attention/query", "attention/key", "attention/value"),
    "attn.c_proj": ("attention/output",),
    "mlp.c_fc": ("feed_forward/inner",),
    "mlp.c_proj": ("feed_forward/outer",),
}
NORM_PARTS = {"ln_1": "attention_norm", "ln_2": "feed_forward_norm"}


def tensor_places(num_layers: int, tied: bool) -> dict[str, Place]:
    """The place of each tensor of a GPT-2 with so many layers, by its name in the file without the prefix."""
    places = {
        TABLE: Place(("tokens/table",)),
        "wpe.weight": Place(("positions/table",)),
        **_norm("ln_f", "final_norm"),
    }
    for index in range(num_layers):
        theirs, ours = f"h.{index}", f"decoder_{index}"
        for part, paths in KERNEL_PARTS.items():
            places[f"{theirs}.{part}.weight"] = Place(tuple(f"{ours}/{path}/kernel" for path in paths))
            places[f"{theirs}.{part}.bias"] = Place(tuple(f"{ours}/{path}/bias" for path in paths))
        for part, path in NORM_PARTS.items():
            places |= _norm(f"{theirs}.{part}", f"{ours}/{path}")
    if not tied:
        places[OUTPUT] = Place(("logits/kernel",), transposed=True)
    return places


def read_config(folder: Path | str) -> Gpt2Config:
    """Read the sizes out of `folder`/config.json.

    Raises:
        ModelFileError: if the file is missing, isn't JSON, lacks a number, or describes another architecture.
    """
    content = tensor_files.read_config(folder, EXPECTED, CONFIG_NAMES, WANTED_FOLDER)
    path = Path(folder) / CONFIG_FILE
    sizes = {ours: content[theirs] for theirs, ours in CONFIG_NAMES.items()}
    inner_dim = content.get("n_inner")
    inner_dim = INNER_FACTOR * sizes["model_dim"] if inner_dim is None else inner_dim
    activation = content.get("activation_function", "gelu_new")
    epsilon = content.get("layer_norm_epsilon", 1e-5)
    tied = content.get("tie_word_embeddings", True)
    if not tensor_files.is_count(inner_dim):
        raise ModelFileError(f"{path}: n_inner={inner_dim!r} must be a whole number of at least 1. {WANTED_FOLDER}")
    if activation not in list(ACTIVATIONS):
        raise ModelFileError(
            f"{path}: activation_function={activation!r}, but this importer reads {', '.join(ACTIVATIONS)}. "
            f"{WANTED_FOLDER}"
        )
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ModelFileError(f"{path}: layer_norm_epsilon={epsilon!r} must be between 0 and 1. {WANTED_FOLDER}")
    if not isinstance(tied, bool):
        raise ModelFileError(f"{path}: tie_word_embeddings={tied!r} must be true or false. {WANTED_FOLDER}")
    if sizes["model_dim"] % sizes["num_heads"]:
        raise ModelFileError(
            f"{path}: n_head={sizes['num_heads']} doesn't divide n_embd={sizes['model_dim']}. {WANTED_FOLDER}"
        )
    return Gpt2Config(
        **sizes, inner_dim=inner_dim, activation=ACTIVATIONS[activation], epsilon=epsilon, tie_embeddings=tied
    )


def load_weights(model: Any, folder: Path | str) -> None:
    """Copy the tensors of `folder`/model.safetensors into `model`; nothing is copied unless all of them fit.

    Every tensor but the known buffers must have its place, and every place its tensor.

    Args:
        model: a `CausalLM` with GPT-2's parts.
        folder: a Hugging Face folder.

    Raises:
        ModelFileError: if the file is missing or cut short, or a tensor is missing, extra, twice there, of another
            shape or number format, or holds NaN or infinity. The message names it, and the model stays as it was.
        ValueError: if the model has parts that GPT-2's layout doesn't know.
    """
    _refuse_other_parts(model)
    path = Path(folder) / WEIGHTS_FILE
    buffers = {f"h.{index}.attn.{name}" for index in range(model.num_layers) for name in BUFFERS}
    tensors = tensor_files.read_tensors(path, PREFIX, skipped=buffers.__contains__)
    places = tensor_places(model.num_layers, model.tie_embeddings)
    tensor_files.check_names(path, tensors, places, unused=(OUTPUT,))
    if model.tie_embeddings:
        tensor_files.check_copy(path, tensors, OUTPUT, TABLE)
    tensor_files.assign(path, tensors, places, model)


def save(model: Any, folder: Path | str) -> None:
    """Write `model` as the folder of a GPT2LMHeadModel; the tensors that `load_weights` took go back byte for byte.

    Raises:
        UserError: if `folder` holds other files, which would be lost.
        ValueError: if the model has parts that GPT-2's layout doesn't know.
    """
    _refuse_other_parts(model)
    tensors = tensor_files.tensors_of(model, tensor_places(model.num_layers, model.tie_embeddings))
    tensors = {name if name == OUTPUT else PREFIX + name: value for name, value in tensors.items()}
    theirs = {ours: name for name, ours in ACTIVATIONS.items()}
    config = {
        "architectures": ["GPT2LMHeadModel"],
        **{name: getattr(model, ours) for name, ours in CONFIG_NAMES.items()},
        "n_inner": model.inner_dim,
        "activation_function": theirs[model.activation],
        "layer_norm_epsilon": model.epsilon,
        "tie_word_embeddings": model.tie_embeddings,
        **EXPECTED,
    }
    tensor_files.write_folder(folder, tensors, config)


def _norm(theirs: str, ours: str) -> dict[str, Place]:
    return {f"{theirs}.weight": Place((f"{ours}/gamma",)), f"{theirs}.bias": Place((f"{ours}/beta",))}


def _refuse_other_parts(model: Any) -> None:
    heads = {model.num_heads * model.head_dim == model.model_dim, model.num_heads == model.num_key_value_heads}
    common = model.norm_first and model.positions == "learned" and model.embedding_dim is None and not model.ranks
    if heads != {True} or not common or model.activation not in ACTIVATIONS.values():
        raise ValueError(
            f"{model.name!r} has norm_first={model.norm_first}, positions={model.positions!r}, "
            f"embedding_dim={model.embedding_dim}, ranks={model.ranks}, activation={model.activation!r}, and "
            f"{model.num_heads} heads of {model.head_dim} on {model.num_key_value_heads} key and value heads in a "
            f"width of {model.model_dim}; GPT-2's layout knows only pre-norm, learned positions, no factors, as many "
            "key and value heads as heads that fill the width, and the activations "
            f"{', '.join(ACTIVATIONS.values())}. "
            "Use a .keras file for this model."
        )
