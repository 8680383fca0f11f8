"""Beam search against exhaustive search, against itself written as loops over lists, and against cases by hand."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from remembering import Remembering, kept, total_log_prob

from keras_transformer.models.decoding import beam, diverse_beam, greedy, length_penalty
from keras_transformer.models.token_loop import PAD_ID

PROMPTS = [[5], [2, 1, 4, 1], [4, 4]]
ROOM = 16


def score_oracle(log_prob, length, alpha):
    return log_prob / ((5 + length) / 6) ** alpha


class GroupOracle:
    """One group of a (diverse) beam search, as lists of (tokens, log_prob)."""

    def __init__(self, model, prompt, end_id, max_tokens, width, alpha, num_best):
        self.model, self.prompt, self.end_id, self.max_tokens = model, prompt, end_id, max_tokens
        self.width, self.alpha, self.num_best = width, alpha, num_best
        self.running, self.finished = [([], 0.0)], []

    def extend(self, malus):
        """Add a token to each running hypothesis, and give the tokens that were chosen."""
        found = []
        for tokens, log_prob in self.running:
            gains = self.model.log_probs([*self.prompt, *tokens])
            found += [(log_prob + g - malus[v], [*tokens, v], log_prob + g) for v, g in enumerate(gains)]
        found = sorted(found, key=lambda each: -each[0])[: self.width - len(self.finished)]
        chosen = [(tokens, log_prob) for _, tokens, log_prob in found]
        ended = [each for each in chosen if each[0][-1] == self.end_id]
        self.running = [each for each in chosen if each[0][-1] != self.end_id]
        self.finished += ended
        return [tokens[-1] for tokens, _ in ended + self.running]

    def stop_if_nothing_can_win(self):
        scores = sorted((score_oracle(lp, len(t), self.alpha) for t, lp in self.finished), reverse=True)
        hopes = [score_oracle(lp, self.max_tokens, self.alpha) for _, lp in self.running]
        if hopes and len(scores) >= self.num_best and scores[self.num_best - 1] >= max(hopes):
            self.running = []

    def best(self):
        scored = [(score_oracle(lp, len(t), self.alpha), t, lp) for t, lp in self.finished + self.running]
        return sorted(scored, key=lambda each: -each[0])[: self.num_best]


def beam_oracle(model, prompt, end_id, max_tokens, width, alpha, num_best):
    """Without any early stop: that of the search has to be sound."""
    group = GroupOracle(model, prompt, end_id, max_tokens, width, alpha, num_best)
    for _ in range(max_tokens):
        group.extend(np.zeros(len(model.bias)))
    return group.best()


def diverse_oracle(model, prompt, end_id, max_tokens, width, alpha, num_groups, diversity):
    groups = [GroupOracle(model, prompt, end_id, max_tokens, width, alpha, 1) for _ in range(num_groups)]
    for _ in range(max_tokens):
        counts = np.zeros(len(model.bias))
        for group in groups:
            was_running = bool(group.running)
            chosen = group.extend(diversity * counts)
            kept_running = group.running
            group.stop_if_nothing_can_win()
            dropped = [tokens[-1] for tokens, _ in kept_running] if not group.running else []
            for token in chosen if was_running else []:
                counts[token] += 1
            for token in dropped:
                counts[token] -= 1
    return [group.best()[0] for group in groups]


def assert_same(beams, row, expected, end_id):
    """Each text, its log-probability and its score, in order; what is missing is empty."""
    for place in range(beams.score.shape[1]):
        if place >= len(expected):
            assert beams.score[row, place] == -np.inf
            assert np.all(beams.token_ids[row, place].numpy() == PAD_ID)
            continue
        score, tokens, log_prob = expected[place]
        assert beams.token_ids[row, place].numpy()[: len(tokens)].tolist() == tokens
        assert np.all(beams.token_ids[row, place].numpy()[len(tokens) :] == PAD_ID)
        assert float(beams.log_prob[row, place]) == pytest.approx(log_prob, rel=1e-4, abs=1e-5)
        assert float(beams.score[row, place]) == pytest.approx(score, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
@pytest.mark.parametrize(("vocab_size", "max_tokens"), [(3, 4), (5, 2), (4, 3)])
def test_a_beam_as_wide_as_all_texts_finds_the_best_of_all(vocab_size, max_tokens, alpha):
    model, end_id = Remembering(vocab_size, seed=11, sharpness=1.0), vocab_size - 1
    prompts, everything = [[1], [2, 1]], []
    for prompt in prompts:
        texts = set()
        for drawn in itertools.product(range(vocab_size), repeat=max_tokens):
            texts.add(drawn[: drawn.index(end_id) + 1] if end_id in drawn else drawn)
        totals = {text: total_log_prob(model, prompt, text) for text in texts}
        scored = [(score_oracle(total, len(text), alpha), list(text), total) for text, total in totals.items()]
        everything.append(sorted(scored, reverse=True)[:5])
    width = vocab_size**max_tokens
    beams = beam(
        model.step,
        model.prompt(prompts, ROOM),
        end_id=end_id,
        max_tokens=max_tokens,
        width=width,
        alpha=alpha,
        num_best=5,
    )
    for row, expected in enumerate(everything):
        assert_same(beams, row, expected, end_id)


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    width=st.integers(1, 5),
    num_best=st.integers(1, 5),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 3.0]),
    max_tokens=st.integers(1, 5),
    sharpness=st.sampled_from([0.3, 2.0]),
)
def test_any_beam_is_the_search_over_lists_that_never_stops_early(seed, width, num_best, alpha, max_tokens, sharpness):
    model, num_best = Remembering(7, seed, sharpness), min(width, num_best)
    beams = beam(
        model.step,
        model.prompt(PROMPTS, ROOM),
        end_id=3,
        max_tokens=max_tokens,
        width=width,
        alpha=alpha,
        num_best=num_best,
    )
    for row, prompt in enumerate(PROMPTS):
        assert_same(beams, row, beam_oracle(model, prompt, 3, max_tokens, width, alpha, num_best), 3)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), num_groups=st.integers(1, 3), diversity=st.sampled_from([0.0, 0.7, 5.0]))
def test_a_diverse_beam_is_the_one_over_lists(seed, num_groups, diversity):
    model = Remembering(7, seed, sharpness=1.0)
    beams = diverse_beam(
        model.step,
        model.prompt(PROMPTS, ROOM),
        end_id=3,
        max_tokens=4,
        width=2 * num_groups,
        num_groups=num_groups,
        diversity=diversity,
    )
    for row, prompt in enumerate(PROMPTS):
        assert_same(beams, row, diverse_oracle(model, prompt, 3, 4, 2, 0.6, num_groups, diversity), 3)


def test_the_first_group_is_a_plain_beam_and_diversity_makes_the_others_differ():
    model = Remembering(7, seed=3, sharpness=1.0)
    limits = {"end_id": 3, "max_tokens": 6}
    plain = beam(model.step, model.prompt(PROMPTS, ROOM), width=2, **limits)
    for diversity, kinds in ((0.0, 1), (4.0, 3)):
        beams = diverse_beam(
            model.step, model.prompt(PROMPTS, ROOM), width=6, num_groups=3, diversity=diversity, **limits
        )
        np.testing.assert_array_equal(beams.token_ids[:, 0], plain.token_ids[:, 0])
        for row in beams.token_ids.numpy():
            assert len(np.unique(row, axis=0)) == kinds


@pytest.mark.parametrize("alpha", [0.0, 0.6, 5.0])
def test_a_beam_of_one_is_greedy_whatever_the_penalty(alpha):
    for seed in range(5):
        model = Remembering(7, seed, sharpness=1.0)
        prompted = model.prompt(PROMPTS, ROOM)
        expected = greedy(model.step, prompted, end_id=3, max_tokens=8)
        beams = beam(model.step, prompted, end_id=3, max_tokens=8, width=1, alpha=alpha)
        np.testing.assert_array_equal(beams.token_ids[:, 0], expected.token_ids)
        np.testing.assert_allclose(beams.log_prob[:, 0], expected.log_prob, rtol=1e-5)


#                      pad  end   a    b
CHAIN = np.log(
    np.array(
        [
            [0.25, 0.25, 0.25, 0.25],
            [0.25, 0.25, 0.25, 0.25],
            [1e-9, 1e-9, 1e-9, 1.0],
            [1e-9, 0.04, 1e-9, 0.96],
        ],
        "float32",
    )
)
START = np.log(np.array([[1e-9, 0.5, 0.5, 1e-9]], "float32"))


def chain(token_ids, state):
    return tf.gather(CHAIN, token_ids), state + 1


@pytest.mark.parametrize(("alpha", "length"), [(0.0, 1), (0.5, 9)])
def test_the_penalty_ranks_each_text_by_its_own_length(alpha, length):
    #  "end": log .5 = -.69, lp = 1.   "a b b b b b b b b": log .5 + 7 log .96 = -.98, lp = (14 / 6)^alpha
    prompted = type("Prompted", (), {"logits": tf.constant(START), "state": tf.zeros((1,), tf.int32)})
    beams = beam(chain, prompted, end_id=1, max_tokens=9, width=3, alpha=alpha, num_best=2)
    long = math.log(0.5) + 7 * math.log(0.96)
    scores = {1: math.log(0.5), 9: long / (14 / 6) ** alpha}
    assert np.count_nonzero(beams.token_ids[0, 0]) == length
    np.testing.assert_allclose(beams.score[0, 0], scores[length], rtol=1e-5)
    assert max(scores.values()) == scores[length]


def test_the_search_stops_when_no_beginning_can_win_and_not_before():
    calls, likelier_end = [], np.array([[0, 0.1, 0, 0]], "float32")

    def counted(token_ids, state):
        calls.append(1)
        return chain(token_ids, state)

    def calls_of(alpha, max_tokens):
        calls.clear()
        prompted = type("Prompted", (), {"logits": tf.constant(START + likelier_end), "state": tf.zeros((1,))})
        beam(counted, prompted, end_id=1, max_tokens=max_tokens, width=2, alpha=alpha)
        return len(calls)

    assert calls_of(alpha=0.0, max_tokens=9) == 0, "the end is the likeliest of all and no longer text can catch up"
    #  p(end) = .525, p(a) = .475: after n > 2 tokens the long text has log .475 + (n - 2) log .96.
    assert calls_of(alpha=0.6, max_tokens=9) == 8, "at 8 tokens: -.989 / (14 / 6)^.6 = -.595 > log .525 = -.644"
    assert calls_of(alpha=0.5, max_tokens=9) == 7, "at 8 tokens: -.989 / (14 / 6)^.5 = -.647 < log .525 = -.644"


def test_the_caller_may_say_how_rows_of_a_state_are_taken():
    model, seen = Remembering(7, seed=3, sharpness=1.0), []

    def reorder(state, rows):
        seen.append(rows.numpy())
        return tf.nest.map_structure(lambda leaf: tf.gather(leaf, rows), state)

    limits = {"end_id": 3, "max_tokens": 5, "width": 4}
    ours = beam(model.step, model.prompt(PROMPTS, ROOM), reorder=reorder, **limits)
    np.testing.assert_array_equal(ours.token_ids, beam(model.step, model.prompt(PROMPTS, ROOM), **limits).token_ids)
    assert seen
    for rows in seen:
        np.testing.assert_array_equal(rows // 4, np.repeat([0, 1, 2], 4))


def test_texts_come_best_first_and_differ():
    model = Remembering(7, seed=8, sharpness=1.0)
    beams = beam(model.step, model.prompt(PROMPTS, ROOM), end_id=3, max_tokens=6, width=5, num_best=5)
    for texts, scores in zip(beams.token_ids.numpy(), beams.score.numpy(), strict=True):
        assert np.all(np.diff(scores) <= 0)
        assert len({tuple(kept(text, 3)) for text in texts}) == 5


def test_the_length_penalty_is_eq_14():
    np.testing.assert_allclose(length_penalty(tf.constant([1, 7, 19]), 0.6), [1, 2**0.6, 4**0.6], rtol=1e-6)
    np.testing.assert_array_equal(length_penalty(tf.constant([1, 7]), 0.0), [1, 1])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width=0 must be a whole number of at least 1"),
        ({"num_best": 3}, r"num_best=3 is more than width=2: .* Use width=3, or num_best=2"),
        ({"alpha": -0.1}, r"alpha=-0.1 must be finite and at least 0: .* Use for example alpha=0.6"),
        ({"alpha": math.nan}, "alpha=nan must be finite and at least 0"),
    ],
)
def test_a_beam_that_makes_no_sense_is_refused(wrong, message):
    model = Remembering(7, seed=8)
    with pytest.raises(ValueError, match=message):
        beam(model.step, model.prompt([[1]], 4), **{"end_id": 3, "max_tokens": 2, "width": 2, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 5}, r"width=5 can't be cut into num_groups=2 equal groups: 5 % 2 = 1. Use width=6"),
        ({"num_groups": 0}, "num_groups=0 must be a whole number of at least 1"),
        ({"diversity": -1.0}, "diversity=-1.0 must be finite and at least 0"),
    ],
)
def test_groups_that_make_no_sense_are_refused(wrong, message):
    model = Remembering(7, seed=8)
    with pytest.raises(ValueError, match=message):
        diverse_beam(
            model.step, model.prompt([[1]], 4), **{"end_id": 3, "max_tokens": 2, "width": 4, "num_groups": 2, **wrong}
        )
