"""A `TextClassifier` of ours in PyTorch, with the same weights, as a program for PyTorch itself and for ONNX."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from peers.single_texts import timed_calls

PACKAGES = ("torch",)


class Classifier(nn.Module):
    """Post-norm encoder and mean pooling; every real token counts, so that there is no mask to compute with."""

    def __init__(self, size: dict[str, int], weights: str) -> None:
        super().__init__()
        self.num_heads, self.num_layers = size["num_heads"], size["num_layers"]
        values = {name: torch.tensor(value) for name, value in load_file(weights).items()}
        self.names = {name: name.replace("/", "_") for name in values}
        for name, value in values.items():
            # As nn.Linear has them: (out, in).
            turned = value.T.contiguous() if name.endswith("kernel") else value
            self.register_parameter(self.names[name], nn.Parameter(turned, requires_grad=False))

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """A dense layer; the factor of the table has no bias."""
        bias = getattr(self, self.names[f"{name}/bias"]) if f"{name}/bias" in self.names else None
        return functional.linear(x, getattr(self, self.names[f"{name}/kernel"]), bias)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        """A LayerNorm."""
        gamma, beta = (getattr(self, self.names[f"{name}/{part}"]) for part in ("gamma", "beta"))
        return functional.layer_norm(x, (x.shape[-1],), gamma, beta, 1e-12)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(1, T) -> (1, C)."""
        length = token_ids.shape[1]
        x = functional.embedding(token_ids, self.tokens_table)
        if "tokens/factor/kernel" in self.names:
            x = self.linear(x, "tokens/factor")
        x = self.norm(x + self.positions_table[:length] + self.segments_table[0], "embeddings_norm")
        for layer in (f"encoder_{index}" for index in range(self.num_layers)):
            parts = (self.linear(x, f"{layer}/attention/{name}") for name in ("query", "key", "value"))
            heads = (part.view(1, length, self.num_heads, -1).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(*heads).transpose(1, 2).reshape(1, length, -1)
            x = self.norm(x + self.linear(mixed, f"{layer}/attention/output"), f"{layer}/attention_norm")
            inner = functional.gelu(self.linear(x, f"{layer}/feed_forward/inner"))
            x = self.norm(x + self.linear(inner, f"{layer}/feed_forward/outer"), f"{layer}/feed_forward_norm")
        return self.linear(x.mean(dim=1), "logits")


def answers(threads: str) -> dict[str, Any]:
    """PyTorch itself."""
    torch.set_num_threads(int(threads))
    known: dict[str, nn.Module] = {}

    def load(folder: str) -> dict[str, Any]:
        size = json.loads((Path(folder) / "size.json").read_text())
        known["model"] = Classifier(size, str(Path(folder) / "weights.safetensors")).eval()
        return {"bytes": (Path(folder) / "weights.safetensors").stat().st_size}

    def run(token_ids: list[list[int]]) -> dict[str, Any]:
        with torch.inference_mode():
            return timed_calls(lambda row: known["model"](torch.from_numpy(row)).numpy(), token_ids)

    return {"load": load, "run": run}
