"""Our own models through each way of decoding: the tokens and numbers of runs over whole texts, without a cache."""

from functools import cached_property

import numpy as np
import pytest
import tensorflow as tf
from remembering import greedy_oracle, kept, total_log_prob
from test_beam_search import assert_same, beam_oracle
from weights import randomise

from keras_transformer.models import CausalLM, Seq2Seq
from keras_transformer.models.branches import follow
from keras_transformer.models.decoding import beam, diverse_beam, greedy, sample, speculative

VOCAB, START, MAX_TOKENS, DRAFTED = 13, 2, 7, 2
SIZE = {"model_dim": 12, "num_heads": 6, "inner_dim": 11, "dropout": 0.0}
IDS = np.array([[5, 12, 8, 1], [7, 0, 0, 0], [11, 4, 0, 0], [9, 6, 10, 0]], "int32")


class Whole:
    """A model without its cache, asked for log p of the next id after a text: what the oracles of decoding take."""

    def __init__(self, run, bias, source=None):
        self.run, self.bias, self.source = run, bias, source

    def log_probs(self, tokens):
        ids = np.array([tokens], "int32")
        inputs = ids if self.source is None else {"source_ids": self.source[None], "target_ids": ids}
        logits = self.run(inputs)[0, -1].numpy().astype("float64") + self.bias
        return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


class Generating:
    """A model, what starts each row of it, and `Whole` of each row.

    A bias takes away what random weights say whatever they read, so that texts differ, and padding is never written.
    """

    def __init__(self, kind, num_layers, seed, scale=0.6, **options):
        self.model = randomise(kind(VOCAB, num_layers, **SIZE, **options), seed=seed, scale=scale)
        self.translates = kind is Seq2Seq
        read = np.random.default_rng(seed).integers(1, VOCAB, (31, 5))
        inputs = {"source_ids": read, "target_ids": read[::-1]} if self.translates else read
        self.bias = -np.mean(self.model(inputs), axis=(0, 1))
        self.bias[0] = -1e4
        self.prompts = [[START] if self.translates else ids[ids != 0].tolist() for ids in IDS]

    @cached_property
    def rows(self):
        spec = tf.TensorSpec((None, None), tf.int32)
        if self.translates:
            spec = {"source_ids": spec, "target_ids": spec}
        run = tf.function(lambda inputs: self.model(inputs), input_signature=[spec])
        return [Whole(run, self.bias, ids if self.translates else None) for ids in IDS]

    @cached_property
    def limits(self):
        return {"end_id": self.end_id(), "max_tokens": MAX_TOKENS}

    def end_id(self):
        """The id with which rows end at the most different places."""
        endless = [greedy_oracle(*pair, VOCAB, MAX_TOKENS) for pair in zip(self.rows, self.prompts, strict=True)]
        return max(range(1, VOCAB), key=lambda end: len({[*row, end].index(end) for row in endless}))

    def prompt(self, ids, more=MAX_TOKENS):
        room = more + (1 if self.translates else IDS.shape[1])
        prompted = self.model.prompt(ids, room, START) if self.translates else self.model.prompt(ids, room)
        return prompted._replace(logits=prompted.logits + self.bias)

    def extend(self, token_ids, state):
        logits, state = self.model.extend(token_ids, state)
        return logits + self.bias, state

    def step(self, token_ids, state):
        logits, state = self.model.step(token_ids, state)
        return logits + self.bias, state

    def fork(self, state, width):
        return self.model.branch(state, width, MAX_TOKENS - 1)

    def step_branches(self, token_ids, state):
        logits, state = self.model.step_branches(token_ids, state)
        return logits + self.bias, state


def run(function):
    """In a graph of any batch and any length, as an exported one."""
    return tf.function(function, input_signature=[tf.TensorSpec((None, None), tf.int32)], autograph=False)(IDS)


MODELS = {
    "language model": lambda **more: Generating(CausalLM, positions="rotary", num_key_value_heads=2, **more),
    "gpt2": lambda **more: Generating(CausalLM, max_length=19, **more),
    "linear biases": lambda **more: Generating(CausalLM, positions="alibi", **more),
    "translator": lambda **more: Generating(Seq2Seq, **more),
}


@pytest.fixture(scope="module", params=MODELS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def ours(kind):
    made = MODELS[kind](num_layers=2, seed=6)
    assert made.limits["end_id"] > 0  # looked for here: in a graph nothing can be
    return made


def test_greedy_tokens_are_those_of_whole_runs_for_each_ragged_row_alone(ours):
    decoded = run(lambda ids: greedy(ours.step, ours.prompt(ids), **ours.limits))
    expected = [greedy_oracle(*pair, **ours.limits) for pair in zip(ours.rows, ours.prompts, strict=True)]
    assert [kept(row, ours.limits["end_id"]) for row in decoded.token_ids.numpy()] == expected
    assert len({len(tokens) for tokens in expected}) > 1, "rows have to end at different places"
    scores = [total_log_prob(*each) for each in zip(ours.rows, ours.prompts, expected, strict=True)]
    np.testing.assert_allclose(decoded.log_prob, scores, atol=1e-4)


def test_beams_are_those_of_whole_runs(ours):
    beams = run(lambda ids: beam(ours.step, ours.prompt(ids), width=3, num_best=3, **ours.limits))
    for row, (whole, prompt) in enumerate(zip(ours.rows, ours.prompts, strict=True)):
        expected = beam_oracle(whole, prompt, **ours.limits, width=3, alpha=0.6, num_best=3)
        assert_same(beams, row, expected, ours.limits["end_id"])


@pytest.mark.parametrize("spare", [0, 3])
def test_branches_of_one_cache_find_the_beams_of_whole_runs(ours, spare):
    """`spare` places of the prompt's room that nothing was written to: no branch may look at them."""

    def search(ids):
        moving = {"fork": ours.fork, "reorder": follow}
        return beam(ours.step_branches, ours.prompt(ids, spare), width=3, num_best=3, **moving, **ours.limits)

    found = run(search)
    for row, (whole, prompt) in enumerate(zip(ours.rows, ours.prompts, strict=True)):
        expected = beam_oracle(whole, prompt, **ours.limits, width=3, alpha=0.6, num_best=3)
        assert_same(found, row, expected, ours.limits["end_id"])


def test_branches_of_one_cache_find_diverse_beams(ours):
    """The ways to keep a search's past agree; `test_beam_search` has the loop for what the groups choose."""
    groups = {"width": 4, "num_groups": 2, "diversity": 0.7, **ours.limits}
    moving = {"fork": ours.fork, "reorder": follow}
    found = run(lambda ids: diverse_beam(ours.step_branches, ours.prompt(ids, 0), **moving, **groups))
    wanted = run(lambda ids: diverse_beam(ours.step, ours.prompt(ids), **groups))
    np.testing.assert_array_equal(found.token_ids, wanted.token_ids)
    np.testing.assert_allclose(found.log_prob, wanted.log_prob, atol=1e-4)


def test_a_smaller_model_of_its_kind_drafts_and_the_tokens_stay_the_same(kind, ours):
    want = greedy(ours.step, ours.prompt(IDS), **ours.limits)
    for draft in (MODELS[kind](num_layers=1, seed=8), ours):

        def by_draft(ids, draft=draft):
            room = MAX_TOKENS + DRAFTED
            sides = (draft.step, draft.prompt(ids, room), ours.extend, ours.prompt(ids, room))
            return speculative(*sides, num_drafted=DRAFTED, **ours.limits)

        found = run(by_draft)
        np.testing.assert_array_equal(found.decoded.token_ids, want.token_ids)
        np.testing.assert_allclose(found.decoded.log_prob, want.log_prob, atol=1e-4)
    longest = max(len(kept(row, ours.limits["end_id"])) for row in want.token_ids.numpy())
    assert int(found.target_calls) == -(-(longest - 1) // (DRAFTED + 1)), "as its own draft it is always right"


def test_drawn_texts_are_the_seeds_and_have_the_log_prob_of_whole_runs(ours):
    eager, graph, other = (
        each(lambda ids, seed=seed: sample(ours.step, ours.prompt(ids), seed=seed, top_p=0.9, **ours.limits))
        for each, seed in ((lambda function: function(IDS), 5), (run, 5), (run, 6))
    )
    np.testing.assert_array_equal(eager.token_ids, graph.token_ids)
    assert not np.array_equal(graph.token_ids, other.token_ids)
    texts = [kept(row, ours.limits["end_id"]) for row in graph.token_ids.numpy()]
    scores = [total_log_prob(*each) for each in zip(ours.rows, ours.prompts, texts, strict=True)]
    np.testing.assert_allclose(graph.log_prob, scores, atol=1e-4)
