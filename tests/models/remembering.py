"""A language model for the tests of decoding: it remembers every token, weaker the older, and can be set back.

Its state is like that of a real decoder: a cache with room, in which entries at or after the position are garbage
(NaN at first). Beyond its room it answers NaN. It never likes id 0, which is padding.
`log_probs` is the same model once more, in numpy and float64, as a loop over whole texts.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

FADING = 0.7


class State(NamedTuple):
    position: tf.Tensor  # (B,) int32
    cache: tuple[tf.Tensor, ...]  # one of (B, S, D)


class Prompted(NamedTuple):
    logits: tf.Tensor
    state: State


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None)),
        tf.TensorSpec((None, None)),
        tf.TensorSpec((None,)),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None, None, None)),
    ],
    autograph=False,
)
def one_step(embedding, output, bias, token_ids, position, cache):
    """Logits (B, V) and the new cache. One graph for all sizes: eager code would take most of the tests' time."""
    room = tf.shape(cache)[1]
    place = tf.expand_dims(tf.range(room), 0)  # (1, S)
    here = tf.equal(place, tf.expand_dims(position, 1))  # (B, S)
    new = tf.expand_dims(tf.gather(embedding, token_ids), 1)
    cache = tf.where(tf.expand_dims(here, -1), new, cache)
    age = tf.expand_dims(position, 1) - place
    weight = tf.pow(FADING, tf.cast(tf.maximum(age, 0), tf.float32))
    read = tf.where(tf.expand_dims(age >= 0, -1), tf.expand_dims(weight, -1) * cache, 0.0)
    logits = tf.matmul(tf.tanh(tf.reduce_sum(read, axis=1)), output) + bias
    return tf.where(tf.expand_dims(position < room, 1), logits, np.nan), cache


class Remembering:
    def __init__(self, vocab_size, seed, sharpness=3.0, width=5):
        random = np.random.default_rng(seed)
        self.embedding = random.normal(size=(vocab_size, width)).astype("float32")
        self.output = (sharpness * random.normal(size=(width, vocab_size))).astype("float32")
        self.bias = np.array([-40.0] + [0.0] * (vocab_size - 1), "float32")
        self.steps = 0

    def prompt(self, prompts, room):
        """Lists of ids of any lengths -> logits after each one's last id, and the state."""
        rows = [[*ids, *[0] * (max(map(len, prompts)) - len(ids))] for ids in prompts]
        nothing = tf.fill((len(rows), room, self.embedding.shape[1]), np.nan)
        state = State(tf.zeros(len(rows), tf.int32), (nothing,))
        logits, state = self.extend(tf.constant(rows, tf.int32), state)
        lengths = tf.constant([len(ids) for ids in prompts], tf.int32)
        self.steps = 0
        return Prompted(tf.gather(logits, lengths - 1, batch_dims=1), state._replace(position=lengths))

    def extend(self, token_ids, state):
        logits = []
        for column in range(token_ids.shape[1]):
            one, state = self.step(token_ids[:, column], state)
            logits.append(one)
        return tf.stack(logits, axis=1), state

    def step(self, token_ids, state):
        self.steps += 1
        (cache,) = state.cache
        logits, cache = one_step(self.embedding, self.output, self.bias, token_ids, state.position, cache)
        return logits, State(state.position + 1, (cache,))

    def logits(self, token_ids):
        """Scores of the next id after `token_ids`."""
        memory = np.zeros(self.embedding.shape[1])
        for age, token in enumerate(reversed(token_ids)):
            memory += FADING**age * self.embedding[token].astype(float)
        return np.array([np.tanh(memory) @ column for column in self.output.T.astype(float)]) + self.bias

    def log_probs(self, token_ids):
        """log p(next | token_ids) for each id of the vocabulary."""
        logits = self.logits(token_ids)
        return logits - logits.max() - math.log(sum(np.exp(logits - logits.max())))


def kept(row, end_id):
    """The ids of a decoded row up to its end; the rest has to be padding."""
    row = [int(token) for token in row]
    length = row.index(end_id) + 1 if end_id in row else len(row)
    assert row[length:] == [0] * (len(row) - length)
    assert 0 not in row[:length]
    return row[:length]


def total_log_prob(model, prompt, tokens):
    return sum(model.log_probs([*prompt, *tokens[:place]])[token] for place, token in enumerate(tokens))


def greedy_oracle(model, prompt, end_id, max_tokens):
    tokens = []
    while len(tokens) < max_tokens and end_id not in tokens:
        tokens.append(int(np.argmax(model.log_probs([*prompt, *tokens]))))
    return tokens
