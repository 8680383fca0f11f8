"""Scores of a model belong to the rows they were given with, whatever order the model saw them in."""

from typing import NamedTuple

import numpy as np
import pytest

from keras_transformer import serving
from keras_transformer.checks import UserError
from keras_transformer.data.text import Table
from keras_transformer.evaluation import evaluate
from keras_transformer.files import ModelFileError
from keras_transformer.training.metrics import classification_scores


class Answer(NamedTuple):
    labels: list[str]
    scores: np.ndarray


class FirstLetter:
    """A model that is right when a text begins with its label; it remembers the batches it was asked."""

    labels = ("a", "b", "c")

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def predict(self, texts):
        self.batches.append(texts)
        rows = [[float(text.startswith(label)) for label in self.labels] for text in texts]
        return Answer([text[0] for text in texts], np.array(rows, "float32"))


def test_each_answer_is_scored_against_the_label_of_its_own_row():
    texts = [letter + "x" * length for length, letter in enumerate("abcabcabca")]
    table = Table(texts[::-1], [text[0] for text in texts[::-1]])
    scores = evaluate(FirstLetter(), table, batch_size=3)
    assert scores == (1.0, 1.0, 1.0, 10)


def test_scores_are_those_of_the_metrics():
    table = Table(["a", "b", "b1", "c", "a1"], ["a", "b", "a", "c", "c"])
    assert evaluate(FirstLetter(), table) == classification_scores([0, 1, 0, 2, 2], [0, 1, 1, 2, 0])


def test_texts_of_about_one_length_share_a_batch_and_progress_counts_them_all():
    model, counted = FirstLetter(), []
    table = Table(["a" * 50, "b", "a" * 40, "bb", "c" * 60], list("ababc"))
    evaluate(model, table, batch_size=2, progress=counted.append)
    assert model.batches == [["b", "bb"], ["a" * 40, "a" * 50], ["c" * 60]]
    assert counted == [2, 2, 1]


def test_a_label_that_training_never_saw_is_refused_before_the_model_works():
    model = FirstLetter()
    with pytest.raises(UserError, match="row 2: the label 'z' is none of the trained ones"):
        evaluate(model, Table(["a", "b"], ["a", "z"]))
    assert model.batches == []


def test_texts_without_labels_are_refused():
    with pytest.raises(UserError, match="the table has 1 texts and no labels"):
        evaluate(FirstLetter(), Table(["a"], None))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_named_by_its_text(value):
    class Wild(FirstLetter):
        def predict(self, texts):
            scores = super().predict(texts).scores
            scores[[text == "bad text" for text in texts]] = value
            return Answer([], scores)

    with pytest.raises(ModelFileError, match="the model answers 'bad text' with NaN"):
        evaluate(Wild(), Table(["a", "bad text", "c"], ["a", "b", "c"]))


def test_a_tflite_file_is_scored_as_it_answers(small_tflite):
    predictor = serving.load(small_tflite)
    texts = ["a fine film", "dull", "not funny at all", "a fine and funny film"]
    answers = predictor.predict(texts).labels
    assert evaluate(predictor, Table(texts, answers), batch_size=3).accuracy == 1.0
