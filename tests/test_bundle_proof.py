"""A bundle is in place only after its model was loaded again and gave the same logits. Real, tiny models."""

import json
import shutil

import keras
import numpy as np
import pytest

from keras_transformer import bundle
from keras_transformer.export import ParityError
from keras_transformer.files import ModelFileError, sealed
from keras_transformer.models import TextClassifier


def classifier(policy="float32", max_length=13):
    return TextClassifier(61, 3, 1, 8, 2, 17, max_length=max_length, dtype=policy)


def save(folder, model, tokenizer, **changes):
    arguments = {
        "labels": ["a", "b", "c"],
        "task": "classify",
        "max_length": 13,
        "metrics": {},
        "command": "keras-transformer train classify --data films.csv",
    }
    return bundle.save(folder, model=model, tokenizer=tokenizer, **{**arguments, **changes})


class Changed:
    """Saves another model than the one it answers with."""

    def __init__(self, model, saved):
        self.model, self.saved = model, saved
        self.layers, self.max_length = model.layers, model.max_length
        self.count_params = model.count_params

    def save(self, path):
        self.saved.save(path)

    def __call__(self, token_ids, training=False):
        return self.model(token_ids, training=training)


def nudged(model, by):
    """A copy in which one weight of the last layer is a little larger."""
    twin = keras.models.clone_model(model)
    weights = [weight.copy() for weight in model.get_weights()]
    weights[-1][0] += by
    twin.set_weights(weights)
    return twin


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_a_model_of_any_precision_is_saved_and_has_its_weights_back(tmp_path, small_tokenizer, policy):
    model = classifier(policy)
    save(tmp_path / "a", model, small_tokenizer)
    loaded = bundle.load(tmp_path / "a").model
    assert loaded.get_layer("encoder_0").compute_dtype == model.get_layer("encoder_0").compute_dtype
    for one, two in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_written_model_that_answers_differently_leaves_an_older_bundle_in_place(tmp_path, small_tokenizer):
    model, place = classifier(), tmp_path / "a"
    save(place, model, small_tokenizer)
    before = (place / "model.keras").read_bytes()
    with pytest.raises(
        ParityError, match=r"a/model\.keras: would differ .* by 1\.0e-04 in a logit.*Nothing was written"
    ):
        save(place, Changed(model, nudged(model, 1e-4)), small_tokenizer)
    assert (place / "model.keras").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_difference_below_the_limit_passes(tmp_path, small_tokenizer):
    model = classifier()
    save(tmp_path / "a", Changed(model, nudged(model, 1e-7)), small_tokenizer)
    assert bundle.load(tmp_path / "a").labels == ["a", "b", "c"]


def test_a_model_that_can_not_be_loaded_again_is_not_left_in_place(tmp_path, small_tokenizer):
    model = classifier()
    model.set_weights([np.full_like(weight, np.nan) for weight in model.get_weights()])
    with pytest.raises(ModelFileError, match=r"Nothing was written.* \S*/a/model\.keras: its weight .* holds NaN"):
        save(tmp_path / "a", model, small_tokenizer)
    assert list(tmp_path.iterdir()) == []


def test_a_model_of_one_fixed_length_is_compared_at_that_length(tmp_path, small_tokenizer):
    inputs = keras.Input((7,), dtype="int32", name="token_ids")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(keras.layers.Embedding(61, 5)(inputs))))
    save(tmp_path / "a", model, small_tokenizer, max_length=7)
    assert bundle.load(tmp_path / "a").manifest.max_length == 7


def test_texts_longer_than_the_model_takes_are_refused_when_a_bundle_is_written(tmp_path, small_tokenizer):
    with pytest.raises(ValueError, match=r"max_length=17 is more than the 13 positions .* Use max_length=13 or less"):
        save(tmp_path / "a", classifier(), small_tokenizer, max_length=17)
    assert list(tmp_path.iterdir()) == []


def test_texts_longer_than_the_model_takes_are_refused_when_a_bundle_is_loaded(tmp_path, small_bundle):
    shutil.copytree(small_bundle, tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(sealed({**json.loads(path.read_text()), "max_length": 600})))
    with pytest.raises(ModelFileError, match=r"a/manifest\.json: says max_length 600, and the model has 13 positions"):
        bundle.load(tmp_path / "a")
