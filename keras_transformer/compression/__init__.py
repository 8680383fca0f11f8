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
from keras_transformer.compression.movement import MovementPruning
from keras_transformer.compression.prunable_kernels import prunable_kernels
from keras_transformer.compression.pruning import KeepZeros, MagnitudePruning, NToMPruning
from keras_transformer.compression.quantization import DenseRanges, Range, dense_ranges, plain, quantization_aware
from keras_transformer.compression.rank_choices import (
    KernelRank,
    rank_report,
    ranks_of_share,
    ranks_within_budget,
    ranks_within_error,
    weights_beside,
)
from keras_transformer.compression.sparsity_report import (
    SparsityReport,
    TensorSparsity,
    sparse_tensor_bytes,
    sparsity_report,
)
from keras_transformer.compression.sparsity_schedules import cubic_sparsity
from keras_transformer.compression.spectra import Spectrum, spectrum
from keras_transformer.compression.units import unit_importance
from keras_transformer.compression.vocabulary import CutVocabulary, count_pieces, cut_vocabulary

__all__ = [
    "CutVocabulary",
    "DenseRanges",
    "Factors",
    "KeepZeros",
    "KernelRank",
    "LayerActivations",
    "MagnitudePruning",
    "MovementPruning",
    "NToMPruning",
    "Parts",
    "Range",
    "SparsityReport",
    "Spectrum",
    "Step",
    "TensorSparsity",
    "channel_importance",
    "count_pieces",
    "cubic_sparsity",
    "cut",
    "cut_vocabulary",
    "dense_ranges",
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
    "plain",
    "prunable_kernels",
    "quantization_aware",
    "rank_report",
    "ranks_of_share",
    "ranks_within_budget",
    "ranks_within_error",
    "row_fisher",
    "sparse_tensor_bytes",
    "sparsity_report",
    "spectrum",
    "unit_importance",
    "unit_slopes",
    "weights_beside",
]
