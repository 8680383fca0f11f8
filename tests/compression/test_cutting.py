"""Cutting a classifier: keeping all is the same model, keeping some is that model with the rest silenced."""

import keras
import numpy as np
import pytest
from weights import randomise

from keras_transformer.compression import (
    count_pieces,
    cut,
    cut_vocabulary,
    factorise_tokens,
    keep_channels,
    keep_heads,
    keep_layers,
    keep_pieces,
    keep_positions,
    keep_units,
)
from keras_transformer.models import TextClassifier

VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, LONGEST = 29, 5, 3, 14, 7, 11, 13
IDS = np.array([[2, 17, 28, 5, 0, 0], [2, 23, 0, 0, 0, 0], [3, 7, 11, 13, 19, 2]], "int32")
FORMS = [
    pytest.param({}, id="mean-post"),
    pytest.param(
        {"pooling": "first", "norm_first": True, "embedding_dim": 5, "head_dim": 3}, id="first-pre-factorised"
    ),
]


def classifier(**options):
    model = TextClassifier(VOCAB, CLASSES, LAYERS, WIDTH, HEADS, INNER, max_length=LONGEST, **options)
    return randomise(model, scale=0.4)


def shuffled(count, seed):
    return np.random.default_rng(seed).permutation(count).tolist()


def shuffled_in_layers(count):
    return [shuffled(count, seed) for seed in range(LAYERS)]


def weight(model, path):
    return next(weight for weight in model.weights if weight.path == path)


@pytest.mark.parametrize("form", FORMS)
def test_keeping_everything_gives_the_same_model_to_the_last_bit(form):
    model = classifier(**form)
    all_in_layers = [[list(range(count))] * LAYERS for count in (HEADS, INNER)]
    steps = [keep_layers(range(LAYERS)), keep_heads(all_in_layers[0]), keep_units(all_in_layers[1])]
    student = cut(model, *steps, keep_channels(range(WIDTH)), keep_positions(LONGEST), name="copy")
    np.testing.assert_array_equal(student(IDS), model(IDS))
    assert {**student.get_config(), "name": model.name} == model.get_config()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(keep_heads(shuffled_in_layers(HEADS)), id="heads"),
        pytest.param(keep_units(shuffled_in_layers(INNER)), id="units"),
        pytest.param(keep_channels(shuffled(WIDTH, 5)), id="channels"),
    ],
)
def test_another_order_is_the_same_function(form, step):
    """Each head, unit and channel takes all of its weights along: with one axis forgotten the outputs differ."""
    model = classifier(**form)
    student = cut(model, step)
    assert any(not np.array_equal(*pair) for pair in zip(student.get_weights(), model.get_weights(), strict=True))
    np.testing.assert_allclose(student(IDS), model(IDS), atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_removing_heads_is_zeroing_their_rows_of_the_output_projection(form):
    model = classifier(**form)
    kept = [[0, 5], [6, 2], [1, 3]]
    student = cut(model, keep_heads(kept))
    assert student.num_heads == 2
    assert student.head_dim == model.head_dim
    assert not np.allclose(student(IDS), model(IDS), atol=1e-2)
    for layer, heads in enumerate(kept):
        output = weight(model, f"encoder_{layer}/attention/output/kernel")
        rows = output.numpy().reshape(HEADS, model.head_dim, WIDTH)
        rows[[head for head in range(HEADS) if head not in heads]] = 0
        output.assign(rows.reshape(output.shape))
    np.testing.assert_allclose(student(IDS), model(IDS), atol=2e-5)


def test_removing_units_is_zeroing_their_rows_of_the_outer_product():
    model = classifier()
    kept = [[0, 5, 10], [6, 2, 7], [1, 3, 9]]
    student = cut(model, keep_units(kept))
    assert student.inner_dim == 3
    for layer, units in enumerate(kept):
        outer = weight(model, f"encoder_{layer}/feed_forward/outer/kernel")
        outer.assign(outer.numpy() * np.isin(np.arange(INNER), units)[:, None])
    np.testing.assert_allclose(student(IDS), model(IDS), atol=2e-5)


def double_width(model):
    """The same function in twice the width: each channel comes twice, and only its first copy is read."""
    wide = TextClassifier.from_config({**model.get_config(), "model_dim": 2 * WIDTH})
    for ours in wide.weights:
        value = weight(model, ours.path).numpy()
        for axis, (here, there) in enumerate(zip(ours.shape, value.shape, strict=True)):
            if here != there:
                read = axis == 0 and value.ndim == 2 and "table" not in ours.path
                value = np.concatenate([value, np.zeros_like(value) if read else value], axis=axis)
        ours.assign(value)
    return wide


@pytest.mark.parametrize("form", FORMS)
def test_removing_channels_that_nobody_reads_changes_nothing(form):
    """Twins leave mean and variance alone, so this cut of half the width is exact."""
    model = classifier(head_dim=form.get("head_dim", 2), **{k: v for k, v in form.items() if k != "head_dim"})
    wide = double_width(model)
    np.testing.assert_allclose(wide(IDS), model(IDS), atol=2e-5)
    student = cut(wide, keep_channels(range(WIDTH)))
    assert (student.model_dim, student.head_dim, student.num_heads) == (WIDTH, model.head_dim, HEADS)
    np.testing.assert_allclose(student(IDS), wide(IDS), atol=2e-5)


def test_kept_layers_come_in_the_order_given_with_all_their_weights():
    model = classifier()
    student = cut(model, keep_layers([2, 0]))
    assert student.num_layers == 2
    for ours, theirs in ((0, 2), (1, 0)):
        pair = (student.get_layer(f"encoder_{ours}"), model.get_layer(f"encoder_{theirs}"))
        for one, two in zip(*(layer.get_weights() for layer in pair), strict=True):
            np.testing.assert_array_equal(one, two)


def test_steps_count_what_the_ones_before_them_left():
    model = classifier()
    both = cut(model, keep_layers([2, 1]), keep_heads([[6, 1], [3, 4]]))
    one_by_one = cut(cut(model, keep_layers([2, 1])), keep_heads([[6, 1], [3, 4]]))
    other_order = cut(model, keep_heads([[0, 1], [3, 4], [6, 1]]), keep_layers([2, 1]))
    np.testing.assert_array_equal(both(IDS), one_by_one(IDS))
    np.testing.assert_array_equal(both(IDS), other_order(IDS))


def test_tokens_are_cut_to_a_vocabulary_and_factorised_at_full_rank_without_loss():
    model = classifier()
    table = weight(model, "tokens/table").numpy()
    vocabulary = cut_vocabulary(table, count_pieces(IDS, VOCAB), always=[1])
    student = cut(model, keep_pieces(vocabulary), factorise_tokens(min(len(vocabulary.kept), WIDTH)))
    assert student.kept_pieces == len(vocabulary.kept) < VOCAB
    np.testing.assert_allclose(student(IDS), model(IDS), atol=2e-5)


def test_all_cuts_together_save_load_and_train(tmp_path):
    model = classifier()
    student = cut(
        model,
        keep_layers([0, 2]),
        keep_heads([[0, 3, 4]] * 2),
        keep_units([[1, 2, 3, 5, 8]] * 2),
        keep_channels(range(1, 12)),
        keep_positions(7),
        factorise_tokens(3),
        name="small",
        dropout=0.0,
        dtype="mixed_bfloat16",
    )
    assert (student.name, student.dropout, student.dtype_policy.name) == ("small", 0.0, "mixed_bfloat16")
    student.save(tmp_path / "small.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "small.keras")(IDS), student(IDS))
    student.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    assert np.isfinite(student.train_on_batch(IDS, np.array([0, 1, 4])))


def test_the_model_that_is_cut_stays_as_it_was_and_shares_nothing():
    model = classifier()
    model.get_layer("tokens").trainable = False
    before = [value.copy() for value in model.get_weights()]
    student = cut(model, keep_channels([0, 3, 5]), keep_heads([[1]] * LAYERS))
    assert all(weight.trainable for weight in student.weights)
    for ours in student.weights:
        ours.assign(ours + 1)
    assert not model.get_layer("tokens").trainable
    for one, two in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (keep_layers([0, 3]), r"layers=\[0, 3\] can't be kept out of 3\. Name at least one, each once, out of 0 to 2"),
        (keep_layers([]), r"layers=\[\] can't be kept"),
        (keep_layers([1, 1]), r"layers=\[1, 1\] can't be kept"),
        (keep_heads([[0, -1]] * 3), r"heads=\[0, -1\] can't be kept out of 7"),
        (keep_heads([[0, 1]] * 2), r"heads has lists of \[2, 2\] for a model of 3 layers.*one list of heads a layer"),
        (keep_units([[0], [1], [1, 2]]), r"units has lists of \[1, 1, 2\] for a model of 3 layers"),
        (keep_channels([14]), r"channels=\[14\] can't be kept out of 14"),
        (keep_positions(14), r"positions=\[.*13\] can't be kept out of 13"),
        (factorise_tokens(15), r"rank=15 is above the 14"),
    ],
)
def test_what_is_not_there_can_not_be_kept(step, message):
    with pytest.raises(ValueError, match=message):
        cut(classifier(), step)


def test_a_token_table_is_cut_once_and_factorised_once():
    small = cut_vocabulary(np.eye(VOCAB), np.ones(VOCAB, "int64"))
    with pytest.raises(ValueError, match=r"vocabulary cut out of 29 pieces doesn't fit .*kept_pieces=17"):
        cut(classifier(kept_pieces=17), keep_pieces(small))
    with pytest.raises(ValueError, match="factorised already, embedding_dim=5"):
        cut(classifier(embedding_dim=5), factorise_tokens(3))


def test_a_model_of_another_make_is_refused():
    inputs = keras.Input((3,))
    plain = keras.Model(inputs, keras.layers.Dense(2)(inputs), name="plain")
    with pytest.raises(ValueError, match=r"'plain' \(Functional\) can't be cut: its config has no \['num_layers'"):
        cut(plain, keep_layers([0]))
