"""One way to train in PyTorch, which does what `recipes.fitting` does: AdamW, a rate for each step, masked loss."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from safetensors.torch import load_file

EPSILON = 1e-7  # Keras' AdamW has another default than PyTorch's


def train(
    model: torch.nn.Module,
    logits: Callable[..., torch.Tensor],
    batches: str,
    rates: Sequence[float],
    *,
    weight_decay: float,
    beta_2: float,
    clip_norm: float | None,
    label_smoothing: float,
    bfloat16: bool,
) -> dict[str, Any]:
    """Take one step for each rate.

    Args:
        model: trained in place.
        logits: (model, tensors of a batch) -> logits (B, T, V).
        batches: a safetensors file with `0/labels`, `0/...`, `1/labels`, ...: the batches in their order.
        rates: the learning rate of each step.
        weight_decay: decoupled, on all weights.
        beta_2: of Adam; beta_1 is 0.9.
        clip_norm: of all gradients together; None = as they are.
        label_smoothing: as `token_cross_entropy` defines it, which is as PyTorch does.
        bfloat16: autocast; the loss is computed in float32 in any case.

    Returns:
        Seconds of the loop, and the loss of each step.
    """
    kept = load_file(batches)
    steps: list[dict[str, torch.Tensor]] = [{} for _ in rates]
    for name, tensor in kept.items():
        step, part = name.split("/")
        steps[int(step)][part] = tensor.long()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, beta_2), eps=EPSILON, weight_decay=weight_decay
    )
    loss_of = torch.nn.CrossEntropyLoss(ignore_index=0, label_smoothing=label_smoothing)
    model.train()
    losses = []
    start = time.perf_counter()
    for rate, batch in zip(rates, steps, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found = logits(model, batch)
        loss = loss_of(found.float().flatten(0, 1), batch["labels"].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return {"seconds": time.perf_counter() - start, "losses": losses}
