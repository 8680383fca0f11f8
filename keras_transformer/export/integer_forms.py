"""Integer weights and activations where the kernels have them, by ai-edge-quantizer, out of a float32 flatbuffer.

The dense products and the tables become integers, and if asked for the attention's own products. Softmax, LayerNorm
and GELU stay in float32: their integer kernels save nothing, or cost more (`benchmarks/integer_formulations.py`).
"""

import contextlib
import copy
import io
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from ai_edge_quantizer.calibrator import Calibrator
from ai_edge_quantizer.qtyping import TFLOperationName
from ai_edge_quantizer.quantizer import Quantizer
from ai_edge_quantizer.recipe_manager import RecipeManager
from ai_edge_quantizer.utils.qsv_utils import min_max_update

from keras_transformer.export.learned_ranges import DENSE, LearnedRange, learned_tensors
from keras_transformer.export.lite_attention import AttentionProducts, attention_products, make_symmetric
from keras_transformer.export.lite_tables import with_shared_tables

Calibration = Callable[[bytes], Iterator[tuple[str, dict[str, np.ndarray]]]]
"""Takes the float32 flatbuffer and gives pairs of a signature's name and inputs of it by name."""

Recipe = list[dict[str, Any]]
"""What ai-edge-quantizer is told, as it reads it from JSON: rules for operators, a later one before an earlier."""

THREADS = 2
SHAPING = (schema.BuiltinOperator.RESHAPE, schema.BuiltinOperator.SQUEEZE, schema.BuiltinOperator.EXPAND_DIMS)


class Bits(NamedTuple):
    """How wide the numbers of the dense products are."""

    weights: int
    activations: int | None  # None: float32, in the kernel quantised row by row


FORMS = {"dynamic": Bits(8, None), "int8": Bits(8, 8), "int16": Bits(8, 16), "int4": Bits(4, None)}
TABLE_BITS = ATTENTION_BITS = 8
OLDEST_RUNTIME = b"min_runtime_version"  # an entry of the metadata
ENDS = ("min", "max")  # the quantiser's names


def in_integers(
    flatbuffer: bytes,
    form: str,
    calibration: Calibration,
    more: Sequence[str] = (),
    learned: Sequence[LearnedRange] = (),
    *,
    attention: bool = False,
) -> bytes:
    """Return the flatbuffer with its dense products and tables in one of the `FORMS`.

    Weights are symmetric, a scale an output channel; a table has one scale, and its rows leave it as float32. The last
    product before the outputs has int8 weights and float32 activations in each form: nothing evens its errors out, and
    ranges seen on a few texts would cut off the logits of others. So have both factors of one with a low rank. A table
    that is those weights too, as that of tied embeddings, has their scales and lies in the flatbuffer once.

    Args:
        flatbuffer: float32.
        form: a key of `FORMS`.
        calibration: inputs like those to come, from which the ranges are taken.
        more: names of operators that become integers too, "BATCH_MATMUL" and so on; `export` takes none.
        learned: ranges that a model was trained with; they go before what the calibration finds.
        attention: True for int8 products of queries and keys, and of weights and values, whatever the form.

    Raises:
        ValueError: if a product whose ranges were learned isn't in the flatbuffer.
    """
    recipe = recipe_of(flatbuffer, form, more, attention=attention)
    return Calibrated(flatbuffer, recipe, calibration, learned).quantized(recipe)


def recipe_of(
    flatbuffer: bytes, form: str, more: Sequence[str] = (), *, attention: bool = False, int4: Sequence[str] = ()
) -> Recipe:
    """Return what the quantiser is told for `in_integers`, which has the same arguments.

    Args:
        int4: names of what those dense products give whose weights have 4 bits, and whose activations are float32,
            whatever the form.
    """
    bits = FORMS[form]
    recipe = RecipeManager()
    if bits.activations is None:
        recipe.add_dynamic_config(".*", TFLOperationName.FULLY_CONNECTED, bits.weights)
    else:
        recipe.add_static_config(".*", TFLOperationName.FULLY_CONNECTED, bits.activations, bits.weights)
    recipe.add_static_config(".*", TFLOperationName.GATHER, TABLE_BITS, TABLE_BITS)
    for name in more:
        recipe.add_static_config(".*", TFLOperationName(name), bits.activations or TABLE_BITS, bits.weights)
    inner = attention_products(flatbuffer) if attention else AttentionProducts({}, [])
    for name, given in inner.operators.items():
        recipe.add_static_config(_scope(given), TFLOperationName(name), ATTENTION_BITS, ATTENTION_BITS)
    for names, weights in ((last_products(flatbuffer), 8), (int4, 4)):
        if names:
            recipe.add_dynamic_config(_scope(names), TFLOperationName.FULLY_CONNECTED, weights)
    # Plain texts in place of the quantiser's enumerations: what was saved and read again is the same.
    plain: Recipe = json.loads(json.dumps(recipe.get_quantization_recipe()))
    return plain


class Calibrated:
    """A float32 flatbuffer with the ranges of its tensors, to be quantised by any recipe that asks for no others.

    Args:
        flatbuffer: float32.
        recipe: a recipe; the operators that it names are those whose ranges are taken.
        calibration: inputs like those to come.
        learned: ranges that a model was trained with; they go before what the calibration finds.

    Raises:
        ValueError: if a product whose ranges were learned isn't in the flatbuffer.
    """

    def __init__(
        self, flatbuffer: bytes, recipe: Recipe, calibration: Calibration, learned: Sequence[LearnedRange] = ()
    ) -> None:
        self.flatbuffer = flatbuffer
        told = RecipeManager()
        told.load_quantization_recipe(recipe)
        with _silence():
            # Not the moving averages that it takes by itself: they cut off what a few texts need.
            seen = Calibrator(bytearray(flatbuffer), num_threads=THREADS, qsv_update_func=min_max_update)
            for signature, inputs in calibration(flatbuffer):  # one by one: the state of a step may have megabytes
                seen.calibrate({signature: [inputs]}, told)
        self._ranges = ranges = seen.get_model_qsvs()
        if any(one["operation"] == TFLOperationName.BATCH_MATMUL and one["regex"] != ".*" for one in recipe):
            make_symmetric(ranges, [name for name in attention_products(flatbuffer).right if name in ranges])
        for name, ends in learned_tensors(flatbuffer, learned).items():
            if name in ranges:  # not what the last product reads and gives: they stay float32
                ranges[name] |= {end: np.full_like(ranges[name][end], at) for end, at in zip(ENDS, ends, strict=True)}

    def quantized(self, recipe: Recipe) -> bytes:
        """Return the flatbuffer with the integers of a recipe."""
        with _silence():
            made = Quantizer(bytearray(self.flatbuffer), recipe).quantize(copy.deepcopy(self._ranges))
        return with_shared_tables(_tidied(made.quantized_model))


def _scope(given: Sequence[str]) -> str:
    """The quantiser's expression for the operators that give these tensors."""
    return f"^({'|'.join(re.escape(name) for name in given)});?$"


def _tidied(flatbuffer: bytes) -> bytes:
    """The flatbuffer without the copies of weights that the quantiser makes, one for each signature that reads them.

    It also loses what the converter says of the oldest runtime, which is true of the float32 file alone.
    """
    model = flatbuffer_utils.read_model_from_bytearray(flatbuffer)
    model.metadata = [entry for entry in model.metadata or [] if entry.name != OLDEST_RUNTIME]
    first: dict[bytes, int] = {}
    kept = [
        place if buffer.data is None else first.setdefault(np.asarray(buffer.data).tobytes(), place)
        for place, buffer in enumerate(model.buffers)
    ]
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        tensor.buffer = kept[tensor.buffer]
    for entry in model.metadata:
        entry.buffer = kept[entry.buffer]
    for place, owner in enumerate(kept):
        if owner != place:
            model.buffers[place].data = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep progress bars, a report and a warning about an interpreter of the quantiser's own from the user."""
    unseen = io.StringIO()
    with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*experimental_preserve_all_tensors", UserWarning)
        yield


def last_products(flatbuffer: bytes) -> list[str]:
    """The names of what those dense products give that outputs of the graphs are, but for their shape.

    Of one with a kernel in two factors, x A B + b, also the name of x A: a product without bias and activation whose
    output goes straight into the last.
    """
    model = schema.Model.GetRootAs(flatbuffer, 0)
    codes = [model.OperatorCodes(place).BuiltinCode() for place in range(model.OperatorCodesLength())]
    found = []
    for graph in (model.Subgraphs(place) for place in range(model.SubgraphsLength())):
        makers = {
            operator.Outputs(0): operator
            for operator in (graph.Operators(place) for place in range(graph.OperatorsLength()))
        }
        for place in range(graph.OutputsLength()):
            last = _dense_behind(graph.Outputs(place), makers, codes)
            before = None if last is None else _dense_behind(last.Inputs(0), makers, codes)
            if before is not None and not _multiplies_only(before):
                before = None
            found += [graph.Tensors(one.Outputs(0)).Name().decode() for one in (before, last) if one is not None]
    return found


def _dense_behind(tensor: int, makers: Mapping[int, Any], codes: Sequence[int]) -> Any:
    """The dense product that gives a tensor, but for its shape; None if something else does."""
    while tensor in makers and codes[makers[tensor].OpcodeIndex()] in SHAPING:
        tensor = makers[tensor].Inputs(0)
    maker = makers.get(tensor)
    return maker if maker is not None and codes[maker.OpcodeIndex()] == DENSE else None


def _multiplies_only(product: Any) -> bool:
    """Whether a dense product has neither a bias nor an activation."""
    options = schema.FullyConnectedOptions()
    options.Init(product.BuiltinOptions().Bytes, product.BuiltinOptions().Pos)
    has_bias = product.InputsLength() > 2 and product.Inputs(2) >= 0
    return not has_bias and options.FusedActivationFunction() == schema.ActivationFunctionType.NONE
