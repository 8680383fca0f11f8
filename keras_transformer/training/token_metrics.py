"""Scores of token predictions for `compile(metrics=...)`: exact over all tokens of an epoch, padding left out."""

from typing import Any

import keras
from keras import ops

from keras_transformer.layers.masks import Tensor
from keras_transformer.training.token_losses import token_cross_entropy, token_weights


class _TokenMean(keras.metrics.Metric):
    """sum(weight * value) / sum(weight) over the real tokens of all batches, not a mean of the batches' means."""

    def __init__(self, name: str, dtype: Any = "float32") -> None:
        super().__init__(name=name, dtype=dtype)
        self.total = self.add_weight(name="total", initializer="zeros", dtype="float32")
        self.count = self.add_weight(name="count", initializer="zeros", dtype="float32")

    def values(self, targets: Tensor, logits: Tensor) -> Tensor:
        """(B, T) float32; what stands at padding doesn't matter."""
        raise NotImplementedError

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> None:
        """Add a batch."""
        targets, logits = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        weights = token_weights(targets, sample_weight)
        self.total.assign_add(ops.sum(weights * self.values(targets, logits)))
        self.count.assign_add(ops.sum(weights))

    def result(self) -> Tensor:
        """The mean so far, 0 where there was no token."""
        return ops.divide_no_nan(self.total, self.count)

    def get_config(self) -> dict[str, Any]:
        """All arguments."""
        return {"name": self.name}


@keras.saving.register_keras_serializable("keras_transformer")
class TokenAccuracy(_TokenMean):
    """Share of real tokens whose target has the largest logit.

    Targets (B, T), 0 = padding, -1 = unlabelled; logits (B, T, V).

    Args:
        name: in logs.
    """

    def __init__(self, name: str = "token_accuracy") -> None:
        super().__init__(name=name)

    def values(self, targets: Tensor, logits: Tensor) -> Tensor:
        """1.0 where the largest logit is the target's."""
        return ops.cast(ops.equal(ops.argmax(logits, axis=-1), ops.cast(targets, "int32")), "float32")


@keras.saving.register_keras_serializable("keras_transformer")
class TokenCrossEntropy(_TokenMean):
    """Mean of -log p[target] over real tokens, without smoothing; its exponential is the perplexity a token.

    Args:
        name: in logs.
    """

    def __init__(self, name: str = "token_cross_entropy") -> None:
        super().__init__(name=name)

    def values(self, targets: Tensor, logits: Tensor) -> Tensor:
        """-log p[target]."""
        return token_cross_entropy(targets, logits)
