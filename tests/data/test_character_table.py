"""The table of characters cuts every text into the words that the tokenizer itself cuts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data.character_table import BLOCK_CHARACTERS, ITSELF, NOTHING, CharacterTable, character_table
from keras_transformer.data.tokenizer import SPECIAL_PIECES, WordPiece

RULES = [(True, None), (False, None), (True, False), (False, True)]


def tokenizer_with(lowercase: bool, strip_accents: bool | None) -> WordPiece:
    return WordPiece(SPECIAL_PIECES, lowercase=lowercase, strip_accents=strip_accents)


def words_by_table(table: CharacterTable, text: str) -> list[str]:
    """What the graph does, in numpy."""
    codes = np.array([ord(character) for character in text], np.int32)
    blocks, places = np.divmod(codes, BLOCK_CHARACTERS)
    outputs = table.outputs[table.entries[table.blocks[blocks], places]]
    outputs = np.where(outputs == ITSELF, codes[:, np.newaxis], outputs)
    normalized = outputs[outputs != NOTHING].astype("<u4").tobytes().decode("utf-32-le")
    return [word for word in normalized.split(" ") if word]


@pytest.mark.parametrize("rules", RULES)
def test_characters_between_letters_are_treated_as_the_tokenizer_does(rules):
    tokenizer = tokenizer_with(*rules)
    table = character_table(tokenizer)
    codes = [code for code in [*range(0x3400), *range(0x3400, 0x110000, 17)] if not 0xD800 <= code < 0xE000]
    for start in range(0, len(codes), 5000):
        text = "".join(f"x{chr(code)}y" for code in codes[start : start + 5000])
        assert words_by_table(table, text) == tokenizer.words(text)


@pytest.mark.parametrize("rules", RULES)
def test_nasty_texts_give_the_words_of_the_tokenizer(rules, nasty_texts):
    tokenizer = tokenizer_with(*rules)
    for text in nasty_texts:
        assert words_by_table(character_table(tokenizer), text) == tokenizer.words(text)


@settings(deadline=None)
@given(st.text())
def test_any_text_gives_the_words_of_the_tokenizer(text):
    tokenizer = tokenizer_with(True, None)
    assert words_by_table(character_table(tokenizer), text) == tokenizer.words(text)


def test_the_table_stays_small_enough_to_stand_in_every_exported_file():
    table = character_table(tokenizer_with(True, None))
    assert sum(array.nbytes for array in table) < 300_000
    assert (table.blocks.dtype, table.entries.dtype, table.outputs.dtype) == (np.int16, np.int16, np.int32)
