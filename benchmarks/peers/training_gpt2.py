"""Hugging Face's GPT2LMHeadModel, trained on our batches."""

from typing import Any

import torch
import transformers

from peers.training_loop import train

PACKAGES = ("transformers", "torch")


def train_gpt2(seed: int, weights: str, trained: str, batches: str, **how: Any) -> dict[str, Any]:
    """Start from the Hugging Face folder `weights`, train, and write the folder `trained`."""
    torch.manual_seed(seed)
    model = transformers.GPT2LMHeadModel.from_pretrained(weights)
    answer = train(model, lambda model, batch: model(batch["token_ids"], use_cache=False).logits, batches, **how)
    model.save_pretrained(trained)
    return answer


def answers(threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(int(threads))
    return {"train": train_gpt2}
