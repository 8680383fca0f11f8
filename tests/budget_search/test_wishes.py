"""What can be typed as a budget and as an accuracy, and what each wish asks of a file."""

import pytest

from keras_transformer.budget_search.settings import SearchSettings, command
from keras_transformer.budget_search.wishes import Budget, LeastAccuracy
from keras_transformer.checks import UserError


@pytest.mark.parametrize(
    ("typed", "budget"),
    [
        ("4MB,5ms", Budget(4_000_000, 5.0, None)),
        (" 20x , 2mb", Budget(2_000_000, None, 20.0)),
        ("1.5MiB", Budget(1_572_864, None, None)),
        ("700KB,.5ms,3x", Budget(700_000, 0.5, 3.0)),
    ],
)
def test_a_budget_is_read(typed, budget):
    assert Budget.parse(typed) == budget


@pytest.mark.parametrize("typed", ["", "4", "MB", "4MB,", "4 parsecs", "0MB", "-1ms", "1MB,2MB", "1MB,2KiB", "nanms"])
def test_what_is_no_budget_is_refused_with_one_that_is(typed):
    with pytest.raises(UserError, match="--budget 4MB,5ms"):
        Budget.parse(typed)


def test_a_budget_reads_back_what_it_says():
    budget = Budget.parse("1.5MB,2.5ms,7x")
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    ("cost", "missed"),
    [
        ((2_000_000, 5.0, 20.0), []),
        ((2_000_001, 5.0, 20.0), ["bytes"]),
        ((2_000_000, 5.1, 20.0), ["time"]),
        ((2_000_000, 5.0, 19.9), ["time"]),
        ((2_000_001, 5.1, 19.9), ["bytes", "time"]),
    ],
)
def test_a_limit_itself_is_within_the_budget(cost, missed):
    assert Budget(2_000_000, 5.0, 20.0).misses(*cost) == missed


def test_an_accuracy_is_of_the_texts_or_of_the_teacher():
    assert LeastAccuracy.parse("0.97x").wanted(0.5) == pytest.approx(0.485)
    assert LeastAccuracy.parse(".85").wanted(0.5) == 0.85


@pytest.mark.parametrize("typed", ["", "x", "97", "1.01x", "0", "-0.5", "97%", "nan"])
def test_what_is_no_accuracy_is_refused(typed):
    with pytest.raises(UserError, match=r"--min-accuracy 0.97x"):
        LeastAccuracy.parse(typed)


def test_a_form_that_no_search_writes_is_refused(tmp_path):
    with pytest.raises(UserError, match="int7: a search writes dynamic"):
        settings(tmp_path, forms=("int7",))


def test_the_command_is_what_was_typed(tmp_path):
    said = command(settings(tmp_path, forms=("int4",), seed=5, candidates=7, test=tmp_path / "test.csv"))
    assert said == (
        f"keras-transformer compress {tmp_path}/teacher --data {tmp_path}/data.csv --budget 2MB,20x "
        f"--min-accuracy 0.9x --quantize int4 --test {tmp_path}/test.csv --candidates 7 --seed 5 --out {tmp_path}/small"
    )


def settings(folder, **changes):
    given = {
        "teacher": folder / "teacher",
        "data": folder / "data.csv",
        "out": folder / "small",
        "budget": Budget.parse("2MB,20x"),
        "min_accuracy": LeastAccuracy.parse("0.9x"),
    }
    return SearchSettings(**{**given, **changes})
