"""How a text falls into runs of characters before pieces are cut off them: the rule that both tokenizers share.

Imports no TensorFlow. `graph_pieces` follows the same classes out of the table that `class_table` gives.
"""

import unicodedata
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np

from keras_transformer.data.well_formed import well_formed

MARK = "\u2581"  # a lower one-eighth block: stands for the space before a word
INSTEAD_OF_MARK = "_"
# Kinds of characters. Dropped ones vanish, a space marks what follows it, a digit stands alone.
DROPPED, SPACE, LETTER, DIGIT, SIGN = range(5)
# Longer runs, of scripts without spaces, are cut here, or one long line would take quadratic time.
MAX_RUN_CHARACTERS = 32
CODE_POINTS = 0x110000
_NOT_TEXT = {"\ufeff", "\ufffd"}  # a byte order mark, and what stands for broken bytes


class Run(NamedTuple):
    """Characters that one look for pieces goes over."""

    text: str  # with MARK in front where a space was, or the text begins
    known: bool  # False: one character outside the alphabet, to be written as bytes


@cache
def class_of(character: str) -> int:
    """DROPPED, SPACE, LETTER, DIGIT or SIGN: by the general category of Unicode."""
    category = unicodedata.category(character)
    if character.isspace() or category[0] == "Z":
        return SPACE
    if category in ("Cc", "Cs") or character in _NOT_TEXT:
        return DROPPED
    if category == "Nd":
        return DIGIT
    return SIGN if category[0] in "PS" else LETTER


@cache
def class_table() -> np.ndarray:
    """(1114112,) int8: `class_of` each character."""
    return np.array([class_of(chr(code)) for code in range(CODE_POINTS)], np.int8)


def normalized(text: str) -> str:
    """`text` without controls, one space for any white space between words, and "_" for the mark; case is kept.

    No character is composed or decomposed: what is written in one way comes back in that way.
    """
    classes = [(character, class_of(character)) for character in well_formed(text)]
    spaced = "".join(" " if kind == SPACE else character for character, kind in classes if kind != DROPPED)
    return " ".join(word for word in spaced.split(" ") if word).replace(MARK, INSTEAD_OF_MARK)


def runs(text: str, alphabet: frozenset[str]) -> list[Run]:
    """The runs of `text` in order. Written one after another, with a space for each MARK, they are " " + the text.

    A run is of letters, of signs, or one digit, and has MAX_RUN_CHARACTERS at most. A character outside `alphabet` is
    a run of its own, and the mark before it too.
    """
    found = []
    for word in normalized(text).split():
        start = MARK
        for kind, group in groupby(word, lambda character: class_of(character) if character in alphabet else None):
            characters = "".join(group)
            if kind is None:
                found += [Run(start, True)] if start else []
                found += [Run(character, False) for character in characters]
            else:
                longest = 1 if kind == DIGIT else MAX_RUN_CHARACTERS
                cut = [characters[place : place + longest] for place in range(0, len(characters), longest)]
                found += [Run(start + cut[0], True), *(Run(part, True) for part in cut[1:])]
            start = ""
    return found
