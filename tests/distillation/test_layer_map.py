"""Layer maps: the published ones, what each pair is called, and wrong ones told by both lists of layers."""

from itertools import pairwise

import numpy as np
import pytest

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    every_k,
    given,
    last_k,
    layer_count,
    named_pairs,
    needing,
    tap_pairs,
    uniform,
)
from keras_transformer.models import TextClassifier

PUBLISHED = [
    pytest.param(uniform(4, 12), [(0, 2), (1, 5), (2, 8), (3, 11)], id="TinyBERT-4"),
    pytest.param(uniform(6, 12), [(m, 2 * m + 1) for m in range(6)], id="TinyBERT-6"),
    pytest.param(every_k(6, 12, 2)[:-1], [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9)], id="PKD-Skip"),
    pytest.param(last_k(6, 12)[:-1], [(0, 6), (1, 7), (2, 8), (3, 9), (4, 10)], id="PKD-Last"),
    pytest.param(every_k(6, 12, 2, first=0), [(m, 2 * m) for m in range(6)], id="DistilBERT"),
    pytest.param(last_k(3, 12, 1), [(2, 11)], id="MiniLM"),
    pytest.param(given(iter([(0, 3), (2, 4)]), 3, 5), [(0, 3), (2, 4)], id="by hand, out of a generator"),
]
TOKEN_IDS = np.array([[5, 7, 0], [3, 2, 11]], dtype="int32")


def encoder(num_layers):
    return TextClassifier(
        13, 2, num_layers, model_dim=4, num_heads=2, inner_dim=5, max_length=7, name=f"of{num_layers}"
    )


@pytest.mark.parametrize(("layer_map", "want"), PUBLISHED)
def test_the_maps_are_those_of_the_papers(layer_map, want):
    assert [tuple(pair) for pair in layer_map] == want


@pytest.mark.parametrize("teacher", range(1, 14))
def test_a_uniform_map_goes_up_ends_at_the_last_layer_and_spreads_evenly(teacher):
    for student in range(1, teacher + 1):
        layers = [-1, *(pair.teacher for pair in uniform(student, teacher))]
        steps = [after - before for before, after in pairwise(layers)]
        assert layers[-1] == teacher - 1
        assert len(steps) == student
        assert set(steps) <= {teacher // student, -(-teacher // student)}


def test_the_numbers_of_layers_are_read_off_the_taps():
    student, teacher = encoder(2), encoder(5)
    assert (layer_count(student), layer_count(teacher), layer_count(7)) == (2, 5, 7)
    assert uniform(student, teacher) == uniform(2, 5) == ((0, 2), (1, 4))


def test_pairs_are_named_by_kind_or_by_a_pattern_a_side():
    layer_map = every_k(2, 4, 2)
    assert tap_pairs(layer_map, "hidden") == [
        ("encoder/0/hidden", "encoder/1/hidden"),
        ("encoder/1/hidden", "encoder/3/hidden"),
    ]
    assert named_pairs(layer_map, "encoder_{}") == [("encoder_0", "encoder_1"), ("encoder_1", "encoder_3")]
    assert named_pairs(layer_map, "s{}", "t{}") == [("s0", "t1"), ("s1", "t3")]


def test_named_taps_are_those_that_a_distiller_finds():
    """The names are right for both models: with any other the Distiller refuses."""
    student, teacher = encoder(2), encoder(3)
    for kind in ("hidden", "attention", "query", "key", "value"):
        pairs = tap_pairs(uniform(student, teacher), kind)

        @needing(student_taps=[ours for ours, _ in pairs], teacher_taps=[theirs for _, theirs in pairs])
        def loss(labels, student, teacher):
            raise NotImplementedError

        distiller = Distiller(student, teacher, [LossTerm("features", 1.0, loss)])
        found = distiller.student_outputs(TOKEN_IDS, training=False), distiller.teacher_outputs(TOKEN_IDS)
        assert [tuple(side.taps) for side in found] == [loss.needs.student_taps, loss.needs.teacher_taps]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: uniform(4, 3),
            r"has more student layers than the 3 of the teacher: student layers \[0, 1, 2, 3\] of 0 to 3 learn from "
            r"teacher layers .* of 0 to 2\. Map 3 of them: last_k\(student, teacher, k=3\)",
        ),
        (
            lambda: given([(0, 1), (1, 6)], 2, 6),
            r"names teacher layer 6: student layers \[0, 1\] of 0 to 1 learn from teacher layers \[1, 6\] of 0 to 5\. "
            r"Use teacher layers 0 to 5\.",
        ),
        (lambda: given([(-1, 1)], 2, 6), r"names student layer -1: .*\[-1\] of 0 to 1.*\[1\] of 0 to 5"),
        (lambda: given([(0, 1), (0, 2)], 2, 6), r"has student layer 0 twice: .*\[0, 0\].*\[1, 2\].*Leave one"),
        (lambda: given([(0, 1), (1, 1)], 2, 6), r"has teacher layer 1 twice: .*\[0, 1\].*\[1, 1\]"),
        (
            lambda: given([(0, 4), (1, 2)], 2, 6),
            r"goes back among the teacher layers: .*\[4, 2\].*Let both lists go up",
        ),
        (lambda: given([], 2, 6), r"is empty: student layers \[\] of 0 to 1 learn from teacher layers \[\] of 0 to 5"),
        (lambda: every_k(4, 6, 2), r"names teacher layer 7: .*\[0, 1, 2, 3\].*\[1, 3, 5, 7\] of 0 to 5"),
        (lambda: last_k(2, 6, 3), r"names student layer -1: .*\[-1, 0, 1\] of 0 to 1"),
        (lambda: last_k(4, 3), r"more student layers than the 3 of the teacher"),
        (lambda: last_k(2, 6, 0), r"k=0 must be a whole number of at least 1"),
        (lambda: uniform(0, 6), r"number of layers=0 must be a whole number"),
        (lambda: named_pairs(last_k(1, 1), "encoder"), r"the pattern 'encoder' has no place .* 'encoder_{}'"),
    ],
)
def test_a_wrong_map_is_refused_with_the_layers_of_both_sides(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_that_has_no_such_taps_is_told_to_give_its_number(classifier):
    with pytest.raises(ValueError, match=r"'plain' has no tap 'encoder/0/hidden'.*Give the number of its layers"):
        layer_count(classifier(name="plain"))
