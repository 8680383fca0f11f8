"""Factors of a kernel are the best of their rank, in each metric: against alternating least squares and loops."""

import numpy as np
import pytest

from keras_transformer.compression import Spectrum, spectrum

INPUTS, UNITS, ROWS = 7, 11, 53
SHAPES = [pytest.param((INPUTS, UNITS), id="wide"), pytest.param((UNITS, INPUTS), id="tall")]
METRICS = ["plain", "activations", "fisher"]


def drawn(shape, kind):
    """A kernel, a metric for `spectrum`, and rows X for which the squared loss is that of X W: (N, D), float64."""
    random = np.random.default_rng(17)
    kernel = random.normal(size=shape)
    inputs = shape[0]
    if kind == "plain":
        return kernel, None, np.eye(inputs)
    if kind == "activations":
        rows = (
            random.normal(size=(ROWS, inputs)) @ np.diag(1.5 ** -np.arange(inputs)) @ random.normal(size=(inputs,) * 2)
        )
        return kernel, rows.T @ rows, rows
    fisher = (0.1 + random.exponential(size=inputs)) ** 3
    return kernel, fisher, np.diag(np.sqrt(fisher))


def loss(rows, kernel, left, right):
    """||X W - X A B||_F^2, one output of one row after another."""
    total = 0.0
    for row in rows:
        for unit in range(kernel.shape[1]):
            total += (row @ kernel[:, unit] - row @ left @ right[:, unit]) ** 2
    return total


def best_by_turns(rows, kernel, rank, seed):
    """The loss that alternating least squares reach from a random start: no decomposition in it."""
    random = np.random.default_rng(seed)
    right = random.normal(size=(rank, kernel.shape[1]))
    for _ in range(400):
        left = kernel @ np.linalg.pinv(right)  # X^T X (W - A B) B^T = 0 where X has full rank
        right = np.linalg.lstsq(rows @ left, rows @ kernel, rcond=None)[0]
    return loss(rows, kernel, left, right)


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_loss_of_each_rank_is_the_sum_of_the_squares_of_the_dropped_singular_values(shape, kind):
    kernel, metric, rows = drawn(shape, kind)
    found = spectrum(kernel, metric)
    values = np.linalg.svd(rows @ kernel, compute_uv=False)[: min(shape)]
    for rank in range(1, min(shape)):
        want = sum(values[rank:] ** 2)
        assert loss(rows, kernel, *found.factors(rank)) == pytest.approx(want, rel=1e-6)
        assert found.errors()[rank] == pytest.approx(np.sqrt(want / sum(values**2)), rel=1e-6)


@pytest.mark.parametrize("kind", METRICS)
@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_factors_of_the_rank_lose_less(kind, rank):
    kernel, metric, rows = drawn((INPUTS, UNITS), kind)
    factors = spectrum(kernel, metric).factors(rank)
    least = loss(rows, kernel, *factors)
    reached = [best_by_turns(rows, kernel, rank, seed) for seed in (1, 2, 3)]
    assert min(reached) >= least * (1 - 1e-9)
    assert min(reached) == pytest.approx(least, rel=1e-3)
    random = np.random.default_rng(5)
    for size in (1e-3, 1e-1):
        for _ in range(20):
            left, right = (part + size * random.normal(size=part.shape) for part in factors)
            assert loss(rows, kernel, left, right) > least


def test_each_metric_has_factors_of_its_own():
    losses = np.empty((3, 3))
    kernels = [drawn((INPUTS, UNITS), kind) for kind in METRICS]
    for place, (kernel, metric, _) in enumerate(kernels):
        factors = spectrum(kernel, metric).factors(2)
        losses[place] = [loss(rows, kernel, *factors) for _, _, rows in kernels]
    # Each column is one loss: the factors made for it have the least, by far.
    others = losses + np.diag([np.inf] * 3)
    assert (np.diag(losses) * 1.05 < others.min(axis=0)).all()


def test_whitening_by_a_cholesky_factor_gives_the_same_product():
    """SVD-LLM, section 3.1: A B = L^-T [L^T W]_r with X^T X = L L^T."""
    kernel, metric, _ = drawn((INPUTS, UNITS), "activations")
    lower = np.linalg.cholesky(metric)
    left, values, right = np.linalg.svd(lower.T @ kernel, full_matrices=False)
    want = np.linalg.solve(lower.T, (left[:, :3] * values[:3]) @ right[:3])
    found = spectrum(kernel, metric).factors(3)
    np.testing.assert_allclose(found.left @ found.right, want, atol=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [*METRICS, "one input never occurred", "one row has no information"])
def test_full_rank_gives_the_kernel_back_whatever_the_metric(shape, kind):
    kernel, metric, rows = drawn(shape, kind if kind in METRICS else "activations")
    if kind == "one input never occurred":
        rows[:, 2] = 0.0
        metric = rows.T @ rows
    if kind == "one row has no information":
        metric = np.arange(float(shape[0]))
    left, right = spectrum(kernel.astype("float32"), metric).factors(min(shape))
    assert left.dtype == right.dtype == np.float32
    np.testing.assert_allclose(left @ right, kernel, atol=1e-5)


def test_a_column_and_its_row_have_one_norm():
    kernel, metric, _ = drawn((INPUTS, UNITS), "activations")
    left, right = spectrum(kernel, metric).factors(5)
    np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1), rtol=1e-9)


def test_a_kernel_of_lower_rank_loses_nothing_at_it_and_can_learn_above_it():
    random = np.random.default_rng(3)
    kernel = np.zeros((INPUTS, UNITS))
    kernel[:3] = random.normal(size=(3, UNITS))
    found = spectrum(kernel)
    np.testing.assert_allclose(found.errors()[3:], 0.0, atol=1e-12)
    left, right = found.factors(5)
    np.testing.assert_allclose(left @ right, kernel, atol=1e-12)
    assert np.linalg.norm(right, axis=1).min() > 0  # else neither side would get a gradient


def test_a_kernel_of_zeros_loses_nothing():
    found = spectrum(np.zeros((3, 5), "float32"))
    np.testing.assert_array_equal(found.errors(), np.zeros(4))
    left, right = found.factors(2)
    np.testing.assert_array_equal(left @ right, np.zeros((3, 5)))


@pytest.mark.parametrize(
    ("shape", "largest"), [((2, 2), 0), ((3, 5), 1), ((3, 6), 1), ((6, 30), 4), ((11, 13), 5), ((1, 5), 0)]
)
def test_a_rank_pays_while_its_factors_have_fewer_weights(shape, largest):
    found = spectrum(np.ones(shape))
    assert list(found.ranks_that_pay) == list(range(1, largest + 1))
    assert found.weights_of(largest) < found.weights <= found.weights_of(largest + 1)


@pytest.mark.parametrize(
    ("rank", "message"),
    [
        (0, r"rank of 'kernel'=0 must be a whole number of at least 1"),
        (8, r"rank=8 of 'kernel' is above the 7 that a kernel of shape \(7, 11\) can have\. Use rank=7 or less\."),
    ],
)
def test_a_rank_that_no_kernel_has_is_refused(rank, message):
    with pytest.raises(ValueError, match=message):
        spectrum(np.ones((7, 11))).factors(rank)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (np.ones(5), r"a metric of shape \(5,\) doesn't fit a kernel with 3 inputs\. Give \(3,\) or \(3, 3\)"),
        (np.ones((5, 5)), r"a metric of shape \(5, 5\) doesn't fit"),
        (np.zeros(3), r"a metric with the mean 0\.0 says nothing"),
        (np.array([1.0, np.nan, 1.0]), r"a metric with the mean nan says nothing"),
        (np.array([5.0, -1.0, 1.0]), r"a metric that goes down to -1\.0 is none"),
        (np.diag([5.0, -1.0, 1.0]), r"a metric that goes down to -1\.0 is none"),
    ],
)
def test_what_is_no_metric_is_refused(metric, message):
    with pytest.raises(ValueError, match=message):
        spectrum(np.ones((3, 5)), metric)


def test_a_table_of_three_axes_has_no_rank():
    with pytest.raises(ValueError, match=r"a kernel of shape \(2, 3, 5\) has no rank\. Give a matrix"):
        spectrum(np.ones((2, 3, 5)))


def test_the_caller_s_arrays_stay_as_they_are():
    kernel, metric, _ = drawn((INPUTS, UNITS), "activations")
    copies = kernel.copy(), metric.copy()
    found = spectrum(kernel, metric)
    assert isinstance(found, Spectrum)
    found.factors(2)
    np.testing.assert_array_equal(kernel, copies[0])
    np.testing.assert_array_equal(metric, copies[1])
