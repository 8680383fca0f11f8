"""Which weights of a flatbuffer take 4 bits and which 8, by what 4 bits do to the logits.

Each dense product's weights go to int4 alone, all others being int8, and LiteRT says what that changes. The choice
takes those first that save the most bytes for the least change, and is written as a recipe of ai-edge-quantizer.

Tables stay int8: the quantiser has no int4 for GATHER. So does the last product before the outputs.
"""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from ai_edge_litert.tools import flatbuffer_utils

from keras_transformer.checks import UserError
from keras_transformer.export.integer_forms import Calibrated, Recipe, last_products, recipe_of
from keras_transformer.export.lite_graph import Code, LiteGraph

FORM = "dynamic"  # a key of `integer_forms.FORMS`: how all is that doesn't take 4 bits
ANYWHERE = ".*"

Logits = Callable[[bytes], np.ndarray]
"""Runs a flatbuffer with LiteRT on some examples: -> (N, C)."""


class TensorSensitivity(NamedTuple):
    """What it does to give one tensor of weights 4 bits in place of 8."""

    products: tuple[str, ...]  # names of what the dense products with these weights give, by which a recipe knows them
    saved_bytes: int  # of the flatbuffer; not above 0 where int4 saves nothing
    damage: float  # mean squared change of the logits / their mean square with int8 everywhere
    top1_agreement: float  # share of the examples that keep their best class, 0..1


class Sensitivities(NamedTuple):
    """Those of all weights of a flatbuffer that can take 4 bits, and between which sizes there is a choice."""

    tensors: tuple[TensorSensitivity, ...]  # in the order of the graph
    largest_bytes: int  # with int8 everywhere
    smallest_bytes: int  # with int4 wherever it saves something


class Choice(NamedTuple):
    """The weights that take 4 bits."""

    int4: tuple[TensorSensitivity, ...]  # in the order of the graph
    bytes: int  # what the flatbuffer will have, but for a few: lengths are rounded up in it
    damage: float  # the sum of theirs, as if their changes were independent

    @property
    def products(self) -> list[str]:
        """Names of what their dense products give."""
        return [name for tensor in self.int4 for name in tensor.products]


def mixed_recipe(flatbuffer: bytes, choice: Choice | None = None) -> Recipe:
    """Return a choice as a recipe: plain lists and dictionaries, for `json` and for ai-edge-quantizer's own tools.

    Args:
        flatbuffer: float32.
        choice: None for int8 everywhere.
    """
    return recipe_of(flatbuffer, FORM, attention=True, int4=choice.products if choice else ())


def sensitivities(calibrated: Calibrated, logits: Logits) -> Sensitivities:
    """Measure what int4 does to each tensor of weights alone, with int8 for all others.

    Args:
        calibrated: with the ranges that `mixed_recipe` asks for.
        logits: runs LiteRT. The examples needn't be many: they are run once for each tensor.
    """
    flatbuffer = calibrated.flatbuffer
    exact = calibrated.quantized(mixed_recipe(flatbuffer))
    reference = np.asarray(logits(exact), np.float64)  # (N, C)
    found = []
    for products in weights_of(flatbuffer):
        made = calibrated.quantized(recipe_of(flatbuffer, FORM, attention=True, int4=products))
        found.append(_sensitivity(products, len(exact) - len(made), reference, np.asarray(logits(made), np.float64)))
    all_int4 = Choice(tuple(one for one in found if one.saved_bytes > 0), 0, 0.0)
    smallest = len(calibrated.quantized(mixed_recipe(flatbuffer, all_int4)))
    return Sensitivities(tuple(found), len(exact), smallest)


def weights_of(flatbuffer: bytes) -> list[tuple[str, ...]]:
    """The weights that can take 4 bits, each by the names of what its dense products give, in the order of the graph.

    Left out are those of the last product before the outputs.
    """
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    last, found = set(last_products(flatbuffer)), dict[int, list[str]]()
    for place in model.subgraphs:
        graph = LiteGraph(model, place)
        for product in graph.of_code(Code.FULLY_CONNECTED):
            buffer = place.tensors[product.inputs[1]].buffer
            if model.buffers[buffer].data is not None:
                found.setdefault(buffer, []).append(graph.name(product.outputs[0]))
    return [tuple(names) for names in found.values() if not last & set(names)]


def choose_bits(measured: Sensitivities, *, max_bytes: int | None = None, max_damage: float | None = None) -> Choice:
    """Choose the weights that take 4 bits, those with the least damage for a byte first.

    Args:
        measured: what `sensitivities` gave.
        max_bytes: take weights until the flatbuffer is no longer than this, and give back what isn't needed for it.
        max_damage: or take all whose damages add up to no more than this. None for both takes none.

    Raises:
        UserError: if int4 everywhere isn't small enough.
        ValueError: for both limits at once, or a `max_damage` that is below 0 or NaN.
    """
    if max_bytes is not None and max_damage is not None:
        raise ValueError(
            f"max_bytes={max_bytes} and max_damage={max_damage} can't both be the limit: the first may need more "
            "damage than the second lets through. Give one of them."
        )
    useful = [one for one in measured.tensors if one.saved_bytes > 0]
    useful.sort(key=lambda one: one.damage / one.saved_bytes)
    taken: list[TensorSensitivity] = []
    if max_damage is not None:
        taken = _within(useful, max_damage)
    elif max_bytes is not None:
        _require_bytes(measured, max_bytes)
        # Single savings add up to nearly what all save together, and here nothing may be missing.
        all_needed = max_bytes == measured.smallest_bytes
        taken = useful if all_needed else _saving(useful, measured.largest_bytes - max_bytes)
    chosen = tuple(one for one in measured.tensors if one in taken)
    length = measured.largest_bytes - sum(one.saved_bytes for one in chosen)
    length = measured.smallest_bytes if len(chosen) == len(useful) else length
    return Choice(chosen, length, sum(one.damage for one in chosen))


def require_known(flatbuffer: bytes, recipe: Recipe) -> None:
    """Refuse a recipe that isn't one, or names operators that the flatbuffer hasn't: nothing would tell of them.

    Raises:
        UserError: if it is.
    """
    fields = {"regex", "operation", "algorithm_key", "op_config"}
    if not isinstance(recipe, list) or not recipe:
        raise UserError(
            f"a recipe is a list of at least one rule, and {str(recipe)[:80]!r} isn't. "
            "Take what mixed_bits() returned, or the JSON that was made of it."
        )
    for place, rule in enumerate(recipe):
        if not isinstance(rule, dict) or not fields <= rule.keys():
            raise UserError(
                f"rule {place} of the recipe is {str(rule)[:80]}, and each needs {', '.join(sorted(fields))}. "
                "Take what mixed_bits() returned, or the JSON that was made of it."
            )
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(flatbuffer))
    given = [
        f"{graph.tensors[tensor].name.decode()};"
        for graph in model.subgraphs
        for operator in graph.operators
        for tensor in operator.outputs
    ]
    for rule in recipe:
        if rule["regex"] != ANYWHERE and not any(re.search(rule["regex"], name) for name in given):
            raise UserError(
                f"the recipe's rule for {rule['regex'][:80]} fits no operator of this model, so it was made for "
                "another. Make it from this one with mixed_bits()."
            )


def _sensitivity(products: tuple[str, ...], saved: int, reference: np.ndarray, logits: np.ndarray) -> TensorSensitivity:
    change, size = float(np.square(logits - reference).mean()), float(np.square(reference).mean())
    # Of NaN no comparison is true: weights that break the logits go last.
    damage = change / size if size and math.isfinite(change) else math.inf if change else 0.0
    agrees = logits.argmax(axis=1) == reference.argmax(axis=1)  # (N,)
    return TensorSensitivity(products, saved, damage, float(agrees.mean()))


def _within(useful: list[TensorSensitivity], max_damage: float) -> list[TensorSensitivity]:
    if not max_damage >= 0:
        raise ValueError(
            f"max_damage={max_damage} must be at least 0: it is a mean squared change of the logits, in units of "
            "their mean square. Use for example max_damage=0.001."
        )
    taken: list[TensorSensitivity] = []
    for one in useful:
        if sum(other.damage for other in taken) + one.damage <= max_damage:
            taken.append(one)
    return taken


def _saving(useful: list[TensorSensitivity], wanted: int) -> list[TensorSensitivity]:
    """The first that save so many bytes together, without those among them that the others do without."""
    taken: list[TensorSensitivity] = []
    for one in useful:
        if sum(other.saved_bytes for other in taken) < wanted:
            taken.append(one)
    for one in sorted(taken, key=lambda one: -one.damage):
        if sum(other.saved_bytes for other in taken) - one.saved_bytes >= wanted:
            taken.remove(one)
    return taken


def _require_bytes(measured: Sensitivities, max_bytes: int) -> None:
    if max_bytes < measured.smallest_bytes:
        raise UserError(
            f"max_bytes={max_bytes} can't be met: int8 everywhere takes {measured.largest_bytes} bytes, and int4 "
            f"wherever it can be takes {measured.smallest_bytes}. Use max_bytes={measured.smallest_bytes} or more, or "
            "a smaller model."
        )
