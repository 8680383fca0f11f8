"""Each check raises with the value, the rule and the fix, and lets every allowed value through."""

import math

import numpy as np
import pytest

from keras_transformer.checks import UserError, fraction, one_of, positive, positive_integer


def test_a_users_mistake_is_a_value_error():
    assert issubclass(UserError, ValueError)


@pytest.mark.parametrize("value", [1e-9, 1, 3.5, np.float32(0.25)])
def test_positive_lets_positive_numbers_through(value):
    assert positive("temperature", value) is None


@pytest.mark.parametrize("value", [0, -0.5, math.nan, math.inf, -math.inf])
def test_positive_refuses_zero_negatives_nan_and_infinity(value):
    with pytest.raises(ValueError, match=r"temperature=\S+ must be finite and above 0\. .* temperature=1"):
        positive("temperature", value)


def test_positive_proposes_a_number_that_suits_the_argument():
    with pytest.raises(ValueError, match=r"^learning_rate=0 must be .* for example learning_rate=0\.001\.$"):
        positive("learning_rate", 0, example=1e-3)


@pytest.mark.parametrize("value", [1, 17, np.int64(3)])
def test_positive_integer_lets_whole_numbers_through(value):
    assert positive_integer("num_heads", value) is None


@pytest.mark.parametrize("value", [0, -2, 2.0, True, "3", None, math.nan])
def test_positive_integer_refuses_what_is_no_count(value):
    with pytest.raises(ValueError, match=r"^num_heads=.* must be a whole number .*\. Use for example num_heads=1"):
        positive_integer("num_heads", value)


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 0.999])
def test_fraction_lets_the_half_open_unit_interval_through(value):
    assert fraction("dropout", value) is None


@pytest.mark.parametrize("value", [-1e-9, 1, 1.0, 10, math.nan])
def test_fraction_refuses_what_is_outside_of_it(value):
    with pytest.raises(ValueError, match=r"^dropout=.* must be at least 0 and below 1\. .* dropout=0\.1"):
        fraction("dropout", value)


def test_one_of_lets_each_choice_through():
    for size in ("tiny", "small", "base"):
        assert one_of("size", size, ("tiny", "small", "base")) is None


def test_one_of_lists_the_choices_and_names_the_nearest():
    message = r"^size='smal' must be one of \['tiny', 'small'\]\. Did you mean size='small'\?$"
    with pytest.raises(ValueError, match=message):
        one_of("size", "smal", ("tiny", "small"))


def test_one_of_takes_a_generator_and_proposes_the_first_when_nothing_is_near():
    with pytest.raises(ValueError, match=r"\['a1', 'b2'\]\. Did you mean size='a1'\?"):
        one_of("size", "zzz", (name for name in ("a1", "b2")))
