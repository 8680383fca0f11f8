"""Small things made once for many tests: a classifier, a tokenizer and a bundle that holds both."""

from pathlib import Path

import pytest

TEXTS = ["a fine and funny film", "a dull film", "not funny at all", "fine acting, dull plot", "funny!"]
VOCAB_SIZE = 61


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
        max_length=13,
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
        labels=["negative", "neutral", "positive"],
        task="classify",
        max_length=13,
        metrics={"accuracy": 0.5},
        command="keras-transformer train classify --data films.csv --out small",
        examples=TEXTS,
    )
    return folder
