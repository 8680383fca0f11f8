"""A file of a model that was trained with fake integers computes what that model does, in the ranges it learned."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from two_products import dense_inputs, kernels, plain, seen

from keras_transformer import compression
from keras_transformer.export import tflite, tflite_writer
from keras_transformer.export.integer_forms import in_integers
from keras_transformer.export.learned_ranges import LearnedRange, learned_tensors

FORMS = ("int8", "int4")
OTHERS = {"negative": -kernels()[0], "moved": kernels()[0] + 0.01, "cut": kernels()[0][:5]}


@pytest.fixture(scope="module")
def float_model():
    return plain()


@pytest.fixture(scope="module")
def texts(draw_reviews):
    return draw_reviews(409, seed=17)[0]


@pytest.fixture(scope="module")
def trained(review_model, review_tokenizer, draw_reviews):
    """A function: number format -> the reviews' model after a little training for it, made once."""
    drawn, kinds = draw_reviews(503, seed=5)
    ids = review_tokenizer.pad(review_tokenizer.encode(drawn, review_model.max_length))
    models = {}

    def model(form):
        if form not in models:
            models[form] = learning = compression.quantization_aware(review_model, form, momentum=0.9)
            if form == "int8":  # the other one has no ranges to learn
                loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
                learning.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
                learning.fit(ids, np.array(kinds), batch_size=53, epochs=1, verbose=0)
        return models[form]

    return model


@pytest.fixture(scope="module")
def written(trained, parts, texts, tmp_path_factory):
    """A function: number format -> the report of its file, made once."""
    reports, folder = {}, tmp_path_factory.mktemp("learned")

    def export(form):
        if form not in reports:
            options = {**parts, "examples": texts, "quantize": form, "min_agreement": 0.995}
            reports[form] = tflite(trained(form), folder / f"{form}.tflite", **options)
        return reports[form]

    return export


@pytest.fixture(scope="module")
def answers(trained, written, texts, parts, review_tokenizer):
    """A function: number format -> logits of the file, of the model with its rounding, and of the same without."""

    def of(form):
        rows = review_tokenizer.encode(texts, parts["max_length"])
        return three_answers(written(form).path, trained(form), rows, review_tokenizer.pad(rows))

    return of


def three_answers(path, learning, rows, ids):
    """Logits of a file, of the model that it was made of, and of that without its rounding."""
    runner = Interpreter(model_path=path).get_signature_runner("tokens")
    file = np.concatenate([runner(token_ids=np.array([row], np.int32))["logits"] for row in rows])
    return file, *(model(ids, training=False).numpy() for model in (learning, compression.plain(learning)))


@pytest.mark.parametrize("form", FORMS)
def test_the_file_agrees_with_the_model_that_rounds_on_995_of_1000_best_labels(answers, form):
    file, rounding, _ = answers(form)
    assert np.mean(file.argmax(axis=1) == rounding.argmax(axis=1)) >= 0.995


@pytest.mark.parametrize("form", FORMS)
def test_its_logits_are_those_of_the_rounding_and_not_those_without(answers, form):
    """Half a step more or less in one place moves all that follows, so they aren't the same to the bit."""
    file, rounding, exact = answers(form)
    with_it, without = np.abs(file - rounding).mean(), np.abs(file - exact).mean()
    assert with_it < 0.4 * without
    assert with_it < 0.01 * file.std()


def test_the_report_compares_with_the_model_that_rounds(answers, written):
    file, rounding, _ = answers("int8")
    assert written("int8").max_abs_logit_error == pytest.approx(np.abs(file - rounding).max(), rel=0.05)


@pytest.mark.parametrize("form", FORMS)
def test_each_factor_of_a_low_rank_rounds_as_in_the_file(form, review_model, review_tokenizer, parts, texts, tmp_path):
    ranks = compression.ranks_of_share(compression.kernel_spectra(review_model), 0.4) | {"logits": 2}
    learning = compression.quantization_aware(compression.factorise_kernels(review_model, ranks), form)
    rows = review_tokenizer.encode(texts[:101], parts["max_length"])
    ids = review_tokenizer.pad(rows)
    if form == "int8":  # the other one has no ranges
        learning(ids, training=True)
    options = {**parts, "examples": texts[:101], "quantize": form, "min_agreement": 0.95}
    report = tflite(learning, tmp_path / "factored.tflite", **options)
    file, rounding, exact = three_answers(report.path, learning, rows, ids)
    assert len(ranks) == 13
    assert np.abs(file - rounding).mean() < 0.4 * np.abs(file - exact).mean()


def quantised_inputs(content):
    """Scale and zero point of what each dense product of a flatbuffer reads, the last one left out."""
    found = [one["quantization_parameters"] for one in dense_inputs(content)]
    return [(float(one["scales"][0]), int(one["zero_points"][0])) for one in found if len(one["scales"])]


def width(ends):
    """Of a range, once it has zero in it."""
    return max(ends.high, 0.0) - min(ends.low, 0.0)


def test_the_files_ranges_are_the_learned_ones(trained, written):
    wanted = set()
    for ranges in compression.dense_ranges(trained("int8")).values():
        scale = width(ranges.input) / 255
        wanted.add((scale, round(-128 - min(ranges.input.low, 0.0) / scale)))
    found = set(quantised_inputs(Path(written("int8").path).read_bytes()))
    np.testing.assert_allclose(sorted(found), sorted(wanted), rtol=1e-5)


def test_a_learned_range_goes_before_what_the_examples_have(float_model):
    learned = [LearnedRange("first", kernels()[0], (-5.1, 0.0), (0.0, 51.0))]
    content = in_integers(float_model, "int8", seen(-1.0, 1.0), learned=learned)
    (scale, zero), *_ = quantised_inputs(content)
    assert (scale, zero) == (pytest.approx(5.1 / 255), 127)


def test_a_kernel_is_found_though_the_converter_multiplied_it(float_model):
    """As it does with that of the queries: the output's range is multiplied with it."""
    first = learned_tensors(float_model, [LearnedRange("first", kernels()[0], (-1.0, 1.0), (-2.0, 6.0))])
    scaled = learned_tensors(float_model, [LearnedRange("first", kernels()[0] * 4, (-1.0, 1.0), (-2.0, 6.0))])
    assert sorted(first.values()) == [(-2.0, 6.0), (-1.0, 1.0)]
    assert sorted(scaled.values()) == [(-1.0, 1.0), (-0.5, 1.5)]
    assert first.keys() == scaled.keys()


def test_what_two_products_read_has_the_wider_of_their_ranges(float_model):
    twice = [
        LearnedRange("first", kernels()[0], (-1.0, 3.0), (0.0, 5.0)),
        LearnedRange("again", kernels()[0], (-2.0, 2.0), (0.0, 4.0)),
    ]
    assert sorted(learned_tensors(float_model, twice).values()) == [(-2.0, 3.0), (0.0, 5.0)]


@pytest.mark.parametrize(
    "kernel", [-kernels()[0], kernels()[0] + 0.01, kernels()[0][:5]], ids=["negative", "other", "cut"]
)
def test_a_kernel_that_is_not_there_is_an_error(float_model, kernel):
    message = (
        rf"first: none of the 2 dense products of the file has this kernel of shape {re.escape(str(kernel.shape))}"
    )
    with pytest.raises(ValueError, match=f"{message}.* Export the model that they were learned with"):
        learned_tensors(float_model, [LearnedRange("first", kernel, (0.0, 1.0), (0.0, 1.0))])


@pytest.mark.parametrize("other", ["none", "dynamic", "int4"])
def test_another_form_than_the_one_trained_for_is_refused(trained, parts, tmp_path, other):
    with pytest.raises(ValueError, match=rf"quantize='{other}', but .* trained for 'int8'.* compression.plain\("):
        tflite(trained("int8"), tmp_path / "other.tflite", quantize=other, **parts)
    assert not list(tmp_path.iterdir())


def test_a_model_that_writes_is_exported_with_its_ranges(writing_model, writing_parts, tmp_path):
    learning = compression.quantization_aware(writing_model("translate"))
    random = np.random.default_rng(2)
    names = [tensor.name for tensor in learning.inputs]
    ids = {name: tf.constant(random.integers(1, 20, size=(13, 7)), tf.int32) for name in names}
    learning(ids, training=True)
    path = tmp_path / "writer.tflite"
    report = tflite_writer(learning, path, quantize="int8", min_agreement=0.5, **writing_parts("translate"))
    assert report.top1_agreement > 0.5
    learned = [width(ranges.input) / 255 for ranges in compression.dense_ranges(learning).values()]
    found = [scale for scale, _ in quantised_inputs(path.read_bytes())]
    assert len(found) >= 6
    assert all(np.isclose(learned, scale, rtol=1e-4).any() for scale in found)
