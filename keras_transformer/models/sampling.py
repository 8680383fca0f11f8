"""Draw each token from the model's distribution, or from the likelier part of it."""

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_transformer.checks import positive, positive_integer
from keras_transformer.models.token_loop import Decoded, Prompted, Step, Tensor, best_token, decode

LARGEST_SEED = 2**63 - 1
SMALLEST = float(np.finfo("float32").tiny)  # log(0) would be a noise of -inf, and anything smaller counts as 0


class Candidates(NamedTuple):
    """The ids that a token may become, likeliest first; K = top_k, or the whole vocabulary."""

    token_ids: Tensor  # (B, K) int32
    log_prob: Tensor  # (B, K) float32, softmax of the K scores at the temperature; -inf where a filter removes the id


def sample(
    step: Step,
    prompted: Prompted,
    *,
    end_id: int,
    max_tokens: int,
    seed: int | Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    prompt_ids: Tensor | None = None,
) -> Decoded:
    """Draw tokens until end_id or `max_tokens`. The same seed gives the same text.

    The order is: repetition penalty, temperature, top-k, top-p, min-p. `log_prob` is the model's own, as if
    nothing had been filtered, so that texts drawn in different ways can be compared.

    Args:
        step: see `Step`.
        prompted: logits (B, V) of the first token, and the state; the state needs room for max_tokens - 1 more.
        end_id: the id that ends a row.
        max_tokens: the most tokens a row gets, end_id included.
        seed: a whole number, or an integer tensor of shape (), which an exported graph can take as an input.
        temperature: scores are divided by it; above 0. Towards 0 this becomes greedy decoding.
        top_k: only the k likeliest ids (Fan et al. 2018, section 5.1).
        top_p: only the smallest set of likeliest ids whose probabilities add up to p or more (Holtzman et al.
            2020, section 3.1), after top-k.
        min_p: only ids at least this times as probable as the likeliest (Nguyen et al. 2024, section 3).
        repetition_penalty: a score of an id that the row already has is divided by this if it is above 0
            (Keskar et al. 2019, section 4.1), and multiplied if it is below, where dividing would do the reverse.
        prompt_ids: (B, S) ids, 0 = padding, that count as already there; None = only new tokens count.

    Raises:
        ValueError: if an argument is out of its range; the message names the range.
    """
    check_filters(temperature, top_k, top_p, min_p)
    positive("repetition_penalty", repetition_penalty, example=1.2)
    stream = _seed(seed)
    penalises = repetition_penalty != 1.0

    def choose(logits: Tensor, index: Tensor, seen: Any) -> tuple[Tensor, Any]:
        scores = penalised(logits, seen, repetition_penalty) if penalises else logits
        allowed = candidates(scores, temperature, top_k, top_p, min_p)
        noise = _gumbel_noise(tf.shape(logits), tf.stack([stream, tf.cast(index, tf.int64)]))  # (B, V)
        rank = best_token(allowed.log_prob + tf.gather(noise, allowed.token_ids, batch_dims=1))
        token = tf.gather(allowed.token_ids, rank, batch_dims=1)
        return token, tf.logical_or(seen, _one_hot(token, logits)) if penalises else seen

    seen = _ids_in(prompt_ids, prompted.logits) if penalises else ()
    return decode(step, prompted, choose, seen, end_id=end_id, max_tokens=max_tokens)


def penalised(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores (B, V) that are less likely where `seen` (B, V) is True: x / penalty if x > 0, else x * penalty."""
    return tf.where(seen, tf.where(logits > 0, logits / penalty, logits * penalty), logits)


def candidates(
    logits: Tensor,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Candidates:
    """The ids that the filters leave of scores (B, V), with their log-probabilities; the likeliest always stays."""
    size = logits.shape[-1]
    scores, token_ids = tf.math.top_k(logits, k=size if top_k is None else min(top_k, size))  # (B, K)
    # The highest is 0 before the division, so a tiny temperature gives -inf at worst, never NaN.
    log_prob = tf.nn.log_softmax((scores - scores[:, :1]) / max(temperature, SMALLEST))
    probability = tf.exp(log_prob)
    kept = tf.ones_like(log_prob, tf.bool)
    if top_p is not None and top_p < 1:
        kept = tf.cumsum(probability, axis=-1, exclusive=True) < top_p
    if min_p is not None:
        kept = tf.logical_and(kept, probability >= min_p * probability[:, :1])
    return Candidates(token_ids, tf.where(kept, log_prob, -np.inf))


def check_filters(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> None:
    """Raise ValueError unless each filter is in its range."""
    if not temperature > 0 or temperature == np.inf:
        raise ValueError(
            f"temperature={temperature!r} must be finite and above 0. Use for example temperature=1.0, "
            "or `greedy`, which is what a temperature of 0 would mean."
        )
    if top_k is not None:
        positive_integer("top_k", top_k)
    for name, value in (("top_p", top_p), ("min_p", min_p)):
        if value is not None and not 0 < value <= 1:
            raise ValueError(f"{name}={value!r} must be above 0 and at most 1. Use {name}=None to switch it off.")


def _seed(seed: Any) -> Tensor:
    """() int64."""
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        whole = abs(int(seed)) <= LARGEST_SEED
    else:
        whole = tf.is_tensor(seed) and seed.dtype.is_integer
    if not whole:
        raise ValueError(
            f"seed={seed!r} must be a whole number of at most {LARGEST_SEED}, or an integer tensor of shape (). "
            "Use for example seed=7."
        )
    return tf.reshape(tf.cast(seed, tf.int64), ())


def _gumbel_noise(shape: Tensor, seed: Tensor) -> Tensor:
    """-log(-log(u)): the argmax of log p + noise is a draw from p (Gumbel 1954)."""
    uniform = tf.random.stateless_uniform(shape, seed, minval=SMALLEST, maxval=1.0)
    return -tf.math.log(-tf.math.log(uniform))


def _one_hot(token_ids: Tensor, like: Tensor) -> Tensor:
    """(...) ids -> (..., V) bool."""
    return tf.equal(tf.expand_dims(token_ids, -1), tf.range(like.shape[-1]))


def _ids_in(prompt_ids: Tensor | None, logits: Tensor) -> Tensor:
    """(B, V) bool: which ids the prompt holds, but padding."""
    logits = tf.convert_to_tensor(logits)
    if prompt_ids is None:
        return tf.zeros_like(logits, tf.bool)
    prompt_ids = tf.cast(prompt_ids, tf.int32)
    count = tf.math.bincount(prompt_ids, minlength=logits.shape[-1], maxlength=logits.shape[-1], axis=-1)  # (B, V)
    return tf.logical_and(count > 0, tf.range(logits.shape[-1]) > 0)
