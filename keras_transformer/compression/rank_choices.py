"""Ranks for the kernels of a model: by a share, by an error, by a budget of weights; and what they cost.

>>> spectra = kernel_spectra(model)
>>> ranks = ranks_within_error(spectra, 0.1)
>>> smaller = factorise_kernels(model, ranks, spectra)

A kernel that no rank makes smaller is left out of the ranks, and stays as it is.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import keras
import numpy as np

from keras_transformer.checks import positive, positive_integer
from keras_transformer.compression.spectra import Spectrum
from keras_transformer.layers.low_rank_dense import check_rank

Spectra = Mapping[str, Spectrum]
"""By the path of the dense product, see `kernel_spectra`."""


class KernelRank(NamedTuple):
    """One kernel: what its rank saves and loses."""

    name: str
    shape: tuple[int, int]
    rank: int | None  # None = it stays as it is
    relative_error: float  # ||W - A B||_M / ||W||_M
    weights_before: int
    weights_after: int


class Option(NamedTuple):
    """One form that a kernel may take."""

    weights: int
    cost: float
    rank: int | None


def ranks_of_share(spectra: Spectra, share: float) -> dict[str, int]:
    """Give each kernel this share of its full rank, min(D, F), rounded, and at least 1.

    Raises:
        ValueError: if `share` isn't above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share!r} of the full rank must be above 0 and at most 1. Use for example share=0.25.")
    wanted = {name: max(1, round(share * min(one.kernel.shape))) for name, one in spectra.items()}
    return {name: rank for name, rank in wanted.items() if rank in spectra[name].ranks_that_pay}


def ranks_within_error(spectra: Spectra, error: float) -> dict[str, int]:
    """Give each kernel the lowest rank whose relative error, in the metric of its spectrum, is at most `error`.

    Raises:
        ValueError: if `error` isn't above 0 and below 1.
    """
    if not 0 < error < 1:
        raise ValueError(f"error={error!r} must be above 0 and below 1. Use for example error=0.1.")
    wanted = {name: max(1, int(np.argmax(one.errors() <= error))) for name, one in spectra.items()}
    return {name: rank for name, rank in wanted.items() if rank in spectra[name].ranks_that_pay}


def ranks_within_budget(
    spectra: Spectra, max_weights: int, beside: int = 0, importance: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Choose ranks so that all weights together are at most `max_weights`, with a small sum of squared errors.

    Greedy: of all steps to a smaller form of a kernel the one is taken that adds least error for each weight that it
    saves, until the budget is met. A kernel's steps are the edges of the lower convex hull of its points (weights,
    error), so they become dearer one after another and the sum is the least there is for as many weights as are left
    (Fox 1966). The edge of a hull may leap over several ranks, from a whole kernel to factors above all; what the last
    one saved too much is given back where it takes away most.

    Args:
        spectra: of the kernels that may be factorised.
        max_weights: of the whole model if `beside` is given, else of these kernels.
        beside: weights of the model that aren't these kernels', see `weights_beside`.
        importance: what the squared relative error of each kernel counts; None = 1 each. With spectra weighted by
            `row_fisher`, {name: one.energies.sum()} compares the kernels by what the loss feels.

    Raises:
        ValueError: if not even rank 1 everywhere is small enough, or a kernel has no importance above 0.
    """
    positive_integer("max_weights", max_weights)
    _check_importance(spectra, importance)
    options = {name: _options(one, 1.0 if importance is None else importance[name]) for name, one in spectra.items()}
    least = beside + sum(min(option.weights for option in of_one) for of_one in options.values())
    if least > max_weights:
        raise ValueError(
            f"max_weights={max_weights} can't be met: rank 1 everywhere leaves {least} weights, {beside} of them not "
            f"in the {len(spectra)} kernels. Use max_weights={least} or more, or a smaller model."
        )
    steps = [
        (_slope(before, after), place, name, after)
        for name, of_one in options.items()
        for place, (before, after) in enumerate(pairwise(_hull(of_one)))
    ]
    chosen = {name: of_one[0] for name, of_one in options.items()}
    for _, _, name, after in sorted(steps, key=lambda step: step[:3]):
        if beside + sum(option.weights for option in chosen.values()) <= max_weights:
            break
        chosen[name] = after
    _give_back(chosen, options, max_weights - beside)
    return {name: option.rank for name, option in chosen.items() if option.rank is not None}


def weights_beside(model: keras.Model, spectra: Spectra) -> int:
    """How many weights `model` has beside the kernels of `spectra`: tables, biases, norms, other kernels."""
    return int(model.count_params()) - sum(one.weights for one in spectra.values())


def rank_report(spectra: Spectra, ranks: Mapping[str, int]) -> list[KernelRank]:
    """What each kernel of `spectra` would lose and save by these ranks; one without a rank stays as it is.

    Raises:
        ValueError: if a rank is above min(D, F), or of no kernel of `spectra`.
    """
    check_ranks(spectra, ranks)
    found = []
    for name, one in spectra.items():
        rank = ranks.get(name)
        error = 0.0 if rank is None else float(one.errors()[rank])
        after = one.weights if rank is None else one.weights_of(rank)
        found.append(KernelRank(name, one.kernel.shape, rank, error, one.weights, after))
    return found


def check_ranks(spectra: Spectra, ranks: Mapping[str, int]) -> None:
    """Raise ValueError if a rank is of no kernel of `spectra`, below 1, or above what its kernel can have."""
    for name, rank in ranks.items():
        if name not in spectra:
            raise ValueError(f"ranks has {name!r}, and the kernels here are {sorted(spectra)}. Use one of these.")
        check_rank(name, rank, spectra[name].kernel.shape)


def _check_importance(spectra: Spectra, importance: Mapping[str, float] | None) -> None:
    if importance is None:
        return
    for name in spectra:
        if name not in importance:
            raise ValueError(f"importance has nothing for {name!r}. Give a number above 0 for each of {len(spectra)}.")
        positive(f"importance[{name!r}]", importance[name])


def _options(one: Spectrum, importance: float) -> list[Option]:
    """The whole kernel, then each rank that pays, going down."""
    costs = importance * one.errors() ** 2
    ranks = reversed(one.ranks_that_pay)
    return [Option(one.weights, 0.0, None), *(Option(one.weights_of(rank), float(costs[rank]), rank) for rank in ranks)]


def _slope(before: Option, after: Option) -> float:
    """Error that is added for each weight saved."""
    return (after.cost - before.cost) / (before.weights - after.weights)


def _hull(options: list[Option]) -> list[Option]:
    """The corners of the lower convex hull, from the whole kernel on (Andrew 1979); the slopes between them go up."""
    corners: list[Option] = []
    for option in options:
        while len(corners) > 1 and _slope(corners[-2], corners[-1]) >= _slope(corners[-1], option):
            corners.pop()
        corners.append(option)
    return corners


def _give_back(chosen: dict[str, Option], options: Mapping[str, list[Option]], budget: int) -> None:
    """Let kernels have more weights while some fit, each time where a weight takes away most of the error."""
    while True:
        room = budget - sum(option.weights for option in chosen.values())
        larger = [
            (_slope(option, chosen[name]), -option.weights, name, option)
            for name, of_one in options.items()
            for option in of_one
            if 0 < option.weights - chosen[name].weights <= room
        ]
        best = max(larger, key=lambda one: one[:3], default=None)
        if best is None or best[0] <= 0:
            return
        chosen[best[2]] = best[3]
