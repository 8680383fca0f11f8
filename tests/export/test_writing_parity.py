"""Two models that write are compared token by token, and what is too far apart is refused with both numbers."""

import numpy as np
import pytest

from keras_transformer.export import ParityError
from keras_transformer.export.writing_parity import (
    compare_writing,
    differing_texts,
    require_token_agreement,
    require_token_logits,
)

EXAMPLES = [([5], [1, 2, 1]), ([6, 7], [2, 0])]
REFERENCE = {
    (5,): np.array([[0.0, 2.0, 1.0], [0.0, 1.0, 3.0], [0.0, 9.0, 8.9]], "float32"),
    (6, 7): np.array([[0.0, 1.0, 1.5], [-400.0, -401.0, -402.0]], "float32"),
}


def logits_of(table):
    def logits(prompt, written):
        rows = table[tuple(prompt)]
        assert len(rows) == len(written)
        return rows

    return logits


def changed(prompt, place, token, by):
    rows = {key: value.copy() for key, value in REFERENCE.items()}
    rows[prompt][place, token] += by
    return compare_writing(logits_of(REFERENCE), logits_of(rows), EXAMPLES)


def test_equal_models_agree_on_all():
    found = changed((5,), 0, 0, 0.0)
    assert found == (0.0, 402.0, 1.0, 1.0, 0, 2, 5)
    assert found.allowed(1e-4) == pytest.approx(0.0402)


def test_one_other_token_counts_as_one_token_and_as_one_text():
    found = changed((6, 7), 0, 1, 0.75)
    assert found.max_abs_logit_error == 0.75
    assert found.top1_agreement == pytest.approx(4 / 5)
    assert found.same_texts == 0.5
    assert found.worst_text == 1


def test_too_large_a_difference_is_refused_with_what_it_is():
    message = (
        r"m\.tflite: would differ from its Keras model by 7\.5e-01 in a logit \(limit 4e-02\), most at text 1; the "
        r"likeliest token is the same for 80\.0% of 5 tokens, and all of them in 50% of 2 texts\. Nothing was "
        r"written\. Turn this\."
    )
    with pytest.raises(ParityError, match=message):
        require_token_logits(changed((6, 7), 0, 1, 0.75), 1e-4, "m.tflite", "Turn this.")
    require_token_logits(changed((6, 7), 1, 1, 0.03), 1e-4, "m.tflite", "")


def test_too_little_agreement_is_refused_with_what_it_is():
    message = (
        r"would choose otherwise than its Keras model \(limit 95\.0%\): the likeliest token is the same for 80\.0%"
    )
    with pytest.raises(ParityError, match=message):
        require_token_agreement(changed((6, 7), 0, 1, 0.75), 0.95, "m.tflite", "Turn this.")
    require_token_agreement(changed((6, 7), 0, 1, 0.75), 0.8, "m.tflite", "")


@pytest.mark.parametrize("require", [require_token_logits, require_token_agreement])
def test_a_logit_that_is_no_number_is_never_let_through(require):
    with pytest.raises(ParityError, match="inf"):
        require(changed((5,), 1, 0, np.nan), 0.5, "m.tflite", "")


@pytest.mark.parametrize(
    ("found", "differing"),
    [
        ([[1, 2, 1], [2, 0]], []),
        ([[1, 2, 2], [2, 0]], []),  # 9.0 and 8.9: a tie
        ([[1, 2, 0], [2, 0]], [0]),
        ([[2, 2, 1], [2, 0]], [0]),
        ([[1, 2], [2, 0, 1]], [0, 1]),  # one stops, one goes on
    ],
)
def test_other_texts_are_found_and_ties_let_through(found, differing):
    assert list(differing_texts(logits_of(REFERENCE), EXAMPLES, found, tolerance=0.06)) == differing
