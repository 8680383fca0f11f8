"""Any Keras model: a convolutional ResNet teaches a ResNeXt, and KerasHub tasks teach our TextClassifier."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops
from sklearn.datasets import load_digits

from keras_transformer.distillation import Distiller, LossTerm, Needs, soft_targets, with_taps
from keras_transformer.models import TextClassifier

TRAINED = 1200


class Projected(layers.Layer):
    """Squared distance of the teacher's tap from a learned projection of the student's; over real tokens if any."""

    def __init__(self, student_tap, teacher_tap, width):
        super().__init__()
        self.needs = Needs((student_tap,), (teacher_tap,))
        self.student_tap, self.teacher_tap, self.projection = student_tap, teacher_tap, layers.Dense(width)

    def call(self, labels, student, teacher):
        difference = self.projection(student.taps[self.student_tap]) - teacher.taps[self.teacher_tap]
        return ops.mean(ops.square(difference), axis=-1)  # (B,) or (B, T)


def residual_block(x, filters, strides, groups=1):
    """Two convolutions and a shortcut (He et al. 2016); with groups the first one is ResNeXt's (Xie et al. 2017)."""
    shortcut = layers.Conv2D(filters, 1, strides, use_bias=False)(x)
    x = layers.Conv2D(filters, 3, strides, padding="same", groups=groups, use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.BatchNormalization(momentum=0.8)(layers.Conv2D(filters, 3, padding="same", use_bias=False)(x))
    return layers.ReLU()(layers.Add()([x, shortcut]))


def image_model(filters, groups=1):
    """The convolutions are a nested model, as in a backbone with a head."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(filters, 3, padding="same")(inputs)
    x = residual_block(residual_block(x, filters, 1, groups), 2 * filters, 2, groups)
    backbone = keras.Model(inputs, layers.GlobalAveragePooling2D(name="pooled")(x), name="backbone")
    image = keras.Input((8, 8, 1), name="image")
    return keras.Model(image, layers.Dense(10, name="logits")(backbone(image)))


@pytest.fixture(scope="module")
def digits():
    """Images (1797, 8, 8, 1) with mean 0 and labels, in an order drawn once."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order, ..., None] / 8 - 1).astype("float32"), data.target[order].astype("int32")


@pytest.fixture(scope="module")
def resnet(digits):
    keras.utils.set_random_seed(7)
    model = image_model(16)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(3e-3), loss, jit_compile=False)
    model.fit(*(part[:TRAINED] for part in digits), batch_size=48, epochs=5, verbose=0)
    return model


def accuracy(model, digits):
    images, labels = (part[TRAINED:] for part in digits)
    return float(np.mean(np.argmax(model.predict(images, verbose=0), -1) == labels))


def test_a_resnet_teaches_a_resnext_the_digits_without_one_label(digits, resnet, fingerprint):
    student, before = image_model(8, groups=4), fingerprint(resnet)
    terms = [
        LossTerm("soft_targets", 1.0, soft_targets(2.0)),
        LossTerm("pooled", 0.3, Projected("backbone/pooled", "backbone/pooled", 32)),
    ]
    distiller = Distiller(student, resnet, terms)
    distiller.compile(keras.optimizers.Adam(5e-3), metrics=["accuracy"], jit_compile=False)
    untrained = accuracy(student, digits)
    history = distiller.fit(digits[0][:TRAINED], batch_size=40, epochs=6, verbose=0).history
    taught = accuracy(student, digits)
    assert student.count_params() < resnet.count_params() / 3
    assert accuracy(resnet, digits) > 0.94
    assert untrained < 0.3

    assert taught > 0.9, "keras.distillation's default loss leaves toy students far below half"
    assert history["pooled"][-1] < 0.5 * history["pooled"][0]
    # Batch statistics are weights too: the teacher's stay, the student's move.
    assert fingerprint(resnet) == before
    moving = [weight for weight in student.weights if "moving_mean" in weight.path]
    assert moving
    assert all(float(ops.max(ops.abs(weight))) > 1e-3 for weight in moving)


VOCABULARY, LENGTH = 31, 11


def hub_backbone(kind):
    return kind(
        vocabulary_size=VOCABULARY,
        num_layers=2,
        num_heads=2,
        hidden_dim=6,
        intermediate_dim=17,
        max_sequence_length=43,
        dropout=0.1,
    )


def token_batch(rows=5):
    """What a KerasHub preprocessor gives: ids, 1 at real tokens, segments."""
    random = np.random.default_rng(3)
    real = np.arange(LENGTH) < random.integers(2, LENGTH + 1, (rows, 1))
    ids = np.where(real, random.integers(1, VOCABULARY, (rows, LENGTH)), 0)
    return {
        "token_ids": ids.astype("int32"),
        "padding_mask": real.astype("int32"),
        "segment_ids": np.zeros_like(ids, "int32"),
    }


@pytest.fixture(scope="module")
def hub_classifier():
    keras.utils.set_random_seed(7)
    return keras_hub.models.BertTextClassifier(hub_backbone(keras_hub.models.BertBackbone), num_classes=3)


def text_student():
    sizes = {"num_layers": 1, "model_dim": 8, "num_heads": 2, "inner_dim": 13, "max_length": 43}
    return TextClassifier(VOCABULARY, 3, **sizes, dropout=0.0)


def hub_distiller(teacher, **options):
    hidden = Projected("encoder/0/hidden", "bert_backbone/transformer_layer_1", 6)
    terms = [LossTerm("soft_targets", 1.0, soft_targets(2.0)), LossTerm("hidden", 1.0, hidden)]
    distiller = Distiller(text_student(), teacher, terms)
    distiller.compile(keras.optimizers.Adam(0.02), **options)
    return distiller


def test_taps_of_a_keras_hub_task_are_those_of_its_backbone(hub_classifier):
    batch, layer = token_batch(), "bert_backbone/transformer_layer_1"
    got = with_taps(hub_classifier, ["bert_backbone/transformer_layer_0", layer])(batch)
    want = hub_classifier.backbone(batch)["sequence_output"]
    np.testing.assert_allclose(got.taps[layer], want, atol=1e-6)
    np.testing.assert_allclose(got.logits, hub_classifier(batch), atol=1e-6)
    np.testing.assert_array_equal(got.mask, batch["padding_mask"] == 1)
    assert not np.allclose(got.taps["bert_backbone/transformer_layer_0"], want, atol=1e-3)


def test_a_causal_model_shares_its_embedding_and_each_call_has_its_own_name():
    backbone = hub_backbone(keras_hub.models.GPT2Backbone)
    model = keras_hub.models.GPT2CausalLM(backbone)
    batch = {name: value for name, value in token_batch().items() if name != "segment_ids"}
    names = ["gpt2_backbone/transformer_layer_1", "gpt2_backbone/token_embedding", "token_embedding"]
    got = with_taps(model, names)(batch)
    np.testing.assert_allclose(backbone.layer_norm(got.taps[names[0]]), backbone(batch), atol=1e-6)
    np.testing.assert_allclose(got.taps[names[1]], backbone.token_embedding(batch["token_ids"]), atol=1e-6)
    np.testing.assert_allclose(got.taps[names[2]], model(batch), atol=1e-6)


def test_one_dict_serves_a_keras_hub_teacher_and_our_student(hub_classifier, fingerprint):
    before, batch = fingerprint(hub_classifier), token_batch()
    distiller = hub_distiller(hub_classifier, run_eagerly=True)
    history = distiller.fit(batch, epochs=10, verbose=0).history
    assert history["hidden"][-1] < 0.7 * history["hidden"][0]
    assert fingerprint(hub_classifier) == before
    np.testing.assert_allclose(distiller.predict(batch, verbose=0), distiller.student(batch["token_ids"]), atol=1e-6)


def test_padding_teaches_the_student_nothing(hub_classifier):
    distiller = hub_distiller(hub_classifier, run_eagerly=True)
    batch = token_batch()
    longer = {name: np.pad(value, ((0, 0), (0, 30))) for name, value in batch.items()}
    logs = distiller.evaluate(batch, return_dict=True, verbose=0)
    assert logs["hidden"] > 0.1
    assert distiller.evaluate(longer, return_dict=True, verbose=0) == pytest.approx(logs, rel=1e-4)


def test_xla_computes_the_loss_of_a_keras_hub_teacher_as_eager_code_does(hub_classifier):
    distiller, batch = hub_distiller(hub_classifier), token_batch()
    eager = distiller.compute_loss(batch, training=False)
    compiled = tf.function(lambda: distiller.compute_loss(batch, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(), eager, rtol=1e-5)


def test_a_batch_without_what_the_teacher_takes_names_it(hub_classifier):
    distiller = hub_distiller(hub_classifier, run_eagerly=True)
    text = r"'bert_text_classifier\S*' takes an input 'segment_ids' and the batch has \['token_ids'\]. Add 'segment_i"
    with pytest.raises(ValueError, match=text):
        distiller.fit({"token_ids": token_batch()["token_ids"]}, verbose=0)
    with pytest.raises(ValueError, match=r"takes the inputs \[.*\] and the batch has 1. Pass x as a dict with"):
        distiller.fit(token_batch()["token_ids"], verbose=0)
