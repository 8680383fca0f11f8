"""Which weights are pruned: kernels, each once, of the student alone, and what a user chooses."""

import keras
import pytest

from keras_transformer.compression import prunable_kernels
from keras_transformer.compression.prunable_kernels import input_axes
from keras_transformer.distillation import Distiller, LossTerm, hidden_states, true_labels
from keras_transformer.models import CausalLM, TextClassifier

SIZES = {"num_layers": 2, "model_dim": 6, "num_heads": 3, "inner_dim": 11}
IN_A_LAYER = ["attention/query", "attention/key", "attention/value", "attention/output"] + [
    f"feed_forward/{part}" for part in ("inner", "outer")
]


def classifier(**options):
    return TextClassifier(29, 5, **{**SIZES, **options}, max_length=13)


def paths(model, which=None):
    return [kernel.path for kernel in prunable_kernels(model, which)]


def test_all_kernels_of_a_classifier_are_pruned_and_nothing_else():
    expected = {f"encoder_{layer}/{part}/kernel" for layer in (0, 1) for part in IN_A_LAYER} | {"logits/kernel"}
    found = paths(classifier())
    assert set(found) == expected
    assert len(found) == len(expected)


def test_patterns_choose_layers_and_a_predicate_chooses_any_weight():
    model = classifier()
    assert set(paths(model, ["encoder_1/attention/*", "logits"])) == {
        *(f"encoder_1/{part}/kernel" for part in IN_A_LAYER[:4]),
        "logits/kernel",
    }
    assert paths(model, lambda weight: weight.name == "table") == ["tokens/table", "positions/table", "segments/table"]


def test_a_pattern_is_that_of_the_layer_in_a_sequential_model_too():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, name="logits")], name="whole")
    assert paths(model, ["logits"]) == ["whole/logits/kernel"]


def test_a_frozen_layer_is_left_alone():
    model = classifier()
    model.get_layer("encoder_0").trainable = False
    assert {path.split("/")[0] for path in paths(model)} == {"encoder_1", "logits"}


def test_a_tied_table_comes_once():
    model = CausalLM(29, **SIZES, max_length=13)
    assert paths(model, lambda weight: "tokens" in weight.path) == ["tokens/table"]


class Shares(keras.layers.Layer):
    """Multiplies with the kernel of another layer."""

    def __init__(self, other):
        super().__init__()
        self.kernel = other.kernel

    def call(self, x):
        return x @ self.kernel


def test_a_weight_that_two_layers_share_comes_once():
    inputs = keras.Input((7,))
    first = keras.layers.Dense(7, name="first")
    first.build((None, 7))
    model = keras.Model(inputs, Shares(first)(first(first(inputs))))
    assert paths(model) == ["first/kernel"]


def test_a_distiller_prunes_its_student_neither_teacher_nor_loss():
    student, teacher = classifier(name="student"), classifier(model_dim=9, name="teacher")
    terms = [
        LossTerm("true_labels", 1.0, true_labels),
        LossTerm("hidden", 1.0, hidden_states([("encoder/0/hidden", "encoder/1/hidden")])),
    ]
    distiller = Distiller(student, teacher, terms)
    assert any(weight.name == "kernel" for layer in distiller.loss_layers for weight in layer.trainable_weights)
    assert [id(one) for one in prunable_kernels(distiller)] == [id(one) for one in prunable_kernels(student)]


def test_the_inputs_of_a_product_are_the_axes_that_it_sums_over():
    inputs = keras.Input((5, 6))
    heads = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="heads")
    joined = keras.layers.EinsumDense("abde,dec->abc", (None, 7), name="joined")
    turned = keras.layers.EinsumDense("abc,dc->abd", (None, 11), name="turned")
    model = keras.Model(inputs, keras.layers.Dense(3, name="dense")(turned(joined(heads(inputs)))))
    expected = {"heads/kernel": (0,), "joined/kernel": (0, 1), "turned/kernel": (1,), "dense/kernel": (0,)}
    assert {kernel.path: input_axes(model, kernel) for kernel in prunable_kernels(model)} == expected


def test_what_can_not_be_pruned_is_told():
    model = classifier()
    with pytest.raises(ValueError, match=r"has 'encodr_\*', which fits none of the layers.*'encoder_0/attention/key'"):
        prunable_kernels(model, ["encodr_*"])
    with pytest.raises(TypeError, match=r"which='logits' must be a list of patterns. Use which=\['logits'\]"):
        prunable_kernels(model, "logits")
    bare = keras.Sequential([keras.Input((3,)), keras.layers.LayerNormalization(name="norm")], name="bare")
    with pytest.raises(
        ValueError, match=r"'bare' has no weight to prune among \['bare/norm/gamma', 'bare/norm/beta'\].*which="
    ):
        prunable_kernels(bare)
    convolution = keras.Sequential([keras.Input((7, 3)), keras.layers.Conv1D(5, 2, name="conv")])
    with pytest.raises(ValueError, match=r"conv/kernel has the shape \(2, 3, 5\), and which of its axes are inputs"):
        input_axes(convolution, convolution.layers[0].kernel)
