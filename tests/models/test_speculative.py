"""Speculative decoding: the target's greedy tokens, for any draft, in as few calls as the rounds say."""

import numpy as np
import pytest
import tensorflow as tf
from remembering import Remembering, greedy_oracle, kept

from keras_transformer.models.decoding import greedy, speculative

VOCAB_SIZE, END, MAX_TOKENS = 7, 3, 13
PROMPTS = [[5], [2, 1, 4, 1], [6, 6], [4, 5, 2]]
TARGET = Remembering(VOCAB_SIZE, seed=4)


def near(noise):
    """A draft that agrees with the target often; never, with much noise."""
    draft = Remembering(VOCAB_SIZE, seed=4)
    draft.output = draft.output + noise * np.random.default_rng(6).normal(size=draft.output.shape).astype("float32")
    return draft


def rounds_oracle(draft, prompt, num_drafted):
    """How many rounds algorithm 1 of Leviathan et al. 2023 takes for one row."""
    wanted = greedy_oracle(TARGET, prompt, END, MAX_TOKENS)
    have, rounds = 1, 0
    while have < len(wanted):
        proposed = [*prompt, *wanted[:have]]
        for _ in range(num_drafted):
            proposed.append(int(np.argmax(draft.log_probs(proposed))))
        right = 0
        while (
            right < num_drafted and proposed[len(prompt) : len(prompt) + have + right + 1] == wanted[: have + right + 1]
        ):
            right += 1
        have, rounds = have + right + 1, rounds + 1
    return rounds


def decode(draft, prompts, num_drafted, end_id=END):
    room = max(map(len, prompts)) + MAX_TOKENS + num_drafted
    draft_prompted, target_prompted = draft.prompt(prompts, room), TARGET.prompt(prompts, room)
    return speculative(
        draft.step,
        draft_prompted,
        TARGET.extend,
        target_prompted,
        end_id=end_id,
        max_tokens=MAX_TOKENS,
        num_drafted=num_drafted,
    )


@pytest.mark.parametrize("num_drafted", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 0.5, 20.0])
def test_the_tokens_are_the_targets_and_the_calls_those_of_the_slowest_row(noise, num_drafted):
    draft = near(noise)
    tokens, calls = decode(draft, PROMPTS, num_drafted)
    expected = greedy(TARGET.step, TARGET.prompt(PROMPTS, 20), end_id=END, max_tokens=MAX_TOKENS)
    np.testing.assert_array_equal(tokens.token_ids, expected.token_ids)
    np.testing.assert_allclose(tokens.log_prob, expected.log_prob, rtol=1e-5)
    assert [kept(row, END) for row in tokens.token_ids.numpy()] == [
        greedy_oracle(TARGET, prompt, END, MAX_TOKENS) for prompt in PROMPTS
    ]
    assert int(calls) == max(rounds_oracle(draft, prompt, num_drafted) for prompt in PROMPTS)


def test_one_row_alone_takes_its_own_rounds():
    for prompt in PROMPTS:
        assert int(decode(near(0.5), [prompt], 3).target_calls) == rounds_oracle(near(0.5), prompt, 3)


def test_a_draft_that_is_always_right_needs_a_call_for_each_round_of_tokens():
    for num_drafted in (1, 3, 4):
        calls = decode(near(0.0), PROMPTS[:1], num_drafted, end_id=VOCAB_SIZE + 1).target_calls
        assert int(calls) == -(-(MAX_TOKENS - 1) // (num_drafted + 1))


def test_a_state_that_can_not_be_set_back_is_refused():
    prompted = TARGET.prompt([[5]], 20)
    with pytest.raises(TypeError, match=r"draft_prompted.state is a tuple without a position.* a field position"):
        speculative(
            TARGET.step,
            prompted._replace(state=(tf.zeros((1, 3)),)),
            TARGET.extend,
            prompted,
            end_id=END,
            max_tokens=3,
        )


def test_proposing_nothing_is_refused():
    with pytest.raises(ValueError, match="num_drafted=0 must be a whole number of at least 1"):
        decode(TARGET, PROMPTS, 0)
