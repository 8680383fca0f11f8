"""A term is checked when it is made; a loss says what it needs."""

import keras
import numpy as np
import pytest

from keras_transformer.distillation import LossTerm, Needs, needing, soft_targets, true_labels
from keras_transformer.distillation.terms import checked_terms, needs_of


def plain(labels, student, teacher):
    return student.logits[:, 0]


def test_a_plain_function_needs_nothing_but_logits():
    assert needs_of(plain) == Needs(student_taps=(), teacher_taps=(), labels=False)


def test_a_marked_function_keeps_its_behaviour_and_says_its_needs():
    @needing(student_taps=["pooled"], teacher_taps=["encoder/2/hidden"], labels=True)
    def marked(labels, student, teacher):
        return 31

    assert marked(None, None, None) == 31
    assert needs_of(marked) == Needs(("pooled",), ("encoder/2/hidden",), True)


def test_a_layer_says_its_needs_as_an_attribute():
    class Projected(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.needs = Needs(student_taps=("hidden",))

    assert needs_of(Projected()).student_taps == ("hidden",)


@pytest.mark.parametrize("name", ["", "loss"])
def test_a_term_needs_a_name_of_its_own(name):
    with pytest.raises(ValueError, match=r"'loss' is the sum of all terms. Use for example name='soft_targets'"):
        LossTerm(name, 1.0, plain)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_is_a_number_of_at_least_zero(weight):
    with pytest.raises(ValueError, match=r"'kd': weight=\S+ must be a number of at least 0. Use weight=0.0 to rec"):
        LossTerm("kd", weight, plain)


def test_a_weight_may_be_a_variable():
    assert LossTerm("kd", keras.Variable(0.5), plain).weight.numpy() == np.float32(0.5)


def test_the_name_of_a_loss_is_no_loss():
    with pytest.raises(TypeError, match=r"loss='kl_divergence' can't be called. Pass a function .* itself"):
        LossTerm("kd", 1.0, "kl_divergence")


def test_no_terms_leave_nothing_to_train_on():
    with pytest.raises(ValueError, match=r"terms=\[\] leaves nothing to train on. Give at least one LossTerm"):
        checked_terms([])


def test_two_terms_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"has the name 'kd' twice: .*Rename one"):
        checked_terms([LossTerm("kd", 1.0, plain), LossTerm("kd", 0.5, true_labels)])


def test_a_bare_loss_is_no_term():
    with pytest.raises(TypeError, match=r"each must be a LossTerm\(name, weight, loss\). Wrap it in one"):
        checked_terms([soft_targets(2.0)])
