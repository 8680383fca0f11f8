"""Which weights take 4 bits: by what LiteRT says of each alone, by the bytes there are, and as a recipe."""

import itertools
import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.tools import flatbuffer_utils

from keras_transformer.checks import UserError
from keras_transformer.export import ParityError, attachments, lite_mixed, mixed_bits, tflite
from keras_transformer.export.bit_choice import (
    Sensitivities,
    TensorSensitivity,
    choose_bits,
    mixed_recipe,
    sensitivities,
    weights_of,
)
from keras_transformer.export.integer_forms import Calibrated, in_integers
from keras_transformer.models import TextClassifier

WIDTHS = (7, 53, 59, 61, 3)
SPOILT = 1  # of the products


def kernels():
    """Of the products. Each channel of one of them has a weight that is ten times the others, for an input of 0."""
    random = np.random.default_rng(3)
    made = [random.normal(size=shape).astype("float32") for shape in itertools.pairwise(WIDTHS)]
    made[SPOILT - 1][:, 0] = 0.0
    made[SPOILT][0] = 30.0
    return made


@pytest.fixture(scope="module")
def chain():
    """x (1, 7) -> four dense products, tanh between them -> logits (1, 3), in float32."""
    constants = [tf.constant(kernel) for kernel in kernels()]

    @tf.function(input_signature=[tf.TensorSpec((1, WIDTHS[0]), tf.float32, "x")], autograph=False)
    def call(x):
        for kernel in constants[:-1]:
            x = tf.tanh(x @ kernel)
        return {"logits": x @ constants[-1]}

    module = tf.Module()
    module.call = call
    return tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module).convert()


def inputs():
    return np.random.default_rng(5).normal(size=(31, 1, WIDTHS[0])).astype("float32")


def seen(_):
    for x in inputs():
        yield "serving_default", {"x": x}


def logits(content):
    """Of each input, by the interpreter itself."""
    runner = Interpreter(model_content=content).get_signature_runner("serving_default")
    return np.concatenate([runner(x=x)["logits"] for x in inputs()])


@pytest.fixture(scope="module")
def calibrated(chain):
    return Calibrated(chain, mixed_recipe(chain), seen)


@pytest.fixture(scope="module")
def measured(calibrated):
    return sensitivities(calibrated, logits)


def types_of_weights(content):
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    graph = model.subgraphs[0]
    return [
        graph.tensors[one.inputs[1]].type
        for one in graph.operators
        if model.operatorCodes[one.opcodeIndex].builtinCode == dense
    ]


INT4, INT8 = schema.TensorType.INT4, schema.TensorType.INT8


def test_all_weights_but_the_last_are_measured_in_order(chain, measured):
    assert [one.products for one in measured.tensors] == weights_of(chain)
    assert len(measured.tensors) == len(WIDTHS) - 2


def test_a_sensitivity_is_that_of_the_tensor_alone(calibrated, measured):
    plain = calibrated.quantized(mixed_recipe(calibrated.flatbuffer))
    for place, one in enumerate(measured.tensors):
        choice = choose_bits(measured)._replace(int4=(one,))
        alone = calibrated.quantized(mixed_recipe(calibrated.flatbuffer, choice))
        assert types_of_weights(alone) == [INT4 if at == place else INT8 for at in range(4)]
        assert one.saved_bytes == len(plain) - len(alone)
        assert abs(one.saved_bytes - WIDTHS[place] * WIDTHS[place + 1] / 2) <= 32  # lengths are rounded up
        changes = sizes = kept = 0
        for before, after in zip(logits(plain), logits(alone), strict=True):
            changes += sum((float(a) - float(b)) ** 2 for a, b in zip(after, before, strict=True))
            sizes += sum(float(b) ** 2 for b in before)
            kept += int(np.argmax(before) == np.argmax(after))
        assert one.damage == pytest.approx(changes / sizes, rel=1e-6)
        assert one.top1_agreement == kept / 31


def test_weights_with_an_outlier_in_each_channel_are_the_most_sensitive_and_stay_int8(calibrated, measured):
    spoilt = measured.tensors[SPOILT]
    others = [one for one in measured.tensors if one is not spoilt]
    assert spoilt.damage > 5 * max(one.damage for one in others)
    budget = measured.largest_bytes - others[-1].saved_bytes
    choice = choose_bits(measured, max_bytes=budget)
    made = calibrated.quantized(mixed_recipe(calibrated.flatbuffer, choice))
    assert types_of_weights(made) == [INT8, INT8, INT4, INT8]
    assert len(made) == choice.bytes == budget


def test_no_limit_gives_the_bytes_of_dynamic(chain, calibrated, measured):
    recipe = mixed_recipe(chain, choose_bits(measured))
    dynamic = in_integers(chain, "dynamic", seen, attention=True)
    assert calibrated.quantized(recipe) == dynamic
    assert choose_bits(measured, max_bytes=measured.largest_bytes).int4 == ()
    assert measured.largest_bytes == len(dynamic)


def test_a_recipe_gives_the_same_bytes_out_of_json(chain, calibrated, measured):
    recipe = mixed_recipe(chain, choose_bits(measured, max_bytes=measured.largest_bytes - 1009))
    again = json.loads(json.dumps(recipe))
    assert again == recipe
    assert Calibrated(chain, again, seen).quantized(again) == calibrated.quantized(recipe)
    assert json.dumps(recipe).count('"num_bits": 4') == 1


def test_what_is_made_keeps_to_its_bytes_where_savings_promised_more(calibrated, measured):
    promised = [one._replace(saved_bytes=one.saved_bytes + 307) for one in measured.tensors]
    budget = measured.largest_bytes - promised[0].saved_bytes
    for limit in (budget, measured.smallest_bytes):
        made = lite_mixed.made_within(calibrated, measured._replace(tensors=tuple(promised)), limit)
        assert len(made.flatbuffer) <= limit
        assert calibrated.quantized(made.recipe) == made.flatbuffer


def tensor(name, saved, damage):
    return TensorSensitivity((name,), saved, damage, 1.0)


DRAWN = Sensitivities(
    (tensor("a", 100, 0.5), tensor("b", 300, 0.3), tensor("c", 10, 0.02), tensor("d", -16, 0.0), tensor("e", 50, 0.9)),
    largest_bytes=1000,
    smallest_bytes=537,  # three less than the sum says
)


@pytest.mark.parametrize(
    ("max_bytes", "chosen", "length"),
    [
        (2000, "", 1000),
        (1000, "", 1000),
        (999, "b", 700),  # b has the least damage for a byte
        (699, "bc", 690),
        (689, "ab", 600),  # c was taken before a, and a does without it
        (599, "abc", 590),
        (537, "abce", 537),
    ],
)
def test_what_saves_most_for_the_least_damage_goes_first(max_bytes, chosen, length):
    choice = choose_bits(DRAWN, max_bytes=max_bytes)
    assert choice.products == list(chosen)
    assert choice.bytes == length
    assert choice.damage == pytest.approx(sum(one.damage for one in DRAWN.tensors if one.products[0] in chosen))


@pytest.mark.parametrize(
    ("max_damage", "chosen"), [(0.0, ""), (0.02, "c"), (0.31, "b"), (0.55, "bc"), (0.9, "abc"), (9.0, "abce")]
)
def test_a_limit_of_damage_takes_what_stays_within_it(max_damage, chosen):
    assert choose_bits(DRAWN, max_damage=max_damage).products == list(chosen)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": 536}, "max_bytes=536 can't be met: int8 everywhere takes 1000 .* Use max_bytes=537 or more"),
        ({"max_damage": -0.1}, r"max_damage=-0\.1 must be at least 0"),
        ({"max_damage": float("nan")}, "max_damage=nan must be at least 0"),
        ({"max_bytes": 600, "max_damage": 0.1}, r"max_bytes=600 and max_damage=0\.1 can't both be .* Give one of them"),
    ],
)
def test_a_limit_that_can_not_be_met_names_the_nearest_that_can(limits, message):
    with pytest.raises(ValueError, match=message):
        choose_bits(DRAWN, **limits)


# A whole classifier -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def converted_once():
    """TensorFlow's converter takes seconds, and is asked for one model here."""
    convert, made = lite_mixed.float_flatbuffer, []

    def kept(prepared):
        made.extend([] if made else [convert(prepared)])
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lite_mixed, "float_flatbuffer", kept)
        yield


@pytest.fixture(scope="module")
def classifier(review_tokenizer):
    keras.utils.set_random_seed(7)
    return TextClassifier(review_tokenizer.vocab_size, 3, 1, 34, 2, 67, max_length=23, dropout=0.0)


@pytest.fixture(scope="module")
def few(parts):
    return {**parts, "examples": parts["examples"][:23]}


@pytest.fixture(scope="module")
def write(classifier, few, tmp_path_factory):
    """A function: options of `tflite` -> the report."""
    folder = tmp_path_factory.mktemp("mixed")

    def export(name="m.tflite", **options):
        return tflite(classifier, folder / name, **few, **{"min_agreement": 0.0, "quantize": "mixed"} | options)

    return export


@pytest.fixture(scope="module")
def dynamic(write):
    return write("dynamic.tflite", quantize="dynamic")


@pytest.fixture(scope="module")
def fewest(write):
    """What a budget that can't be met is told."""
    with pytest.raises(UserError, match=r"max_bytes=101 can't be met: .* Use max_bytes=\d+ or more") as refused:
        write("none.tflite", max_bytes=101)
    return int(str(refused.value).rpartition("Use max_bytes=")[2].split()[0])


@pytest.fixture(scope="module")
def smallest(write, fewest):
    return write("smallest.tflite", max_bytes=fewest)


def front(report):
    """The checksum and length of the flatbuffer in a file."""
    return attachments.read_from_file(Path(report.path)).settings.parts[attachments.FLATBUFFER]


def test_a_file_that_may_be_long_has_the_flatbuffer_of_dynamic(write, dynamic):
    report = write(max_bytes=dynamic.bytes + 211)
    assert report.format == attachments.read_from_file(Path(report.path)).settings.format == "tflite_mixed"
    assert front(report) == front(dynamic)


def test_fewer_bytes_make_a_shorter_file_and_the_fewest_are_named(write, dynamic, fewest, smallest):
    between = write(max_bytes=dynamic.bytes - 1009)
    assert smallest.bytes < between.bytes <= dynamic.bytes - 1009
    assert fewest - 101 < smallest.bytes <= fewest
    assert not (Path(smallest.path).parent / "none.tflite").exists()


def test_a_recipe_from_json_writes_what_its_limit_writes(write, classifier, few, smallest, tmp_path):
    saved = tmp_path / "recipe.json"
    saved.write_text(json.dumps(mixed_bits(classifier, **few, max_damage=1009.0)))
    assert front(write(recipe=json.loads(saved.read_text()))) == front(smallest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "neither of them given, and the choice .* takes just one of max_bytes and recipe. Use .* max_bytes=50000"),
        ({"max_bytes": 1009, "recipe": []}, "max_bytes and recipe given, and the choice"),
        ({"quantize": "int4", "max_bytes": 1009}, "max_bytes given with quantize='int4', and only quantize='mixed'"),
        ({"quantize": "dynamic", "recipe": []}, "recipe given with quantize='dynamic'"),
    ],
)
def test_what_does_not_say_how_to_mix_is_refused(write, options, message):
    with pytest.raises(ValueError, match=message):
        write(**options)


def test_a_recipe_of_another_model_is_refused(write, chain):
    with pytest.raises(UserError, match=r"fits no operator of this model, .* Make it from this one with mixed_bits"):
        write(recipe=mixed_recipe(chain))
    with pytest.raises(UserError, match=r"a recipe is a list of at least one rule, and '\[\]' isn't\. Take"):
        write(recipe=[])
    with pytest.raises(UserError, match=r"rule 0 of the recipe is \{'regex': '\.\*'\}, and each needs algorithm_key"):
        write(recipe=[{"regex": ".*"}])


def test_a_mixed_file_is_held_to_its_agreement(write, classifier, few):
    recipe = mixed_bits(classifier, **few, max_damage=0.0)
    with pytest.raises(ParityError, match=r"\(limit 101\.0%\).* Try a larger max_bytes, for which more weights have 8"):
        write("far.tflite", recipe=recipe, min_agreement=1.01)
