"""A student that keeps everything is its source; what is cut away is what the plan says."""

import keras
import numpy as np
import pytest

from keras_transformer.compression import layer_activations
from keras_transformer.models import TextClassifier
from keras_transformer.recipes.student import StudentPlan, cut_student

ALWAYS = (0, 1, 2, 3)
TEXTS = [[2, 5, 7, 11, 3], [2, 13, 5, 3], [2, 17, 19, 23, 29, 3]]


@pytest.fixture(scope="module")
def source():
    keras.utils.set_random_seed(3)
    model = TextClassifier(31, 2, 3, model_dim=14, num_heads=7, inner_dim=11, max_length=17)
    # Biases and norms start as zeros and ones, which would hide a swapped row.
    random = np.random.default_rng(5)
    for weight in model.weights:
        weight.assign(random.normal(size=weight.shape) * 0.3)
    return model


def cut(source, **changes):
    plan = StudentPlan(**{"layers": (0, 1, 2), "inner_dim": 11, "embedding_dim": None, "min_count": 1, **changes})
    return cut_student(source, plan, TEXTS, always=ALWAYS, max_length=13)


@pytest.mark.parametrize("embedding_dim", [None, 12])
def test_a_student_that_keeps_every_layer_and_unit_gives_the_same_logits(source, embedding_dim):
    ids = np.array([[2, 5, 7, 11, 3, 0], [2, 17, 19, 23, 29, 3]], "int32")  # pieces that the corpus has
    student = cut(source, embedding_dim=embedding_dim)
    assert student.kept_pieces == 12  # ten that the texts have, and 0 and 1
    np.testing.assert_allclose(student(ids), source(ids), atol=1e-5)


def test_an_unknown_piece_reads_as_its_nearest_kept_one(source):
    student = cut(source)
    table = {weight.path: weight.numpy() for weight in source.weights}["tokens/table"]
    kept = sorted({*ALWAYS, *(piece for text in TEXTS for piece in text)})
    directions = table / np.linalg.norm(table, axis=1, keepdims=True)
    nearest = kept[int(np.argmax(directions[kept] @ directions[30]))]
    dropped, stand_in = np.array([[2, 30, 3]], "int32"), np.array([[2, nearest, 3]], "int32")
    np.testing.assert_array_equal(student(dropped), student(stand_in))


def test_a_chosen_layer_has_the_weights_of_its_origin(source):
    student = cut(source, layers=(2,))
    theirs = source.get_layer("encoder_2").get_weights()
    for ours, origin in zip(student.get_layer("encoder_0").get_weights(), theirs, strict=True):
        np.testing.assert_array_equal(ours, origin)


def test_the_units_kept_are_the_most_important_ones_of_that_layer(source):
    student = cut(source, layers=(1,), inner_dim=5)
    inner, outer = (source.get_layer("encoder_1").feed_forward.inner, source.get_layer("encoder_1").feed_forward.outer)
    activations = layer_activations(source, 1, TEXTS).inner
    assert activations.shape == (sum(map(len, TEXTS)), 11)
    importance = np.abs(activations).mean(axis=0) * np.linalg.norm(outer.kernel.numpy(), axis=1)
    best = sorted(np.argsort(-importance)[:5])
    ours = student.get_layer("encoder_0").feed_forward
    np.testing.assert_array_equal(ours.inner.kernel.numpy(), inner.kernel.numpy()[:, best])
    np.testing.assert_array_equal(ours.inner.bias.numpy(), inner.bias.numpy()[best])
    np.testing.assert_array_equal(ours.outer.kernel.numpy(), outer.kernel.numpy()[best])


def test_the_source_is_not_changed(source):
    before = [value.copy() for value in source.get_weights()]
    cut(source, layers=(0,), inner_dim=3, embedding_dim=5)
    assert all(np.array_equal(one, two) for one, two in zip(before, source.get_weights(), strict=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"layers": (0, 3)}, "layer=3 is more than .* Use layer=2"), ({"inner_dim": 12}, "Use inner_dim=11 or less")],
)
def test_more_than_the_source_has_is_refused(source, changes, message):
    with pytest.raises(ValueError, match=message):
        cut(source, **changes)


def test_a_model_that_was_cut_is_not_cut_again(source):
    with pytest.raises(ValueError, match="it was cut already"):
        cut(cut(source))
