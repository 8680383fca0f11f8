"""Sizes as frozen constants with their source. A variant is `dataclasses.replace`, not a subclass."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class TransformerSize:
    """The four numbers that make an encoder."""

    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int

    def arguments(self) -> dict[str, Any]:
        """Return the numbers as keyword arguments of a model."""
        return asdict(self)


BASE = TransformerSize(num_layers=6, model_dim=512, num_heads=8, inner_dim=2048)  # Vaswani et al. 2017, table 3
MINILM_L6 = TransformerSize(num_layers=6, model_dim=384, num_heads=12, inner_dim=1536)  # Wang et al. 2020, table 1
# BERT-mini and BERT-tiny: Turc et al. 2019, table 1
SMALL = TransformerSize(num_layers=4, model_dim=256, num_heads=4, inner_dim=1024)
TINY = TransformerSize(num_layers=2, model_dim=128, num_heads=2, inner_dim=512)
