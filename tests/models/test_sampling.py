"""Sampling: the filters against loops, the draws against the distribution, and the limits in which it is greedy."""

import math

import numpy as np
import pytest
import tensorflow as tf
from remembering import Prompted, Remembering

from keras_transformer.models.decoding import greedy, sample
from keras_transformer.models.sampling import candidates

VOCAB_SIZE, END, MAX_TOKENS, ROOM = 11, 3, 9, 20
PROMPTS = [[5], [2, 9, 4, 1], [7, 7], [10, 6, 8]]
MODEL = Remembering(VOCAB_SIZE, seed=1, sharpness=1.5)
SCORES = np.array([0.3, 2.0, -1.0, 1.1, -0.4, 1.7, 0.0])
DRAWS = 20_000


def draw(seed=7, model=MODEL, end_id=END, **filters):
    prompted = model.prompt(PROMPTS, ROOM)
    decoded = sample(model.step, prompted, end_id=end_id, max_tokens=MAX_TOKENS, seed=seed, **filters)
    return decoded.token_ids.numpy()


def filtered_oracle(scores, seen=(), temperature=1.0, top_k=None, top_p=None, min_p=None, repetition_penalty=1.0):
    """The probabilities that are left, filter by filter, in loops."""
    scores = list(map(float, scores))
    for token in seen:
        scores[token] *= repetition_penalty if scores[token] < 0 else 1 / repetition_penalty
    powers = [math.exp(score / temperature) for score in scores]
    order = sorted(range(len(scores)), key=lambda token: -powers[token])[:top_k]
    total = sum(powers[token] for token in order)
    left, mass = {}, 0.0
    for token in order:
        if top_p is not None and mass >= top_p:
            break
        left[token] = powers[token] / total
        mass += left[token]
    floor = 0.0 if min_p is None else min_p * max(left.values())
    left = {token: share for token, share in left.items() if share >= floor}
    return np.array([left.get(token, 0.0) / sum(left.values()) for token in range(len(scores))])


def assert_drawn_from(token_ids, expected):
    counts = np.bincount(token_ids, minlength=len(expected))
    possible = expected > 0
    assert counts[~possible].sum() == 0
    wanted = expected[possible] * counts.sum()
    chi_square = sum((counts[possible] - wanted) ** 2 / wanted)
    freedom = max(possible.sum() - 1, 1)
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


FILTERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 3.0},
    {"top_k": 3},
    {"top_p": 0.6},
    {"min_p": 0.2},
    {"temperature": 2.0, "top_k": 5, "top_p": 0.7, "min_p": 0.3},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 2.5, "top_p": 0.8},
]


@pytest.mark.parametrize("filters", FILTERS, ids=lambda filters: " ".join(filters) or "none")
def test_draws_have_the_frequencies_of_the_filtered_distribution(filters):
    many = Prompted(tf.constant(np.tile(SCORES, (DRAWS, 1)), tf.float32), tf.zeros(DRAWS))
    prompt = [1, 2, 0, 0]  # 0 is padding, not a token that was there
    decoded = sample(
        lambda *_: None,
        many,
        end_id=99,
        max_tokens=1,
        seed=3,
        prompt_ids=tf.constant([prompt] * DRAWS) if "repetition_penalty" in filters else None,
        **filters,
    )
    seen = [1, 2] if "repetition_penalty" in filters else []
    assert_drawn_from(decoded.token_ids.numpy()[:, 0], filtered_oracle(SCORES, seen, **filters))
    model_log_prob = np.log(filtered_oracle(SCORES))[decoded.token_ids.numpy()[:, 0]]
    np.testing.assert_allclose(decoded.log_prob, model_log_prob, rtol=1e-5)


@pytest.mark.parametrize("filters", [f for f in FILTERS if "repetition_penalty" not in f], ids=str)
def test_candidates_are_those_of_the_loop_with_their_probabilities(filters):
    scores = np.random.default_rng(9).normal(scale=2.0, size=(5, 13)).astype("float32")
    token_ids, log_prob = (part.numpy() for part in candidates(tf.constant(scores), **filters))
    for row in range(5):
        got = np.zeros(13)
        got[token_ids[row]] = np.exp(log_prob[row])
        np.testing.assert_allclose(got / got.sum(), filtered_oracle(scores[row], **filters), atol=1e-6)


def test_two_tokens_of_a_text_are_drawn_independently():
    many = Prompted(tf.zeros((DRAWS, 5)), tf.zeros(DRAWS))
    decoded = sample(lambda _, state: (tf.zeros((DRAWS, 5)), state), many, end_id=99, max_tokens=2, seed=3)
    first, second = decoded.token_ids.numpy().T
    assert_drawn_from(5 * first + second, np.full(25, 1 / 25))


def test_the_same_seed_gives_the_same_text_and_another_seed_another():
    np.testing.assert_array_equal(draw(seed=7), draw(seed=7))
    np.testing.assert_array_equal(draw(seed=7), draw(seed=tf.constant(7)))
    texts = {draw(seed=seed).tobytes() for seed in (7, 8, -1, 2**40)}
    assert len(texts) == 4


@pytest.mark.parametrize("filters", [{"top_k": 1}, {"temperature": 1e-6}, {"temperature": 1e-40}, {"top_p": 1e-9}])
def test_the_narrowest_filter_is_greedy(filters):
    expected = greedy(MODEL.step, MODEL.prompt(PROMPTS, ROOM), end_id=END, max_tokens=MAX_TOKENS).token_ids
    np.testing.assert_array_equal(draw(**filters), expected)


@pytest.mark.parametrize("filters", [{"top_k": VOCAB_SIZE}, {"top_k": 99}, {"top_p": 1.0}, {"min_p": 1e-30}])
def test_a_filter_that_lets_everything_through_changes_nothing(filters):
    np.testing.assert_array_equal(draw(**filters), draw())


def test_among_equals_a_filter_keeps_no_more_than_it_says():
    kept = candidates(tf.zeros((1, 5)), top_k=2)
    assert kept.token_ids.numpy().tolist() == [[0, 1]]


@pytest.mark.parametrize("with_prompt", [True, False])
def test_the_penalty_counts_every_token_that_the_row_has(with_prompt):
    limits = {"end_id": 99, "max_tokens": MAX_TOKENS, "seed": 1, "temperature": 1e-6, "repetition_penalty": 1.7}
    longest = max(map(len, PROMPTS))
    padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in PROMPTS]
    prompted = MODEL.prompt(PROMPTS, ROOM)
    decoded = sample(MODEL.step, prompted, prompt_ids=tf.constant(padded) if with_prompt else None, **limits)
    for row, prompt in enumerate(PROMPTS):
        tokens = []
        for _ in range(MAX_TOKENS):
            scores = MODEL.logits([*prompt, *tokens])
            seen = {*tokens, *(prompt if with_prompt else ())}
            for token in seen:
                scores[token] = scores[token] / 1.7 if scores[token] > 0 else scores[token] * 1.7
            tokens.append(int(scores.argmax()))
        assert decoded.token_ids[row].numpy().tolist() == tokens
    assert not np.array_equal(draw(end_id=99, temperature=1e-6), decoded.token_ids), "the penalty has to matter here"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": 0.0}, r"temperature=0.0 must be finite and above 0. Use .* or `greedy`"),
        ({"temperature": math.nan}, "temperature=nan must be finite and above 0"),
        ({"temperature": math.inf}, "temperature=inf must be finite and above 0"),
        ({"top_k": 0}, "top_k=0 must be a whole number of at least 1"),
        ({"top_p": 0.0}, r"top_p=0.0 must be above 0 and at most 1. Use top_p=None to switch it off"),
        ({"top_p": 1.2}, r"top_p=1.2 must be above 0 and at most 1"),
        ({"min_p": -0.1}, r"min_p=-0.1 must be above 0 and at most 1"),
        ({"repetition_penalty": 0.0}, r"repetition_penalty=0.0 must be finite and above 0. Use .*=1.2"),
        ({"seed": 1.5}, r"seed=1.5 must be a whole number .* Use for example seed=7"),
        ({"seed": 2**70}, r"must be a whole number of at most 9223372036854775807"),
    ],
)
def test_filters_that_make_no_sense_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        draw(**wrong)
