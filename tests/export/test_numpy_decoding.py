"""The numpy loop chooses what TensorFlow's loop chooses, and what an exhaustive search finds; draws follow p."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.export.numpy_decoding import Begun, beam, candidates, greedy, log_softmax, sample, up_to_end
from keras_transformer.models import decoding
from keras_transformer.models.sampling import candidates as tensorflow_candidates

VOCAB, MOST, END = 5, 4, 3


class Start(NamedTuple):
    logits: tf.Tensor
    state: tuple[tf.Tensor]


class Foreseeing:
    """Logits that depend on the last token and on how many there are: for numpy, for TensorFlow, for loops."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.first = random.normal(scale=1.5, size=VOCAB).astype("float32")
        self.table = random.normal(scale=1.5, size=(MOST, VOCAB, VOCAB)).astype("float32")
        self.first[0] = self.table[..., 0] = -30.0  # padding, which TensorFlow's loop also fills up with

    def begin(self):
        return Begun(self.first, {"length": np.array([1])})

    def step(self, token_id, state):
        (length,) = state["length"]
        return Begun(self.table[length, token_id], {"length": np.array([length + 1])})

    def prompted(self):
        return Start(tf.constant(self.first[None]), (tf.constant([1]),))

    def tensorflow_step(self, token_ids, state):
        (length,) = state
        return tf.gather_nd(self.table, tf.stack([length, token_ids], axis=1)), (length + 1,)

    def log_prob(self, tokens):
        total = 0.0
        for place, token in enumerate(tokens):
            logits = (self.first if place == 0 else self.table[place, tokens[place - 1]]).astype(float)
            total += logits[token] - np.log(sum(np.exp(logit) for logit in logits))
        return total


LIMITS = {"end_id": END, "max_tokens": MOST}


@pytest.mark.parametrize("seed", range(7))
def test_greedy_is_that_of_tensorflow_and_of_a_loop(seed):
    model = Foreseeing(seed)
    found = greedy(model.step, model.begin(), **LIMITS)
    tokens = []
    while len(tokens) < MOST and END not in tokens:
        tokens.append(max(range(VOCAB), key=lambda token: model.log_prob([*tokens, token])))
    assert found == tokens
    decoded = decoding.greedy(model.tensorflow_step, model.prompted(), **LIMITS)
    assert found == up_to_end(decoded.token_ids.numpy()[0], END)


@pytest.mark.parametrize(("width", "alpha"), [(1, 0.6), (2, 0.0), (3, 0.6), (4, 1.5), (6, 0.6)])
def test_a_beam_is_that_of_tensorflow(width, alpha):
    for seed in range(9):
        model = Foreseeing(seed)
        found = beam(model.step, model.begin(), width=width, alpha=alpha, **LIMITS)
        searched = decoding.beam(model.tensorflow_step, model.prompted(), width=width, alpha=alpha, **LIMITS)
        assert found == up_to_end(searched.token_ids.numpy()[0, 0], END)


@pytest.mark.parametrize("alpha", [0.0, 0.6])
def test_a_beam_as_wide_as_all_texts_finds_the_best_of_all(alpha):
    model = Foreseeing(5)
    every = {tuple(up_to_end(np.array(ids), END)) for ids in itertools.product(range(VOCAB), repeat=MOST)}
    every = [ids for ids in every if END in ids or len(ids) == MOST]
    best = max(every, key=lambda ids: model.log_prob(ids) / ((5 + len(ids)) / 6) ** alpha)
    assert beam(model.step, model.begin(), width=VOCAB**MOST, alpha=alpha, **LIMITS) == list(best)


@pytest.mark.parametrize(
    "filters",
    [{}, {"temperature": 0.4}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 1.7, "top_k": 4, "top_p": 0.5}],
)
def test_the_filters_leave_what_those_of_tensorflow_leave(filters):
    logits = np.array([0.3, 2.0, -1.0, 2.0, 0.5, -3.0, 1.1], "float32")
    theirs = tensorflow_candidates(tf.constant(logits[None]), **filters)
    probability = np.exp(theirs.log_prob.numpy()[0].astype(float))
    left = np.flatnonzero(probability)
    token_ids, found = candidates(logits, **filters)
    np.testing.assert_array_equal(token_ids, theirs.token_ids.numpy()[0][left])
    np.testing.assert_allclose(found, probability[left] / probability.sum(), rtol=1e-5)
    assert found.sum() == pytest.approx(1.0)


def test_draws_are_as_frequent_as_they_are_probable():
    model, counts = Foreseeing(2), np.zeros(VOCAB)
    for seed in range(3000):
        counts[sample(model.step, model.begin(), end_id=END, max_tokens=1, seed=seed)[0]] += 1
    probability = [np.exp(model.log_prob([token])) for token in range(VOCAB)]
    np.testing.assert_allclose(counts / 3000, probability, atol=0.03)


def test_the_same_seed_gives_the_same_text_and_no_heat_is_greedy():
    model = Foreseeing(4)

    def drawn(**options):
        return tuple(sample(model.step, model.begin(), **LIMITS, **options))

    assert drawn(seed=11) == drawn(seed=11)
    assert len({drawn(seed=seed) for seed in range(20)}) > 5
    likeliest = {tuple(greedy(model.step, model.begin(), **LIMITS))}
    for options in ({"top_k": 1}, {"temperature": 1e-30}, {"top_p": 1e-9}):
        assert {drawn(seed=seed, **options) for seed in range(9)} == likeliest


def test_log_softmax_takes_large_numbers():
    logits = np.array([[1e4, 1e4 - 1.0, -1e4], [0.0, 0.0, 0.0]], "float32")
    expected = [
        [-np.log(1 + np.exp(-1.0)), -1 - np.log(1 + np.exp(-1.0)), -2e4 - np.log(1 + np.exp(-1.0))],
        [-np.log(3)] * 3,
    ]
    np.testing.assert_allclose(log_softmax(logits), expected, atol=1e-3)


def test_a_row_ends_with_its_end():
    assert up_to_end(np.array([4, 0, 3, 0, 0]), 3) == [4, 0, 3]
    assert up_to_end(np.array([4, 0]), 3) == [4, 0]
