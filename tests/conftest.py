"""The same start for each test, and small things made once for many: a classifier, a tokenizer, a bundle of both."""

import gc
import random
import sys
from pathlib import Path

import numpy as np
import pytest

TEXTS = ["a fine and funny film", "a dull film", "not funny at all", "fine acting, dull plot", "funny!"]
LABELS = ["negative", "neutral", "positive"]
VOCAB_SIZE, MAX_LENGTH = 61, 13
SEED = 7


def pytest_configure(config):
    # numpy 2.4 says so of Keras 3.15.1 whenever it saves or reads a variable.
    config.addinivalue_line(
        "filterwarnings", "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
    )


def pytest_collection_finish():
    """What importing TensorFlow has left is looked through by no later garbage collection."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files of a folder whose session fixtures take long run in one process, so that those are made once."""
    from file_groups import FolderScheduling

    return FolderScheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(autouse=True)
def fixed_seed():
    """Each test draws the same numbers, alone or among others; tests without Keras don't wait for its import."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.set_random_seed(SEED)
    else:
        random.seed(SEED)
        np.random.seed(SEED)


@pytest.fixture(autouse=True)
def same_numbers_after():
    """A test may set a global dtype policy or float type; the next one starts from float32 again."""
    yield
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="session")
def forked():
    """`run` or `start` a program as `python -c` does, but with TensorFlow already imported."""
    from forked import Forks

    with Forks() as forks:
        yield forks


@pytest.fixture(scope="session")
def small_tokenizer():
    from keras_transformer.data.tokenizer import WordPiece

    return WordPiece.learn(TEXTS, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="session")
def small_model():
    import keras

    from keras_transformer.models import TextClassifier

    keras.utils.set_random_seed(5)
    return TextClassifier(
        vocab_size=VOCAB_SIZE,
        num_classes=3,
        num_layers=1,
        model_dim=8,
        num_heads=2,
        inner_dim=17,
        max_length=MAX_LENGTH,
    )


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory, small_model, small_tokenizer) -> Path:
    """A whole bundle; a test that changes it takes a copy."""
    from keras_transformer import bundle

    folder = tmp_path_factory.mktemp("bundles") / "small"
    bundle.save(
        folder,
        model=small_model,
        tokenizer=small_tokenizer,
        labels=LABELS,
        task="classify",
        max_length=MAX_LENGTH,
        metrics={"accuracy": 0.5},
        command="keras-transformer train classify --data films.csv --out small",
        examples=TEXTS,
    )
    return folder


@pytest.fixture(scope="session")
def small_tflite(tmp_path_factory, small_model, small_tokenizer) -> Path:
    from keras_transformer import export

    path = tmp_path_factory.mktemp("lite") / "small.tflite"
    export.tflite(
        small_model,
        path,
        tokenizer=small_tokenizer,
        labels=LABELS,
        max_length=MAX_LENGTH,
        examples=TEXTS,
        quantize="none",
    )
    return path


@pytest.fixture(scope="session")
def small_saved_model(tmp_path_factory, small_model, small_tokenizer) -> Path:
    from keras_transformer import export

    folder = tmp_path_factory.mktemp("serving") / "small"
    export.saved_model(
        small_model,
        folder,
        tokenizer=small_tokenizer,
        labels=LABELS,
        max_length=MAX_LENGTH,
        examples=TEXTS,
    )
    return folder
