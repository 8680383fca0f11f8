"""Hugging Face `generate` on PyTorch: GPT2LMHeadModel, and MarianMTModel, which is Vaswani et al. 2017."""

from typing import Any

import torch
import transformers

from peers.decoding_weights import DECODER, END_ID, EPSILON, PAD_ID, START_ID, Weights, load, sinusoids
from peers.process import timed

PACKAGES = ("transformers", "torch")
MARIAN_ATTENTIONS = {"attention": "self_attn", "cross_attention": "encoder_attn"}
MARIAN_PARTS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}


class HuggingFace:
    """The model that was loaded last."""

    def load(self, kind: str, size: dict[str, Any], weights: str) -> dict[str, Any]:
        """Build the model and fill it."""
        values = load(weights)
        model, tensors = gpt2(size, values) if kind == DECODER else marian(size, values)
        found = model.load_state_dict({name: torch.tensor(value) for name, value in tensors.items()}, strict=False)
        # Tied copies, and the sinusoids, which are filled in below.
        expected = ("lm_head.weight", "embed_tokens.weight", "embed_positions.weight", "final_logits_bias")
        missing = [name for name in found.missing_keys if not name.endswith(expected)]
        if missing or found.unexpected_keys:
            raise ValueError(f"weights without a place {found.unexpected_keys}, places without weights {missing}")
        if kind != DECODER:
            for side in (model.model.encoder, model.model.decoder):
                table = side.embed_positions.weight
                with torch.no_grad():
                    table.copy_(torch.tensor(sinusoids(*table.shape)))
        self.kind, self.model = kind, model.eval()
        return {"parameters": model.num_parameters()}

    def run(self, token_ids: list[list[int]], beams: int, new_tokens: int) -> dict[str, Any]:
        """Write `new_tokens` after each row."""
        ids = torch.tensor(token_ids)
        begun = ids.shape[1] if self.kind == DECODER else 1  # what comes back begins with the prompt or the start

        def generate() -> torch.Tensor:
            return self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=new_tokens,
                do_sample=False,
                num_beams=beams,
                **({"length_penalty": 0.0} if beams > 1 else {}),
            )

        with torch.inference_mode():
            seconds, found = timed(generate)
        return {"seconds": seconds, "token_ids": found[:, begun:].tolist()}


def gpt2(size: dict[str, Any], values: Weights) -> tuple[Any, Weights]:
    """The model, and its tensors by its own names."""
    config = transformers.GPT2Config(
        vocab_size=size["vocab_size"],
        n_positions=size["max_length"],
        n_embd=size["model_dim"],
        n_layer=size["num_layers"],
        n_head=size["num_heads"],
        n_inner=size["inner_dim"],
        layer_norm_epsilon=EPSILON,
        bos_token_id=START_ID,
        eos_token_id=END_ID,
        pad_token_id=PAD_ID,
    )
    tensors = {"transformer.wte.weight": values["tokens/table"], "transformer.wpe.weight": values["positions/table"]}
    tensors |= norm("transformer.ln_f", "final_norm", values)
    for index in range(size["num_layers"]):
        theirs, ours = f"transformer.h.{index}", f"decoder_{index}"
        tensors |= norm(f"{theirs}.ln_1", f"{ours}/attention_norm", values)
        tensors |= norm(f"{theirs}.ln_2", f"{ours}/feed_forward_norm", values)
        for kind, name in (("kernel", "weight"), ("bias", "bias")):
            three = [torch.tensor(values[f"{ours}/attention/{part}/{kind}"]) for part in ("query", "key", "value")]
            tensors[f"{theirs}.attn.c_attn.{name}"] = torch.cat(three, dim=-1).numpy()
            for place, part in (("attn.c_proj", "attention/output"), ("mlp.c_fc", "feed_forward/inner")):
                tensors[f"{theirs}.{place}.{name}"] = values[f"{ours}/{part}/{kind}"]
            tensors[f"{theirs}.mlp.c_proj.{name}"] = values[f"{ours}/feed_forward/outer/{kind}"]
    return transformers.GPT2LMHeadModel(config), tensors


def marian(size: dict[str, Any], values: Weights) -> tuple[Any, Weights]:
    """The model, and its tensors by its own names."""
    config = transformers.MarianConfig(
        vocab_size=size["vocab_size"],
        max_position_embeddings=size["max_length"],
        d_model=size["model_dim"],
        encoder_layers=size["num_layers"],
        decoder_layers=size["num_layers"],
        encoder_attention_heads=size["num_heads"],
        decoder_attention_heads=size["num_heads"],
        encoder_ffn_dim=size["inner_dim"],
        decoder_ffn_dim=size["inner_dim"],
        activation_function="relu",
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        tie_word_embeddings=True,
        pad_token_id=PAD_ID,
        bos_token_id=START_ID,
        decoder_start_token_id=START_ID,
        eos_token_id=END_ID,
        forced_eos_token_id=None,
    )
    tensors = {"model.shared.weight": values["tokens/table"]}
    for side in ("encoder", "decoder"):
        for index in range(size["num_layers"]):
            theirs, ours = f"model.{side}.layers.{index}", f"{side}_{index}"
            for attention, name in MARIAN_ATTENTIONS.items():
                if f"{ours}/{attention}_norm/gamma" in values:
                    tensors |= norm(f"{theirs}.{name}_layer_norm", f"{ours}/{attention}_norm", values)
                    for part, place in MARIAN_PARTS.items():
                        tensors |= dense(f"{theirs}.{name}.{place}", f"{ours}/{attention}/{part}", values)
            tensors |= norm(f"{theirs}.final_layer_norm", f"{ours}/feed_forward_norm", values)
            tensors |= dense(f"{theirs}.fc1", f"{ours}/feed_forward/inner", values)
            tensors |= dense(f"{theirs}.fc2", f"{ours}/feed_forward/outer", values)
    return transformers.MarianMTModel(config), tensors


def norm(theirs: str, ours: str, values: Weights) -> Weights:
    """A LayerNorm under their names."""
    return {f"{theirs}.weight": values[f"{ours}/gamma"], f"{theirs}.bias": values[f"{ours}/beta"]}


def dense(theirs: str, ours: str, values: Weights) -> Weights:
    """A linear layer, which PyTorch keeps as (out, in)."""
    return {f"{theirs}.weight": values[f"{ours}/kernel"].T.copy(), f"{theirs}.bias": values[f"{ours}/bias"]}


def answers(threads: str) -> dict[str, Any]:
    """What the parent may ask."""
    transformers.logging.set_verbosity_error()
    if int(threads):
        torch.set_num_threads(int(threads))
    peer = HuggingFace()
    return {"load": peer.load, "run": peer.run}
