"""A small text classifier cut out of a big one: fewer layers, narrower feed-forward parts, a domain's vocabulary."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_transformer.compression import count_pieces, cut_vocabulary, factorise, unit_importance
from keras_transformer.models import TextClassifier

PROBE_TEXTS = 256  # texts whose inner activations rank the feed-forward units


@dataclass(frozen=True)
class StudentPlan:
    """What of the big model stays."""

    layers: tuple[int, ...]  # the big model's layers that the student's start as, in order
    inner_dim: int  # feed-forward units kept in each
    embedding_dim: int | None  # rank of the token table; None = not factorised
    min_count: int  # a piece that the corpus has less often is dropped


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

    Raises:
        ValueError: if the plan asks for a layer or more units than the source has.
    """
    _check_plan(source, plan, max_length)
    counts = count_pieces(token_ids, source.vocab_size)
    weights = {weight.path: weight.numpy() for weight in source.weights}
    vocabulary = cut_vocabulary(weights["tokens/table"], counts, plan.min_count, always)
    student = TextClassifier(
        source.vocab_size,
        source.num_classes,
        len(plan.layers),
        source.model_dim,
        source.num_heads,
        plan.inner_dim,
        max_length=max_length,
        embedding_dim=plan.embedding_dim,
        kept_pieces=len(vocabulary.kept),
        dropout=dropout,
        pooling=source.pooling,
        norm_first=source.norm_first,
        name=name,
        dtype=dtype,
    )
    values = {path: value for path, value in weights.items() if not path.startswith(("tokens/", "encoder_"))}
    values["positions/table"] = weights["positions/table"][:max_length]
    values |= _token_values(weights["tokens/table"][vocabulary.kept], counts[vocabulary.kept], plan.embedding_dim)
    values["tokens/piece_row"] = vocabulary.piece_row
    for index, origin in enumerate(plan.layers):
        values |= _layer_values(source, weights, origin, index, plan.inner_dim, token_ids[:PROBE_TEXTS])
    for weight in student.weights:
        weight.assign(values[weight.path])
    return student


def _check_plan(source: TextClassifier, plan: StudentPlan, max_length: int) -> None:
    if source.embedding_dim is not None or source.kept_pieces is not None:
        raise ValueError(
            f"{source.name!r} has embedding_dim={source.embedding_dim}, kept_pieces={source.kept_pieces}: it was cut "
            "already. Cut the model that it came from, or train a fresh student with a size."
        )
    for what, wanted, available in (
        ("layer", max(plan.layers), source.num_layers - 1),
        ("inner_dim", plan.inner_dim, source.inner_dim),
        ("max_length", max_length, source.max_length),
    ):
        if wanted > available:
            raise ValueError(f"{what}={wanted} is more than {source.name!r} has. Use {what}={available} or less.")


def _token_values(table: np.ndarray, counts: np.ndarray, rank: int | None) -> dict[str, np.ndarray]:
    if rank is None:
        return {"tokens/table": table}
    # One more for each, so that pieces kept for their own sake still count.
    factors = factorise(table, rank, row_weights=counts + 1.0)
    return {"tokens/table": factors.left, "tokens/factor/kernel": factors.right}


def _layer_values(
    source: TextClassifier,
    weights: dict[str, np.ndarray],
    origin: int,
    index: int,
    inner_dim: int,
    token_ids: Sequence[Sequence[int]],
) -> dict[str, np.ndarray]:
    """The values of the student's layer `index` out of the source's layer `origin`, by the student's paths."""
    theirs, ours = f"encoder_{origin}/", f"encoder_{index}/"
    values = {ours + path.removeprefix(theirs): value for path, value in weights.items() if path.startswith(theirs)}
    if inner_dim == source.inner_dim:
        return values
    inner, outer = f"{ours}feed_forward/inner/", f"{ours}feed_forward/outer/"
    importance = unit_importance(inner_activations(source, origin, token_ids), values[f"{outer}kernel"])
    kept = np.sort(np.argsort(-importance, kind="stable")[:inner_dim])
    values[f"{inner}kernel"] = values[f"{inner}kernel"][:, kept]
    values[f"{inner}bias"] = values[f"{inner}bias"][kept]
    values[f"{outer}kernel"] = values[f"{outer}kernel"][kept]
    return values


def inner_activations(source: TextClassifier, index: int, token_ids: Sequence[Sequence[int]]) -> np.ndarray:
    """Inner feed-forward activations of layer `index` at the real tokens of some texts: (N, F) float32."""
    length = max(len(ids) for ids in token_ids)
    padded = np.zeros((len(token_ids), length), dtype="int32")
    for row, ids in enumerate(token_ids):
        padded[row, : len(ids)] = ids
    before = "embeddings" if index == 0 else f"encoder/{index - 1}/hidden"
    x = keras.Model(source.input, source.tap_tensors[before])(padded)
    layer = source.get_layer(f"encoder_{index}")
    if source.norm_first:
        x = x + layer.attention(*[layer.attention_norm(x)] * 2, attention_mask=padded != 0).context
        normed = layer.feed_forward_norm(x)
    else:
        normed = layer.attention_norm(x + layer.attention(x, x, attention_mask=padded != 0).context)
    inner = keras.ops.convert_to_numpy(keras.ops.cast(layer.feed_forward.inner(normed), "float32"))
    return inner[padded != 0]
