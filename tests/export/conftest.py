"""A classifier that was really trained, on reviews made of a few words, and what it was exported to."""

import random

import pytest
from writing_models import ROOM, TEXTS, GreedyLoop, learned, made

GOOD = ["warm", "funny", "sharp", "lovely", "bright", "tender"]
BAD = ["dull", "slow", "clumsy", "loud", "empty", "bitter"]
OTHER = ["the", "film", "a", "plot", "and", "cast", "with", "scenes", "of", "it", "was", "score", "in", "music"]
LABELS = ["bad", "mixed", "good"]
MAX_LENGTH = 19  # of the exports
POSITIONS = 23  # of the model


def reviews(count, seed):
    """Texts of 3 to 14 words, and the index in LABELS of what they say."""
    draw = random.Random(seed)
    texts, kinds = [], []
    for _ in range(count):
        kind = draw.randrange(len(LABELS))
        words = [draw.choice(OTHER) for _ in range(draw.randint(2, 12))]
        for opinions in {0: [BAD], 1: [BAD, GOOD], 2: [GOOD]}[kind]:
            words.insert(draw.randint(0, len(words)), draw.choice(opinions))
        texts.append(" ".join(words))
        kinds.append(kind)
    return texts, kinds


@pytest.fixture(scope="session")
def draw_reviews():
    """The function that makes them, for more of them."""
    return reviews


@pytest.fixture(scope="session")
def examples():
    return reviews(151, seed=11)[0]


@pytest.fixture(scope="session")
def review_tokenizer():
    from keras_transformer.data.tokenizer import WordPiece

    return WordPiece.learn(reviews(1009, seed=3)[0], vocab_size=211)


@pytest.fixture(scope="session")
def review_model(review_tokenizer):
    """Two layers, wide enough that the converter quantises them (it leaves weights below 1,024 values alone)."""
    import keras
    import numpy as np

    from keras_transformer.models import TextClassifier

    keras.utils.set_random_seed(7)
    model = TextClassifier(
        vocab_size=review_tokenizer.vocab_size,
        num_classes=len(LABELS),
        num_layers=2,
        model_dim=34,
        num_heads=2,
        inner_dim=67,
        max_length=POSITIONS,
        dropout=0.0,
    )
    model.compile(
        keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
    )
    texts, kinds = reviews(1009, seed=3)
    ids = review_tokenizer.pad(review_tokenizer.encode(texts, POSITIONS))
    model.fit(ids, np.array(kinds), batch_size=53, epochs=5, verbose=0)
    return model


@pytest.fixture(scope="session")
def parts(review_tokenizer, examples):
    """The arguments that every export of the reviews' model has."""
    return {
        "tokenizer": review_tokenizer,
        "labels": LABELS,
        "max_length": MAX_LENGTH,
        "examples": examples,
    }


@pytest.fixture(scope="session")
def keras_logits(review_model, review_tokenizer, examples):
    """What the Keras model itself says of the examples, in one padded batch."""
    ids = review_tokenizer.pad(review_tokenizer.encode(examples, MAX_LENGTH))
    return review_model(ids, training=False).numpy()


@pytest.fixture(scope="session")
def saved(review_model, parts, tmp_path_factory):
    """The report of a SavedModel export; its folder is `report.path`."""
    from keras_transformer.export import saved_model

    return saved_model(review_model, tmp_path_factory.mktemp("serving") / "reviews", **parts)


@pytest.fixture(scope="session")
def lite(review_model, parts, tmp_path_factory):
    """A function: number format -> the report of a `.tflite` export, made once."""
    from keras_transformer.export import tflite

    folder, reports = tmp_path_factory.mktemp("lite"), {}

    def export(quantize):
        if quantize not in reports:
            path = folder / f"{quantize}.tflite"
            reports[quantize] = tflite(review_model, path, quantize=quantize, **parts)
        return reports[quantize]

    return export


@pytest.fixture(scope="session")
def text_tokenizer():
    return learned()


@pytest.fixture(scope="session")
def writing_model(text_tokenizer):
    """A function: task -> a model that writes, made once."""
    models = {}

    def model(task):
        if task not in models:
            models[task] = made(task, text_tokenizer.vocab_size)
        return models[task]

    return model


@pytest.fixture(scope="session")
def in_keras(writing_model, text_tokenizer):
    """A function: task -> what writes with the Keras model, and keeps its graphs."""
    from keras_transformer.generation.keras_writers import Continuer, Translator

    writers = {}

    def writer(task):
        if task not in writers:
            make = Translator if task == "translate" else Continuer
            writers[task] = make(writing_model(task), text_tokenizer, ROOM)
        return writers[task]

    return writer


@pytest.fixture(scope="session")
def greedy_loop(writing_model, text_tokenizer):
    """A function: task -> what such a model reads and writes, by passes over the whole, and its ids for all texts."""
    loops = {}

    def loop(task):
        if task not in loops:
            found = GreedyLoop(writing_model(task), task, text_tokenizer)
            loops[task] = found, [found.written(text) for text in TEXTS]
        return loops[task]

    return loop


@pytest.fixture(scope="session")
def writing_parts(text_tokenizer):
    """A function: task -> the arguments that every export of such a model has."""

    def parts(task):
        return {"tokenizer": text_tokenizer, "task": task, "max_length": ROOM, "examples": TEXTS}

    return parts


@pytest.fixture(scope="session")
def lite_writer(writing_model, writing_parts, tmp_path_factory):
    """A function: task and number format -> the report of a `.tflite` export, made once."""
    from keras_transformer.export import tflite_writer

    folder, reports = tmp_path_factory.mktemp("lite_writers"), {}

    def export(task, quantize="none"):
        if (task, quantize) not in reports:
            options = {"quantize": quantize, "min_agreement": 0.2 if quantize == "int4" else 0.5}
            path = folder / f"{task}-{quantize}.tflite"
            reports[task, quantize] = tflite_writer(writing_model(task), path, **options, **writing_parts(task))
        return reports[task, quantize]

    return export


@pytest.fixture(scope="session")
def served_writer(writing_model, writing_parts, tmp_path_factory):
    """A function: task -> the report of a SavedModel export, made once."""
    from keras_transformer.export import saved_model_writer

    folder, reports = tmp_path_factory.mktemp("served_writers"), {}

    def export(task):
        if task not in reports:
            reports[task] = saved_model_writer(writing_model(task), folder / task, **writing_parts(task))
        return reports[task]

    return export
