"""Hugging Face's BERT on PyTorch, mean pooling and a head on top: a forward pass and a training step."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import BertModel

from peers.encoder_inputs import batch, matmul_rate, timed_steps

PACKAGES = ("torch", "transformers")


class Classifier(torch.nn.Module):
    """The encoder of a folder, and the head that lies beside it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.encoder = BertModel.from_pretrained(folder, add_pooling_layer=False)
        head = load_file(folder / "head.safetensors")
        self.head = torch.nn.Linear(*head["kernel"].shape)
        self.head.weight.data, self.head.bias.data = head["kernel"].T.contiguous(), head["bias"]

    def forward(self, token_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(B, T) -> (B, C); no row has padding, so the plain mean is that of the real tokens."""
        hidden = self.encoder(token_ids, attention_mask=mask).last_hidden_state
        return self.head(hidden.mean(dim=1)).float()


def answers(folder: str, bfloat16: str, threads: str) -> dict[str, Any]:
    """`bfloat16` is "yes" or "no": weights and all for the forward pass, autocast for training."""
    torch.set_num_threads(int(threads))
    torch.manual_seed(0)
    half = bfloat16 == "yes"
    size = json.loads((Path(folder) / "size.json").read_text())
    ids, labels = (torch.from_numpy(array).long() for array in batch(size))
    mask = (ids != 0).long()
    model = Classifier(Path(folder))
    known: dict[str, Any] = {}

    def logits() -> dict[str, Any]:
        with torch.inference_mode():
            return {"logits": model.eval()(ids, mask).tolist()}

    def forward(count: int) -> dict[str, Any]:
        if half:
            model.to(torch.bfloat16)
        model.eval()
        with torch.inference_mode():
            return timed_steps(lambda: model(ids, mask), count)

    def train(count: int) -> dict[str, Any]:
        if "optimizer" not in known:
            known["optimizer"] = torch.optim.AdamW(model.parameters(), lr=size["rate"], weight_decay=0.01)
        model.train()

        def step() -> None:
            known["optimizer"].zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                found = model(ids, mask)
            loss = torch.nn.functional.cross_entropy(found, labels)
            loss.backward()
            known["optimizer"].step()
            loss.item()

        return timed_steps(step, count)

    def peak(width: int) -> dict[str, Any]:
        one = torch.ones(width, width, dtype=torch.bfloat16 if half else torch.float32)
        return matmul_rate(lambda: one @ one, width)

    return {"logits": logits, "forward": forward, "train": train, "peak": peak}
