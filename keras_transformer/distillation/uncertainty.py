"""Weights of the terms that are learned with the student instead of chosen."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_transformer.distillation.terms import LossTerm
from keras_transformer.distillation.weighing import TermMean
from keras_transformer.layers.masks import Tensor


class UncertaintyWeighting(keras.layers.Layer):
    """loss = sum_k exp(-s_k) mean_k + s_k with learned s_k: Kendall, Gal and Cipolla 2018, section 3.2.

    It is twice their eq. 7, with s = log sigma^2, which they train too. (A cross-entropy has twice the weight in
    their eq. 10; here all terms are treated alike.) At the optimum exp(s_k) = mean_k: each term weighs one over its
    own mean, so a term's unit doesn't matter, and a term that is hard to lower counts less. Each s_k starts at
    -log(LossTerm.weight), so that training starts with the weights given.

    The Distiller steps the s_k with its optimizer, together with the student's weights; `save_weights` keeps them.
    Where a term counts nothing in a batch, as labels do in an unlabelled one, its s_k isn't in the loss either. The
    loss can be negative; compare runs by the terms. AdamW's weight decay draws the weights to 1: leave the s_k out,
    `optimizer.exclude_from_weight_decay(var_names=["log_variances"])`.

    >>> Distiller(student, teacher, terms, weighing=UncertaintyWeighting())
    """

    def __init__(self, name: str = "uncertainty", **layer_options: Any) -> None:
        # float32 whatever the policy: steps of a weight near 0 are lost in half precision.
        super().__init__(name=name, dtype="float32", **layer_options)

    def start(self, terms: Sequence[LossTerm]) -> None:
        """Make s_k = -log(weight_k), (K,) float32.

        Raises:
            ValueError: if a weight is 0, or a Variable that somebody else moves; if this was started before.
        """
        if self.weights:
            raise ValueError(
                f"{self.name!r} already holds the weights of another Distiller's terms. "
                "Give each Distiller an UncertaintyWeighting() of its own."
            )
        for term in terms:
            if isinstance(term.weight, keras.Variable) or term.weight == 0:
                raise ValueError(
                    f"LossTerm {term.name!r}: weight={term.weight!r} can't be learned: UncertaintyWeighting starts "
                    "from a number above 0. Use weight=1.0, or leave the weighting out for a weight of your own."
                )
        self.log_variances = self.add_weight(
            shape=(len(terms),),
            initializer=lambda shape, dtype: ops.convert_to_tensor([-math.log(term.weight) for term in terms], dtype),
            name="log_variances",
        )
        self.built = True

    def weights_of_terms(self) -> list[Tensor]:
        """Return exp(-s_k) of each term, scalars float32."""
        return ops.unstack(ops.exp(-self.log_variances))

    def weigh(self, means: Sequence[TermMean]) -> list[Tensor]:
        """Return exp(-s_k) mean_k + s_k of each term, 0 where it counts nothing."""
        parts = zip(means, self.weights_of_terms(), ops.unstack(self.log_variances), strict=True)
        return [ops.where(value.count > 0, weight * value.mean + s, 0.0) for value, weight, s in parts]
