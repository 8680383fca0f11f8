"""What each cut alone does to the teacher's answers, before anything is trained again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from keras_transformer.budget_search.shapes import Corpus, Shape, build, depths, options, whole
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.fitting import record_logits

PROBE_TEXTS = 192


@dataclass(frozen=True)
class Sensitivity:
    """Damage of single cuts: the mean KL divergence, in nats a text, of the cut model's answers from the teacher's."""

    layers: Mapping[int, tuple[int, ...]]  # number of layers -> those that stay
    depth: Mapping[int, float]  # number of layers -> damage
    parts: Mapping[str, Mapping[str, float]]  # field of a shape -> str(value) -> damage

    def damage(self, shape: Shape) -> float:
        """The sum of the damages of a shape's cuts: what it would be if one cut didn't feel another."""
        parts = sum(of_field[str(getattr(shape, field))] for field, of_field in self.parts.items())
        return self.depth[len(shape.layers)] + parts

    def to_json(self) -> dict[str, Any]:
        """The fields in JSON types."""
        return {
            "layers": {str(count): list(kept) for count, kept in self.layers.items()},
            "depth": {str(count): damage for count, damage in self.depth.items()},
            "parts": {field: dict(damages) for field, damages in self.parts.items()},
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "Sensitivity":
        """What `to_json` gave."""
        return cls(
            {int(count): tuple(kept) for count, kept in content["layers"].items()},
            {int(count): float(damage) for count, damage in content["depth"].items()},
            content["parts"],
        )


def measure(teacher: TextClassifier, corpus: Corpus) -> Sensitivity:
    """Cut one thing at a time, and ask about the first texts of the corpus.

    Of the layers those stay whose absence alone does most.
    """
    probe = corpus.token_ids[:PROBE_TEXTS]
    truth = record_logits(teacher, probe)
    uncut = whole(teacher)

    def damage(shape: Shape) -> float:
        return mean_divergence(truth, record_logits(build(teacher, shape, corpus, "float32"), probe))

    parts = {
        field: {
            str(value): 0.0 if value == getattr(uncut, field) else damage(replace(uncut, **{field: value}))
            for value in values
        }
        for field, values in options(teacher).items()
    }
    every = uncut.layers
    missed = [damage(replace(uncut, layers=_without(every, layer))) for layer in every] if len(every) > 1 else [0.0]
    layers = {
        count: tuple(sorted(sorted(every, key=lambda layer: -missed[layer])[:count])) for count in depths(len(every))
    }
    depth = {count: 0.0 if kept == every else damage(replace(uncut, layers=kept)) for count, kept in layers.items()}
    return Sensitivity(layers, depth, parts)


def mean_divergence(truth: np.ndarray, logits: np.ndarray) -> float:
    """mean_n sum_c p_nc (log p_nc - log q_nc) of softmax distributions p and q of logits (N, C), in float64."""
    log_p, log_q = _log_softmax(truth), _log_softmax(logits)
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_q), axis=1)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype("float64") - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _without(layers: Sequence[int], gone: int) -> tuple[int, ...]:
    return tuple(layer for layer in layers if layer != gone)
