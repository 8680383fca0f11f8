"""Batches: every text once an epoch, the same order for one seed however often a run was stopped, little padding."""

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.data.batching import CHUNK_BATCHES, UNLABELLED, Batches

TEXTS = 101
BATCH = 7


def token_ids(count: int = TEXTS, seed: int = 3) -> list[list[int]]:
    """Rows of 2 to 40 ids; the first id of row i is i + 1, so that a row can be told by it."""
    random = np.random.default_rng(seed)
    return [[row + 1, *random.integers(1, 900, random.integers(1, 40)).tolist()] for row in range(count)]


def batches(**options) -> Batches:
    rows = np.arange(TEXTS)
    extras = {"teacher_logits": np.stack([rows, -rows], axis=1).astype(np.float32), "weight": rows / 2}
    return Batches(token_ids(), rows % 5, extras, **{"batch_size": BATCH, "seed": 11, **options})


def listed(dataset: tf.data.Dataset) -> list:
    return [({name: array.tolist() for name, array in x.items()}, y.tolist()) for x, y in dataset.as_numpy_iterator()]


def test_every_text_comes_once_an_epoch_with_its_own_label_and_extras():
    seen = []
    for inputs, labels in batches().dataset().as_numpy_iterator():
        rows = inputs["token_ids"][:, 0] - 1
        for row, ids in zip(rows, inputs["token_ids"], strict=True):
            assert ids[ids > 0].tolist() == token_ids()[row]
        np.testing.assert_array_equal(labels, rows % 5)
        np.testing.assert_array_equal(inputs["teacher_logits"], np.stack([rows, -rows], axis=1))
        np.testing.assert_array_equal(inputs["weight"], rows / 2)
        seen += rows.tolist()
    assert sorted(seen) == list(range(TEXTS))
    assert seen != sorted(seen)


def test_the_element_spec_leaves_batch_and_length_open():
    inputs, labels = batches().dataset().element_spec
    assert inputs == {
        "token_ids": tf.TensorSpec((None, None), tf.int32),
        "teacher_logits": tf.TensorSpec((None, 2), tf.float32),
        "weight": tf.TensorSpec((None,), tf.float64),
    }
    assert labels == tf.TensorSpec((None,), tf.int32)


def test_the_last_batch_is_kept_and_counted():
    sizes = [len(labels) for _, labels in batches().dataset().as_numpy_iterator()]
    assert len(sizes) == batches().steps_per_epoch == 15
    assert sorted(sizes) == [3, *[BATCH] * 14]
    assert int(batches().dataset(epochs=3).cardinality()) == 45


def test_lengths_are_the_longest_of_the_batch_rounded_up():
    for inputs, _ in batches().dataset().as_numpy_iterator():
        longest = (inputs["token_ids"] > 0).sum(axis=1).max()
        assert inputs["token_ids"].shape[1] == -(-longest // 8) * 8


def test_one_seed_gives_one_order_and_another_gives_another():
    assert listed(batches().dataset(epochs=2)) == listed(batches().dataset(epochs=2))
    assert listed(batches().dataset()) != listed(batches(seed=12).dataset())
    assert listed(batches().dataset(0)) != listed(batches().dataset(1))


@pytest.mark.parametrize("skip", [0, 1, 14, 15, 16, 44])
def test_a_resumed_run_sees_what_is_left_of_the_whole_one(skip):
    first_epoch, skipped = divmod(skip, batches().steps_per_epoch)
    whole = listed(batches().dataset(epochs=3))
    assert listed(batches().dataset(epochs=3, skip=skip)) == whole[skip:]
    assert listed(batches().dataset(first_epoch, 3 - first_epoch, skipped)) == whole[skip:]


def test_without_shuffling_the_order_is_the_given_one():
    rows = [row for x, _ in batches(shuffle=False).dataset().as_numpy_iterator() for row in x["token_ids"][:, 0] - 1]
    assert rows == list(range(TEXTS))


def test_without_labels_every_row_is_unlabelled():
    for _, labels in Batches(token_ids(), batch_size=BATCH, seed=1).dataset().as_numpy_iterator():
        assert set(labels.tolist()) == {UNLABELLED} == {-1}


def test_texts_of_like_length_share_a_batch_and_batches_do_not_come_sorted():
    count = CHUNK_BATCHES * BATCH + 200
    big = Batches(token_ids(count), batch_size=BATCH, seed=2)
    arrays = [inputs["token_ids"] for inputs, _ in map(big.batch, big.plan(0))]
    useful = sum((array > 0).sum() for array in arrays) / sum(array.size for array in arrays)
    assert useful > 0.8  # as they come it is about half
    lengths = [array.shape[1] for array in arrays]
    assert np.corrcoef(lengths[:-1], lengths[1:])[0, 1] < 0.3


def test_which_texts_share_a_batch_changes_from_epoch_to_epoch():
    first, second = ({frozenset(rows.tolist()) for rows in batches().plan(epoch)} for epoch in (0, 1))
    assert len(first & second) < len(first) / 2


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (1, 5), (5, 1), (5, 5)])
def test_small_data_sets_work(count, batch_size):
    data = listed(Batches(token_ids(count), batch_size=batch_size, seed=0).dataset(epochs=2))
    assert sum(len(labels) for _, labels in data) == 2 * count


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token_ids": []}, "token_ids is empty"),
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"labels": np.zeros(4)}, r"labels has shape \(4,\), but there are 3 texts"),
        ({"labels": np.zeros((3, 1))}, r"labels has shape \(3, 1\)"),
        ({"extras": {"logits": np.zeros((2, 3))}}, r"extras\['logits'\] has shape \(2, 3\).*must be 3"),
        ({"extras": {"token_ids": np.zeros(3)}}, "the name 'token_ids' is taken"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Batches(**{"token_ids": token_ids(3), "batch_size": 2, **options})


def test_a_skip_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="skip=15 must be at least 0 and below the 15 batches of 1 epochs"):
        batches().dataset(skip=15)
    with pytest.raises(ValueError, match="skip=-1"):
        batches().dataset(skip=-1)


def test_no_batch_is_longer_than_the_longest_text_of_all():
    """A model has positions for its longest text, and that needn't be a multiple of anything."""
    batches = Batches([[1] * length for length in (3, 13, 5, 9)], batch_size=2, shuffle=False)
    assert [batches.batch(rows)[0]["token_ids"].shape for rows in batches.plan(0)] == [(2, 13), (2, 13)]
    assert Batches([[1] * 3, [1] * 17], batch_size=1, shuffle=False).batch(np.array([0]))[0]["token_ids"].shape == (
        1,
        8,
    )
