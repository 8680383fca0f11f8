"""What stands behind a mask: the logits of the whole model at that place, and a classifier that every export takes."""

import keras
import numpy as np
import pytest
from weights import randomise

from keras_transformer import bundle, export, serving
from keras_transformer.checks import UserError
from keras_transformer.data.tokenizer import SPECIAL_PIECES, WordPiece
from keras_transformer.models import MaskedLM, hidden_token

MASK_ID, LONGEST = 4, 13
WORDS = ["the", "film", "was", "a", "dull", "warm", "slow", ",", "##s", "plot", "and", "it"]
VOCAB = [*SPECIAL_PIECES, *WORDS]
IDS = np.array([[2, 5, 4, 7, 3], [4, 9, 4, 3, 0], [2, 8, 11, 4, 0], [2, 6, 6, 6, 3]], "int32")
PLACES = [2, 0, 3, 0]  # of the first mask; none in the last row
TEXTS = ["the film was [MASK]", "[MASK]film, slow", "a [MASK] plot and it was [MASK]", "it was a warm [MASK]."]


def masked_lm(**options):
    arguments = {"max_length": LONGEST, "dropout": 0.0, **options}
    return randomise(MaskedLM(len(VOCAB), 2, 15, 5, 11, **arguments), scale=0.4)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPiece(VOCAB, reads_mask=True)


@pytest.fixture(scope="module")
def asked(tokenizer):
    return hidden_token(masked_lm(), tokenizer.asked_id)


@pytest.fixture(scope="module")
def parts(tokenizer):
    return {"tokenizer": tokenizer, "labels": VOCAB, "max_length": 11, "examples": TEXTS}


@pytest.fixture(scope="module")
def expected(asked, tokenizer):
    rows = [np.array([ids], "int32") for ids in tokenizer.encode(TEXTS, 11)]
    return np.concatenate([asked(row, training=False) for row in rows])


@pytest.mark.parametrize("form", [{}, {"norm_first": True, "embedding_dim": 7}])
def test_its_logits_are_those_of_the_whole_model_at_the_first_mask(form):
    model = masked_lm(**form)
    want = model(IDS).numpy()[np.arange(4), PLACES]
    got = hidden_token(model, MASK_ID)(IDS)
    assert got.shape == (4, len(VOCAB))
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_it_has_the_weights_of_the_whole_model(asked):
    model = masked_lm()
    assert {id(weight) for weight in hidden_token(model, MASK_ID).weights} == {id(weight) for weight in model.weights}


@pytest.mark.parametrize("mask_id", [0, len(VOCAB)])
def test_a_mask_that_is_no_piece_is_refused(mask_id):
    with pytest.raises(ValueError, match=f"mask_id={mask_id} must be 1 to {len(VOCAB) - 1}"):
        hidden_token(masked_lm(), mask_id)


@pytest.mark.parametrize("quantize", ["none", "int8"])
def test_a_tflite_file_says_what_the_mask_hides(asked, parts, expected, quantize, tmp_path):
    export.tflite(asked, tmp_path / "film.tflite", quantize=quantize, min_agreement=0.0, **parts)
    predictor = serving.load(tmp_path / "film.tflite")
    limit = 1e-5 if quantize == "none" else 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(predictor.logits(TEXTS), expected, atol=limit)
    if quantize == "none":
        assert predictor.predict(TEXTS).labels == [VOCAB[index] for index in expected.argmax(axis=1)]
    with pytest.raises(UserError, match=r"token_ids\[1\] has no \[MASK\], id 4, .* within its first 9 pieces"):
        predictor.predict([TEXTS[0], "it was dull " * 4 + "[MASK]"])


def test_a_saved_model_reads_the_mask_in_raw_texts(asked, parts, expected, tmp_path):
    export.saved_model(asked, tmp_path / "film", **parts)
    predictor = serving.load(tmp_path / "film")
    found = predictor.predict(TEXTS)
    assert found.labels == [VOCAB[index] for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(predictor.logits(TEXTS), expected, atol=1e-5)
    with pytest.raises(UserError, match=r"has no \[MASK\]"):
        predictor.predict(["it was dull"])
    with pytest.raises(Exception, match=r"each row of token_ids, or text, must hold \[MASK\], id 4"):
        predictor._text(text=keras.ops.convert_to_tensor(["it was dull"]))


def test_a_run_folder_keeps_it_with_its_tokenizer(asked, parts, expected, tmp_path):
    bundle.save(tmp_path / "run", model=asked, task="classify", metrics={}, command="test", **parts)
    np.testing.assert_allclose(serving.load(tmp_path / "run").logits(TEXTS), expected, atol=1e-5)


def test_a_model_in_mixed_precision_is_written_in_float32(parts, expected, tmp_path):
    mixed = hidden_token(masked_lm(dtype="mixed_bfloat16"), MASK_ID)
    export.tflite(mixed, tmp_path / "film.tflite", quantize="none", **parts)
    np.testing.assert_allclose(serving.load(tmp_path / "film.tflite").logits(TEXTS), expected, atol=1e-5)


def test_labels_of_another_vocabulary_are_refused(asked, parts, tmp_path):
    with pytest.raises(ValueError, match=r"17 labels need|gives outputs of shape"):
        export.tflite(asked, tmp_path / "film.tflite", **{**parts, "labels": VOCAB[:-1]})
