"""Losses on hidden states and pooled vectors against float64 loops, with their projections."""

import re

import numpy as np
import pytest
from tapped import MASK, student_taps, teacher_taps, value_and_gradients

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    contrastive,
    embedding_states,
    hidden_cosine,
    hidden_states,
    hint,
    patient_states,
    similarity_preserving,
)
from keras_transformer.models import TextClassifier

PAIRS = [("hidden", "hidden"), ("second", "second"), ("embeddings", "embeddings")]


def numpy_projected(vector, projection):
    """v W of one vector, by loops; no projection = v."""
    if not projection:
        return vector.astype("float64")
    kernel = projection[0].astype("float64")
    return np.array([sum(vector[i] * kernel[i, j] for i in range(len(vector))) for j in range(kernel.shape[1])])


def numpy_squared(left, right):
    return sum((a - b) ** 2 for a, b in zip(left, right, strict=True))


def numpy_length(vector):
    return np.sqrt(sum(value**2 for value in vector))


def numpy_cosine(left, right):
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / numpy_length(left) / numpy_length(right)


def numpy_mean_of_pairs(distance, pairs, projections, student, teacher):
    """Mean over pairs of distance(projected student vector, teacher vector), at each place before the last axis."""
    total = 0.0
    for (ours, theirs), projection in zip(pairs, projections, strict=True):
        values = np.zeros(student[ours].shape[:-1])
        for place in np.ndindex(*values.shape):
            values[place] = distance(numpy_projected(student[ours][place], projection), teacher[theirs][place])
        total = total + values / len(pairs)
    return total


def kernels(loss):
    return [layer.get_weights() for layer in loss.projections]


DISTANCES = {
    "hidden_states": (lambda: hidden_states(PAIRS), lambda a, b: numpy_squared(a, b) / len(b)),
    "hidden_cosine": (lambda: hidden_cosine(PAIRS), lambda a, b: 1 - numpy_cosine(a, b)),
    "embedding_states": (lambda: embedding_states(), lambda a, b: numpy_squared(a, b) / len(b)),
    "hint": (lambda: hint("hidden", "hidden"), lambda a, b: numpy_squared(a, b) / 2),
}


@pytest.mark.parametrize("name", DISTANCES)
def test_token_distances_match_the_float64_loops(name):
    make, distance = DISTANCES[name]
    loss, student, teacher = make(), student_taps(), teacher_taps()
    value, gradients = value_and_gradients(loss, student, teacher, mask=None)
    want = numpy_mean_of_pairs(distance, loss.pairs, kernels(loss), student, teacher)
    np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)
    assert sorted(gradients) == sorted(ours for ours, _ in loss.pairs)


def test_a_matrix_is_learned_just_where_widths_differ():
    loss = hidden_states(PAIRS)
    value_and_gradients(loss, student_taps(), teacher_taps())
    assert [[weight.shape for weight in kernel] for kernel in kernels(loss)] == [[(4, 7)], [], [(2, 3)]]
    assert len(loss.trainable_weights) == 2
    equal = hidden_states([("second", "second")])
    value_and_gradients(equal, student_taps(), teacher_taps())
    assert equal.weights == []


def test_a_hint_on_a_feature_map_is_the_mean_over_its_places():
    loss, student, teacher = hint("picture", "picture"), student_taps(), teacher_taps()
    value, _ = value_and_gradients(loss, student, teacher, mask=None)
    places = numpy_mean_of_pairs(
        lambda a, b: numpy_squared(a, b) / 2, loss.pairs, kernels(loss), student, teacher
    )  # (B, 2, 3)
    np.testing.assert_allclose(value, places.reshape(3, 6).sum(1) / 6, rtol=1e-5)


def test_patient_states_compare_directions_of_first_tokens_over_layers():
    student, teacher = student_taps(), teacher_taps()
    teacher["deep"] = 7 * teacher["second"] + 1
    value, _ = value_and_gradients(patient_states([("second", "second"), ("second", "deep")]), student, teacher)
    want = np.zeros(3)
    for row in range(3):
        ours = student["second"][row, 0].astype("float64")
        for name in ("second", "deep"):
            theirs = teacher[name][row, 0].astype("float64")
            want[row] += numpy_squared(ours / numpy_length(ours), theirs / numpy_length(theirs)) / 2
    np.testing.assert_allclose(value, want, rtol=1e-5)


def test_a_cosine_by_hand_and_near_zero():
    loss = hidden_cosine([("h", "h")])
    student = {"h": np.array([[3.0, 4.0], [0.0, 2.0], [-1.0, 0.0], [1.0, 1e-3]], "float32")}
    teacher = {"h": np.array([[6.0, 8.0], [5.0, 0.0], [4.0, 0.0], [1.0, 0.0]], "float32")}
    value, _ = value_and_gradients(loss, student, teacher, mask=None)
    # 1 - cos of a small angle is half its square; as a difference of float32 numbers it would be off by a tenth
    np.testing.assert_allclose(value, [0, 1, 2, 0.5e-6], rtol=1e-4, atol=1e-12)


def numpy_similarities(features):
    rows = features.reshape(len(features), -1).astype("float64")
    out = np.array([[sum(a * b for a, b in zip(left, right, strict=True)) for right in rows] for left in rows])
    return np.array([row / numpy_length(row) for row in out])


@pytest.mark.parametrize("tap", ["pooled", "picture"])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_similarity_preserving_matches_the_loops_at_any_scale_of_features(tap, scale):
    student, teacher = student_taps(), teacher_taps()
    value, gradients = value_and_gradients(
        similarity_preserving(tap, tap), {tap: student[tap] * np.float32(scale)}, {tap: teacher[tap]}, mask=None
    )
    ours, theirs = numpy_similarities(student[tap]), numpy_similarities(teacher[tap])
    want = [sum((ours[i, j] - theirs[i, j]) ** 2 for j in range(3)) / 3 for i in range(3)]
    np.testing.assert_allclose(value, want, rtol=1e-4)
    np.testing.assert_allclose(value.mean(), np.linalg.norm(ours - theirs) ** 2 / 9, rtol=1e-4)  # eq. 4
    at_one = value_and_gradients(similarity_preserving(tap, tap), {tap: student[tap]}, {tap: teacher[tap]}, mask=None)[
        1
    ][tap]
    np.testing.assert_allclose(gradients[tap] * scale, at_one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_contrastive_matches_the_loops(temperature):
    loss, student, teacher = contrastive(temperature=temperature), student_taps(), teacher_taps()
    value, _ = value_and_gradients(loss, student, teacher)
    want = np.zeros(3)
    for i in range(3):
        ours = numpy_projected(student["pooled"][i], kernels(loss)[0])
        scores = [numpy_cosine(ours, teacher["pooled"][j].astype("float64")) / temperature for j in range(3)]
        want[i] = np.log(sum(np.exp(score) for score in scores)) - scores[i]
    np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-6)


def test_a_batch_of_one_row_has_no_negatives():
    one = {"pooled": np.array([[1.0, 2.0]], "float32")}
    value, gradients = value_and_gradients(contrastive(), one, {"pooled": one["pooled"] + 1}, mask=None)
    np.testing.assert_array_equal(value, [0.0])
    np.testing.assert_allclose(gradients["pooled"], [[0.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize("pairs", [[], ["hidden"], ("hidden", "hidden"), [("a",)], [("a", "b", "c")], [("a", 3)]])
def test_pairs_that_are_no_pairs_of_names_are_refused(pairs):
    with pytest.raises(ValueError, match=r"pairs.*Use for example pairs=\[\('encoder/0/hidden', 'encoder/2/hidden'\)"):
        hidden_states(pairs)


def sides(ours, theirs):
    return Outputs(None, {"a": np.ones(ours, "float32")}), Outputs(None, {"b": np.ones(theirs, "float32")})


def test_widths_that_differ_are_refused_where_nothing_projects():
    with pytest.raises(ValueError, match=r"\('a', 'b'\) has width 4 .* and 7 .*patient_states.*Use hidden_cosine"):
        patient_states([("a", "b")])(None, *sides((2, 3, 4), (2, 3, 7)))


@pytest.mark.parametrize(
    ("ours", "theirs"), [((2, 3, 4), (2, 5, 4)), ((2, 4), (2, 3, 4)), ((2, 5, 3, 4), (2, 3, 3, 4))]
)
def test_taps_of_other_lengths_or_ranks_are_refused_with_both_shapes(ours, theirs):
    message = re.escape(f"{ours} and the teacher's {theirs}, where only the last axis may differ")
    for make in (hidden_states, hidden_cosine, patient_states):
        with pytest.raises(ValueError, match=rf"\('a', 'b'\) can't be compared: .*{message}"):
            make([("a", "b")])(None, *sides(ours, theirs))


def test_rows_and_tokens_are_not_averaged_in_one_term():
    with pytest.raises(ValueError, match=r"unlike shapes.*\('pooled', 'pooled'\): \(3,\).*LossTerm of each kind"):
        value_and_gradients(hidden_states([("hidden", "hidden"), ("pooled", "pooled")]), student_taps(), teacher_taps())


def test_losses_on_rows_refuse_tokens():
    for loss, text in (
        (similarity_preserving("a", "b"), r"similarity_preserving.*\(2, 3, 4\).*pooled vector \(B, D\)"),
        (contrastive("a", "b"), r"contrastive.*\(2, 3, 4\).*pooled vector \(B, D\)"),
    ):
        with pytest.raises(ValueError, match=text):
            loss(None, *sides((2, 3, 4), (2, 3, 4)))
    with pytest.raises(ValueError, match=r"patient_states .*\(2, 4\).*\(B, T, D\), or use hidden_cosine"):
        patient_states([("a", "b")])(None, *sides((2, 4), (2, 4)))


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("make", [lambda tap: hint(tap, tap), lambda tap: similarity_preserving(tap, tap)])
def test_a_map_of_four_axes_is_refused_where_a_side_has_a_mask(make, side):
    """Queries (B, H, T, d) would pass for a picture, and padding would count."""
    query = {"layer/query": student_taps()["layer/query"]}
    sides = {"student": Outputs(None, query), "teacher": Outputs(None, query)}
    make("layer/query")(None, **sides)  # for all that it knows a picture
    sides[side] = sides[side]._replace(mask=MASK)
    shapes = re.escape("(3, 2, 5, 3) and (3, 2, 5, 3)")
    message = rf"'layer/query'\) have shapes {shapes}, and the {side} has a padding mask.* Name taps \(B, T, D\)"
    with pytest.raises(ValueError, match=message):
        make("layer/query")(None, **sides)


def test_queries_of_text_models_are_refused_when_the_distiller_is_made():
    student, teacher = (
        TextClassifier(13, 3, num_layers=1, model_dim=8, num_heads=2, inner_dim=11, max_length=7) for _ in range(2)
    )
    term = LossTerm("queries", 1.0, hidden_states([("encoder/0/query", "encoder/0/query")]))
    with pytest.raises(ValueError, match=r"the student has a padding mask.*by relations or value_relations"):
        Distiller(student, teacher, [term])


def test_a_temperature_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"temperature=-1.0 must be .*above 0. Use for example temperature=0.1"):
        contrastive(temperature=-1.0)
