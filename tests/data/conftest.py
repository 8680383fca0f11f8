"""Real texts, the MiniLM tokenizer, and texts that break tokenizers: read once for all tests of the data part."""

import pytest

from keras_transformer.data import assets
from keras_transformer.data.tokenizer import WordPiece

NASTY_TEXTS = [
    "",
    " \t\r\n\u00a0\u3000\u2028 ",
    "plain",
    "naïve café, Ångström Å Å",
    "e\u0301 \u0301e \u0323\u0301a\u0301\u0323",
    "😀 fun 👩‍👩‍👧‍👦👍🏽!",
    "שָׁלוֹם עולם \u202eabc\u202c العَرَبِيَّة",
    "NUL \x00 in\x00side, DEL \x7f, bell \x07",
    "\ufeffBOM first, and\ufeffinside",
    "\ufffd replaced \U0010ffff last \ufdd0",
    "中文字 and 日本語カタカナ 豈 𠀀 한국어 각",
    "straße STRASSE İstanbul \u0131Iiİ ΟΔΟΣ ǅ ﬁne ½ Ω",
    "[CLS] [SEP] [PAD] [UNK] [MASK] ##ing",
    "a­b zero\u200bwidth\u200djoin\u2060er",
    "don't... (well-known) $5+3=8 `x` ¿qué? «oui» 「はい」",
    "x" * 100 + " " + "x" * 101 + " " + "é" * 100,
    "e\u0301" * 120,
    "word " * 300,
    "supercalifragilisticexpialidocious" * 2,
    "क्षत्रिय ক্ষ ไทย ខ្មែរ \u0378unassigned",
]


@pytest.fixture(scope="session")
def nasty_texts() -> list[str]:
    return NASTY_TEXTS


@pytest.fixture(scope="session")
def minilm() -> WordPiece:
    return WordPiece.load(assets.minilm_folder())


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """All 23,168 texts of the snippets."""
    from keras_transformer.data.catalog import snippets

    return [text for table in snippets() for text in table.texts]


@pytest.fixture(scope="session")
def learned(real_texts) -> WordPiece:
    """A small vocabulary, so that most words are cut; the nasty texts bring it characters of many scripts."""
    return WordPiece.learn([*real_texts[:3000], *NASTY_TEXTS * 3], vocab_size=2003)
