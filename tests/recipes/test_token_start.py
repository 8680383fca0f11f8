"""What a student of a translator or a language model starts from."""

import numpy as np
import pytest

from keras_transformer.compression import hindrance
from keras_transformer.data.packing import PackedBatches
from keras_transformer.models import CausalLM
from keras_transformer.recipes.token_start import start_from_teacher, student_size


def batches():
    texts = np.random.default_rng(3).integers(2, 29, (11, 7)).tolist()
    return PackedBatches(texts, length=7, batch_size=3, end_id=1, seed=5)


def writer(width, **options):
    return CausalLM(29, 2, width, 2, 11, head_dim=3, max_length=13, **options)


def test_a_student_that_fits_gets_its_teachers_weights_and_says_nothing():
    told, student, teacher = [], writer(5), writer(7)
    before = student.stack.tokens.table.numpy()
    start_from_teacher(student, teacher, batches(), told.append)
    assert told == []
    assert np.abs(student.stack.tokens.table.numpy() - before).max() > 0.01


def test_a_student_that_does_not_fit_keeps_its_weights_and_says_why():
    told, student, teacher = [], writer(5), writer(7, embedding_dim=3)
    before = student.get_weights()
    start_from_teacher(student, teacher, batches(), told.append)
    assert told == [
        "The student starts from random weights, not from its teacher's: embedding_dim=3: "
        "the token table must not be factorised"
    ]
    for old, new in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("width", "head_dim", "heads"),
    [
        *((24, 2, heads) for heads in (1, 3, 12)),
        *((24, 8, heads) for heads in (2, 25)),
        *((300, 2, heads) for heads in (5, 25)),
        *((300, 8, heads) for heads in (1, 12)),
    ],
)
def test_a_student_of_the_default_size_can_start_from_its_teacher(width, head_dim, heads):
    teacher = CausalLM(29, 2, width, heads, 11, head_dim=head_dim, max_length=13)
    student = CausalLM(29, max_length=13, **student_size(None, teacher))
    assert hindrance(student, teacher) is None
    assert student.count_params() < teacher.count_params()
