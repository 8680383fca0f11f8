"""Kernels of whole models become factors and whole again: what is computed, what is refused."""

import keras
import numpy as np
import pytest
from keras import ops
from weights import by_name, normal, randomise

from keras_transformer.compression import (
    cut,
    factored_ranks,
    factorise_kernels,
    fuse,
    head_norms,
    hindrance,
    kernel_spectra,
    layer_activations,
    rank_report,
    ranks_within_budget,
    weights_beside,
)
from keras_transformer.layers import IntegerPolicy, LowRankDense
from keras_transformer.layers.dense import Dense
from keras_transformer.models import CausalLM, MaskedLM, Seq2Seq, TextClassifier

IDS = np.array([[2, 17, 28, 5, 0], [3, 7, 11, 13, 19]], "int32")
SIZES = {"vocab_size": 29, "num_layers": 2, "model_dim": 14, "num_heads": 7, "inner_dim": 11}
SHALLOW = {**SIZES, "num_layers": 1}
PAIR = {"source_ids": IDS, "target_ids": IDS[:, :3]}
OURS = {
    "classifier": (lambda: TextClassifier(num_classes=3, max_length=13, pooling="first", **SIZES), IDS),
    "pre-norm": (lambda: TextClassifier(num_classes=3, max_length=13, norm_first=True, **SHALLOW), IDS),
    "masked": (lambda: MaskedLM(max_length=13, embedding_dim=5, **SHALLOW), IDS),
    "causal": (lambda: CausalLM(max_length=13, num_key_value_heads=1, tie_embeddings=False, **SHALLOW), IDS),
    "seq2seq": (lambda: Seq2Seq(num_decoder_layers=1, **SHALLOW), PAIR),
}
NUM_PRODUCTS = {"classifier": 14, "pre-norm": 7, "masked": 7, "causal": 7, "seq2seq": 16}


def functional():
    """Features (B, 7) -> (B, 3), with a dense layer that runs twice, a norm with statistics, and a model inside."""
    inputs = keras.Input((7,), name="features")
    x = Dense(11, activation="tanh", name="first")(inputs)
    twice = keras.layers.Dense(11, name="twice")
    x = keras.layers.BatchNormalization(name="norm")(twice(twice(x)))
    inside = keras.Sequential([keras.Input((11,)), keras.layers.Dense(5, name="deep", use_bias=False)], name="inside")
    return keras.Model(inputs, keras.layers.Dense(3, name="last")(ops.maximum(inside(x), 0.0)), name="plain")


def sequential():
    layers = [keras.Input((None, 7)), keras.layers.Dense(13, "gelu", name="wide"), keras.layers.Dense(5, name="narrow")]
    return keras.Sequential(layers, name="row")


OTHERS = {"functional": (functional, normal(5, 7)), "sequential": (sequential, normal(2, 3, 7))}
ALL = {**OURS, **OTHERS}


@pytest.fixture(params=ALL)
def case(request):
    make, inputs = ALL[request.param]
    model = randomise(make(), scale=0.4)
    for weight in model.weights:
        if weight.name == "moving_variance":
            weight.assign(weight**2)
    return request.param, model, inputs


def full_ranks(spectra):
    return {name: min(one.kernel.shape) for name, one in spectra.items()}


def test_full_rank_equals_the_original_and_fused_is_whole_again(case):
    name, model, inputs = case
    want, before = ops.convert_to_numpy(model(inputs)), [weight.numpy().copy() for weight in model.weights]
    assert np.isfinite(want).all()
    spectra = kernel_spectra(model)
    assert len(spectra) == NUM_PRODUCTS.get(name, 4 if name == "functional" else 2)
    factored = factorise_kernels(model, full_ranks(spectra), spectra)
    assert type(factored) is type(model)
    assert factored.name == model.name
    assert factored_ranks(factored) == full_ranks(spectra)
    np.testing.assert_allclose(factored(inputs), want, atol=1e-5, rtol=0)
    whole = fuse(factored)  # full rank never pays
    assert factored_ranks(whole) == {}
    assert [weight.shape for weight in whole.weights] == [weight.shape for weight in model.weights]
    np.testing.assert_allclose(whole(inputs), want, atol=1e-5, rtol=0)
    for weight, old in zip(model.weights, before, strict=True):  # the original is as it was
        np.testing.assert_array_equal(weight.numpy(), old)
    np.testing.assert_array_equal(model(inputs), want)


def truncated(kernel, rank):
    left, values, right = np.linalg.svd(kernel.astype("float64"), full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def test_a_low_rank_computes_what_truncated_kernels_do_and_has_the_weights_that_the_report_says(case):
    _, model, inputs = case
    spectra = kernel_spectra(model)
    ranks = {name: 1 + place % 2 for place, name in enumerate(spectra)}
    factored = factorise_kernels(model, ranks)
    saved = sum(row.weights_before - row.weights_after for row in rank_report(spectra, ranks))
    assert factored.count_params() == model.count_params() - saved
    changed = 0
    for weight in model.weights:
        for name, one in spectra.items():
            if weight.shape == one.kernel.shape and np.array_equal(weight.numpy(), one.kernel):
                weight.assign(truncated(one.kernel, ranks[name]))
                changed += 1
    assert changed == len(spectra)
    np.testing.assert_allclose(factored(inputs), model(inputs), atol=1e-5, rtol=0)


def test_only_what_is_named_is_factorised_and_the_rest_stays_in_later_steps():
    model = randomise(OURS["classifier"][0]())
    first = factorise_kernels(model, {"encoder_1/feed_forward/inner": 3})
    second = factorise_kernels(first, {"pooling/dense": 2, "logits": 1})
    assert factored_ranks(second) == {"encoder_1/feed_forward/inner": 3, "pooling/dense": 2, "logits": 1}
    ours, theirs = by_name(second), by_name(model)
    assert ours["encoder_1/feed_forward/inner/left/kernel"].shape == (14, 3)
    assert ours["encoder_1/feed_forward/inner/right/kernel"].shape == (3, 11)
    np.testing.assert_array_equal(
        ours["encoder_1/feed_forward/inner/right/bias"], theirs["encoder_1/feed_forward/inner/bias"]
    )
    np.testing.assert_array_equal(
        ours["encoder_0/feed_forward/inner/kernel"], theirs["encoder_0/feed_forward/inner/kernel"]
    )
    third = fuse(second, ["encoder_*"])
    assert factored_ranks(third) == {"pooling/dense": 2, "logits": 1}
    np.testing.assert_allclose(third(IDS), second(IDS), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(by_name(third)["logits/left/kernel"], ours["logits/left/kernel"])


def test_fusing_takes_those_that_no_longer_pay_or_those_named():
    model = randomise(sequential())  # kernels (7, 13) and (13, 5): up to ranks 4 and 3 they are smaller in two parts
    factored = factorise_kernels(model, {"wide": 4, "narrow": 4})
    assert factored_ranks(fuse(factored)) == {"wide": 4}
    assert factored_ranks(fuse(factored, factored_ranks(factored))) == {}
    kept = fuse(fuse(factored))
    assert factored_ranks(kept) == {"wide": 4}
    np.testing.assert_allclose(kept(normal(2, 3, 7)), factored(normal(2, 3, 7)), atol=1e-5, rtol=0)


def test_a_model_kept_within_a_budget_has_so_many_weights_at_most():
    model = randomise(OURS["classifier"][0]())
    spectra = kernel_spectra(model, ["encoder_*"])
    budget = int(0.7 * model.count_params())
    ranks = ranks_within_budget(spectra, budget, weights_beside(model, spectra))
    factored = factorise_kernels(model, ranks, spectra)
    assert budget - 28 < factored.count_params() <= budget
    assert len(set(ranks.values())) > 1


def test_no_rank_gives_a_plain_copy():
    model = randomise(sequential())
    copy = factorise_kernels(model, {})
    np.testing.assert_array_equal(copy(normal(2, 3, 7)), model(normal(2, 3, 7)))
    copy.layers[0].kernel.assign(copy.layers[0].kernel * 2)
    assert not np.allclose(copy.layers[0].kernel, model.layers[0].kernel)


def test_a_dense_layer_that_runs_twice_stays_one():
    factored = factorise_kernels(randomise(functional()), {"twice": 2})
    shared = [layer for layer in factored.layers if isinstance(layer, LowRankDense)]
    assert [layer.name for layer in shared] == ["twice"]
    assert len(factored.get_layer("twice")._inbound_nodes) == 2


def test_a_model_that_runs_twice_inside_another_stays_one():
    inside = keras.Sequential([keras.Input((7,)), keras.layers.Dense(11, "tanh", name="deep")], name="inside")
    left, right = keras.Input((7,), name="a"), keras.Input((7,), name="b")
    model = randomise(keras.Model({"a": left, "b": right}, keras.layers.Dense(3)(inside(left) * inside(right))))
    rows = {"a": normal(5, 7), "b": normal(5, 7, seed=2)}
    factored = factorise_kernels(model, {"inside/deep": 7})
    assert factored.count_params() == model.count_params() - 7 * 11 + 7 * (7 + 11)
    np.testing.assert_allclose(factored(rows), model(rows), atol=1e-5, rtol=0)


def test_names_frozen_layers_activations_and_policies_are_kept():
    inputs = keras.Input((7,))
    frozen = keras.layers.Dense(11, "relu", name="frozen", dtype="mixed_bfloat16", trainable=False)
    model = keras.Model(inputs, keras.layers.Dense(5, name="last", activity_regularizer="l2")(frozen(inputs)))
    factored = factorise_kernels(model, {"frozen": 2, "last": 1})
    layer = factored.get_layer("frozen")
    assert (layer.trainable, layer.dtype_policy.name) == (False, "mixed_bfloat16")
    assert layer.activation is keras.activations.relu
    assert layer.left.compute_dtype == layer.right.compute_dtype == "bfloat16"
    assert factored.get_layer("last").activity_regularizer is not None
    assert len(factored.trainable_weights) == 3
    again = fuse(factored, ["frozen"]).get_layer("frozen")
    assert (again.trainable, again.dtype_policy.name) == (False, "mixed_bfloat16")
    ours = OURS["classifier"][0]()
    ours.get_layer("encoder_0").trainable = False
    assert not factorise_kernels(ours, {"encoder_0/attention/key": 2}).get_layer("encoder_0").trainable


class Scaled(keras.layers.Layer):
    """A layer of somebody else's with a product inside, or with another layer's kernel."""

    def __init__(self, dense=None, kernel=None, **options):
        super().__init__(**options)
        self.dense, self.borrowed = dense, kernel

    def build(self, shape):
        if self.dense is not None and not self.dense.built:
            self.dense.build(shape)

    def call(self, x):
        return self.dense(x) if self.borrowed is None else ops.matmul(x, ops.transpose(self.borrowed))


def other_model(kind):
    """Models with a product "odd" that can't be exchanged, and "fine" that can."""
    inputs = keras.Input((7,))
    fine = keras.layers.Dense(5, name="fine")(inputs)
    odd = keras.layers.Dense(5, name="odd", **({"kernel_regularizer": "l2"} if kind == "regularised" else {}))
    if kind == "inside":
        return keras.Model(inputs, Scaled(odd, name="scaled")(fine))
    x = odd(inputs)
    if kind == "lora":
        odd.enable_lora(2)
    if kind == "integers":
        odd.quantize("int8")
    if kind == "its own kind":
        x = type("Doubled", (keras.layers.Dense,), {})(5, name="odd")(inputs)
    if kind == "fake integers":
        x = Dense(5, name="odd", dtype=IntegerPolicy(4, "rows"))(inputs)
    return keras.Model(inputs, [fine, x])


REASONS = {
    "inside": r"'scaled/odd' can't be exchanged: it lies inside 'scaled' \(Scaled\), which has no argument `ranks`",
    "regularised": r"'odd' can't be exchanged: it has a kernel_regularizer, which factors don't have",
    "lora": r"'odd' can't be exchanged: it has a kernel with LoRA or in integers",
    "integers": r"'odd' can't be exchanged: it has a kernel with LoRA or in integers",
    "its own kind": r"'odd' can't be exchanged: it is a Doubled, which may compute something else",
    "fake integers": r"'odd' can't be exchanged: it computes with fake integers: factorise or fuse plain\(model\)",
}


@pytest.mark.parametrize("kind", REASONS)
def test_a_product_that_can_not_be_exchanged_is_left_alone_and_by_name_refused(kind):
    model = other_model(kind)
    assert set(kernel_spectra(model)) == {"fine"}
    for call in (lambda: kernel_spectra(model, ["*odd"]), lambda: kernel_spectra(model, ["fine", "*odd"])):
        with pytest.raises(ValueError, match=REASONS[kind]):
            call()


def sharing_model(kind):
    """Models in which two layers have one kernel, or one layer, that the graph doesn't show as one."""
    inputs = keras.Input((7,))
    odd = keras.layers.Dense(5, name="odd")
    x = odd(inputs)
    if kind == "kernel":
        return keras.Model(inputs, Scaled(kernel=odd.kernel, name="scaled")(x), name="tied")
    return keras.Model(inputs, Scaled(odd, name="scaled")(keras.layers.Dense(7, name="back")(x)), name="tied")


@pytest.mark.parametrize(("kind", "shared"), [("kernel", "odd/kernel"), ("layer", "odd")])
def test_a_model_whose_layers_share_a_weight_in_secret_is_refused(kind, shared):
    """A copy by their configs would have two, and learn them apart."""
    model = sharing_model(kind)
    message = rf"'\w+' and '\w+' in model 'tied' share '{shared}', and would have one each in a copy\. Let one layer be"
    for call in (
        lambda: kernel_spectra(model),
        lambda: factorise_kernels(model, {"odd": 2}),
        lambda: factorise_kernels(model, {}),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_the_factor_of_a_token_table_stays_whole():
    message = r"'tokens/factor' can't be exchanged: it lies inside 'tokens' \(TokenEmbedding\)"
    with pytest.raises(ValueError, match=message):
        factorise_kernels(OURS["masked"][0](), {"tokens/factor": 2})


def test_a_model_without_products_that_can_be_exchanged_is_refused():
    inputs = keras.Input((7,))
    empty = keras.Model(inputs, keras.layers.LayerNormalization()(inputs), name="bare")
    for call in (lambda: kernel_spectra(empty), lambda: factorise_kernels(empty, {"logits": 1})):
        with pytest.raises(
            ValueError, match=r"model 'bare' \(Functional\) has no dense layer, so nothing to factorise"
        ):
            call()
    odd = keras.Model(inputs, Scaled(keras.layers.Dense(5, name="odd"), name="scaled")(inputs), name="odd_one")
    with pytest.raises(ValueError, match=r"'odd_one' has no dense product that can be exchanged: 'scaled/odd' lies"):
        kernel_spectra(odd)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.dense = keras.layers.Dense(5, name="odd")

    def call(self, x):
        return self.dense(x)


def test_a_subclassed_model_is_refused():
    model = Subclassed()
    model(normal(2, 7))
    with pytest.raises(ValueError, match=r"'odd' lies inside 'subclassed' \(Subclassed\), which has no argument"):
        kernel_spectra(model)


def test_ranks_that_no_kernel_can_have_are_refused_by_name():
    model = randomise(sequential())
    for ranks, message in (
        (
            {"wide": 8},
            r"rank=8 of 'wide' is above the 7 that a kernel of shape \(7, 13\) can have\. Use rank=7 or less",
        ),
        ({"wide": 0}, r"rank of 'wide'=0 must be a whole number of at least 1"),
        ({"wide": 2.5}, r"rank of 'wide'=2\.5 must be a whole number"),
        ({"broad": 2}, r"names has 'broad', which fits none of the dense products \['wide', 'narrow'\]"),
        ({"w*": 2}, r"ranks has 'w\*', and the kernels here are \['wide'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            factorise_kernels(model, ranks)
    with pytest.raises(TypeError, match=r"names='wide' must be a list of paths or patterns\. Use names=\['wide'\]"):
        kernel_spectra(model, "wide")


def test_a_kernel_that_has_learned_since_is_not_overwritten():
    model = randomise(sequential())
    spectra = kernel_spectra(model)
    model.layers[0].kernel.assign(model.layers[0].kernel * 1.5)
    with pytest.raises(ValueError, match=r"the kernel of 'wide' isn't the one that was decomposed"):
        factorise_kernels(model, {"wide": 2}, spectra)
    assert factored_ranks(factorise_kernels(model, {"narrow": 2}, spectra)) == {"narrow": 2}


def test_what_is_factorised_is_not_factorised_again_and_what_is_not_is_not_fused():
    model = randomise(sequential())
    factored = factorise_kernels(model, {"wide": 3})
    assert list(kernel_spectra(factored)) == ["narrow"]
    with pytest.raises(ValueError, match=r"'wide' can't be exchanged: it is factorised already, with rank 3: fuse it"):
        factorise_kernels(factored, {"wide": 2})
    with pytest.raises(ValueError, match=r"model 'row' has no factorised products, so nothing to fuse"):
        fuse(model)
    with pytest.raises(ValueError, match=r"names has 'narrow', which fits none of the factorised products \['wide'\]"):
        fuse(factored, ["wide", "narrow"])
    with pytest.raises(TypeError, match=r"names='wide' must be a list of paths or patterns"):
        fuse(factored, "wide")


def test_metrics_must_be_there_for_each_kernel():
    with pytest.raises(ValueError, match=r"metrics has nothing for 'narrow', only \['wide'\]"):
        kernel_spectra(sequential(), metrics={"wide": np.ones(7)})


def test_a_factored_model_is_not_cut_and_inherits_nothing():
    classifier = factorise_kernels(OURS["classifier"][0](), {"logits": 2})
    message = r"can't be cut: it has ranks for 1 dense products, 'logits' among them.*compression\.fuse\(model"
    for call in (cut, head_norms, lambda model: layer_activations(model, 0, [[2, 3]])):
        with pytest.raises(ValueError, match=message):
            call(classifier)
    causal = CausalLM(max_length=13, **SIZES)
    factored = factorise_kernels(causal, {"decoder_0/attention/query": 2})
    assert hindrance(causal, causal) is None
    for pair in ((causal, factored), (factored, causal)):
        assert hindrance(*pair).startswith("ranks of 1 dense products: kernels must be whole")
