"""The film-review snippets: counts of the source, a fixed split without leaks, and the same through tfds."""

import hashlib
import socket
from collections import Counter

import pytest

from keras_transformer.data.catalog import snippets
from keras_transformer.data.tfds_text import from_tfds


def essence(text: str) -> str:
    return "".join(character for character in text.casefold() if character.isalnum())


def test_the_parts_have_the_sizes_that_were_counted_in_the_source():
    train, test, unlabelled = snippets()
    assert (len(train), len(test), len(unlabelled)) == (8056, 2014, 13098)
    assert Counter(test.labels) == {"negative": 1018, "positive": 996}
    assert Counter(train.labels) == {"negative": 4057, "positive": 3999}
    assert unlabelled.labels is None


def test_no_test_text_can_be_learned_from():
    train, test, unlabelled = snippets()
    held_out = {essence(text) for text in test.texts}
    assert len(held_out) == len(test)
    assert not held_out & {essence(text) for text in train.texts + unlabelled.texts}


def test_the_split_is_the_one_that_was_released():
    # A figure measured on one version must mean the same on the next.
    digest = hashlib.sha256("\n".join(snippets().test.texts).encode()).hexdigest()
    assert digest == "193873755aaefa4793c086930ccca123fbb853aca1fface3322ee99aa8515468"


def test_the_bytes_were_read_as_utf_8():
    texts = snippets().train.texts + snippets().test.texts
    assert "Absorbing character study by André Turpin." in texts
    assert not [text for text in texts if "Ã" in text or "\ufffd" in text]


def test_a_label_is_the_sign_of_the_rating():
    train, test, _ = snippets()
    label = dict(zip(train.texts + test.texts, train.labels + test.labels, strict=True))
    assert label["Fantastic!"] == "positive"
    assert label["Horrible."] == "negative"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("tfds"))


def test_tfds_loads_the_same_rows_without_a_network(data_dir, monkeypatch):
    expected = snippets()

    def refuse(*arguments, **options):
        raise AssertionError(f"a network look-up: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    for name, table in expected._asdict().items():
        loaded = from_tfds("movie_snippets", name, data_dir=data_dir)
        assert (loaded.labels is None) == (table.labels is None)
        labels = [table.labels or [""] * len(table), loaded.labels or [""] * len(loaded)]
        assert Counter(zip(loaded.texts, labels[1], strict=True)) == Counter(zip(table.texts, labels[0], strict=True))


def test_tfds_hands_out_class_ids_in_the_order_of_the_names(data_dir):
    import tensorflow_datasets as tfds

    dataset, info = tfds.load("movie_snippets", split="test[:7]", data_dir=data_dir, with_info=True, as_supervised=True)
    label = dict(zip(snippets().test.texts, snippets().test.labels, strict=True))
    rows = [(text.decode(), info.features["label"].int2str(index)) for text, index in tfds.as_numpy(dataset)]
    assert info.features["label"].names == ["negative", "positive"]
    assert [label[text] for text, _ in rows] == [name for _, name in rows]


@pytest.mark.parametrize("part", ["train", "test", "unlabelled"])
def test_every_text_is_one_line_with_a_word_in_it(part):
    for text in getattr(snippets(), part).texts:
        assert text.strip()
        assert text.splitlines() == [text]
