"""The built-in pairs and the Bible: counts of the sources, fixed splits without leaks, and the same through tfds."""

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_transformer.data.catalog import (
    english_german,
    english_german_pairs,
    manual_page_pairs,
    message_pairs,
    messages_in,
    world_english_bible,
)
from keras_transformer.data.near_duplicates import near_duplicate_groups
from keras_transformer.data.text import Pairs


@pytest.fixture(scope="module")
def split():
    return english_german()


@pytest.fixture(scope="module")
def programs():
    return message_pairs()


@pytest.fixture(scope="module")
def manuals():
    return manual_page_pairs()


@pytest.fixture(scope="module")
def bible():
    return world_english_bible()


def test_the_parts_have_the_sizes_that_were_counted_in_the_sources(split, bible, programs, manuals):
    assert (len(programs), len(manuals)) == (15161, 11134)
    assert tuple(map(len, split)) == (24467, 600, 1200)
    assert tuple(map(len, bible)) == (1071, 59, 59)
    assert [sum(len(text.split()) for text in part) for part in bible] == [682214, 39034, 40374]


def test_the_splits_are_the_ones_that_were_released(split, bible):
    # A figure measured on one version must mean the same on the next.
    digests = [hashlib.sha256("\n".join(texts).encode()).hexdigest() for texts in (split.test.sources, bible.test)]
    assert [digest[:16] for digest in digests] == ["ca9049a8aba18fbd", "0f8abf262010d8be"]


PLACED = re.compile(r"%\(\w+\)[-+#0]*\d*[a-z]|%[-+#0]*\d*(\.\d+)?[a-z]\b|\{[^}{]*\}|<[^><]*>|&\w+;")


def bare(text: str) -> str:
    """The words alone, in lower case: no digits, no placeholders, no punctuation."""
    text = PLACED.sub(" ", text).casefold()
    return " ".join("".join(character if character.isalpha() else " " for character in text).split())


@pytest.mark.parametrize("side", ["sources", "targets"])
def test_nothing_like_a_held_out_pair_is_taught(split, side):
    taught = {bare(text) for text in getattr(split.train, side)}
    validated = {bare(text) for text in getattr(split.validation, side)}
    tested = {bare(text) for text in getattr(split.test, side)}
    assert len(tested) > 1000
    assert not tested & taught
    assert not tested & validated
    assert not validated & taught


def test_no_long_test_sentence_is_a_training_sentence_with_one_word_exchanged(split):
    def open_places(text):
        words = bare(text).split()
        return {(*words[:place], "", *words[place + 1 :]) for place in range(len(words))} if len(words) > 4 else set()

    taught = {form for text in split.train.sources for form in open_places(text)}
    assert not [text for text in split.test.sources if open_places(text) & taught]


def test_both_kinds_of_text_are_in_each_part(split, manuals):
    known = set(manuals.sources)
    for part in split:
        assert 0.4 < np.mean([source in known for source in part.sources]) < 0.46


def test_pairs_are_read_as_they_stand_in_the_sources(programs, manuals):
    said = dict(zip(programs.sources, programs.targets, strict=True))
    assert said["Wish Lists"] == "Wunschzettel"
    placed = [(one, other) for one, other in said.items() if "%(" in one]
    kept = np.mean([Counter(re.findall(r"%\(\w+\)s", a)) == Counter(re.findall(r"%\(\w+\)s", b)) for a, b in placed])
    assert len(placed) > 300
    assert kept > 0.95
    explained = dict(zip(manuals.sources, manuals.targets, strict=True))
    assert explained["SEE ALSO"] == "SIEHE AUCH"
    assert explained["System crash dumps (optional)."] == "Systemabsturz-Abbilder (optional)."


def test_no_text_has_marks_of_its_file_format_in_it(programs, manuals):
    for pairs in (programs, manuals):
        for text in pairs.sources + pairs.targets:
            assert text == " ".join(text.split())
            assert "\ufffd" not in text
    # A few pages are about the marks themselves.
    assert sum(bool(re.search(r"\\f[BIPR]|\\\(", text)) for text in manuals.targets) < 10


def test_a_chapter_is_a_text_without_footnotes(bible):
    first = next(
        text for text in [*bible.train, *bible.validation, *bible.test] if text.startswith("In the beginning G")
    )
    assert first.startswith("In the beginning God created the heavens and the earth. Now the earth was formless")
    assert not [text for part in bible for text in part if "{" in text or "}" in text]
    assert len(set(bible.test) | set(bible.validation) | set(bible.train)) == sum(map(len, bible))


@pytest.mark.parametrize("language", ["ar", "he", "hi", "ja", "ko", "ru", "th", "zh_Hans"])
def test_lines_of_other_scripts_are_there(language):
    lines = messages_in(language)
    assert len(lines) > 200
    assert np.mean([ord(max(text)) > 0x3FF for text in lines]) > 0.9


def test_tfds_loads_the_same_rows(tmp_path, monkeypatch, split, bible):
    few = split._replace(train=Pairs(split.train.sources[:9], split.train.targets[:9]))  # writing all takes 10 s
    monkeypatch.setattr(english_german_pairs, "english_german", lambda: few)
    for name, pairs in few._asdict().items():
        rows = tfds.as_numpy(tfds.load("english_german_pairs", split=name, data_dir=str(tmp_path)))
        found = Counter((row["source"].decode(), row["target"].decode()) for row in rows)
        assert found == Counter(zip(pairs.sources, pairs.targets, strict=True))
    for name, texts in bible._asdict().items():
        rows = tfds.as_numpy(tfds.load("world_english_bible", split=name, data_dir=str(tmp_path)))
        assert Counter(row["text"].decode() for row in rows) == Counter(texts)


def test_groups_of_near_duplicates_are_those_of_a_reader():
    rows = [
        ("Delete %(name)s?", "%(name)s löschen?"),  # 0
        ("delete {0}!", "Weg mit {0}"),  # 0: the same words in English
        ("Remove %s", "%s LÖSCHEN"),  # 0: the same words in German
        ("Delete file", "Datei löschen"),  # short, so another word is another message
        ("The file could not be read.", "Lesefehler"),  # 4
        ("The disk could not be read.", "Plattenfehler"),  # 4: one word exchanged
        ("The big disk could not be read.", "Plattenproblem"),  # 4: one more, linked by row 5
        ("The file could never be written.", "Schreibfehler"),  # two words exchanged
    ]
    groups = near_duplicate_groups([source for source, _ in rows], [target for _, target in rows])
    assert groups.tolist() == [0, 0, 0, 3, 4, 4, 4, 7]
