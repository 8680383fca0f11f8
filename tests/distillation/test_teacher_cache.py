"""A teacher's outputs from disk are those of the running teacher, whatever the batches, kills and mistakes between."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.data.batching import Batches
from keras_transformer.distillation import (
    CachedTeacher,
    Distiller,
    LossTerm,
    cache_parts,
    cache_teacher,
    needing,
    soft_targets,
    true_labels,
)
from keras_transformer.distillation.teachers import LiveTeacher
from keras_transformer.files import ModelFileError
from keras_transformer.models import TextClassifier

VOCABULARY, TEXTS = 61, 29
TAPS = ("encoder/0/hidden", "encoder/0/attention", "pooled")


def text_model(seed=3, heads=2):
    keras.utils.set_random_seed(seed)
    return TextClassifier(VOCABULARY, 3, 1, 8, heads, 17, max_length=31)


@pytest.fixture(scope="module")
def teacher():
    return text_model()


def texts(count=TEXTS, seed=5):
    random = np.random.default_rng(seed)
    return [random.integers(1, VOCABULARY, random.integers(2, 24)).tolist() for _ in range(count)]


def batches(batch_size=5, multiple=8, **options):
    ids = texts(**options)
    return Batches(ids, np.arange(len(ids)) % 3, batch_size=batch_size, seed=2, length_multiple=multiple)


class Counted:
    """A teacher that counts its forward passes, and may be stopped in one."""

    def __init__(self, model, stop_at=None):
        self.live, self.runs, self.stop_at = LiveTeacher(model), tf.Variable(0), stop_at
        self.student_inputs, self.fingerprint = self.live.student_inputs, self.live.fingerprint

    def reader(self, taps):
        forward = self.live.reader(taps)

        def counted(inputs):
            with tf.control_dependencies([self.runs.assign_add(1)]):
                outputs = forward(inputs)
                if self.stop_at is not None:
                    tf.debugging.assert_less(self.runs, self.stop_at, message="killed")
            return outputs

        return counted


@pytest.fixture(scope="module")
def whole(teacher, tmp_path_factory):
    """A cache of all texts with all taps; a test that changes it takes a copy."""
    folder = tmp_path_factory.mktemp("caches") / "whole"
    cache_teacher(teacher, batches(), folder, taps=TAPS)
    return folder


def assert_same_outputs(got, want):
    np.testing.assert_allclose(got.logits, want.logits, atol=2e-6)
    np.testing.assert_array_equal(got.mask, want.mask)
    real = np.asarray(want.mask)
    assert set(got.taps) == set(want.taps)
    for name, tap in want.taps.items():
        tap = np.asarray(tap)
        keep = np.ones(tap.shape, bool) if name == "pooled" else real[:, :, None]
        if name.endswith("attention"):
            keep = real[:, None, :, None] & real[:, None, None, :]
        assert got.taps[name].dtype == np.float16
        np.testing.assert_allclose(got.taps[name], np.where(keep, tap, 0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "other", [{"batch_size": 5}, {"batch_size": 7, "multiple": 1}, {"batch_size": 3, "multiple": 13}]
)
def test_what_is_read_is_what_the_teacher_says_whatever_the_order_batches_and_padding(teacher, whole, other):
    cached = CachedTeacher.load(whole)
    read, live = cached.reader(TAPS), LiveTeacher(teacher).reader(TAPS)
    seen = 0
    for x, labels in cached.attach(batches(**other).dataset(first_epoch=3)):
        assert_same_outputs(read(x), live(x["token_ids"]))
        assert list(cached.student_inputs(x)) == ["token_ids"]
        seen += len(labels)
    assert seen == TEXTS == len(cached)


def changed_at(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_second_call_runs_no_teacher_and_more_data_runs_it_on_what_is_new(teacher, tmp_path):
    counted = Counted(teacher)
    cache_teacher(counted, batches().dataset(epochs=2), tmp_path / "cache")
    assert counted.runs.numpy() == 6
    before = changed_at(tmp_path)
    assert len(cache_teacher(counted, batches(batch_size=11), tmp_path / "cache")) == TEXTS
    assert counted.runs.numpy() == 6
    assert changed_at(tmp_path) == before
    more = Batches([*texts(), *texts(4, seed=8)], batch_size=3, shuffle=False)
    cached = cache_teacher(counted, more, tmp_path / "cache")
    assert (len(cached), counted.runs.numpy()) == (TEXTS + 4, 6 + 2)
    assert len(list(cached.attach(more.dataset()))) == 11


def test_an_epoch_from_the_cache_trains_as_the_live_teacher_does(teacher, tmp_path):
    @needing(student_taps=["pooled"], teacher_taps=["pooled"])
    def pooled(labels, student, teacher):
        return ops.mean(ops.square(student.taps["pooled"] - ops.cast(teacher.taps["pooled"], "float32")), axis=-1)

    terms = [LossTerm("labels", 0.5, true_labels), LossTerm("soft", 1.0, soft_targets(2.0)), LossTerm("p", 1.0, pooled)]
    cached = cache_teacher(teacher, batches(), tmp_path / "cache", taps=["pooled"])
    data = batches(batch_size=11)
    histories = []
    for source, join in ((teacher, lambda data: data), (cached, cached.attach)):
        distiller = Distiller(text_model(seed=9), source, terms)
        distiller.compile(keras.optimizers.SGD(0.1), metrics=["accuracy"], run_eagerly=True)
        data = join(batches().dataset(epochs=2))
        histories.append(
            distiller.fit(data, validation_data=join(batches().dataset()), shuffle=False, verbose=0).history
        )
    assert set(histories[0]) == set(histories[1])
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=2e-4, err_msg=name)


@pytest.mark.parametrize("shape", ["x", "x, y", "x, y, w", "dict", "dict, y"])
def test_batches_keep_their_form(classifier, rows, tmp_path, shape):
    x, y = rows
    elements = {
        "x": x,
        "x, y": (x, y),
        "x, y, w": (x, y, np.ones(len(x), "float32")),
        "dict": {"features": x},
        "dict, y": ({"features": x}, y),
    }
    data = tf.data.Dataset.from_tensor_slices(elements[shape]).batch(5)
    model = classifier()
    cached = cache_teacher(model, data, tmp_path / "cache")
    first = next(iter(cached.attach(data)))
    count = shape.count(",")
    assert isinstance(first, tuple) == bool(count)
    inputs, *rest = first if count else (first,)
    assert len(rest) == count
    np.testing.assert_allclose(inputs["teacher_logits"], model(x[:5]), atol=1e-6)
    given = cached.student_inputs(inputs)
    np.testing.assert_array_equal(given["features"] if "dict" in shape else given, x[:5])
    distiller = Distiller(classifier(), cached, [LossTerm("soft", 1.0, soft_targets(2.0))])
    distiller.compile("sgd", run_eagerly=True)
    assert distiller.evaluate(cached.attach(data), verbose=0)[0] > 0


def test_token_logits_and_masks_of_a_tagger_come_back_with_padding_of_the_batch(tagger, tmp_path):
    model, ids = tagger(), [text[:11] for text in texts()]
    ids = [[index % 12 + 1 for index in text] for text in ids]
    cached = cache_teacher(model, Batches(ids, batch_size=4), tmp_path / "cache")
    for x, _ in cached.attach(Batches(ids, batch_size=6, length_multiple=7).dataset()):
        outputs = cached.reader(())(x)
        mask = x["token_ids"] != 0
        np.testing.assert_array_equal(outputs.mask, mask)
        np.testing.assert_allclose(outputs.logits, np.where(mask[..., None], model(x["token_ids"]), 0), atol=1e-6)


def test_an_id_column_takes_the_place_of_the_inputs(classifier, rows, tmp_path):
    x, y = rows
    names = np.array([f"film {row}" for row in range(len(x))])
    data = tf.data.Dataset.from_tensor_slices(({"features": x, "id": names}, y)).batch(5)
    model = classifier()
    cached = cache_teacher(model, data, tmp_path / "cache", id_column="id")
    changed = tf.data.Dataset.from_tensor_slices(({"features": x * 0, "id": names[::-1].copy()}, y)).batch(len(x))
    inputs, _ = next(iter(cached.attach(changed)))
    assert sorted(inputs) == ["features", "teacher_logits"]
    np.testing.assert_allclose(inputs["teacher_logits"], model(x)[::-1], atol=1e-6)
    with pytest.raises(ValueError, match=r"known by \['id'\] and the batches have \['features'\]. Add \['id'\] to x"):
        cached.attach(tf.data.Dataset.from_tensors({"features": x}))


def test_a_text_that_was_cut_shorter_since_is_told(tagger, tmp_path):
    ids = np.array([[3, 5, 7, 0], [2, 9, 4, 6]], "int32")

    def data(length):
        named = {"token_ids": ids[:, :length], "id": np.arange(2)}
        return tf.data.Dataset.from_tensor_slices(named).padded_batch(2, {"token_ids": [None], "id": []})

    cached = cache_teacher(tagger(), data(4), tmp_path / "cache", id_column="id")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"row 1 of the batch was recorded with 4 tokens and .* 3"):
        list(cached.attach(data(3)))


def test_series_of_floats_are_kept_as_long_as_they_are(tmp_path):
    inputs = keras.Input((None, 7))
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    x = [np.random.default_rng(length).normal(size=(2, length, 7)).astype("float32") for length in (5, 3)]
    data = tf.data.Dataset.from_generator(lambda: iter(x), output_signature=tf.TensorSpec((None, None, 7)))
    cached = cache_teacher(model, data, tmp_path / "cache")
    for batch, given in zip(cached.attach(data), x, strict=True):
        np.testing.assert_allclose(batch["teacher_logits"], model(given), atol=1e-6)


def test_float_rows_that_differ_in_one_bit_are_two_examples(classifier, tmp_path):
    x = np.ones((2, 7), "float32")
    x[1, 6] = np.nextafter(np.float32(1), np.float32(2))
    assert len(cache_teacher(classifier(), tf.data.Dataset.from_tensors(x), tmp_path / "cache")) == 2


def test_an_example_that_was_never_recorded_is_named_with_the_fix(whole):
    data = CachedTeacher.load(whole).attach(Batches([*texts(3), [7, 8, 9]], batch_size=4, shuffle=False).dataset())
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"row 3 \(the first is 0\) of a batch of 4 aren't recorded; its 'token_ids' begins with 7, 8, 9, 0, 0, 0"
        r"\. The data set isn't the one that was recorded: call cache_teacher with it and this folder again",
    ):
        list(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"model": {"seed": 4}},
            r"recorded from another teacher \(fingerprint \w{12}, now \w{12}\).*Delete",
        ),
        ({"model": {"heads": 4}}, "recorded from another teacher"),  # the very same weights
        ({"taps": ["pooled"]}, r"was recorded with taps=\('encoder/0/hidden', .*\), now \('pooled',\). Delete the"),
        ({"top_k": 1}, r"was recorded with top_k=None, now 1"),
    ],
)
def test_another_teacher_or_setting_is_refused_and_nothing_is_lost(whole, change, message):
    options = {"taps": TAPS, **change}
    model = text_model(**options.pop("model", {}))
    with pytest.raises(ValueError, match=message):
        cache_teacher(model, batches(), whole, **options)
    assert len(CachedTeacher.load(whole)) == TEXTS


def test_the_same_teacher_built_again_is_the_same(classifier, whole, tmp_path):
    assert len(cache_teacher(text_model(), batches(), whole, taps=TAPS)) == TEXTS
    first, second = (keras.Sequential([keras.Input((7,)), keras.layers.Dense(5), keras.layers.Dense(3)]) for _ in "ab")
    second.set_weights(first.get_weights())
    second.trainable = False
    data = tf.data.Dataset.from_tensors(np.ones((1, 7), "float32"))
    cache_teacher(first, data, tmp_path / "cache")
    cache_teacher(second, data, tmp_path / "cache")
    tanh = keras.Sequential([keras.Input((7,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(3)])
    tanh.set_weights(first.get_weights())
    with pytest.raises(ValueError, match="another teacher"):
        cache_teacher(tanh, data, tmp_path / "cache")


def test_what_was_recorded_before_a_failure_is_kept_and_never_taken_for_the_whole(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(cache_parts, "PART_ROWS", 10)
    folder = tmp_path / "cache"
    in_order = Batches(texts(), batch_size=5, shuffle=False)
    with pytest.raises(tf.errors.InvalidArgumentError, match="killed"):
        cache_teacher(Counted(teacher, stop_at=6), in_order, folder)
    with pytest.raises(ModelFileError, match=r"teacher_cache.json: the recording was cut short after 20 examples"):
        CachedTeacher.load(folder)
    counted = Counted(teacher)
    cached = cache_teacher(counted, in_order, folder)
    assert (len(cached), counted.runs.numpy()) == (TEXTS, 2)
    assert len(list(cached.attach(in_order.dataset()))) == 6


def test_what_can_not_be_recorded_is_told_before_anything_is_written(classifier, teacher, rows, tmp_path):
    data = tf.data.Dataset.from_tensors(rows[0])
    folder = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"dataset never ends.*without repeat\(\)"):
        cache_teacher(classifier(), data.repeat(), folder)
    with pytest.raises(ValueError, match=r"top_k=2 of 3 classes leaves no rest to sum up. Leave top_k out"):
        cache_teacher(classifier(), data, folder, top_k=2)
    with pytest.raises(ValueError, match=r"no tap 'encoder'"):
        cache_teacher(classifier(), data, folder, taps=["encoder"])
    done = tmp_path / "done"
    cache_teacher(classifier(), data, done)
    with pytest.raises(TypeError, match=r"has no fingerprint\(\) to tell it from another"):
        cache_teacher(CachedTeacher.load(done), data, folder)
    assert not folder.exists()


def test_values_beyond_float16_are_refused(rows, tmp_path):
    inputs = keras.Input((7,))
    big = keras.layers.Rescaling(1e6, name="big")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, name="logits")(inputs + 0 * big))
    with pytest.raises(ValueError, match=r"'big' isn't finite as float16: it holds NaN, or values beyond 6.55e\+04"):
        cache_teacher(model, tf.data.Dataset.from_tensors(rows[0]), tmp_path / "cache", taps=["big"])


def test_the_size_on_disk_is_that_of_the_real_tokens(whole):
    tokens = np.array([len(ids) for ids in texts()])
    part = whole / "parts" / "part_000000"
    names = [entry["name"] for entry in json.loads((whole / "teacher_cache.json").read_text())["layout"]["outputs"]]
    sizes = {name: (part / f"output_{place}.bin").stat().st_size for place, name in enumerate(names)}
    assert sizes == {
        "teacher_logits": TEXTS * 3 * 4,
        "teacher_tap/encoder/0/hidden": tokens.sum() * 8 * 2,
        "teacher_tap/encoder/0/attention": (tokens**2).sum() * 2 * 2,
        "teacher_tap/pooled": TEXTS * 8 * 2,
        "teacher_mask": tokens.sum(),
    }
