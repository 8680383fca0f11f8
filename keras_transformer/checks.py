"""Argument checks that share one message form: what came in, which rule it breaks, what to type instead."""

import math
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral


class UserError(ValueError):
    """A mistake in what the user gave us. The command line prints it as one line and exits with 2."""


def positive(name: str, value: float, example: float = 1) -> None:
    """Raise ValueError unless `value` is finite and above 0; the message proposes `example`."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r} must be finite and above 0. Use for example {name}={example}.")


def positive_integer(name: str, value: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise ValueError(f"{name}={value!r} must be a whole number of at least 1. Use for example {name}=1.")


def fraction(name: str, value: float) -> None:
    """Raise ValueError unless 0 <= `value` < 1: the range of a dropout rate or of a held-out share."""
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value!r} must be at least 0 and below 1. Use for example {name}=0.1.")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """Raise ValueError unless `value` is among `choices`; the message names the nearest."""
    allowed = list(choices)
    if value not in allowed:
        nearest = get_close_matches(str(value), allowed, n=1) or allowed[:1]
        raise ValueError(f"{name}={value!r} must be one of {allowed}. Did you mean {name}={nearest[0]!r}?")
