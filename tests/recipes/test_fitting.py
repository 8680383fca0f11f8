"""Recording a teacher's answers, and a student that learns from them."""

import functools

import keras
import numpy as np
import pytest

from keras_transformer.data.batching import Batches
from keras_transformer.layers.pooling import MeanPooling
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.fitting import (
    PREDICTION_BATCH_SIZE,
    Run,
    Schedule,
    Soft,
    fit_on_labels,
    fit_on_teacher,
    record_answers,
    record_logits,
)

CLASSES, WIDTH, VOCABULARY = 3, 10, 29


@pytest.fixture
def teacher() -> TextClassifier:
    return TextClassifier(VOCABULARY, CLASSES, 1, WIDTH, 2, 7, max_length=13, dropout=0.3)


@pytest.fixture
def texts() -> list[list[int]]:
    """More than a batch, of all lengths in no order."""
    random = np.random.default_rng(5)
    return [random.integers(1, VOCABULARY, random.integers(1, 13)).tolist() for _ in range(PREDICTION_BATCH_SIZE + 11)]


def alone(teacher: TextClassifier, tap: str, ids: list[int]) -> np.ndarray:
    tensor = teacher.output if tap == "logits" else teacher.tap_tensors[tap]
    return np.asarray(keras.Model(teacher.input, tensor)(np.array([ids], "int32"), training=False))[0]


def test_recorded_answers_stand_in_the_order_of_the_texts(teacher, texts):
    answers = record_answers(teacher, texts)
    assert {name: (values.shape, values.dtype.name) for name, values in answers.items()} == {
        "teacher_logits": ((len(texts), CLASSES), "float32"),
        "teacher_tap/pooled": ((len(texts), WIDTH), "float16"),
    }
    for row in (0, 1, 17, len(texts) - 1):
        np.testing.assert_allclose(answers["teacher_logits"][row], alone(teacher, "logits", texts[row]), atol=1e-5)
        np.testing.assert_allclose(answers["teacher_tap/pooled"][row], alone(teacher, "pooled", texts[row]), atol=2e-3)
    np.testing.assert_allclose(record_logits(teacher, texts), answers["teacher_logits"], atol=1e-5)


@pytest.mark.parametrize("taught", [False, True])
def test_a_step_is_traced_once(teacher, texts, monkeypatch, taught):
    """A variable made in the first call of a graph has it traced twice, which takes seconds."""
    batches = Batches(texts, np.arange(len(texts)) % CLASSES, record_answers(teacher, texts), batch_size=25)
    student, schedule = TextClassifier(VOCABULARY, CLASSES, 1, 6, 2, 5, max_length=13), Schedule(1, 25, 0.02)
    calls, call = [], MeanPooling.call

    @functools.wraps(call)
    def counted(self, *arguments, **options):
        calls.append(self.name)
        return call(self, *arguments, **options)

    monkeypatch.setattr(MeanPooling, "call", counted)
    if taught:
        fit_on_teacher(student, batches, schedule, Soft(), title="t", run=Run(quiet=True))
    else:
        labelled = Batches(texts, batches.labels, batch_size=25)
        fit_on_labels(student, labelled, schedule, title="t", run=Run(quiet=True))
    assert len(calls) == 1


def test_the_pooled_vectors_pull_a_student_of_another_width(teacher, texts):
    """Without labels and with next to no weight on the logits, what falls is the distance of the pooled vectors."""
    student = TextClassifier(VOCABULARY, CLASSES, 1, 6, 2, 5, max_length=13, dropout=0.0)
    batches = Batches(texts, None, record_answers(teacher, texts), batch_size=25)
    schedule = Schedule(epochs=8, batch_size=25, learning_rate=0.02)
    soft = Soft(weight=1e-3, pooled=1.0)
    history = fit_on_teacher(student, batches, schedule, soft, title="t", run=Run(quiet=True))
    assert history["pooled"][-1] < 0.7 * history["pooled"][0]


def test_the_pooled_term_weighs_the_same_whatever_the_scale_of_the_teachers_vectors(teacher, texts):
    """A student that gives zeros is as far from the teacher as the teacher's vectors are long: that counts as 1."""
    answers = record_answers(teacher, texts)
    answers["teacher_tap/pooled"] *= np.float16(30)
    student = TextClassifier(VOCABULARY, CLASSES, 1, WIDTH, 2, 5, max_length=13, dropout=0.0)
    for weight in student.get_layer("encoder_0").feed_forward_norm.weights:
        weight.assign(np.zeros(weight.shape))
    batches = Batches(texts, None, answers, batch_size=len(texts))
    schedule, soft = Schedule(epochs=1, batch_size=len(texts), learning_rate=1e-9), Soft(weight=1e-9, pooled=0.5)
    history = fit_on_teacher(student, batches, schedule, soft, title="t", run=Run(quiet=True))
    assert history["loss"][0] == pytest.approx(0.5, rel=1e-2)
