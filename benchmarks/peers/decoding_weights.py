"""Random weights of a GPT-2 and of a translator, by the names that ours have; numpy and safetensors alone.

The rows of padding and of the end are 0 in the token table, which is also the output layer: their logits are exactly
0, and the likeliest of thousands is never one of them. So no text ends early, and each has as many tokens as asked for.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

PAD_ID, START_ID, END_ID = 0, 1, 2
DECODER, TRANSLATOR = "decoder", "translator"
EPSILON = 1e-5

Weights = dict[str, np.ndarray]


def random_weights(kind: str, size: dict[str, Any], seed: int = 0) -> Weights:
    """Weights that make each token depend on all before: outputs of the layers outweigh the embeddings.

    Args:
        kind: DECODER (pre-norm, GELU, learned positions) or TRANSLATOR (post-norm, ReLU, sinusoids).
        size: vocab_size, num_layers, model_dim, inner_dim, and max_length for a decoder.
        seed: of the numbers.
    """
    random = np.random.default_rng(seed)
    width, inner = size["model_dim"], size["inner_dim"]

    def normal(*shape: int, scale: float) -> np.ndarray:
        return random.normal(scale=scale, size=shape).astype(np.float32)

    weights: Weights = {}

    def dense(name: str, inputs: int, outputs: int) -> None:
        weights[f"{name}/kernel"] = normal(inputs, outputs, scale=1 / math.sqrt(inputs))
        weights[f"{name}/bias"] = normal(outputs, scale=0.1)

    def norm(name: str) -> None:
        weights[f"{name}/gamma"] = 1 + normal(width, scale=0.1)
        weights[f"{name}/beta"] = normal(width, scale=0.1)

    def layer(name: str, *attentions: str) -> None:
        for part in attentions:
            for matrix in ("query", "key", "value", "output"):
                dense(f"{name}/{part}/{matrix}", width, width)
            norm(f"{name}/{part}_norm")
        dense(f"{name}/feed_forward/inner", width, inner)
        dense(f"{name}/feed_forward/outer", inner, width)
        norm(f"{name}/feed_forward_norm")

    weights["tokens/table"] = normal(size["vocab_size"], width, scale=1 / math.sqrt(width))
    weights["tokens/table"][[PAD_ID, END_ID]] = 0
    for index in range(size["num_layers"]):
        if kind == DECODER:
            layer(f"decoder_{index}", "attention")
        else:
            layer(f"encoder_{index}", "attention")
            layer(f"decoder_{index}", "attention", "cross_attention")
    if kind == DECODER:
        weights["positions/table"] = normal(size["max_length"], width, scale=1 / math.sqrt(width))
        norm("final_norm")
    return weights


def sinusoids(length: int, width: int) -> np.ndarray:
    """Vaswani et al. 2017, section 3.5: sine and cosine in turns. (length, width) float32."""
    angle = np.arange(length)[:, None] / 10_000 ** (np.arange(0, width, 2) / width)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1).reshape(length, width).astype(np.float32)


def save(weights: Weights, path: Path) -> None:
    """Write them for all interpreters."""
    save_file({name: np.ascontiguousarray(value) for name, value in weights.items()}, path)


def load(path: str) -> Weights:
    """Read what `save` wrote."""
    return load_file(path)
