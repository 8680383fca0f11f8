"""Which texts are nearly the same, so that none of them is taught and another one of them tested."""

import hashlib
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence

import numpy as np

# A sentence as short as this has too many that differ from it in one word and mean something else.
FEWEST_WORDS_TO_DIFFER = 5
# Python's and C's formats, braces, HTML tags and entities: what a message has instead of a word.
PLACEHOLDER = re.compile(r"%\(\w+\)[#0\-+]*\d*[a-z]|%[#0\-+]*\d*(?:\.\d+)?[a-z]\b|\{[^{}]*\}|<[^<>]*>|&\w+;")
_WORD = re.compile(r"[^\W\d_]+")


def essence(text: str) -> tuple[str, ...]:
    """The words of `text`: case, digits, placeholders and punctuation are no difference."""
    return tuple(_WORD.findall(PLACEHOLDER.sub(" ", text).casefold()))


def near_duplicate_groups(sources: Sequence[str], targets: Sequence[str]) -> np.ndarray:
    """(N,) the group of each pair, as the number of its first row.

    Two pairs are of one group if their sources have the same `essence`, or their targets have, or their sources have
    five words at least and differ by one word (left out, put in, or another), or a third pair links them.

    Args:
        sources: N texts.
        targets: their N translations.
    """
    parents = list(range(len(sources)))
    first_with: dict[int, int] = {}  # by the hashes of keys: the keys themselves would take gigabytes

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for row, (source, target) in enumerate(zip(sources, targets, strict=True)):
        for key in _keys(essence(source), essence(target)):
            one, other = sorted((root(row), root(first_with.setdefault(hash(key), row))))
            parents[other] = one
    return np.array([root(row) for row in range(len(sources))])


def held_out_groups(groups: np.ndarray, names: Sequence[str], rows: int, largest: int) -> np.ndarray:
    """(N,) bool: whole groups until there are `rows` rows of them; which ones depends on the texts alone.

    The groups with the smallest sha256 of their first name are taken. One of more than `largest` rows never is: a few
    formulas that come in hundreds of forms would be most of a test set.

    Args:
        groups: what `near_duplicate_groups` gave.
        names: a text a row.
        rows: how many at least, where there are enough.
        largest: rows of a group at most.
    """
    found, first, counts = np.unique(groups, return_index=True, return_counts=True)
    digests = [hashlib.sha256(names[row].encode()).digest() for row in first]
    order = [place for place in sorted(range(len(found)), key=digests.__getitem__) if counts[place] <= largest]
    taken = np.searchsorted(np.cumsum(counts[order]), rows) + 1
    return np.isin(groups, found[order[:taken]])


def _keys(source: tuple[str, ...], target: tuple[str, ...]) -> Iterator[Hashable]:
    yield "source", source
    yield "target", target
    if len(source) >= FEWEST_WORDS_TO_DIFFER:
        yield from _without_one_word(source)


def _without_one_word(words: tuple[str, ...]) -> Iterable[Hashable]:
    # The whole too: a text with one word more has it among its own.
    yield "part", words
    for place in range(len(words)):
        yield "part", words[:place] + words[place + 1 :]
