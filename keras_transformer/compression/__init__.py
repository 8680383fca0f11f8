"""Ways to make a trained network smaller, each usable alone and free of any task."""

from keras_transformer.compression.activations import LayerActivations, layer_activations
from keras_transformer.compression.cutting import (
    Parts,
    Step,
    cut,
    factorise_tokens,
    keep_channels,
    keep_heads,
    keep_layers,
    keep_pieces,
    keep_positions,
    keep_units,
)
from keras_transformer.compression.dense_products import factored_ranks
from keras_transformer.compression.importance import (
    channel_importance,
    head_importance,
    head_norms,
    most_important,
    unit_slopes,
)
from keras_transformer.compression.inheritance import hindrance, inherit
from keras_transformer.compression.kernel_factors import factorise_kernels, fuse, kernel_spectra
from keras_transformer.compression.kernel_metrics import input_moments, row_fisher
from keras_transformer.compression.low_rank import Factors, factorise
from keras_transformer.compression.rank_choices import (
    KernelRank,
    rank_report,
    ranks_of_share,
    ranks_within_budget,
    ranks_within_error,
    weights_beside,
)
from keras_transformer.compression.spectra import Spectrum, spectrum
from keras_transformer.compression.units import unit_importance
from keras_transformer.compression.vocabulary import CutVocabulary, count_pieces, cut_vocabulary

__all__ = [
    "CutVocabulary",
    "Factors",
    "KernelRank",
    "LayerActivations",
    "Parts",
    "Spectrum",
    "Step",
    "channel_importance",
    "count_pieces",
    "cut",
    "cut_vocabulary",
    "factored_ranks",
    "factorise",
    "factorise_kernels",
    "factorise_tokens",
    "fuse",
    "head_importance",
    "head_norms",
    "hindrance",
    "inherit",
    "input_moments",
    "keep_channels",
    "keep_heads",
    "keep_layers",
    "keep_pieces",
    "keep_positions",
    "keep_units",
    "kernel_spectra",
    "layer_activations",
    "most_important",
    "rank_report",
    "ranks_of_share",
    "ranks_within_budget",
    "ranks_within_error",
    "row_fisher",
    "spectrum",
    "unit_importance",
    "unit_slopes",
    "weights_beside",
]
