"""The shapes that are tried, what they are estimated to weigh, and what cuts do to a teacher's answers."""

import math

import keras
import numpy as np
import pytest

from keras_transformer.budget_search import sensitivity, shapes
from keras_transformer.budget_search.shapes import Corpus, Shape
from keras_transformer.compression import count_pieces
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.student import Rankings

VOCAB_SIZE, LAYERS, WIDTH, HEADS, UNITS, LENGTH = 101, 3, 20, 5, 23, 13
ALWAYS = (0, 1, 2, 3)
TEXTS = [[2, *(4 + (place * step) % 89 for step in range(1, 2 + place % 7)), 3] for place in range(1, 41)]


@pytest.fixture(scope="module")
def teacher():
    keras.utils.set_random_seed(3)
    model = TextClassifier(VOCAB_SIZE, 3, LAYERS, WIDTH, HEADS, UNITS, max_length=LENGTH, norm_first=True)
    random = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.4)
    # A layer whose parts add nothing: the one that is missed least.
    for part in (
        model.get_layer("encoder_1").attention.output_proj,
        model.get_layer("encoder_1").feed_forward.outer,
    ):
        for weight in part.weights:
            weight.assign(np.zeros(weight.shape))
    return model


@pytest.fixture(scope="module")
def corpus(teacher):
    return Corpus(TEXTS, Rankings(teacher, TEXTS), ALWAYS, LENGTH)


@pytest.fixture(scope="module")
def found(teacher, corpus):
    return sensitivity.measure(teacher, corpus)


def test_the_whole_shape_answers_as_the_teacher_does(teacher, corpus):
    model = shapes.build(teacher, shapes.whole(teacher), corpus, "float32")
    ids = np.array([TEXTS[5], TEXTS[5]], "int32")
    np.testing.assert_allclose(model(ids), teacher(ids), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": (2,)},
        {"model_dim": 10, "num_heads": 2},
        {"inner_dim": 3, "min_count": 8},
        {"embedding_dim": 5},
        {"rank_share": 0.25},
    ],
)
def test_the_weights_are_foreseen_but_for_biases_norms_and_the_head(teacher, corpus, changes):
    shape = Shape(**{**shapes.whole(teacher).__dict__, **changes})
    counts = count_pieces(TEXTS, VOCAB_SIZE)
    pieces = shapes.kept_pieces(counts, ALWAYS, shape.min_count)
    model = shapes.build(teacher, shape, corpus, "float32")
    assert model.kept_pieces == pieces
    large = [
        weight
        for weight in model.weights
        if len(weight.shape) == 2 and not weight.path.startswith(("logits", "segments"))
    ]
    exact = sum(math.prod(weight.shape) for weight in large)
    assert shapes.weights(shape, teacher.head_dim, pieces, LENGTH) == exact


def test_every_shape_has_a_name_of_its_own(teacher, found):
    names = [shape.name for shape in shapes.every_shape(teacher, found.layers)]
    assert len(names) == len(set(names)) > 100


def test_fewer_parts_are_fewer_operations(teacher, found):
    whole = shapes.operations(shapes.whole(teacher), teacher.head_dim, 7)
    others = [shapes.operations(one, teacher.head_dim, 7) for one in shapes.every_shape(teacher, found.layers)]
    # A factorised table costs a product more than a whole one.
    assert max(others) <= whole + 2 * 7 * 10 * WIDTH
    assert min(others) < whole / 10


def test_the_divergence_is_that_of_a_loop():
    random = np.random.default_rng(7)
    truth, logits = random.normal(size=(2, 5, 3)) * 3
    total = 0.0
    for p_row, q_row in zip(truth, logits, strict=True):
        p = [math.exp(value) / sum(math.exp(other) for other in p_row) for value in p_row]
        q = [math.exp(value) / sum(math.exp(other) for other in q_row) for value in q_row]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert sensitivity.mean_divergence(truth, logits) == pytest.approx(total / 5, rel=1e-12)
    assert sensitivity.mean_divergence(truth, truth + 1e5) == pytest.approx(0, abs=1e-9)


def test_the_layer_that_adds_nothing_goes_first(found):
    assert found.layers == {3: (0, 1, 2), 2: (0, 2), 1: found.layers[1]}
    assert found.layers[1] in {(0,), (2,)}
    assert found.depth[3] == 0
    assert found.depth[2] == pytest.approx(0, abs=1e-6)
    assert found.depth[1] > 0.01


def test_damage_adds_up_and_the_teacher_itself_has_none(teacher, found):
    whole = shapes.whole(teacher)
    assert found.damage(whole) == 0
    narrow = Shape(**{**whole.__dict__, "inner_dim": 3, "num_heads": 2})
    assert found.damage(narrow) == found.parts["inner_dim"]["3"] + found.parts["num_heads"]["2"] > 0


def test_the_more_units_go_the_more_is_lost(found):
    lost = [found.parts["inner_dim"][units] for units in ("23", "11", "3")]
    assert lost == sorted(lost)
    assert lost[0] == 0 < lost[1]


def test_a_sensitivity_comes_back_from_json(found):
    assert sensitivity.Sensitivity.from_json(found.to_json()) == found


def test_a_teacher_that_was_cut_already_is_refused(teacher, corpus):
    small = shapes.build(teacher, Shape(**{**shapes.whole(teacher).__dict__, "embedding_dim": 5}), corpus, "float32")
    with pytest.raises(ValueError, match="was cut already"):
        sensitivity.measure(small, corpus)
