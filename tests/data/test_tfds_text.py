"""Any tfds data set as a table: a small local builder in the layout that the public ones have."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_transformer.checks import UserError
from keras_transformer.data.tfds_text import from_tfds

ROWS = {"train": [("fine", 1), ("dull", 0), ("café", 1)], "bare": [("alone", -1)], "mixed": [("a", 0), ("b", -1)]}


class TinyReviews(tfds.core.GeneratorBasedBuilder):
    """Three splits: labelled, unlabelled, and a mixture."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tfds.features.Text(),
            "label": tfds.features.ClassLabel(names=["bad", "good"]),
            "source": tfds.features.Text(),
            "stars": tfds.features.Scalar(np.int32),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(rows) for name, rows in ROWS.items()}

    def _generate_examples(self, rows):
        for row, (text, label) in enumerate(rows):
            yield row, {"text": text, "label": label, "source": f"from {text}", "stars": 2 + label}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> str:
    return str(tmp_path_factory.mktemp("tfds"))


def rows(table) -> set[tuple[str, str]]:
    return set(zip(table.texts, table.labels, strict=True))


def test_class_ids_become_names(data_dir):
    table = from_tfds("tiny_reviews", "train", data_dir=data_dir)
    assert rows(table) == {("fine", "good"), ("dull", "bad"), ("café", "good")}


def test_other_features_can_be_the_text_and_the_label(data_dir):
    table = from_tfds("tiny_reviews", "train", text_key="source", label_key="stars", data_dir=data_dir)
    assert rows(table) == {("from fine", "3"), ("from dull", "2"), ("from café", "3")}
    table = from_tfds("tiny_reviews", "train", label_key="source", data_dir=data_dir)
    assert ("café", "from café") in rows(table)


def test_an_unlabelled_split_has_no_labels(data_dir):
    assert from_tfds("tiny_reviews", "bare", data_dir=data_dir).labels is None
    assert from_tfds("tiny_reviews", "train", label_key=None, data_dir=data_dir).labels is None


def test_a_mixed_split_and_a_missing_feature_are_named(data_dir):
    with pytest.raises(UserError, match=r"tiny_reviews, split 'mixed', row \d: has no label, while 1 rows have one"):
        from_tfds("tiny_reviews", "mixed", data_dir=data_dir)
    with pytest.raises(UserError, match=r"has no feature 'review'; found \['label', 'source', 'stars', 'text'\]"):
        from_tfds("tiny_reviews", "train", text_key="review", data_dir=data_dir)
