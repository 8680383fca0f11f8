"""Vaswani et al. 2017 around `torch.nn.Transformer`, norms first as our recipe has it, trained on our batches."""

import math
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from peers.decoding_weights import sinusoids
from peers.training_loop import train

PACKAGES = ("torch",)
LONGEST = 1024
ATTENTIONS = {"self_attn": "attention", "multihead_attn": "cross_attention"}
MATRICES = {"linear1": "feed_forward/inner", "linear2": "feed_forward/outer"}

Tensors = dict[str, torch.Tensor]


class Translator(torch.nn.Module):
    """One table for source, target and logits."""

    def __init__(self, size: dict[str, Any], dropout: float) -> None:
        super().__init__()
        width = size["model_dim"]
        self.transformer = torch.nn.Transformer(
            width,
            size["num_heads"],
            size["num_layers"],
            size["num_decoder_layers"],
            size["inner_dim"],
            dropout=dropout,
            activation="relu",
            batch_first=True,
            norm_first=True,
        )
        for layer in [*self.transformer.encoder.layers, *self.transformer.decoder.layers]:
            layer.dropout = torch.nn.Identity()  # within the feed-forward part; the paper's section 5.4 has none there
        self.tokens = torch.nn.Embedding(size["vocab_size"], width)
        self.dropout = torch.nn.Dropout(dropout)
        self.register_buffer("places", torch.tensor(sinusoids(LONGEST, width)), persistent=False)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Ids (B, S) and (B, T) -> logits (B, T, V)."""
        length = target.shape[1]
        later = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1)
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=later,
            tgt_is_causal=True,
            src_key_padding_mask=source == 0,
            memory_key_padding_mask=source == 0,
        )
        return torch.nn.functional.linear(hidden, self.tokens.weight)

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Section 3.4's scaled rows and section 3.5's sinusoids."""
        width = self.tokens.embedding_dim
        return self.dropout(self.tokens(ids) * math.sqrt(width) + self.places[: ids.shape[1]])


def their_names(model: Translator) -> dict[str, list[tuple[str, bool]]]:
    """Each tensor of PyTorch's -> ours that it holds one below the other, and whether they are transposed."""
    places: dict[str, list[tuple[str, bool]]] = {"tokens.weight": [("tokens/table", False)]}

    def norm(theirs: str, ours: str) -> None:
        places[f"{theirs}.weight"], places[f"{theirs}.bias"] = [(f"{ours}/gamma", False)], [(f"{ours}/beta", False)]

    def dense(theirs: str, ours: str) -> None:
        places[f"{theirs}.weight"], places[f"{theirs}.bias"] = [(f"{ours}/kernel", True)], [(f"{ours}/bias", False)]

    for side, layers in (("encoder", model.transformer.encoder.layers), ("decoder", model.transformer.decoder.layers)):
        norms = ["attention_norm", *(["cross_attention_norm"] if side == "decoder" else []), "feed_forward_norm"]
        for index in range(len(layers)):
            theirs, ours = f"transformer.{side}.layers.{index}", f"{side}_{index}"
            for attention, name in list(ATTENTIONS.items())[: len(norms) - 1]:
                parts = [f"{ours}/{name}/{part}" for part in ("query", "key", "value")]
                places[f"{theirs}.{attention}.in_proj_weight"] = [(f"{part}/kernel", True) for part in parts]
                places[f"{theirs}.{attention}.in_proj_bias"] = [(f"{part}/bias", False) for part in parts]
                dense(f"{theirs}.{attention}.out_proj", f"{ours}/{name}/output")
            for matrix, name in MATRICES.items():
                dense(f"{theirs}.{matrix}", f"{ours}/{name}")
            for number, name in enumerate(norms, start=1):
                norm(f"{theirs}.norm{number}", f"{ours}/{name}")
    norm("transformer.encoder.norm", "encoder_norm")
    norm("transformer.decoder.norm", "final_norm")
    return places


def fill(model: Translator, ours: Tensors) -> None:
    """Copy our weights; PyTorch refuses what is missing, extra or of another shape."""
    tensors = {
        theirs: torch.cat([ours[name].T if transposed else ours[name] for name, transposed in parts])
        for theirs, parts in their_names(model).items()
    }
    model.load_state_dict(tensors)


def our_weights(model: Translator) -> Tensors:
    """The weights by our names."""
    state, found = model.state_dict(), {}
    for theirs, parts in their_names(model).items():
        for (name, transposed), tensor in zip(parts, state[theirs].chunk(len(parts)), strict=True):
            found[name] = (tensor.T if transposed else tensor).contiguous().clone()
    return found


def train_translator(
    size: dict[str, Any], dropout: float, seed: int, weights: str, trained: str, batches: str, **how: Any
) -> dict[str, Any]:
    """Start from the file `weights`, train, and write the file `trained`, both by our names."""
    torch.manual_seed(seed)
    model = Translator(size, dropout)
    fill(model, load_file(weights))
    answer = train(model, lambda model, batch: model(batch["source_ids"], batch["target_ids"]), batches, **how)
    save_file(our_weights(model), trained)
    return answer


def answers(threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    torch.set_num_threads(int(threads))
    return {"train": train_translator}
