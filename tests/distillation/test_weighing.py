"""Every term's mean, with masks, sample weights and unlabelled rows, against loops over rows and tokens."""

import itertools

import numpy as np
import pytest

from keras_transformer.distillation import LossTerm, Outputs, needing, true_labels
from keras_transformer.distillation.weighing import labelled, term_mean

B, T, C = 3, 5, 7


def numpy_mean(values, labels, mask, sample_weight):
    """Sum of weight * value / sum of weights over what counts, (B,) or (B, T), by loops in float64."""
    total = weights = 0.0
    for index in np.ndindex(*values.shape):
        weight = 1.0
        if labels is not None and np.any(labels[index[: labels.ndim]] == -1):
            weight = 0.0
        if mask is not None and len(index) == 2 and not mask[index]:
            weight = 0.0
        if sample_weight is not None:
            weight *= float(sample_weight[index[: sample_weight.ndim]])
        if weight:
            total += weight * float(values[index])
            weights += weight
    return (total / weights if weights else 0.0), weights


def random_case(seed):
    random = np.random.default_rng(seed)
    return {
        "row_values": random.normal(size=B).astype("float32"),
        "token_values": random.normal(size=(B, T)).astype("float32"),
        "row_labels": np.array([2, -1, 0], "int32"),
        "token_labels": random.integers(-1, C, (B, T)).astype("int32"),
        "mask": np.arange(T) < np.array([[5], [2], [0]]),
        "row_weights": np.array([0.5, 3.0, 2.0], "float32"),
        "token_weights": random.uniform(0, 2, (B, T)).astype("float32"),
    }


def giving(values, labels=False):
    @needing(labels=labels)
    def loss(labels, student, teacher):
        return values

    return LossTerm("term", 1.0, loss)


def measured(term, labels, mask, sample_weight):
    student, teacher = Outputs(np.zeros((B, C)), {}, mask), Outputs(np.zeros((B, C)))
    mean, count = term_mean(term, labels, student, teacher, sample_weight)
    return float(mean), float(count)


@pytest.mark.parametrize("values", ["row_values", "token_values"])
@pytest.mark.parametrize("needs_labels", [False, True])
def test_every_combination_of_mask_labels_and_weights_matches_the_loops(values, needs_labels):
    case = random_case(seed=11)
    weights = ["row_weights"] if values == "row_values" else ["row_weights", "token_weights"]
    labels_name = "row_labels" if values == "row_values" else "token_labels"
    for mask_name, weight_name in itertools.product([None, "mask"], [None, *weights]):
        mask, weight = case.get(mask_name), case.get(weight_name)
        labels = case[labels_name]
        got = measured(giving(case[values], needs_labels), labels, mask, weight)
        want = numpy_mean(case[values], labels if needs_labels else None, mask, weight)
        np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=f"{mask_name} {weight_name}")


def test_labels_of_a_row_hold_for_all_its_tokens():
    case = random_case(seed=2)
    got = measured(giving(case["token_values"], labels=True), case["row_labels"], None, None)
    np.testing.assert_allclose(got, numpy_mean(case["token_values"], case["row_labels"], None, None), rtol=1e-6)


def test_a_row_with_many_labels_counts_when_all_are_known():
    values, labels = np.array([2.0, 3.0, 5.0], "float32"), np.array([[0, 1], [1, -1], [1, 1]])
    assert measured(giving(values, labels=True), labels, None, None) == (3.5, 2.0)


def test_the_teachers_mask_serves_when_the_student_has_none():
    values, mask = np.array([[1.0, 9.0]], "float32"), np.array([[True, False]])
    mean, count = term_mean(giving(values), None, Outputs(None), Outputs(None, {}, mask), None)
    assert (float(mean), float(count)) == (1.0, 1.0)


@pytest.mark.parametrize("labels", [None, np.full(B, -1)])
def test_a_term_that_counts_nothing_is_zero(labels):
    assert measured(giving(np.ones(B, "float32"), labels=True), labels, None, None) == (0.0, 0.0)
    assert measured(giving(np.ones(B, "float32")), labels, None, np.zeros(B)) == (0.0, 0.0)


def test_a_value_of_weight_zero_cannot_be_seen_even_if_it_is_not_finite():
    values = np.array([[1.0, np.nan], [np.inf, 3.0], [-np.inf, np.nan]], "float32")
    mask = np.array([[True, False], [False, True], [False, False]])
    assert measured(giving(values), None, mask, None) == (2.0, 2.0)


def test_padding_and_splitting_change_no_mean():
    case = random_case(seed=3)
    values, mask = case["token_values"], case["mask"]
    mean, count = measured(giving(values), None, mask, None)
    padded = np.pad(values, ((0, 0), (0, 8)), constant_values=1e3)
    assert measured(giving(padded), None, np.pad(mask, ((0, 0), (0, 8))), None) == (mean, count)
    parts = [measured(giving(values[i : i + 1]), None, mask[i : i + 1], None) for i in range(B)]
    np.testing.assert_allclose(sum(m * c for m, c in parts) / sum(c for _, c in parts), mean, rtol=1e-6)


@pytest.mark.parametrize("unlabelled", [-1, -100, -(2**31)])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_any_label_below_zero_is_unlabelled(unlabelled, dtype):
    labels = np.array([2, unlabelled, 0], dtype)
    student = Outputs(np.random.default_rng(5).normal(size=(3, C)).astype("float32"))
    mean, count = term_mean(LossTerm("labels", 1.0, true_labels), labels, student, student, None)
    known = [0, 2]
    want, _ = term_mean(
        LossTerm("labels", 1.0, true_labels), labels[known], Outputs(student.logits[known]), student, None
    )
    assert float(count) == 2
    assert float(mean) == pytest.approx(float(want), rel=1e-6)


def test_labels_without_a_sign_are_all_known():
    assert labelled(np.array([0, 255], "uint8")).numpy().all()
    assert labelled(np.array([False, True])).numpy().all()


def test_float_labels_are_unlabelled_when_they_are_nan():
    np.testing.assert_array_equal(labelled(np.array([-1.0, np.nan, 0.0])), [True, False, True])


def test_a_loss_that_reduces_is_refused():
    with pytest.raises(ValueError, match=r"'term' gave values of shape \(\): .*Leave the mean .*to the Distiller"):
        measured(giving(np.float32(0.3)), None, None, None)


def test_token_weights_on_a_row_term_are_refused():
    case = random_case(seed=1)
    with pytest.raises(ValueError, match=r"sample_weight has shape \(3, 5\) and LossTerm 'term'.*one weight a row"):
        measured(giving(case["row_values"]), None, None, case["token_weights"])


def test_weights_of_one_column_are_row_weights():
    case = random_case(seed=1)
    row, column = case["row_weights"], case["row_weights"][:, None]
    for values in (case["row_values"], case["token_values"]):
        assert measured(giving(values), None, None, column) == measured(giving(values), None, None, row)


def test_negative_sample_weights_count_in_both_sums():
    weights = np.array([1.0, -1.0, 3.0, 0.0], "float32")
    values = np.array([2.0, 5.0, 7.0, np.inf], "float32")
    assert measured(giving(values), None, None, weights) == pytest.approx(((2 - 5 + 21) / 3, 3))
