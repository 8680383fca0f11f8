"""A smaller model out of a trained one: fewer layers, heads, units, channels, pieces, positions.

>>> heads = [most_important(row, 2) for row in head_importance(teacher, token_ids, labels)]
>>> student = cut(teacher, keep_heads(heads), keep_layers([1, 3, 5]), factorise_tokens(64))

Each step is a function from the parts of a model to the parts of a smaller one, so that any number of them build
one new model. The model that is cut isn't changed. It must be made as `TextClassifier` is: `get_config` gives
num_layers, model_dim, num_heads, head_dim and inner_dim, and the weights have the paths of its layers. `MaskedLM` is
one too; a model with decoder layers isn't, and is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import keras
import numpy as np

from keras_transformer.compression.encoders import encoder_config
from keras_transformer.compression.low_rank import factorise
from keras_transformer.compression.vocabulary import CutVocabulary

# The axes of a weight along which the model's width runs; "encoder_<i>/" is left out of the names.
CHANNEL_AXES = {
    "tokens/table": (1,),
    "tokens/factor/kernel": (1,),
    "positions/table": (1,),
    "segments/table": (1,),
    "attention/query/kernel": (0,),
    "attention/key/kernel": (0,),
    "attention/value/kernel": (0,),
    "attention/output/kernel": (1,),
    "attention/output/bias": (0,),
    "feed_forward/inner/kernel": (0,),
    "feed_forward/outer/kernel": (1,),
    "feed_forward/outer/bias": (0,),
    "pooling/dense/kernel": (0, 1),
    "pooling/dense/bias": (0,),
    "logits/kernel": (0,),
    "transform/kernel": (0, 1),
    "transform/bias": (0,),
} | {
    f"{norm}_norm/{part}": (0,)
    for norm in ("embeddings", "attention", "feed_forward", "final", "transform")
    for part in ("gamma", "beta")
}
IN_A_LAYER = re.compile(r"encoder_(\d+)/(.*)")

Model = TypeVar("Model", bound=keras.Model)
Places = Sequence[int] | np.ndarray
"""Whole numbers from 0 that name layers, heads, units or channels."""


class Parts(NamedTuple):
    """A model taken apart."""

    arguments: Mapping[str, Any]  # what `from_config` takes
    weights: Mapping[str, np.ndarray]  # by path


Step = Callable[[Parts], Parts]
"""From the parts of a model to those of a smaller one; the values given are not changed."""


def cut(model: Model, *steps: Step, name: str = "student", dropout: float | None = None, dtype: Any = None) -> Model:
    """Build a new model of the same class with what the steps keep of `model`, one after another.

    With no step it is a copy. No layer of it is frozen.

    Args:
        model: is not changed.
        steps: `keep_layers(...)` and the others below. Each counts layers, heads and so on as the ones before it
            left them.
        name: of the new model.
        dropout: its rate while training; None = as `model`.
        dtype: its dtype policy; None = as `model`.

    Raises:
        ValueError: if `model` isn't made as `TextClassifier` is, or a step asks for what isn't there.
    """
    arguments = encoder_config(model)
    changes = {"name": name, "frozen": [], "dropout": dropout, "dtype": dtype}
    arguments |= {key: value for key, value in changes.items() if value is not None}
    parts = Parts(arguments, {weight.path: weight.numpy() for weight in model.weights})
    for step in steps:
        parts = step(parts)
    smaller = type(model).from_config(dict(parts.arguments))
    for weight in smaller.weights:
        weight.assign(parts.weights[weight.path])
    return smaller


def keep_layers(layers: Places) -> Step:
    """Keep these encoder layers, in this order: DistilBERT's start from every other one (Sanh et al. 2019, section 3).

    Raises (when cut):
        ValueError: if a layer isn't there or comes twice.
    """

    def step(parts: Parts) -> Parts:
        places = _kept("layers", layers, parts.arguments["num_layers"])
        weights = {path: value for path, value in parts.weights.items() if not IN_A_LAYER.match(path)}
        for path, value in parts.weights.items():
            found = IN_A_LAYER.match(path)
            if found and int(found[1]) in places:
                weights[f"encoder_{list(places).index(int(found[1]))}/{found[2]}"] = value
        return Parts({**parts.arguments, "num_layers": len(places)}, weights)

    return step


def keep_heads(heads: Sequence[Places]) -> Step:
    """Keep these attention heads of each layer; their width stays, so H d becomes smaller than D.

    What a dropped head added to the layer's output is gone, as if its rows of the output projection were zero.

    Args:
        heads: one list a layer, all of one length, since all layers of a model have one number of heads. See
            `head_importance` and `head_norms`.

    Raises (when cut):
        ValueError: if there isn't one list a layer, they differ in length, or a head isn't there or comes twice.
    """

    def step(parts: Parts) -> Parts:
        total, width = parts.arguments["num_heads"], parts.arguments["head_dim"]
        weights = dict(parts.weights)
        for layer, kept in enumerate(_kept_in_layers("heads", heads, total, parts)):
            columns = (kept[:, None] * width + np.arange(width)).ravel()  # head h has h d to (h + 1) d
            for name in ("query", "key", "value"):
                _take(weights, f"encoder_{layer}/attention/{name}/kernel", columns, 1)
                _take(weights, f"encoder_{layer}/attention/{name}/bias", columns, 0)
            _take(weights, f"encoder_{layer}/attention/output/kernel", columns, 0)
        return Parts({**parts.arguments, "num_heads": len(heads[0])}, weights)

    return step


def keep_units(units: Sequence[Places]) -> Step:
    """Keep these inner units of each layer's feed-forward part.

    Args:
        units: one list a layer, all of one length. See `unit_importance`.

    Raises (when cut):
        ValueError: as `keep_heads`.
    """

    def step(parts: Parts) -> Parts:
        weights = dict(parts.weights)
        for layer, kept in enumerate(_kept_in_layers("units", units, parts.arguments["inner_dim"], parts)):
            _take(weights, f"encoder_{layer}/feed_forward/inner/kernel", kept, 1)
            _take(weights, f"encoder_{layer}/feed_forward/inner/bias", kept, 0)
            _take(weights, f"encoder_{layer}/feed_forward/outer/kernel", kept, 0)
        return Parts({**parts.arguments, "inner_dim": len(units[0])}, weights)

    return step


def keep_channels(channels: Places) -> Step:
    """Keep these channels of the model's width D, everywhere: they are the same ones along the residual stream.

    Muralidharan et al. 2024 (Minitron), section 2. The heads keep their width. Unlike the other cuts this one moves
    what stays: each LayerNorm takes mean and variance over fewer channels.

    Args:
        channels: see `channel_importance`.

    Raises (when cut):
        ValueError: if a channel isn't there or comes twice.
    """

    def step(parts: Parts) -> Parts:
        kept = _kept("channels", channels, parts.arguments["model_dim"])
        weights = dict(parts.weights)
        for path in weights:
            found = IN_A_LAYER.match(path)
            axes = CHANNEL_AXES.get(found[2] if found else path, ())
            if path == "tokens/table" and parts.arguments["embedding_dim"] is not None:
                axes = ()  # a factorised table has a width of its own
            for axis in axes:
                _take(weights, path, kept, axis)
        return Parts({**parts.arguments, "model_dim": len(kept)}, weights)

    return step


def keep_positions(max_length: int) -> Step:
    """Keep the first `max_length` rows of the table of positions.

    Raises (when cut):
        ValueError: if the table is shorter.
    """

    def step(parts: Parts) -> Parts:
        rows = _kept("positions", range(max_length), parts.arguments["max_length"])
        weights = dict(parts.weights)
        _take(weights, "positions/table", rows, 0)
        return Parts({**parts.arguments, "max_length": max_length}, weights)

    return step


def keep_pieces(vocabulary: CutVocabulary) -> Step:
    """Keep the rows of the token table that `cut_vocabulary` chose; the new model takes the same ids as before.

    Raises (when cut):
        ValueError: if the table was cut before, the vocabulary is another one's, or the model has a logit a piece.
    """

    def step(parts: Parts) -> Parts:
        if "kept_pieces" not in parts.arguments:
            raise ValueError(
                f"{parts.arguments['name']!r} has no argument kept_pieces: pieces can be dropped from what a model "
                "reads, not from what it writes. Cut the vocabulary of a TextClassifier."
            )
        if parts.arguments["kept_pieces"] is not None or len(vocabulary.piece_row) != parts.arguments["vocab_size"]:
            raise ValueError(
                f"a vocabulary cut out of {len(vocabulary.piece_row)} pieces doesn't fit a model with "
                f"vocab_size={parts.arguments['vocab_size']}, kept_pieces={parts.arguments['kept_pieces']}. "
                "Cut the vocabulary of the model's own table, once."
            )
        weights = {**parts.weights, "tokens/piece_row": vocabulary.piece_row}
        _take(weights, "tokens/table", vocabulary.kept, 0)
        return Parts({**parts.arguments, "kept_pieces": len(vocabulary.kept)}, weights)

    return step


def factorise_tokens(rank: int, row_weights: np.ndarray | None = None) -> Step:
    """Replace the token table by the two factors of this rank that are nearest to it, see `factorise`.

    Args:
        rank: becomes `embedding_dim`.
        row_weights: one number a row of the table as the steps before left it, see `factorise`.

    Raises (when cut):
        ValueError: if the table is factorised already, and as `factorise`.
    """

    def step(parts: Parts) -> Parts:
        if parts.arguments["embedding_dim"] is not None:
            raise ValueError(
                f"the token table is factorised already, embedding_dim={parts.arguments['embedding_dim']}. "
                "Factorise the table of the model that it came from."
            )
        factors = factorise(parts.weights["tokens/table"], rank, row_weights)
        tables = {"tokens/table": factors.left, "tokens/factor/kernel": factors.right}
        return Parts({**parts.arguments, "embedding_dim": rank}, {**parts.weights, **tables})

    return step


def _take(weights: dict[str, np.ndarray], path: str, kept: np.ndarray, axis: int) -> None:
    weights[path] = weights[path].take(kept, axis=axis)


def _kept_in_layers(what: str, lists: Sequence[Places], available: int, parts: Parts) -> list[np.ndarray]:
    sizes = [len(kept) for kept in lists]
    if len(sizes) != parts.arguments["num_layers"] or len(set(sizes)) > 1:
        raise ValueError(
            f"{what} has lists of {sizes} for a model of {parts.arguments['num_layers']} layers: every layer keeps "
            f"the same number. Give one list of {what} a layer, all of one length."
        )
    return [_kept(what, kept, available) for kept in lists]


def _kept(what: str, kept: Places | range, available: int) -> np.ndarray:
    places = [int(place) for place in kept]
    if not places or min(places) < 0 or max(places) >= available or len(set(places)) < len(places):
        raise ValueError(
            f"{what}={places} can't be kept out of {available}. "
            f"Name at least one, each once, out of 0 to {available - 1}."
        )
    return np.asarray(places)
