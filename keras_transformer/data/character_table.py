"""What a tokenizer's normaliser and word splitter make of each Unicode character, as small arrays.

Both of them treat each character on its own, so that they can be asked about all of them once; a graph then needs
nothing but look-ups, and follows whatever Unicode version the `tokenizers` library has.
"""

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np

from keras_transformer.data.tokenizer import SPECIAL_PIECES, WordPiece

SPACE = ord(" ")
# Stand-in for "the character itself", and for "no character" where an output is shorter than the longest.
ITSELF, NOTHING = -1, 0
BLOCK_CHARACTERS = 128
# Stays as it is, and no other character becomes it: so it can separate the characters under test.
_SEPARATOR = "\N{SNOWMAN}"
_PROBE_CHARACTERS = 8192
_CODE_POINTS = 0x110000
_SURROGATES = range(0xD800, 0xE000)


class CharacterTable(NamedTuple):
    """`outputs[entries[blocks[code // 128], code % 128]]` is what becomes of the character `code`.

    blocks: (8704,) int16, the row of `entries` for each block of 128 characters; most blocks are alike.
    entries: (rows, 128) int16.
    outputs: (kinds, K) int32 code points, filled up with NOTHING; ITSELF stands for the character, and a
        SPACE ends a word: punctuation and CJK ideographs have one on either side.
    """

    blocks: np.ndarray
    entries: np.ndarray
    outputs: np.ndarray


def character_table(tokenizer: WordPiece) -> CharacterTable:
    """The table of the rules by which `tokenizer` cuts text into words; it takes a second, once a process."""
    return _character_table(tokenizer.lowercase, tokenizer.strip_accents)


@cache
def _character_table(lowercase: bool, strip_accents: bool | None) -> CharacterTable:
    tokenizer = WordPiece(SPECIAL_PIECES, lowercase=lowercase, strip_accents=strip_accents)
    kinds: dict[tuple[int, ...], int] = {(ITSELF,): 0, (): 1}
    entries = np.zeros(_CODE_POINTS, np.int16)
    entries[_SURROGATES.start : _SURROGATES.stop] = 1  # no characters: they vanish
    codes = [code for code in range(_CODE_POINTS) if code not in _SURROGATES and code != ord(_SEPARATOR)]
    for start in range(0, len(codes), _PROBE_CHARACTERS):
        for code, output in _changed(tokenizer, codes[start : start + _PROBE_CHARACTERS]):
            kind = tuple(ITSELF if ord(character) == code else ord(character) for character in output)
            entries[code] = kinds.setdefault((SPACE,) if output == " " else kind, len(kinds))
    rows, blocks = np.unique(entries.reshape(-1, BLOCK_CHARACTERS), axis=0, return_inverse=True)
    outputs = np.full((len(kinds), max(map(len, kinds))), NOTHING, np.int32)
    for kind, entry in kinds.items():
        outputs[entry, : len(kind)] = kind
    return CharacterTable(blocks.astype(np.int16), rows, outputs)


def _changed(tokenizer: WordPiece, codes: list[int]) -> Iterator[tuple[int, str]]:
    """The characters that don't stay as they are between two letters, and what each becomes; a space ends a word."""
    characters = [chr(code) for code in codes]
    words = tokenizer.words(_SEPARATOR + _SEPARATOR.join(characters) + _SEPARATOR)
    outputs = " ".join(words).split(_SEPARATOR)[1:-1]
    for code, character, output in zip(codes, characters, outputs, strict=True):
        if output != character or code == SPACE:
            yield code, output
