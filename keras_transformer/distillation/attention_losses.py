"""Losses on self-attention: what each real token looks at, in the student and in the teacher.

Each gives one value a query token, (B, T), so that the Distiller leaves padding out; among the keys only real
ones count here. The mean over the pairs of layers is taken where the papers take the sum.

Where both sides have as many heads, head h is compared with head h. Where they differ, the mean over the heads of
each side is compared: heads have no order, so any way to group the teacher's would be arbitrary, and the mean of
attention distributions is one again. Zagoruyko & Komodakis 2017, section 3.1, compare maps of unlike numbers of
channels by such sums; Abnar & Zuidema 2020 take the mean over heads as the layer's attention.

The layers are those of an encoder: each query may attend to each real key, queries and keys are the same tokens.
"""

from collections.abc import Callable, Iterable

from keras import ops

from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.tap_pairs import TapPair, checked_pairs, mean_over_pairs, paired
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.distillation.token_scores import (
    divergence_over_keys,
    mean_over_keys,
    real_keys,
    real_queries,
    scaled_scores,
)
from keras_transformer.distillation.weighing import shared_mask
from keras_transformer.layers.masks import Tensor
from keras_transformer.layers.scores import MASKED_SCORE


def attention_maps(pairs: Iterable[TapPair]) -> Loss:
    """mean_h mean_s (A_s - A_t)^2 of attention weights for each query: TinyBERT, Jiao et al. 2020, eq. 7.

    On the weights after the softmax, which lie between 0 and 1; the paper found the scores before it to learn
    faster: `attention_scores`.

    Args:
        pairs: (student tap, teacher tap) names of weights (B, H, T, T), such as
            ("encoder/0/attention", "encoder/2/attention"). Head counts may differ: see the top of this module.

    Returns:
        A loss that gives (B, T) float32, exactly 0 where both sides are equal.

    Raises:
        ValueError: for no pairs; the loss, if a tap is missing or not (B, H, T, T) of one T.
    """
    checked = checked_pairs(pairs)

    @needing(student_taps=[ours for ours, _ in checked], teacher_taps=[theirs for _, theirs in checked])
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        mask = shared_mask(student, teacher)
        values = []
        for pair in checked:
            ours, theirs = paired(pair, student.taps, teacher.taps)
            _check_maps(pair, ours, theirs)
            values.append(_squared_difference(ops.cast(ours, "float32"), ops.cast(theirs, "float32"), mask))
        return mean_over_pairs(checked, values)

    return loss


def attention_scores(layers: Iterable[TapPair]) -> Loss:
    """mean_h mean_s (a_s - a_t)^2 of the scores a = Q K^T / sqrt(d) before the softmax: TinyBERT, eq. 7.

    What Jiao et al. 2020, section 3.1, fit: the scores, not the weights.

    Args:
        layers: (student layer, teacher layer) paths such as ("encoder/0", "encoder/2"), below which both models
            have the taps "query" and "key", (B, H, T, d). H and d may differ: see the top of this module.

    Returns and raises: as `attention_maps`.
    """
    return _on_scores(layers, _squared_difference)


def attention_divergence(layers: Iterable[TapPair]) -> Loss:
    """mean_h KL(A_t || A_s) for each query, A = softmax(Q K^T / sqrt(d)): MiniLM, Wang et al. 2020, eq. 3.

    Through the scores, not the weights: no logarithm of a weight that was rounded to 0. The paper takes one pair:
    the last layer of each model.

    Args: as `attention_scores`.

    Returns and raises: as `attention_maps`.
    """
    return _on_scores(layers, _divergence)


def _on_scores(layers: Iterable[TapPair], compare: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Loss:
    checked = checked_pairs(layers)

    @needing(
        student_taps=[f"{ours}/{part}" for ours, _ in checked for part in ("query", "key")],
        teacher_taps=[f"{theirs}/{part}" for _, theirs in checked for part in ("query", "key")],
    )
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        mask = shared_mask(student, teacher)
        values = []
        for pair in checked:
            (our_query, their_query), (our_key, their_key) = (
                paired((f"{pair[0]}/{part}", f"{pair[1]}/{part}"), student.taps, teacher.taps)
                for part in ("query", "key")
            )
            ours, theirs = scaled_scores(our_query, our_key, mask), scaled_scores(their_query, their_key, mask)
            _check_maps(pair, ours, theirs)
            values.append(compare(ours, theirs, mask))
        return mean_over_pairs(checked, values)

    return loss


def _squared_difference(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, T, S) of each side -> (B, T)."""
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (ops.mean(side, axis=1, keepdims=True) for side in (student, teacher))
    difference = student - teacher
    if mask is not None:  # before the square: what it makes of a large number has no gradient to leave out
        both = ops.logical_and(real_keys(mask), real_queries(mask))
        difference = ops.where(both, difference, 0.0)
    return ops.mean(mean_over_keys(ops.square(difference), mask), axis=1)


def _divergence(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, T, S) scores of each side -> (B, T)."""
    if student.shape[1] != teacher.shape[1]:
        student, teacher = (_mean_distribution(side, mask) for side in (student, teacher))
    return ops.mean(divergence_over_keys(teacher, student, mask), axis=1)


def _mean_distribution(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Logarithm, up to a constant, of the mean over heads of the attention: (B, H, T, S) -> (B, 1, T, S)."""
    if mask is not None:
        scores = ops.where(real_keys(mask), scores, MASKED_SCORE)
    return ops.logsumexp(ops.log_softmax(scores, axis=-1), axis=1, keepdims=True)


def _check_maps(pair: TapPair, student: Tensor, teacher: Tensor) -> None:
    ours, theirs = tuple(student.shape), tuple(teacher.shape)
    lengths = zip(ours[2:], theirs[2:], strict=False)
    if len(ours) != 4 or len(theirs) != 4 or any(a != b and None not in (a, b) for a, b in lengths):
        raise ValueError(
            f"The pair {pair} can't be compared: the student's attention has shape {ours} and the teacher's "
            f"{theirs}, and both must be (B, H, T, T) with one T. Name taps of that shape, of models that see the "
            "same tokens."
        )
