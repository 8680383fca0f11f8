"""What is minimised at each token of a translator and a language model, against loops in float64 over real tokens."""

import numpy as np
import pytest

from keras_transformer.data.packing import PackedBatches
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.models import CausalLM, Seq2Seq
from keras_transformer.recipes.fitting import Run, Schedule, Soft
from keras_transformer.recipes.token_fitting import fit_on_teacher_tokens, fit_on_tokens

VOCAB_SIZE, START, END = 19, 1, 2
SOURCES = [[5, 6, 7, END], [8, END], [9, 10, 11, 12, 13, END]]
TARGETS = [[14, END], [15, 16, 17, 18, 5, 6, END], [7, 8, 9, END]]
STILL = Schedule(epochs=1, batch_size=1, learning_rate=1e-30)
QUIET = Run(quiet=True)


def pairs():
    return PairBatches(SOURCES, TARGETS, max_tokens=99, start_id=START, end_id=END)


def texts():
    return PackedBatches([ids[:-1] for ids in [*SOURCES, *TARGETS]], length=11, batch_size=9, end_id=END)


def translator(layers):
    return Seq2Seq(VOCAB_SIZE, layers, 6, 2, 7, dropout=0.0)


def language_model(layers):
    return CausalLM(VOCAB_SIZE, layers, 6, 2, 7, dropout=0.0, max_length=11)


def drawn(model, seed):
    """Random weights large enough that predictions differ from token to token."""
    random = np.random.default_rng(seed)
    model.set_weights([weight + random.normal(scale=0.4, size=weight.shape) for weight in model.get_weights()])
    return model


def log_probabilities(model, inputs):
    logits = np.asarray(model(inputs, training=False), "float64")
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


BOTH = pytest.mark.parametrize(("build", "data"), [(translator, pairs), (language_model, texts)])


@BOTH
def test_labels_are_smoothed_at_real_tokens_alone(build, data):
    model, batches = drawn(build(1), 3), data()
    ((inputs, labels),) = batches.batches(0)
    log_p = log_probabilities(model, inputs)
    values, right = [], []
    for place in np.ndindex(*labels.shape):
        if labels[place]:
            values.append(-0.9 * log_p[place][labels[place]] - 0.1 * log_p[place].mean())
            right.append(log_p[place].argmax() == labels[place])
    assert 0 < len(values) < labels.size
    told = fit_on_tokens(model, batches, STILL, label_smoothing=0.1, title="", run=QUIET)
    assert told["loss"] == [pytest.approx(np.mean(values), rel=1e-5)]
    assert told["token_accuracy"] == [pytest.approx(np.mean(right))]


@BOTH
def test_a_student_hears_its_teacher_at_real_tokens_alone(build, data):
    student, teacher, batches = drawn(build(1), 3), drawn(build(2), 4), data()
    ((inputs, labels),) = batches.batches(0)
    log_q, log_p = (log_probabilities(model, inputs) for model in (student, teacher))
    true, soft = [], []
    for place in np.ndindex(*labels.shape):
        if labels[place]:
            true.append(-log_q[place][labels[place]])
            soft.append(sum(np.exp(log_p[place]) * (log_p[place] - log_q[place])))
    before = [weight.copy() for weight in teacher.get_weights()]
    soft_share = Soft(weight=0.3, temperature=1.0, pooled=0.0)
    told = fit_on_teacher_tokens(student, teacher, batches, STILL, soft_share, title="", run=QUIET)
    assert told["true_labels"] == [pytest.approx(np.mean(true), rel=1e-5)]
    assert told["soft_targets"] == [pytest.approx(np.mean(soft), rel=1e-4)]
    assert told["loss"] == [pytest.approx(0.7 * np.mean(true) + 0.3 * np.mean(soft), rel=1e-4)]
    assert all(np.array_equal(one, two) for one, two in zip(before, teacher.get_weights(), strict=True))
