"""Which file is handed over, and what is said where not all wishes can be had together."""

import pytest

from keras_transformer.budget_search.outcome import FileRow, Wanted, best, explain, nearest, pareto
from keras_transformer.budget_search.wishes import Budget

SMALL_SLOW = FileRow("a", "int8", 1_000_000, 7.0, 3.0, 0.83)
LARGE_FAST = FileRow("b", "dynamic", 5_000_000, 2.0, 10.5, 0.84)
MIDDLING = FileRow("c", "dynamic", 3_000_000, 3.0, 7.0, 0.79)
BEATEN = FileRow("d", "int8", 3_100_000, 3.5, 6.0, 0.78)
ROWS = [LARGE_FAST, SMALL_SLOW, BEATEN, MIDDLING]


def wanted(most, ms, accuracy):
    return Wanted(Budget(most, ms), accuracy)


@pytest.mark.parametrize(
    ("wishes", "chosen"),
    [
        (wanted(9_000_000, 9.0, 0.7), SMALL_SLOW),  # all do: the smallest
        (wanted(9_000_000, 3.0, 0.7), MIDDLING),
        (wanted(9_000_000, 9.0, 0.84), LARGE_FAST),
        (wanted(3_500_000, 3.5, 0.83), MIDDLING),  # none does: the best within the budget
        (wanted(900_000, 9.0, 0.835), LARGE_FAST),  # none is within it: misses only the bytes
    ],
)
def test_the_smallest_file_that_does_is_handed_over_or_the_nearest(wishes, chosen):
    assert best(ROWS, wishes) == chosen


def test_of_equal_bytes_the_faster_file_is_handed_over():
    faster = FileRow("e", "int8", 1_000_000, 6.0, 3.5, 0.80)
    assert best([SMALL_SLOW, faster], wanted(2_000_000, 9.0, 0.7)) == faster


def test_nothing_is_explained_where_a_file_meets_all_wishes():
    assert explain(ROWS, wanted(3_500_000, 3.5, 0.79)) == ""


def test_each_wish_that_may_be_given_up_has_the_file_that_comes_nearest_to_it():
    wishes = wanted(3_500_000, 3.5, 0.83)
    assert nearest(ROWS, wishes) == {"bytes": LARGE_FAST, "time": SMALL_SLOW, "accuracy": MIDDLING}
    assert explain(ROWS, wishes) == (
        "3.5MB,3.5ms and accuracy 0.8300 can't be had together. What can: "
        "with more bytes: b/dynamic with 5 MB, 2 ms, accuracy 0.8400; "
        "with more time: a/int8 with 1 MB, 7 ms, accuracy 0.8300; "
        "with less accuracy: c/dynamic with 3 MB, 3 ms, accuracy 0.7900."
    )


def test_where_no_two_wishes_go_together_the_nearest_file_is_named_with_what_it_misses():
    said = explain(ROWS, wanted(10_000, 0.1, 0.9))
    assert "nor any two of them" in said
    assert said.endswith("which misses bytes and time and accuracy.")


def test_the_pareto_front_is_what_no_other_file_beats_in_all_three():
    expected = [
        row
        for row in ROWS
        if not any(
            other.bytes <= row.bytes and other.ms <= row.ms and other.accuracy >= row.accuracy
            for other in ROWS
            if other is not row
        )
    ]
    assert pareto(ROWS) == sorted(expected, key=lambda row: row.bytes)
    assert BEATEN not in pareto(ROWS)
