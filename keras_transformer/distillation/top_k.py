"""Soft targets over the k likeliest classes and one class "rest": what is recorded of a large vocabulary."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import keras
from keras import ops

from keras_transformer.checks import positive
from keras_transformer.distillation.losses import kl_divergence
from keras_transformer.distillation.outputs import Outputs
from keras_transformer.distillation.terms import Loss, needing
from keras_transformer.layers.masks import Tensor

TOP_K_IDS = "top_k/ids"
"""The tap of a teacher recorded by top k: (..., k) int32, the classes that its logits (..., k) belong to."""


class TopK(NamedTuple):
    """The k largest logits of each row or token."""

    logits: Tensor  # (..., k) float32, the largest first
    ids: Tensor  # (..., k) int32
    rests: dict[str, Tensor]  # of each temperature, by its tap's name: (...) float32


def rest_tap(temperature: float) -> str:
    """The name of the tap that holds the rest's mass at `temperature`."""
    return f"top_k/rest/{float(temperature)}"


def keep_top_k(logits: Tensor, count: int, temperatures: Sequence[float]) -> TopK:
    """Cut logits (..., V) to the `count` largest and the log of the others' mass at each temperature.

    rest_T = log sum_{j not kept} exp(z_j / T), in float32.
    """
    logits = ops.cast(logits, "float32")
    kept, ids = ops.top_k(logits, count)
    rests = {rest_tap(temperature): rest_mass(logits / temperature, ids) for temperature in temperatures}
    return TopK(kept, ops.cast(ids, "int32"), rests)


def top_k_soft_targets(temperature: float) -> Loss:
    """T^2 KL over k + 1 classes: the k that the teacher's cache kept, and all others as one.

    With K the kept classes, z the teacher's logits and s the student's, p_i = exp(z_i / T) / Z for i in K and
    p_rest = sum_{j not in K} exp(z_j / T) / Z, q likewise of s, this is
    T^2 (sum_{i in K} p_i log(p_i / q_i) + p_rest log(p_rest / q_rest)). Hinton et al. 2015, section 2, on merged
    classes. Merging classes never raises a Kullback-Leibler divergence (the data-processing inequality; Cover and
    Thomas 2006, theorem 2.7.1, the log-sum inequality), so this is a lower bound of `soft_targets(temperature)`;
    what it lacks is p_rest times the divergence among the others. It is 0 for a student equal to its teacher.

    Args:
        temperature: T, above 0; one of those that `cache_teacher(..., top_k=k, temperatures=[...])` recorded,
            since the rest's mass at one temperature doesn't tell that at another.

    Returns:
        A loss for the teacher that `cache_teacher(..., top_k=k)` gives; its value has shape (B,) for logits
        (B, V) and (B, T) for (B, T, V), float32.

    Raises:
        ValueError: if T isn't a number above 0.
    """
    if isinstance(temperature, keras.Variable):
        raise ValueError(
            "temperature is a keras.Variable: the rest's mass is recorded at fixed temperatures. "
            "Give a number, or distil from the teacher itself."
        )
    positive("temperature", temperature)
    rest = rest_tap(temperature)

    @needing(teacher_taps=[TOP_K_IDS, rest])
    def loss(labels: Tensor, student: Outputs, teacher: Outputs) -> Tensor:
        target = ops.cast(teacher.logits, "float32") / temperature  # (..., k)
        target = ops.concatenate([target, ops.expand_dims(teacher.taps[rest], -1)], axis=-1)  # (..., k + 1)
        logits, ids = ops.cast(student.logits, "float32") / temperature, teacher.taps[TOP_K_IDS]
        guess = ops.take_along_axis(logits, ids, axis=-1)
        guess = ops.concatenate([guess, ops.expand_dims(rest_mass(logits, ids), -1)], axis=-1)
        return temperature**2 * kl_divergence(target, guess)

    return loss


def rest_mass(logits: Tensor, ids: Tensor) -> Tensor:
    """log sum_{j not among ids} exp(logits_j): (..., V) float32 and (..., k) int32 -> (...) float32.

    Summed over the others themselves: the difference 1 - sum of the kept has no digits left where they hold nearly
    all of the mass.
    """
    classes, count = logits.shape[-1], ids.shape[-1]
    flat = ops.reshape(logits, (-1, classes))  # (N, V)
    rows = ops.repeat(ops.arange(ops.shape(flat)[0], dtype="int32"), count)  # (N k,)
    places = ops.stack([rows, ops.cast(ops.reshape(ids, (-1,)), "int32")], axis=-1)  # (N k, 2)
    # Any gradient into these entries would be lost, and is none: exp(-inf) is 0 whatever they were.
    others = ops.scatter_update(flat, places, ops.full(ops.shape(rows), -math.inf, dtype="float32"))
    return ops.reshape(ops.logsumexp(others, axis=-1), ops.shape(ids)[:-1])
