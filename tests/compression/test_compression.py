"""Cutting vocabularies, factorising tables, ranking units: against loops in float64."""

import numpy as np
import pytest

from keras_transformer.compression import count_pieces, cut_vocabulary, factorise, unit_importance


@pytest.fixture
def rng():
    return np.random.default_rng(11)


def test_pieces_are_counted_over_all_texts():
    np.testing.assert_array_equal(count_pieces([[2, 3, 3], [], [3, 0]], vocab_size=5), [1, 0, 1, 3, 0])


def test_a_dropped_piece_takes_the_row_that_points_the_same_way():
    table = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.9, 0.1], [-0.2, 7.0]], "float32")
    counts = np.array([0, 5, 4, 1, 0])
    cut = cut_vocabulary(table, counts, min_count=2, always=[0])
    np.testing.assert_array_equal(cut.kept, [0, 1, 2])
    np.testing.assert_array_equal(cut.piece_row, [0, 1, 2, 1, 2])  # 3 leans to piece 1, 4 to piece 2


def test_the_nearest_row_agrees_with_a_loop_over_cosines(rng):
    table = rng.normal(size=(31, 7))
    counts = rng.integers(0, 3, size=31)
    cut = cut_vocabulary(table, counts, min_count=1)
    for piece in range(31):
        if counts[piece]:
            assert cut.kept[cut.piece_row[piece]] == piece
            continue
        cosines = [
            table[piece] @ table[other] / np.linalg.norm(table[piece]) / np.linalg.norm(table[other])
            for other in cut.kept
        ]
        assert cut.piece_row[piece] == int(np.argmax(cosines))


def test_keeping_everything_maps_each_piece_to_itself(rng):
    cut = cut_vocabulary(rng.normal(size=(11, 3)), np.ones(11, "int64"))
    np.testing.assert_array_equal(cut.piece_row, np.arange(11))


def test_a_count_that_nothing_reaches_is_refused_with_the_largest_that_works():
    with pytest.raises(ValueError, match=r"no piece occurs min_count=9 times.*at most 4"):
        cut_vocabulary(np.ones((3, 2)), np.array([0, 4, 1]), min_count=9)


def test_counts_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"counts of shape \(2,\) don't fit a table of 3 rows"):
        cut_vocabulary(np.ones((3, 2)), np.array([1, 1]))


def test_full_rank_factors_give_the_matrix_back(rng):
    matrix = rng.normal(size=(13, 5))
    left, right = factorise(matrix, rank=5)
    np.testing.assert_allclose(left @ right, matrix, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_error_of_plain_factors_is_that_of_the_dropped_singular_values(rng, rank):
    matrix = rng.normal(size=(17, 5))
    left, right = factorise(matrix, rank)
    dropped = np.linalg.svd(matrix, compute_uv=False)[rank:]
    assert np.sum((left @ right - matrix) ** 2) == pytest.approx(np.sum(dropped**2), rel=1e-9)


def test_weighted_factors_beat_plain_ones_where_the_weight_lies(rng):
    matrix, weights = rng.normal(size=(19, 7)), rng.integers(1, 1000, size=19).astype("float64")

    def weighted_error(factors):
        return np.sum(weights[:, None] * (factors.left @ factors.right - matrix) ** 2)

    best = weighted_error(factorise(matrix, 3, row_weights=weights))
    assert best < weighted_error(factorise(matrix, 3))
    # The optimum is known: the singular values of the matrix with rows scaled by sqrt(weight).
    dropped = np.linalg.svd(matrix * np.sqrt(weights)[:, None], compute_uv=False)[3:]
    assert best == pytest.approx(np.sum(dropped**2), rel=1e-9)


def test_a_rank_that_no_matrix_has_is_refused_with_the_largest():
    with pytest.raises(ValueError, match=r"rank=6 is above the 3 .* Use rank=3 or less"):
        factorise(np.ones((3, 5)), rank=6)


def test_row_weights_below_zero_are_refused():
    with pytest.raises(ValueError, match="one number of at least 0 for each of 2 rows"):
        factorise(np.ones((2, 2)), rank=1, row_weights=np.array([1.0, -1.0]))


def test_unit_importance_agrees_with_a_loop(rng):
    activations, kernel = rng.normal(size=(11, 3)), rng.normal(size=(3, 5))
    expected = [np.mean([abs(row[unit]) for row in activations]) * np.sqrt(sum(kernel[unit] ** 2)) for unit in range(3)]
    np.testing.assert_allclose(unit_importance(activations, kernel), expected)


def test_a_unit_that_is_never_active_matters_nothing():
    importance = unit_importance(np.array([[0.0, 2.0], [0.0, -1.0]]), np.ones((2, 3)))
    assert importance[0] == 0 < importance[1]


def test_unit_counts_that_differ_are_refused():
    with pytest.raises(ValueError, match="don't agree on the number of units"):
        unit_importance(np.ones((5, 3)), np.ones((2, 7)))
