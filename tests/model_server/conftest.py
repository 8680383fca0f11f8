"""Servers on ports of their own: of a classifier, and of a language model."""

import shutil
from pathlib import Path

import pytest

TEXTS = ["a fine film", "dull, dull", "naïve 🙂 עברית"]


@pytest.fixture(scope="session")
def served(small_saved_model):
    """A running server of the classifier; nothing of what it is asked may stop it."""
    from keras_transformer.model_server import ModelServer, ServedModel

    lines = []
    with ModelServer(ServedModel(small_saved_model), grpc_port=0, rest_port=0, log=lines.append) as server:
        server.lines = lines
        yield server


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory) -> Path:
    """A SavedModel of a language model of random weights."""
    import keras

    from keras_transformer import export
    from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
    from keras_transformer.models import CausalLM

    keras.utils.set_random_seed(3)
    tokenizer = ReversibleTokenizer.learn(TEXTS, 300)
    folder = tmp_path_factory.mktemp("serving") / "writer"
    export.saved_model_writer(
        CausalLM(tokenizer.vocab_size, 1, 8, 2, 11, max_length=16),
        folder,
        tokenizer=tokenizer,
        task="language-model",
        max_length=16,
        examples=TEXTS,
        beam_width=3,
    )
    return folder


@pytest.fixture(scope="session")
def served_writer(writer_folder):
    from keras_transformer.model_server import ModelServer, ServedModel

    with ModelServer(ServedModel(writer_folder), grpc_port=0, rest_port=0, log=lambda line: None) as server:
        yield server


@pytest.fixture
def own_copy(small_saved_model, tmp_path) -> Path:
    """The classifier's folder, to be changed."""
    return Path(shutil.copytree(small_saved_model, tmp_path / "small"))
