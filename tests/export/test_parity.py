"""The comparison that decides whether an export may stand, and the errors when it may not."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from keras_transformer.checks import UserError
from keras_transformer.export import ExportReport, ParityError, compare
from keras_transformer.export.parity import require_agreement, require_logits

REFERENCE = np.array([[1.0, 2.0, 0.0], [3.0, -1.0, 0.0], [0.0, 0.0, 5.0]], np.float32)


def test_the_largest_difference_the_agreement_and_the_worst_example_are_found():
    logits = REFERENCE.copy()
    logits[1, 0] = -2.0  # moves the best class, by 5
    logits[2, 1] = 4.0  # moves no best class
    result = compare(REFERENCE, logits)
    assert result.max_abs_logit_error == 5.0
    assert result.top1_agreement == pytest.approx(2 / 3)
    assert result.worst_example == 1
    assert result.examples == 3


def test_equal_logits_differ_by_nothing():
    assert compare(REFERENCE, REFERENCE.copy()) == (0.0, 1.0, 0, 3)


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf])
def test_a_logit_that_is_no_number_is_an_infinite_error(wild):
    logits = REFERENCE.copy()
    logits[2, 2] = wild
    result = compare(REFERENCE, logits)
    assert result.max_abs_logit_error == np.inf
    assert result.worst_example == 2
    with pytest.raises(ParityError, match="differ from its Keras model by inf"):
        require_logits(result, 1e9, "m.tflite", "Fix.")
    with pytest.raises(ParityError, match="differs by up to inf"):
        require_agreement(result, 0.0, "m.tflite", "Fix.")


def test_logits_that_are_nan_in_both_models_are_no_agreement():
    nothing = np.full((2, 3), np.nan, np.float32)
    assert compare(nothing, nothing).max_abs_logit_error == np.inf


@pytest.mark.parametrize("shape", [(2, 3), (3, 1), (3, 3, 1)])
def test_other_shapes_are_refused_by_name(shape):
    with pytest.raises(ValueError, match=r"can't be compared with reference logits of shape \(3, 3\)"):
        compare(REFERENCE, np.zeros(shape, np.float32))


def test_no_example_is_no_proof():
    with pytest.raises(ValueError, match="at least one example"):
        compare(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32))


def test_an_error_on_the_limit_passes_and_one_above_it_names_both_numbers():
    result = compare(REFERENCE, REFERENCE + np.float32(0.25))
    require_logits(result, 0.25, "m.tflite", "Fix.")
    with pytest.raises(ParityError) as caught:
        require_logits(result, 0.2, "out/m.tflite", "Try quantize='none'.")
    assert str(caught.value) == (
        "out/m.tflite: would differ from its Keras model by 2.5e-01 in a logit (limit 2e-01), most at example 0; the "
        "best label is the same for 100.0% of 3 examples. Nothing was written. Try quantize='none'."
    )
    assert isinstance(caught.value, UserError)


def test_an_agreement_on_the_limit_passes_and_one_below_names_both_numbers():
    logits = REFERENCE.copy()
    logits[0] = [2.0, 1.0, 0.0]
    result = compare(REFERENCE, logits)
    require_agreement(result, 2 / 3, "m.tflite", "Fix.")
    with pytest.raises(ParityError) as caught:
        require_agreement(result, 0.98, "m.tflite", "Try quantize='float16'.")
    assert str(caught.value) == (
        "m.tflite: would give the best label of its Keras model for 66.7% of 3 examples (limit 98.0%); a logit differs "
        "by up to 1.0e+00, most at example 0. Nothing was written. Try quantize='float16'."
    )


def test_a_report_is_json_as_it_is():
    report = ExportReport("m.tflite", "tflite_int8", 17, 0.5, 1.0, ["ADD", "GELU"], [])
    assert json.loads(json.dumps(asdict(report))) == {
        "path": "m.tflite",
        "format": "tflite_int8",
        "bytes": 17,
        "max_abs_logit_error": 0.5,
        "top1_agreement": 1.0,
        "operators": ["ADD", "GELU"],
        "flex_ops": [],
    }
