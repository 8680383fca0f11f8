"""The loss of models that give a distribution over the vocabulary at each place of a text."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_transformer.checks import fraction, positive
from keras_transformer.layers.masks import Tensor


def real_tokens(targets: Tensor) -> Tensor:
    """True where a target counts: not padding (0), not unlabelled (-1). Same shape as `targets`."""
    return ops.greater(targets, 0)


def token_cross_entropy(targets: Tensor, logits: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """(1 - e) * -log p[target] + e * mean over the vocabulary of -log p; one value a token, computed in float32.

    Szegedy et al. 2016, section 7, with the uniform distribution as u(k); Vaswani et al. 2017, section 5.4, use 0.1.

    Args:
        targets: (B, T) integers, also as floats that hold them; 0 = padding, -1 = unlabelled.
        logits: (B, T, V), any float dtype.
        label_smoothing: e, at least 0 and below 1.

    Returns:
        (B, T) float32, 0 where the target is no real token.

    Raises:
        ValueError: if `label_smoothing` is out of range, or the shapes don't belong together.
    """
    fraction("label_smoothing", label_smoothing)
    _check_shapes(tuple(targets.shape), tuple(logits.shape))
    real = real_tokens(targets)
    index = ops.cast(ops.where(real, targets, ops.zeros_like(targets)), "int32")
    values = _cross_entropy(index, label_smoothing)(ops.cast(logits, "float32"))
    return ops.where(real, values, 0.0)


def _cross_entropy(index: Tensor, smoothing: float) -> Callable[[Tensor], Tensor]:
    """Logits (B, T, V) float32 -> (B, T), with the gradient by hand: p - (1 - e) one_hot(target) - e / V.

    All of p but its sum is known from the value, and of a large vocabulary each pass over it counts.
    """

    @ops.custom_gradient
    def values(logits: Tensor) -> tuple[Tensor, Callable[..., Tensor]]:
        # From the largest one down, so that differences of logits of 10,000 keep their digits.
        logits = logits - ops.max(logits, axis=-1, keepdims=True)
        shares = ops.exp(logits)
        total = ops.sum(shares, axis=-1)
        chosen = ops.squeeze(ops.take_along_axis(logits, ops.expand_dims(index, -1), axis=-1), -1)  # (B, T)
        expected = chosen
        if smoothing:
            expected = (1.0 - smoothing) * chosen + smoothing * ops.mean(logits, axis=-1)

        def gradient(*given: Tensor, upstream: Tensor | None = None) -> Tensor:
            weight = given[0] if upstream is None else upstream
            each = shares * ops.expand_dims(weight / total, -1)
            if smoothing:
                each = each - ops.expand_dims(weight * smoothing / logits.shape[-1], -1)
            return _less_at(each, index, (1.0 - smoothing) * weight)

        return ops.log(total) - expected, gradient

    return values


def _less_at(values: Tensor, index: Tensor, less: Tensor) -> Tensor:
    """`values` (B, T, V), less so much (B, T) at place index (B, T) of each row."""
    flat = ops.reshape(values, (-1, values.shape[-1]))
    index, less = ops.reshape(index, (-1, 1)), ops.reshape(less, (-1, 1))
    places = ops.concatenate([ops.expand_dims(ops.arange(ops.shape(flat)[0], dtype="int32"), 1), index], axis=1)
    there = ops.take_along_axis(flat, index, axis=-1) - less
    return ops.reshape(ops.scatter_update(flat, places, ops.squeeze(there, 1)), ops.shape(values))


@keras.saving.register_keras_serializable("keras_transformer")
class MaskedCrossEntropy(keras.losses.Loss):
    """The mean of `token_cross_entropy` over real tokens, for `compile(loss=...)`.

    Each real token of a batch weighs the same, however the rows are filled up, and on the replicas of a
    MirroredStrategy it is the mean over the tokens of the whole batch. That is not yet the same over several batches:
    with `gradient_accumulation_steps` Keras takes the mean of the batches' gradients, so a token in a small batch
    would weigh more. Where that matters, give `tokens_per_step`, a constant: the loss is then sum / tokens_per_step,
    and tokens weigh the same whatever the split. Its value differs from batch to batch; `TokenCrossEntropy` as a
    metric tells the true mean. For accumulation over k batches of about N tokens give N.

    `fit(sample_weight=...)` of shape (B,) or (B, T) weighs the tokens: sum(w * loss) / sum(w).

    Args:
        label_smoothing: e of `token_cross_entropy`.
        tokens_per_step: None = divide by the (weighted) number of real tokens.
        name: in logs.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        tokens_per_step: float | None = None,
        name: str = "masked_cross_entropy",
    ) -> None:
        fraction("label_smoothing", label_smoothing)
        if tokens_per_step is not None:
            positive("tokens_per_step", tokens_per_step, example=4096)
        super().__init__(name=name, reduction="sum", dtype="float32")
        self.label_smoothing, self.tokens_per_step = label_smoothing, tokens_per_step

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """(B, T) values, unreduced."""
        return token_cross_entropy(y_true, y_pred, self.label_smoothing)

    def __call__(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """The scalar that `fit` minimises; on one replica out of many its share, and the shares add up."""
        targets, logits = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        values = self.call(targets, logits)
        weights = token_weights(targets, sample_weight)
        total = ops.sum(weights * values)
        if self.tokens_per_step is not None:
            return total / self.tokens_per_step
        return ops.divide_no_nan(total, ops.stop_gradient(_sum_over_replicas(ops.sum(weights))))

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {
            "label_smoothing": self.label_smoothing,
            "tokens_per_step": self.tokens_per_step,
            "name": self.name,
        }


def token_weights(targets: Tensor, sample_weight: Tensor | None) -> Tensor:
    """(B, T) float32: 1 at real tokens, times the weight of the row or the token; 0 elsewhere."""
    weights = ops.cast(real_tokens(targets), "float32")
    if sample_weight is None:
        return weights
    given = ops.cast(sample_weight, "float32")
    return weights * (ops.expand_dims(given, -1) if len(given.shape) == 1 else given)


def _sum_over_replicas(value: Tensor) -> Tensor:
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return value
    return context.all_reduce(tf.distribute.ReduceOp.SUM, value)


def _check_shapes(targets: tuple, logits: tuple) -> None:
    fits = len(logits) == len(targets) + 1 and all(
        ours is None or theirs is None or ours == theirs for ours, theirs in zip(targets, logits, strict=False)
    )
    if not fits:
        raise ValueError(
            f"targets of shape {targets} don't belong to logits of shape {logits}: one integer is needed for each "
            "place, (B, T) for (B, T, V). Give ids, not one-hot rows."
        )
