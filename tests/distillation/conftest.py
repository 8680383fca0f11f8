"""Toy models and data. Sizes are prime and distinct, so that a swapped axis fails."""

import hashlib
from collections.abc import Callable

import keras
import numpy as np
import pytest

FEATURES, CLASSES, ROWS = 7, 3, 23
VOCABULARY, TAGS, LENGTH = 13, 5, 11


@pytest.fixture
def classifier() -> Callable[..., keras.Model]:
    """Make a Functional classifier (B, 7) -> (B, classes); its layers are "hidden" and "logits"."""

    def make(classes=CLASSES, units=5, dropout=0.0, dtype=None, name=None, **dense_options) -> keras.Model:
        inputs = keras.Input((FEATURES,), name="features")
        x = keras.layers.Dense(units, "tanh", name="hidden", dtype=dtype, **dense_options)(inputs)
        x = keras.layers.Dropout(dropout, name="dropout", dtype=dtype)(x)
        return keras.Model(inputs, keras.layers.Dense(classes, name="logits", dtype=dtype)(x), name=name)

    return make


@pytest.fixture
def tagger() -> Callable[..., keras.Model]:
    """Make a token tagger (B, T) -> (B, T, 5) that knows padding by Keras' own mask."""

    def make(tags=TAGS, name=None) -> keras.Model:
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        x = keras.layers.Embedding(VOCABULARY, 3, mask_zero=True, name="tokens")(token_ids)
        return keras.Model(token_ids, keras.layers.Dense(tags, name="logits")(x), name=name)

    return make


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    """Features (23, 7) float32 and labels (23,) int32 that a linear model can learn."""
    random = np.random.default_rng(5)
    x = random.normal(size=(ROWS, FEATURES)).astype("float32")
    return x, np.argmax(x @ random.normal(size=(FEATURES, CLASSES)), -1).astype("int32")


@pytest.fixture
def fingerprint() -> Callable[[keras.Model], str]:
    """sha256 of every variable of a model: weights, batch statistics, seed states."""

    def of(model: keras.Model) -> str:
        digest = hashlib.sha256()
        for variable in model.variables:
            digest.update(np.ascontiguousarray(variable.numpy()).tobytes())
        return digest.hexdigest()

    return of
