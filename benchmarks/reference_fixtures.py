"""What PyTorch's Transformer and Hugging Face's GPT-2 and BERT answer, as small files for the tests.

Command: python benchmarks/reference_fixtures.py      (some 20 seconds)
Needs:   pip install torch transformers, best in an environment of its own: the package itself needs neither
Writes:  tests/fixtures/*.npz, under 200 KB in all, each with the versions that made it

Weights are random and seeded, biases and norms too: zeros and ones would hide a wrong place. They are float32 numbers,
and the answers are computed from them in float64, so that only our own rounding is left to be seen.
"""

import argparse
import json
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__}
VOCAB, WIDTH, HEADS, INNER, LONGEST = 31, 12, 3, 17, 19
ENCODER_LAYERS, DECODER_LAYERS = 2, 3
SCALE = 0.3  # of the random weights
NEW_TOKENS = 7
SOURCE = np.array([[5, 17, 28, 1, 9, 2, 8], [7, 3, 0, 0, 0, 0, 0], [11, 4, 21, 30, 6, 0, 0]])
TARGET = np.array([[1, 12, 30, 2, 19], [1, 8, 8, 25, 0], [1, 27, 0, 0, 0]])


class Translator(torch.nn.Module):
    """Vaswani et al. 2017, figure 1, around PyTorch's stacks: one table for source, target and logits."""

    def __init__(self, norm_first: bool, activation: str) -> None:
        super().__init__()
        options = {"dropout": 0.0, "activation": activation, "batch_first": True, "norm_first": norm_first}
        encoder = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, INNER, **options)
        decoder = torch.nn.TransformerDecoderLayer(WIDTH, HEADS, INNER, **options)
        # torch.nn.Transformer ends both stacks with a norm; the paper, which has one after each part, doesn't.
        norms = [torch.nn.LayerNorm(WIDTH) if norm_first else None for _ in range(2)]
        self.transformer = torch.nn.Transformer(
            WIDTH,
            HEADS,
            batch_first=True,
            custom_encoder=torch.nn.TransformerEncoder(encoder, ENCODER_LAYERS, norms[0], enable_nested_tensor=False),
            custom_decoder=torch.nn.TransformerDecoder(decoder, DECODER_LAYERS, norms[1]),
        )
        self.tokens = torch.nn.Embedding(VOCAB, WIDTH)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Ids (B, S) and (B, T) -> logits (B, T, V)."""
        later = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(diagonal=1)
        hidden = self.transformer(
            self.embed(source),
            self.embed(target),
            tgt_mask=later,
            src_key_padding_mask=source == 0,
            memory_key_padding_mask=source == 0,
        )
        return hidden @ self.tokens.weight.T

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Section 3.4's scaled rows and section 3.5's sinusoids."""
        places = torch.zeros(ids.shape[1], WIDTH, dtype=torch.float64)
        for place in range(ids.shape[1]):
            for channel in range(0, WIDTH, 2):
                angle = place / 10_000 ** (channel / WIDTH)
                places[place, channel], places[place, channel + 1] = math.sin(angle), math.cos(angle)
        return self.tokens(ids) * math.sqrt(WIDTH) + places


def randomised(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Give each weight random float32 numbers, ready to compute in float64."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            is_norm = any(part in name.lower() for part in ("norm", "ln_"))
            mean = 1.0 if is_norm and name.endswith("weight") else 0.0
            weight.copy_(mean + SCALE * torch.randn(weight.shape))
    return model.eval()


def save(name: str, **arrays: np.ndarray) -> None:
    """Write one file and say how large it is."""
    path = FIXTURES / f"{name}.npz"
    np.savez_compressed(path, versions=json.dumps(VERSIONS), **arrays)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB, {VERSIONS}")


def translator(name: str, norm_first: bool, activation: str, seed: int) -> None:
    """Weights by PyTorch's names, and the logits of a small batch."""
    model = randomised(Translator(norm_first, activation), seed)
    weights = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    weights = {name: value.copy() for name, value in weights.items()}
    with torch.no_grad():
        logits = model.double()(torch.tensor(SOURCE), torch.tensor(TARGET))
    options = json.dumps({"norm_first": norm_first, "activation": activation, "num_heads": HEADS})
    save(name, **weights, options=options, source_ids=SOURCE, target_ids=TARGET, logits=logits.numpy())


def hub_folder(model: transformers.PreTrainedModel) -> dict[str, np.ndarray]:
    """The tensors and the config of the folder that Hugging Face itself writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = (Path(folder) / "config.json").read_text(encoding="utf-8")
        tensors = load_file(Path(folder) / "model.safetensors")
    return {"config": config, **{f"tensors/{name}": value for name, value in tensors.items()}}


def gpt2(seed: int) -> None:
    """A GPT-2's folder, the logits of a small batch, and what it writes after each row by greedy search."""
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=LONGEST,
        n_embd=WIDTH,
        n_layer=DECODER_LAYERS,
        n_head=HEADS,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = randomised(transformers.GPT2LMHeadModel(config), seed)
    folder = hub_folder(model)
    ids = torch.tensor(SOURCE[:, :2])
    with torch.no_grad():
        logits = model.double()(torch.tensor(SOURCE)).logits
        written = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0
        )
    save("gpt2", **folder, token_ids=SOURCE, logits=logits.numpy(), prompts=ids.numpy(), written=written[:, 2:].numpy())


def bert(seed: int) -> None:
    """A BERT's folder with its head for hidden tokens, and the logits of a small batch."""
    config = transformers.BertConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        num_hidden_layers=ENCODER_LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=INNER,
        max_position_embeddings=LONGEST,
    )
    model = randomised(transformers.BertForMaskedLM(config), seed)
    folder = hub_folder(model)
    with torch.no_grad():
        logits = model.double()(torch.tensor(SOURCE), attention_mask=torch.tensor(SOURCE != 0)).logits
    save("bert_masked_lm", **folder, token_ids=SOURCE, logits=logits.numpy())


def main() -> None:
    """Write every file."""
    FIXTURES.mkdir(exist_ok=True)
    translator("transformer_post_norm", norm_first=False, activation="relu", seed=1)
    translator("transformer_norm_first", norm_first=True, activation="gelu", seed=2)
    gpt2(seed=3)
    bert(seed=4)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
