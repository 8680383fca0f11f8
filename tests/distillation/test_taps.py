"""One forward pass gives the logits and every named tensor, of any kind of model, which stays as it was."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_transformer.distillation import Outputs, with_taps
from keras_transformer.distillation.taps import select_inputs


class Counting(keras.layers.Layer):
    """Identity that counts how often Python runs it."""

    calls = 0

    def call(self, x):
        Counting.calls += 1
        return x


class WithTapTensors(keras.Model):
    """Offers names of its own, as models.TextClassifier does."""

    def __init__(self):
        token_ids = keras.Input((None,), dtype="int32", name="token_ids")
        hidden = keras.layers.Embedding(13, 3, name="tokens")(token_ids)
        pooled = ops.mean(hidden, axis=1)
        super().__init__(token_ids, keras.layers.Dense(2, name="logits")(pooled))
        self.tap_tensors = {"pooled": pooled, "encoder/0/hidden": hidden, "mask": ops.not_equal(token_ids, 0)}


class Subclassed(keras.Model):
    """Has no graph, and offers `taps`."""

    def __init__(self, masked=False):
        super().__init__(name="subclassed")
        self.hidden, self.head, self.masked = keras.layers.Dense(5), keras.layers.Dense(3), masked

    def call(self, x):
        return self.head(self.hidden(x))

    def taps(self, inputs, training):
        hidden = self.hidden(inputs)
        result = (self.head(hidden), {"hidden": hidden, "double": 2 * hidden})
        return (*result, ops.ones((2, 4), "bool")) if self.masked else result


IDS = np.array([[3, 5, 0], [7, 0, 0]], "int32")


def test_layer_names_of_a_functional_model_give_that_layers_output(classifier, rows):
    model = classifier()
    got = with_taps(model, ["hidden"])(rows[0])
    hidden = model.get_layer("hidden")(rows[0])
    assert isinstance(got, Outputs)
    assert got.mask is None
    assert list(got.taps) == ["hidden"]
    np.testing.assert_array_equal(got.taps["hidden"], hidden)
    np.testing.assert_array_equal(got.logits, model(rows[0]))


def test_layer_names_of_a_sequential_model(rows):
    model = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, name="a"), keras.layers.Dense(3, name="b")])
    got = with_taps(model, ["a"])(rows[0])
    np.testing.assert_array_equal(got.taps["a"], model.get_layer("a")(rows[0]))
    np.testing.assert_array_equal(got.logits, model(rows[0]))


def test_tap_tensors_are_found_by_their_names_and_the_mask_comes_along():
    model = WithTapTensors()
    got = with_taps(model, ["encoder/0/hidden", "pooled"])(IDS)
    np.testing.assert_array_equal(got.mask, [[True, True, False], [True, False, False]])
    np.testing.assert_array_equal(got.taps["encoder/0/hidden"], model.get_layer("tokens")(IDS))
    np.testing.assert_allclose(got.taps["pooled"], np.mean(got.taps["encoder/0/hidden"], axis=1), rtol=1e-6)
    np.testing.assert_array_equal(got.logits, model(IDS))


def test_the_offered_mask_comes_without_asking():
    np.testing.assert_array_equal(with_taps(WithTapTensors())(IDS).mask, IDS != 0)


def test_keras_own_mask_is_read_where_no_other_is_offered(tagger):
    for names in ([], ["tokens"]):
        np.testing.assert_array_equal(with_taps(tagger(), names)(IDS).mask, IDS != 0)


def test_a_subclassed_model_answers_by_its_own_taps():
    model, x = Subclassed(), np.ones((2, 7), "float32")
    got = with_taps(model, ["double"])(x)
    assert list(got.taps) == ["double"]
    np.testing.assert_allclose(got.taps["double"], 2 * model.hidden(x))
    np.testing.assert_allclose(got.logits, model(x))
    assert with_taps(Subclassed(masked=True), ["double"])(x).mask.shape == (2, 4)


def test_a_subclassed_model_needs_no_taps_for_its_logits():
    model, x = Subclassed(), np.ones((2, 7), "float32")
    np.testing.assert_array_equal(with_taps(model)(x).logits, model(x))


def test_there_is_one_forward_pass_whatever_the_number_of_taps():
    inputs = keras.Input((7,))
    x = Counting(name="first")(inputs)
    model = keras.Model(inputs, Counting(name="last")(keras.layers.Dense(3, name="middle")(x)))
    tapped = with_taps(model, ["first", "middle", "last"])
    Counting.calls = 0
    tapped(np.ones((2, 7), "float32"))
    assert Counting.calls == 2


def test_training_reaches_the_layers(classifier, rows):
    tapped = with_taps(classifier(dropout=0.5), ["dropout"])
    np.testing.assert_array_equal(tapped(rows[0]).taps["dropout"], tapped(rows[0]).taps["dropout"])
    dropped = tapped(rows[0], training=True).taps["dropout"]
    assert np.mean(np.asarray(dropped) == 0) > 0.2


def test_the_model_is_not_changed(classifier, fingerprint):
    model = classifier()
    before = (fingerprint(model), model.get_config(), [layer.name for layer in model.layers], model.output)
    with_taps(model, ["hidden"])(np.ones((2, 7), "float32"))
    assert (fingerprint(model), model.get_config(), [layer.name for layer in model.layers]) == before[:3]
    assert model.output is before[3]


def test_an_unknown_name_lists_what_there_is_and_the_nearest(classifier):
    with pytest.raises(ValueError, match=r"'tiny' has no tap 'hiden'. It has \['features'.*Did you mean 'hidden'"):
        with_taps(classifier(name="tiny"), ["hiden"])
    with pytest.raises(ValueError, match=r"no tap 'encoder/1/hidden'.*Did you mean 'encoder/0/hidden'"):
        with_taps(WithTapTensors(), ["encoder/1/hidden"])
    with pytest.raises(ValueError, match=r"'subclassed' has no tap 'x'. It has \['hidden', 'double'\]"):
        with_taps(Subclassed(), ["x"])(np.ones((2, 7), "float32"))


def test_a_model_without_graph_or_taps_says_how_to_get_them():
    class Bare(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match=r"'bare' \(Bare\) has no graph to find \['hidden'\].*taps\(inputs, train"):
        with_taps(Bare(name="bare"), ["hidden"])


def test_a_layer_or_model_of_several_outputs_is_refused():
    inputs = keras.Input((7,))
    _, *states = keras.layers.LSTM(3, return_state=True, name="lstm")(keras.layers.Reshape((7, 1))(inputs))
    with pytest.raises(ValueError, match=r"layer 'lstm' of model 'm' gives 3 tensors.*tap_tensors"):
        with_taps(keras.Model(inputs, keras.layers.Dense(2)(states[0]), name="m"), ["lstm"])
    with pytest.raises(ValueError, match=r"model 'two' gives 2 tensors where one is wanted"):
        with_taps(keras.Model(inputs, states, name="two"))


def test_inputs_are_picked_by_name_out_of_a_larger_batch(classifier, rows):
    model, x = classifier(), rows[0]
    batch = {"features": x, "teacher_logits": np.zeros((23, 3))}
    assert select_inputs(model, batch) is x
    assert select_inputs(model, {"anything": x}) is x
    assert select_inputs(model, x) is x
    assert select_inputs(Subclassed(), batch) is batch
    named = keras.Model({"features": model.input}, model.output)
    assert list(select_inputs(named, batch)) == ["features"]
    other = keras.Input((2,), name="other")
    pair = keras.Model([model.input, other], keras.layers.Concatenate()([model.output, other]))
    assert select_inputs(pair, {**batch, "other": 5}) == [x, 5]


def test_a_missing_input_is_named(classifier):
    with pytest.raises(ValueError, match=r"'m' takes an input 'features' and the batch has \['a', 'b'\]. Add 'feat"):
        select_inputs(classifier(name="m"), {"a": 1, "b": 2})
