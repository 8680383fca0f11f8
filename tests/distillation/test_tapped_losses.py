"""What holds for every loss that looks at taps: padding, batch order, number formats, equal sides, compilers."""

import numpy as np
import pytest
import tensorflow as tf
from tapped import MASK, STUDENT_SHAPES, B, T, student_taps, taps_of, teacher_taps, value_and_gradients

from keras_transformer.distillation import (
    Outputs,
    attention_divergence,
    attention_maps,
    attention_scores,
    contrastive,
    embedding_states,
    hidden_cosine,
    hidden_states,
    hint,
    patient_states,
    relations,
    similarity_preserving,
    value_relations,
)
from keras_transformer.distillation.terms import needs_of

LAYERS = ("layer", "layer")
TWO = [("hidden", "hidden"), ("second", "second")]
LOSSES = {
    "hidden_states": lambda: hidden_states(TWO),
    "hidden_cosine": lambda: hidden_cosine(TWO),
    "patient_states": lambda: patient_states([("second", "second")]),
    "hint": lambda: hint("hidden", "hidden"),
    "embedding_states": lambda: embedding_states(),
    "attention_maps": lambda: attention_maps([("attention", "attention")]),
    "attention_scores": lambda: attention_scores([LAYERS]),
    "attention_divergence": lambda: attention_divergence([LAYERS]),
    "relations": lambda: relations(LAYERS, relation_heads=3),
    "value_relations": lambda: value_relations(LAYERS, relation_heads=2),
    "similarity_preserving": lambda: similarity_preserving(),
    "contrastive": lambda: contrastive(),
}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_distance = pytest.mark.parametrize("name", [name for name in LOSSES if name != "contrastive"])


def axes_of_tokens(shape):
    return [axis for axis, size in enumerate(shape) if size == T]


def longer(taps, by):
    """Taps with `by` more tokens of rubbish at the end."""
    out = {}
    for name, value in taps.items():
        widths = [(0, by if axis in axes_of_tokens(value.shape) else 0) for axis in range(value.ndim)]
        out[name] = np.pad(value, widths, constant_values=1e3)
    return out


def real(values):
    return values[MASK] if values.ndim == 2 else values


@every_loss
def test_padding_and_what_stands_in_it_change_nothing(name):
    loss, student, teacher = LOSSES[name](), student_taps(), teacher_taps()
    value, gradients = value_and_gradients(loss, student, teacher)
    more, more_gradients = value_and_gradients(
        loss, longer(student, 4), longer(teacher, 4), np.pad(MASK, ((0, 0), (0, 4)))
    )
    np.testing.assert_allclose(real(more[:, :T] if more.ndim == 2 else more), real(value), rtol=1e-5, atol=1e-7)
    for tap, gradient in gradients.items():
        cut = more_gradients[tap][tuple(slice(size) for size in gradient.shape)]
        np.testing.assert_allclose(cut, gradient, rtol=1e-4, atol=1e-6)
    for tap, gradient in more_gradients.items():
        padded = np.ones(gradient.shape, bool)
        padded[tuple(slice(size) for size in STUDENT_SHAPES[tap])] = False
        assert not gradient[padded].any(), tap


def with_padding_of(taps, rubbish):
    """The taps with `rubbish` in all that belongs to a token that isn't real."""
    queries, both = MASK[:, None, :, None], MASK[:, None, :, None] & MASK[:, None, None, :]
    shown = {"attention": both, "pooled": True, "picture": True}
    rubbish = np.float32(rubbish)
    return {
        tap: np.where(shown.get(tap, queries if value.ndim == 4 else MASK[..., None]), value, rubbish)
        for tap, value in taps.items()
    }


@every_loss
@pytest.mark.parametrize("rubbish", [1e25, 3e38, np.inf, np.nan])
def test_what_stands_in_padding_is_not_in_the_gradient_however_large(name, rubbish):
    loss, student, teacher = LOSSES[name](), student_taps(), teacher_taps()
    value, gradients = value_and_gradients(loss, student, teacher)
    other, others = value_and_gradients(loss, with_padding_of(student, rubbish), with_padding_of(teacher, -rubbish))
    np.testing.assert_allclose(real(other), real(value), rtol=1e-5, atol=1e-7)
    for tap, gradient in gradients.items():
        np.testing.assert_allclose(others[tap], gradient, rtol=1e-4, atol=1e-6, err_msg=tap)


@every_loss
def test_the_order_of_the_batch_is_the_order_of_the_values(name):
    loss, student, teacher, order = LOSSES[name](), student_taps(), teacher_taps(), [2, 0, 1]
    value, _ = value_and_gradients(loss, student, teacher)
    other, _ = value_and_gradients(
        loss,
        {tap: array[order] for tap, array in student.items()},
        {tap: array[order] for tap, array in teacher.items()},
        MASK[order],
    )
    np.testing.assert_allclose(other[MASK[order]] if other.ndim == 2 else other, real_of(value, order), rtol=1e-5)


def real_of(value, order):
    return value[order][MASK[order]] if value.ndim == 2 else value[order]


@every_loss
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_taps_are_computed_in_float32(name, dtype):
    loss = LOSSES[name]()
    student = {tap: tf.cast(value, dtype) for tap, value in student_taps(scale=10.0).items()}
    teacher = {tap: tf.cast(value, dtype) for tap, value in teacher_taps(scale=10.0).items()}
    value, gradients = value_and_gradients(loss, student, teacher)
    exact, _ = value_and_gradients(
        loss,
        {tap: tf.cast(array, "float32") for tap, array in student.items()},
        {tap: tf.cast(array, "float32") for tap, array in teacher.items()},
    )
    assert value.dtype == np.float32
    np.testing.assert_array_equal(value, exact)
    assert gradients
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@every_distance
def test_a_student_equal_to_its_teacher_is_at_exactly_zero(name):
    loss, same = LOSSES[name](), taps_of(STUDENT_SHAPES, seed=1, scale=3.0)
    value, gradients = value_and_gradients(loss, same, same)
    np.testing.assert_array_equal(value, np.zeros_like(value))
    assert all(np.isfinite(gradient).all() for gradient in gradients.values())
    other, _ = value_and_gradients(loss, taps_of(STUDENT_SHAPES, seed=2, scale=3.0), same)
    assert (real(other) > 0).all()


@every_loss
@pytest.mark.parametrize("rubbish", [0.0, 1e4])
def test_zero_and_huge_taps_and_a_text_without_tokens_leave_everything_finite(name, rubbish):
    loss, teacher = LOSSES[name](), teacher_taps()
    student = {tap: np.full_like(value, rubbish) for tap, value in student_taps().items()}
    for mask in (MASK & np.array([[True], [False], [True]]), None):
        value, gradients = value_and_gradients(loss, student, teacher, mask)
        assert np.isfinite(value).all()
        assert all(np.isfinite(gradient).all() for gradient in gradients.values())


@every_loss
def test_the_gradient_is_the_slope_of_the_loss(name):
    loss, student, teacher = LOSSES[name](), student_taps(), teacher_taps()
    _, gradients = value_and_gradients(loss, student, teacher)
    square = sum(np.sum(np.square(gradient, dtype="float64")) for gradient in gradients.values())
    assert square > 0
    step = 1e-2 / np.sqrt(square)

    def total(size):
        moved = student | {tap: student[tap] + np.float32(size) * gradient for tap, gradient in gradients.items()}
        return np.sum(real(value_and_gradients(loss, moved, teacher)[0]), dtype="float64")

    np.testing.assert_allclose((total(step) - total(-step)) / (2 * step), square, rtol=1e-2)


def of_any_size(taps):
    """What a graph of any batch and length is traced with."""
    return {
        name: tf.TensorSpec([None if axis == 0 or size == T else size for axis, size in enumerate(value.shape)])
        for name, value in taps.items()
    }


@every_loss
def test_eager_graph_and_xla_agree(name):
    loss, student, teacher = LOSSES[name](), student_taps(), teacher_taps()
    eager, _ = value_and_gradients(loss, student, teacher)

    def run(student, teacher, mask):
        return loss(None, Outputs(None, student, mask), Outputs(None, teacher, mask))

    signature = [of_any_size(student), of_any_size(teacher), tf.TensorSpec([None, None], "bool")]
    for jit in (False, True):
        value = tf.function(run, input_signature=signature, jit_compile=jit)(student, teacher, MASK)
        np.testing.assert_allclose(real(value.numpy()), real(eager), rtol=1e-4, atol=1e-6)


@every_loss
def test_the_teachers_mask_serves_when_the_student_has_none(name):
    loss, student, teacher = LOSSES[name](), student_taps(), teacher_taps()
    both, _ = value_and_gradients(loss, student, teacher)
    theirs = loss(None, Outputs(None, student), Outputs(None, teacher, MASK))
    np.testing.assert_array_equal(real(theirs.numpy()), real(both))


@every_loss
def test_a_loss_names_its_taps_and_needs_no_labels(name):
    loss = LOSSES[name]()
    needs = needs_of(loss)
    assert not needs.labels
    value, _ = value_and_gradients(
        loss,
        {tap: student_taps()[tap] for tap in needs.student_taps},
        {tap: teacher_taps()[tap] for tap in needs.teacher_taps},
    )
    assert value.shape in {(B,), (B, T)}


@every_loss
def test_a_missing_tap_is_told_with_its_pair(name):
    loss = LOSSES[name]()
    with pytest.raises(ValueError, match=r"The pair \('[\w/]+', '[\w/]+'\) can't be compared: the student gave no tap"):
        loss(None, Outputs(None, {"nothing": np.zeros((B, 2), "float32")}), Outputs(None, teacher_taps()))
