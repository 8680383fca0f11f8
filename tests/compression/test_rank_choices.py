"""Ranks by a share, an error and a budget: against loops over all that could be chosen."""

from itertools import product

import keras
import numpy as np
import pytest

from keras_transformer.compression import (
    Spectrum,
    rank_report,
    ranks_of_share,
    ranks_within_budget,
    ranks_within_error,
    spectrum,
    weights_beside,
)


def with_energies(shape, energies):
    """A spectrum with these squared singular values; of the kernel only the shape counts here."""
    return Spectrum(np.zeros(shape), np.asarray(energies, "float64"), np.eye(min(shape), shape[1]))


def geometric(shape, ratio, size=1.0):
    return with_energies(shape, size * ratio ** np.arange(min(shape)))


@pytest.fixture
def drawn():
    """Three kernels of distinct shapes with spectra of real matrices."""
    random = np.random.default_rng(23)
    shapes = {"a": (11, 13), "b": (5, 17), "c": (19, 7)}
    return {
        name: spectrum(random.normal(size=shape) @ np.diag(1.4 ** -np.arange(shape[1])))
        for name, shape in shapes.items()
    }


def test_a_share_is_that_of_the_full_rank(drawn):
    # Full ranks are 11, 5 and 7; at 3 x 5 and up the factors of b, and at 5 x 7 those of c, wouldn't be smaller.
    assert ranks_of_share(drawn, 0.4) == {"a": 4, "b": 2, "c": 3}
    assert ranks_of_share(drawn, 1e-9) == {"a": 1, "b": 1, "c": 1}
    assert ranks_of_share(drawn, 0.72) == {"c": 5}
    assert ranks_of_share(drawn, 1) == {}


def test_the_rank_within_an_error_is_the_lowest_that_is(drawn):
    for error in (0.02, 0.1, 0.3, 0.6, 0.99):
        found = ranks_within_error(drawn, error)
        for name, one in drawn.items():
            values = np.linalg.svd(one.kernel, compute_uv=False)
            allowed = [
                rank for rank in range(1, len(values) + 1) if np.sqrt(sum(values[rank:] ** 2) / sum(values**2)) <= error
            ]
            pays = allowed[0] * sum(one.kernel.shape) < one.kernel.size
            assert found.get(name) == (allowed[0] if pays else None)
    assert len(ranks_within_error(drawn, 0.3)) == 3


def test_a_kernel_of_zeros_has_rank_1_for_any_error():
    assert ranks_within_error({"zeros": spectrum(np.zeros((7, 11)))}, 0.01) == {"zeros": 1}


def cost(spectra, ranks, importance=None):
    """Sum of squared relative errors."""
    total = 0.0
    for name, rank in ranks.items():
        energies = spectra[name].energies
        total += (1.0 if importance is None else importance[name]) * sum(energies[rank:]) / sum(energies)
    return total


def weights(spectra, ranks):
    return sum(
        ranks[name] * sum(one.kernel.shape) if name in ranks else one.kernel.size for name, one in spectra.items()
    )


def every_choice(spectra):
    """(weights, ranks) of all that can be chosen."""
    forms = [[None, *range(1, min(one.kernel.shape) + 1)] for one in spectra.values()]
    for chosen in product(*forms):
        ranks = {name: rank for name, rank in zip(spectra, chosen, strict=True) if rank is not None}
        yield weights(spectra, ranks), ranks


def least_costs(spectra, importance=None):
    """The least cost within each budget, from 0 weights to those of the whole kernels: brute force."""
    least = np.full(sum(one.kernel.size for one in spectra.values()) + 1, np.inf)
    for size, ranks in every_choice(spectra):
        if size < len(least):
            least[size] = min(least[size], cost(spectra, ranks, importance))
    return np.minimum.accumulate(least)


@pytest.mark.parametrize("importance", [None, {"a": 1.0, "b": 7.0, "c": 0.3}])
def test_within_every_budget_the_greedy_choice_is_the_best_where_steps_are_alike_and_grow_dearer(importance):
    # Factors of (6, 30) have 36 weights a rank, and 180 whole: each step saves 36, and these spectra are convex.
    spectra = {"a": geometric((6, 30), 0.3), "b": geometric((6, 30), 0.2, 50.0), "c": geometric((30, 6), 0.45, 3.0)}
    least = least_costs(spectra, importance)
    seen = set()
    for budget in range(3 * 36, 3 * 180 + 1):
        ranks = ranks_within_budget(spectra, budget, importance=importance)
        assert weights(spectra, ranks) <= budget
        assert cost(spectra, ranks, importance) == pytest.approx(least[budget], abs=1e-12)
        seen.add(tuple(sorted(ranks.items())))
    assert len(seen) == 13  # all the way from whole kernels to rank 1, a rank at a time


def test_with_any_shapes_the_greedy_choice_is_the_best_for_as_many_weights_as_it_leaves(drawn):
    least = least_costs(drawn)
    smallest, whole = 24 + 22 + 26, 143 + 85 + 133
    met = []
    for budget in range(smallest, whole + 1):
        ranks = ranks_within_budget(drawn, budget)
        left, found = weights(drawn, ranks), cost(drawn, ranks)
        assert left <= budget
        assert found >= least[budget] - 1e-12
        met.append(found == pytest.approx(least[left], abs=1e-12))
        # What it misses is at most one step: with the weights of one rank of each kernel less it would be as good.
        assert found <= least[max(budget - 26, smallest)] + 1e-12 or budget > whole - 26
    assert np.mean(met) > 0.9


def test_a_budget_that_is_kept_already_changes_nothing(drawn):
    assert ranks_within_budget(drawn, 143 + 85 + 133) == {}
    assert ranks_within_budget(drawn, 1000) == {}


def test_the_smallest_budget_leaves_rank_1_and_one_weight_less_is_refused_with_the_number(drawn):
    assert ranks_within_budget(drawn, 72) == {"a": 1, "b": 1, "c": 1}
    assert ranks_within_budget(drawn, 172, beside=100) == {"a": 1, "b": 1, "c": 1}
    message = r"max_weights=171 can't be met: rank 1 everywhere leaves 172 weights, 100 of them .* Use max_weights=172"
    with pytest.raises(ValueError, match=message):
        ranks_within_budget(drawn, 171, beside=100)


def test_a_kernel_that_no_rank_makes_smaller_stays_whole_in_a_budget():
    spectra = {"small": geometric((2, 2), 0.5), "large": geometric((6, 30), 0.5)}
    assert ranks_within_budget(spectra, 4 + 36) == {"large": 1}
    with pytest.raises(ValueError, match="Use max_weights=40 or more"):
        ranks_within_budget(spectra, 39)


def test_an_important_kernel_keeps_more():
    spectra = {"a": geometric((6, 30), 0.5), "b": geometric((6, 30), 0.5)}
    even = ranks_within_budget(spectra, 4 * 36)
    assert even == {"a": 2, "b": 2}
    assert ranks_within_budget(spectra, 4 * 36, importance={"a": 100.0, "b": 1.0}) == {"a": 3, "b": 1}


def test_the_report_has_shape_rank_error_and_weights_of_each_kernel(drawn):
    rows = rank_report(drawn, {"a": 3, "c": 7})
    values = np.linalg.svd(drawn["a"].kernel, compute_uv=False)
    assert rows[0][:3] == ("a", (11, 13), 3)
    assert rows[0].relative_error == pytest.approx(np.sqrt(sum(values[3:] ** 2) / sum(values**2)))
    assert rows[0][4:] == (143, 3 * 24)
    assert rows[1] == ("b", (5, 17), None, 0.0, 85, 85)
    assert rows[2] == ("c", (19, 7), 7, 0.0, 133, 7 * 26)  # full rank: nothing lost, and more weights than before


def test_weights_beside_the_kernels_are_all_others():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(7, name="first"), keras.layers.Dense(3)])
    spectra = {"first": spectrum(model.layers[0].kernel.numpy())}
    assert weights_beside(model, spectra) == 7 + 7 * 3 + 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: ranks_of_share(s, 0), r"share=0 of the full rank must be above 0 and at most 1"),
        (lambda s: ranks_of_share(s, 1.5), r"share=1\.5 of the full rank must be above 0 and at most 1"),
        (lambda s: ranks_within_error(s, 0), r"error=0 must be above 0 and below 1"),
        (lambda s: ranks_within_error(s, 1), r"error=1 must be above 0 and below 1\. Use for example error=0\.1"),
        (lambda s: ranks_within_budget(s, 0), r"max_weights=0 must be a whole number of at least 1"),
        (lambda s: ranks_within_budget(s, 200, importance={"a": 1, "b": 1}), r"importance has nothing for 'c'"),
        (
            lambda s: ranks_within_budget(s, 200, importance={"a": 1, "b": 0, "c": 1}),
            r"importance\['b'\]=0 must be finite and above 0",
        ),
        (lambda s: rank_report(s, {"d": 1}), r"ranks has 'd', and the kernels here are \['a', 'b', 'c'\]"),
        (lambda s: rank_report(s, {"b": 6}), r"rank=6 of 'b' is above the 5 that a kernel of shape \(5, 17\) can have"),
        (lambda s: rank_report(s, {"b": 0}), r"rank of 'b'=0 must be a whole number of at least 1"),
    ],
)
def test_what_can_not_be_chosen_is_refused(drawn, call, message):
    with pytest.raises(ValueError, match=message):
        call(drawn)
