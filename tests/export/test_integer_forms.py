"""What becomes an integer in a quantised file, what stays, and from where the ranges come."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from two_products import dense_inputs, plain, seen

from keras_transformer.export.integer_forms import FORMS, in_integers, last_products

ACTIVATIONS = {"dynamic": np.float32, "int8": np.int8, "int16": np.int16, "int4": np.float32}


@pytest.fixture(scope="module")
def float_model():
    return plain()


@pytest.mark.parametrize("form", FORMS)
def test_the_last_product_reads_float32_and_those_before_it_what_the_form_says(float_model, form):
    first, last = dense_inputs(in_integers(float_model, form, seen(-1.0, 1.0)))
    assert (first["dtype"], last["dtype"]) == (ACTIVATIONS[form], np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_no_file_in_integers_names_the_oldest_runtime_of_the_float_one(float_model, form):
    def names(content):
        model = schema.Model.GetRootAs(content, 0)
        return {model.Metadata(place).Name() for place in range(model.MetadataLength())}

    assert names(float_model) - names(in_integers(float_model, form, seen(-1.0, 1.0))) == {b"min_runtime_version"}


def test_the_last_product_is_found_by_what_it_gives(float_model):
    assert len(last_products(float_model)) == 1


@pytest.mark.parametrize(
    ("between", "count"),
    [
        (tf.identity, 2),
        (lambda x: tf.reshape(tf.reshape(x, (11,)), (1, 11)), 2),
        (lambda x: x + tf.constant([0.5] * 11), 1),
        (tf.nn.relu6, 1),
        (tf.nn.tanh, 1),
    ],
    ids=["nothing", "a shape", "a bias", "an activation inside", "an activation"],
)
def test_a_last_product_in_two_factors_is_both(between, count):
    model = plain(between)
    assert len(last_products(model)) == count
    first, last = dense_inputs(in_integers(model, "int8", seen(-1.0, 1.0)))
    assert (first["dtype"], last["dtype"]) == (np.float32 if count == 2 else np.int8, np.float32)


@pytest.mark.parametrize("largest", [3.0, 47.0])
def test_a_range_reaches_to_what_one_text_alone_needs(float_model, largest):
    """A moving average over these would end near 1."""
    first, _ = dense_inputs(in_integers(float_model, "int8", seen(*[-1.0, 1.0] * 9, largest, 1.0)))
    (scale,), (zero,) = (first["quantization_parameters"][name] for name in ("scales", "zero_points"))
    assert scale * (127 - zero) == pytest.approx(largest, rel=0.02)
    assert scale * (-128 - zero) == pytest.approx(-1.0, abs=1.5 * float(scale))


@pytest.mark.parametrize("form", FORMS)
def test_no_weight_lies_in_a_file_twice(lite_writer, form):
    """Three signatures of a language model read the same weights."""
    model = schema.Model.GetRootAs(Path(lite_writer("language-model", form).path).read_bytes(), 0)
    lengths = [model.Buffers(place).DataLength() for place in range(model.BuffersLength())]
    large = [model.Buffers(place).DataAsNumpy().tobytes() for place, length in enumerate(lengths) if length > 500]
    assert len(large) > 5
    assert len(set(large)) == len(large)
