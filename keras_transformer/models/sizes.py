"""Sizes as frozen constants with their source. A variant is `dataclasses.replace`, not a subclass."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TransformerSize:
    """The four numbers that make an encoder or a decoder."""

    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int

    def arguments(self) -> dict[str, Any]:
        """Return the numbers as keyword arguments of a model."""
        return asdict(self)


BASE = TransformerSize(num_layers=6, model_dim=512, num_heads=8, inner_dim=2048)  # Vaswani et al. 2017, table 3
BIG = TransformerSize(num_layers=6, model_dim=1024, num_heads=16, inner_dim=4096)  # Vaswani et al. 2017, table 3
# Radford et al. 2019, table 2; numbers of heads and inner widths as in the released models
GPT2 = TransformerSize(num_layers=12, model_dim=768, num_heads=12, inner_dim=3072)
GPT2_MEDIUM = TransformerSize(num_layers=24, model_dim=1024, num_heads=16, inner_dim=4096)
GPT2_LARGE = TransformerSize(num_layers=36, model_dim=1280, num_heads=20, inner_dim=5120)
GPT2_XL = TransformerSize(num_layers=48, model_dim=1600, num_heads=25, inner_dim=6400)
MINILM_L6 = TransformerSize(num_layers=6, model_dim=384, num_heads=12, inner_dim=1536)  # Wang et al. 2020, table 1
# BERT-mini and BERT-tiny: Turc et al. 2019, table 1
SMALL = TransformerSize(num_layers=4, model_dim=256, num_heads=4, inner_dim=1024)
TINY = TransformerSize(num_layers=2, model_dim=128, num_heads=2, inner_dim=512)
