"""Low-rank factors in the place of dense kernels, in our models and in any Functional or Sequential one; and back.

>>> spectra = kernel_spectra(model, ["encoder_*"], metrics=input_moments(model, batches))
>>> smaller = factorise_kernels(model, ranks_within_error(spectra, 0.1), spectra)
>>> whole = fuse(smaller, factored_ranks(smaller))

What comes out is a model like any other: it is compiled, trained, distilled, tapped, saved and exported. A factorised
`Dense` is a `LowRankDense`. The model that is factorised isn't changed.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import keras
import numpy as np
from keras import ops

from keras_transformer.compression.dense_products import chosen_products, factored_ranks
from keras_transformer.compression.exchanged_products import exchanged
from keras_transformer.compression.low_rank import Factors
from keras_transformer.compression.rank_choices import Spectra, check_ranks
from keras_transformer.compression.spectra import Spectrum, spectrum
from keras_transformer.layers.low_rank_dense import LowRankDense

Model = TypeVar("Model", bound=keras.Model)


def kernel_spectra(
    model: keras.Model, names: Sequence[str] | None = None, metrics: Mapping[str, np.ndarray] | None = None
) -> dict[str, Spectrum]:
    """Decompose dense kernels, to see what ranks lose and to factorise them.

    A product that is called several times in a graph is one kernel, and stays one. Not taken, and refused by name, are
    products with a regulariser or a constraint, with LoRA or in integers, and those inside layers of others.

    Args:
        model: built; Functional, Sequential, or one of ours.
        names: paths of products or shell patterns, such as "encoder_*/feed_forward/*"; None = all that can be
            factorised.
        metrics: of what goes into each product, by path: `input_moments`, `row_fisher`, or your own, see `spectrum`;
            None = all inputs alike, the plain SVD.

    Raises:
        TypeError: if `names` is one string.
        ValueError: if the model has no dense layer that can be factorised, or layers that share weights otherwise than
            by being called several times; if a name fits no product, or one that can't be factorised; if `metrics`
            lacks one, or it doesn't fit.
    """
    chosen = chosen_products(model, names)
    if metrics is not None:
        for name in chosen:
            if name not in metrics:
                raise ValueError(
                    f"metrics has nothing for {name!r}, only {sorted(metrics)}. Name the same products for both."
                )
    return {
        name: spectrum(_kernel(product.layer), None if metrics is None else metrics[name])
        for name, product in chosen.items()
    }


def factorise_kernels(model: Model, ranks: Mapping[str, int], spectra: Spectra | None = None) -> Model:
    """Return a copy of `model` in which the named kernels are two factors of the given ranks, the best in their metric.

    At full rank it computes what `model` does. Products that are factorised already stay so.

    Args:
        model: isn't changed; the copy is of its class, or a `keras.Model` if that can't be built from a graph.
        ranks: by path: your own, or those of `ranks_within_error`, `ranks_of_share` or `ranks_within_budget`. None at
            all gives a plain copy.
        spectra: of `kernel_spectra`; None = the plain SVD of the kernels that `ranks` names.

    Raises:
        ValueError: if a name is unknown or can't be factorised, a rank is below 1 or above min(D, F), or a kernel
            isn't the one that was decomposed: then the model has learned since.
    """
    factors = _factors(model, ranks, spectra) if ranks else {}
    return exchanged(model, {**factored_ranks(model), **ranks}, factors)


def fuse(model: Model, names: Sequence[str] | Mapping[str, int] | None = None) -> Model:
    """Return a copy of `model` in which factors are multiplied and become one kernel again; it computes the same.

    Args:
        model: isn't changed.
        names: paths of factorised products, or shell patterns; `factored_ranks(model)` fuses them all. None = those
            whose factors have no fewer weights than the kernel, r (D + F) >= D F; there may be none.

    Raises:
        TypeError: if `names` is one string.
        ValueError: if nothing in the model is factorised, a name fits nothing that is, or one that can't be exchanged.
    """
    ranks = factored_ranks(model)
    if not ranks:
        raise ValueError(f"model {model.name!r} has no factorised products, so nothing to fuse. Use it as it is.")
    gone = chosen_products(model, names, factored=True)
    if names is None:
        gone = {name: one for name, one in gone.items() if not _pays(one.layer)}
    return exchanged(model, {name: rank for name, rank in ranks.items() if name not in gone})


def _factors(model: keras.Model, ranks: Mapping[str, int], spectra: Spectra | None) -> dict[str, Factors]:
    chosen = chosen_products(model, list(ranks))
    if spectra is None:
        spectra = {name: spectrum(_kernel(product.layer)) for name, product in chosen.items()}
    check_ranks(spectra, ranks)
    for name, product in chosen.items():
        if not np.array_equal(_kernel(product.layer), spectra[name].kernel):
            raise ValueError(
                f"the kernel of {name!r} isn't the one that was decomposed: the model has changed since, or is "
                "another. Call kernel_spectra again."
            )
    return {name: spectra[name].factors(rank) for name, rank in ranks.items()}


def _kernel(layer: keras.layers.Layer) -> np.ndarray:
    return ops.convert_to_numpy(layer.kernel)


def _pays(layer: LowRankDense) -> bool:
    """Whether the factors have fewer weights than their kernel, r (D + F) < D F."""
    inputs = layer.left.kernel.shape[0]
    return bool(layer.rank * (inputs + layer.units) < inputs * layer.units)
