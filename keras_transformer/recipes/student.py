"""A small text classifier cut out of a big one: fewer layers, narrower feed-forward parts, a domain's vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_transformer.compression import (
    channel_importance,
    count_pieces,
    cut,
    cut_vocabulary,
    factorise_tokens,
    head_importance,
    keep_channels,
    keep_heads,
    keep_layers,
    keep_pieces,
    keep_positions,
    keep_units,
    layer_activations,
    most_important,
    unit_importance,
)
from keras_transformer.models import TextClassifier

PROBE_TEXTS = 256  # texts whose inner activations rank the feed-forward units and the channels
HEAD_TEXTS = 64  # texts whose gradients rank the heads


@dataclass(frozen=True)
class StudentPlan:
    """What of the big model stays."""

    layers: tuple[int, ...]  # the big model's layers that the student's start as, in order
    inner_dim: int  # feed-forward units kept in each
    embedding_dim: int | None  # rank of the token table; None = not factorised
    min_count: int  # a piece that the corpus has less often is dropped
    num_heads: int | None = None  # kept in each layer; None = all
    model_dim: int | None = None  # channels kept; None = all


class Rankings:
    """What matters in a model, on the texts of a domain; each kind is looked at once, when it is asked for.

    Args:
        source: the model to cut.
        token_ids: the domain's tokenised texts; the first ones are looked at.
    """

    def __init__(self, source: TextClassifier, token_ids: Sequence[Sequence[int]]) -> None:
        self.source = source
        self.probe = token_ids[:PROBE_TEXTS]

    @cached_property
    def heads(self) -> np.ndarray:
        """(layers, H), see `head_importance`."""
        return head_importance(self.source, self.probe[:HEAD_TEXTS])

    @cached_property
    def units(self) -> list[np.ndarray]:
        """(F,) of each layer, see `unit_importance`."""
        return [
            unit_importance(
                layer_activations(self.source, layer, self.probe).inner,
                self.source.get_layer(f"encoder_{layer}").feed_forward.outer.kernel.numpy(),
            )
            for layer in range(self.source.num_layers)
        ]

    @cached_property
    def channels(self) -> np.ndarray:
        """(D,), see `channel_importance`."""
        return channel_importance(self.source, self.probe)


def cut_student(
    source: TextClassifier,
    plan: StudentPlan,
    token_ids: Sequence[Sequence[int]],
    *,
    always: Sequence[int],
    max_length: int,
    dropout: float = 0.1,
    dtype: Any = None,
    name: str = "student",
    rankings: Rankings | None = None,
) -> TextClassifier:
    """Build the student of `plan` with the weights of `source`; its classification head is copied too.

    Args:
        source: the model to cut; it isn't changed.
        plan: what stays.
        token_ids: the domain's tokenised texts: they choose the pieces, and the first ones rank the units.
        always: ids that stay in the vocabulary whatever their count.
        max_length: positions that stay.
        dropout: the student's rate while training.
        dtype: the student's dtype policy.
        name: the student's name.
        rankings: of this source, where several students are cut out of it; None = made here.

    Raises:
        ValueError: if the plan asks for a layer, or for more units, heads or channels, than the source has.
    """
    _check_plan(source, plan, max_length)
    counts = count_pieces(token_ids, source.vocab_size)
    vocabulary = cut_vocabulary(source.get_layer("tokens").table.numpy(), counts, plan.min_count, always)
    ranked = rankings or Rankings(source, token_ids)
    steps = [keep_layers(plan.layers), keep_positions(max_length), keep_pieces(vocabulary)]
    if plan.num_heads is not None and plan.num_heads < source.num_heads:
        steps.append(keep_heads([most_important(ranked.heads[layer], plan.num_heads) for layer in plan.layers]))
    if plan.inner_dim < source.inner_dim:
        steps.append(keep_units([most_important(ranked.units[layer], plan.inner_dim) for layer in plan.layers]))
    if plan.model_dim is not None and plan.model_dim < source.model_dim:
        steps.append(keep_channels(most_important(ranked.channels, plan.model_dim)))
    if plan.embedding_dim is not None:
        # One more for each, so that pieces kept for their own sake still count.
        steps.append(factorise_tokens(plan.embedding_dim, row_weights=counts[vocabulary.kept] + 1.0))
    return cut(source, *steps, name=name, dropout=dropout, dtype=dtype or keras.config.dtype_policy())


def _check_plan(source: TextClassifier, plan: StudentPlan, max_length: int) -> None:
    if source.embedding_dim is not None or source.kept_pieces is not None:
        raise ValueError(
            f"{source.name!r} has embedding_dim={source.embedding_dim}, kept_pieces={source.kept_pieces}: it was cut "
            "already. Cut the model that it came from, or train a fresh student with a size."
        )
    for what, wanted, available in (
        ("layer", max(plan.layers), source.num_layers - 1),
        ("inner_dim", plan.inner_dim, source.inner_dim),
        ("num_heads", plan.num_heads or 1, source.num_heads),
        ("model_dim", plan.model_dim or 1, source.model_dim),
        ("max_length", max_length, source.max_length),
    ):
        if wanted > available:
            raise ValueError(f"{what}={wanted} is more than {source.name!r} has. Use {what}={available} or less.")
