"""How many weights go, when, and which ones: against loops, and to the element."""

import numpy as np
import pytest
from pruning_oracles import cubic, without_lowest

from keras_transformer.compression import cubic_sparsity
from keras_transformer.compression.sparsity_choices import (
    largest_of_all,
    largest_of_each,
    largest_of_groups,
    zeros_of,
)


def normal(*shape, seed=7):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("begin", "end", "initial"), [(0, 7, 0.0), (3, 13, 0.11), (5, 6, 0.5)])
def test_the_schedule_is_the_cubic_one_between_its_ends(begin, end, initial):
    share = cubic_sparsity(0.83, begin, end, initial)
    for step in range(begin, end):
        assert share(step) == pytest.approx(cubic(step, 0.83, begin, end, initial), rel=1e-12)
    assert [share(step) for step in range(begin)] == [0.0] * begin
    assert [share(step) for step in (end, end + 1, 10**9)] == [0.83] * 3  # to the last bit


def test_a_schedule_of_no_length_prunes_all_at_once():
    share = cubic_sparsity(0.7, 5, 5)
    assert [share(step) for step in (4, 5, 6)] == [0.0, 0.7, 0.7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 0, 5), r"sparsity=1.0 must be at least 0 and below 1"),
        ((-0.1, 0, 5), r"sparsity=-0.1 must be at least 0 and below 1"),
        ((0.5, 0, 5, 0.6), r"initial_sparsity=0.6 is above sparsity=0.5.*at most 0.5"),
        ((0.5, 0, 5, -0.6), r"initial_sparsity=-0.6 must be at least 0"),
        ((0.5, 7, 5), r"begin=7 comes after end=5.*end=7, which prunes all at once"),
        ((0.5, -1, 5), r"begin=-1 must be a whole number of steps of at least 0"),
        ((0.5, 0, 5.0), r"end=5.0 must be a whole number"),
        ((0.5, True, 5), r"begin=True must be a whole number"),
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        cubic_sparsity(*arguments)


@pytest.mark.parametrize(
    ("sparsity", "elements", "zeros"),
    [(0.0, 7, 0), (0.5, 7, 4), (0.5, 5, 3), (0.29, 100, 29), (0.9, 10, 9), (0.999, 11, 11), (0.04, 11, 0)],
)
def test_the_number_of_zeros_is_the_nearest_one_and_a_half_goes_up(sparsity, elements, zeros):
    assert zeros_of(sparsity, elements) == zeros


@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5, 0.97])
def test_each_array_loses_its_smallest_to_the_element(sparsity):
    values = [normal(3, 5), normal(7), normal(2, 3, 11)]
    for value, mask in zip(values, largest_of_each(values, sparsity), strict=True):
        np.testing.assert_array_equal(mask, without_lowest(value, zeros_of(sparsity, value.size)))


@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5, 0.97])
def test_all_arrays_together_lose_their_smallest_to_the_element(sparsity):
    values = [normal(3, 5), 0.1 * normal(7, seed=8), normal(2, 3, 11, seed=9)]
    whole = without_lowest(np.concatenate([value.ravel() for value in values]), zeros_of(sparsity, 15 + 7 + 66))
    masks = largest_of_all(values, sparsity)
    np.testing.assert_array_equal(np.concatenate([mask.ravel() for mask in masks]), whole)
    assert [mask.shape for mask in masks] == [(3, 5), (7,), (2, 3, 11)]
    if sparsity == 0.13:
        assert [np.count_nonzero(~mask) for mask in masks] != [2, 1, 9]  # what each by itself would lose


def test_equal_values_go_in_the_declared_number():
    for masks in (largest_of_each, largest_of_all):
        assert np.count_nonzero(~masks([np.zeros((5, 7))], 0.4)[0]) == 14


@pytest.mark.parametrize(("kept", "out_of"), [(2, 4), (1, 3), (3, 4), (1, 12)])
def test_n_of_every_m_inputs_stay_for_each_output(kept, out_of):
    values = np.abs(normal(12, 5))
    mask = largest_of_groups(values, kept, out_of)
    for output in range(5):
        for start in range(0, 12, out_of):
            group = values[start : start + out_of, output]
            largest = sorted(range(out_of), key=lambda place: -group[place])[:kept]
            assert np.flatnonzero(mask[start : start + out_of, output]).tolist() == sorted(largest)


def test_of_equal_neighbours_the_earlier_stay():
    """In a group so long that numpy's fastest way of sorting would mix them."""
    values = np.random.default_rng(1).integers(1, 4, 64)
    stays = largest_of_groups(values[:, None].astype("float64"), 31, 64).ravel()
    assert np.flatnonzero(stays).tolist() == sorted(sorted(range(64), key=lambda place: -values[place])[:31])


@pytest.mark.parametrize(("shape", "axes"), [((3, 4, 5), (0, 1)), ((5, 3, 4), (1, 2)), ((4, 5, 3), (2, 0))])
def test_inputs_over_several_axes_are_read_as_one(shape, axes):
    values = np.abs(normal(*shape))
    matrix = np.moveaxis(values, axes, (0, 1)).reshape(12, 5)
    expected = np.moveaxis(largest_of_groups(matrix, 1, 6).reshape(*(shape[axis] for axis in axes), 5), (0, 1), axes)
    np.testing.assert_array_equal(largest_of_groups(values, 1, 6, axes), expected)
    assert expected.sum() == 10
