"""Batches of pairs and of packed rows: every token once, room kept to, the same order however often one stopped."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_transformer.data.packing import PackedBatches, pack
from keras_transformer.data.pair_batches import PairBatches

PAIRS, ROOM, START, END = 211, 400, 1, 2


def pairs(count: int = PAIRS, seed: int = 3) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of 2 to 41 ids; the first id of either side is 10 + the row."""
    random = np.random.default_rng(seed)

    def rows() -> list[list[int]]:
        return [[10 + row, *random.integers(3, 900, random.integers(0, 40)).tolist(), END] for row in range(count)]

    return rows(), rows()


def batches(**options) -> PairBatches:
    return PairBatches(*pairs(), **{"max_tokens": ROOM, "start_id": START, "end_id": END, "seed": 5, **options})


def packed(**options) -> PackedBatches:
    texts = [row[:-1] for row in pairs()[0]]
    return PackedBatches(texts, **{"length": 13, "batch_size": 7, "end_id": END, "seed": 5, **options})


def listed(dataset: tf.data.Dataset) -> list:
    return [
        ({name: array.tolist() for name, array in x.items()} if isinstance(x, dict) else x.tolist(), y.tolist())
        for x, y in dataset.as_numpy_iterator()
    ]


def test_every_pair_comes_once_an_epoch_with_its_target_moved_right():
    sources, targets = pairs()
    seen = []
    for inputs, labels in batches().dataset().as_numpy_iterator():
        for source, read, label in zip(inputs["source_ids"], inputs["target_ids"], labels, strict=True):
            row = source[0] - 10
            assert source[source > 0].tolist() == sources[row]
            assert label[label > 0].tolist() == targets[row]
            assert read[read > 0].tolist() == [START, *targets[row][:-1]]
            np.testing.assert_array_equal(read > 0, label > 0)
            seen.append(row)
    assert sorted(seen) == list(range(PAIRS))
    assert seen != sorted(seen)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_has_at_most_the_tokens_asked_for_padding_counted(shuffle):
    sizes, useful, all_tokens = [], 0, 0
    for inputs, labels in batches(shuffle=shuffle).dataset().as_numpy_iterator():
        sizes.append(inputs["source_ids"].size + labels.size)
        useful += np.count_nonzero(inputs["source_ids"]) + np.count_nonzero(labels)
        all_tokens += sizes[-1]
        for ids, longest in ((inputs["source_ids"], max(map(len, pairs()[0]))), (labels, max(map(len, pairs()[1])))):
            assert ids.shape[1] % 8 == 0 or ids.shape[1] == longest
        assert inputs["target_ids"].shape == labels.shape
    assert max(sizes) <= ROOM
    if shuffle:
        assert np.median(sizes) > 0.7 * ROOM
        assert useful / all_tokens > 0.75  # as they come it is about half


@pytest.mark.parametrize("make", [batches, packed])
def test_one_seed_gives_one_order_and_another_epoch_or_seed_another(make):
    assert listed(make().dataset(epochs=2)) == listed(make().dataset(epochs=2))
    assert listed(make().dataset()) != listed(make(seed=6).dataset())
    assert listed(make().dataset(0)) != listed(make().dataset(1))
    assert listed(make(shuffle=False).dataset(0)) == listed(make(shuffle=False).dataset(1))


@pytest.mark.parametrize("make", [batches, packed])
def test_a_resumed_run_sees_what_is_left_of_the_whole_one(make):
    steps = make().steps_per_epoch
    whole = listed(make().dataset(epochs=3))
    assert len(whole) == 3 * steps == int(make().dataset(epochs=3).cardinality())
    for skip in (0, 1, steps - 1, steps, steps + 1, 3 * steps - 1):
        assert listed(make().dataset(epochs=3, skip=skip)) == whole[skip:]
    assert listed(make().dataset(1, 2, 4)) == whole[steps + 4 :]
    with pytest.raises(ValueError, match=f"skip={steps} must be at least 0 and below the {steps} batches"):
        make().dataset(skip=steps)


def test_which_pairs_share_a_batch_changes_from_epoch_to_epoch_but_not_the_shapes():
    plans = [batches(max_tokens=1600).plan(epoch) for epoch in range(2)]
    first, second = ({frozenset(rows.tolist()) for rows in plan} for plan in plans)
    assert len(first & second) < len(first) / 2
    every = [sorted(y.shape for _, y in batches().batches(epoch)) for epoch in (0, 1, 2)]
    assert every[0] == every[1] == every[2]


def test_without_shuffling_pairs_keep_their_order():
    rows = [row for x, _ in batches(shuffle=False).dataset().as_numpy_iterator() for row in x["source_ids"][:, 0] - 10]
    assert rows == list(range(PAIRS))


@pytest.mark.parametrize(
    ("sources", "targets", "options", "message"),
    [
        ([], [], {}, "there are 0 sources and 0 targets: each source needs its target"),
        ([[3]], [], {}, "there are 1 sources and 0 targets"),
        ([[]], [[2]], {}, r"source_ids\[0\] is empty: an encoder needs a token"),
        ([[3], [3]], [[2], [4]], {}, r"target_ids\[1\] ends in \[4\], not in end_id=2: a decoder would never learn"),
        ([[3]], [[]], {}, r"target_ids\[0\] ends in \[\], not"),
        (
            [[3], [3] * 9],
            [[2], [2]],
            {"max_tokens": 23},
            r"max_tokens=23: pair 1 alone has 24 tokens with padding. Use",
        ),
        ([[3]], [[2]], {"max_tokens": 0}, "max_tokens=0 must be a whole number"),
    ],
)
def test_pairs_that_do_not_fit_are_named(sources, targets, options, message):
    with pytest.raises(ValueError, match=message):
        PairBatches(sources, targets, **{"max_tokens": 99, "start_id": 1, "end_id": 2, **options})


def loop_transitions(texts: list[list[int]]) -> list[tuple[int, int]]:
    """(token, what comes next) of the texts one after another, an end before each and after the last."""
    found, before = [], END
    for text in texts:
        for token in [*text, END]:
            found.append((before, token))
            before = token
    return found


texts_of_ids = st.lists(st.lists(st.integers(3, 99), max_size=9), min_size=1, max_size=9)


@settings(deadline=None)
@given(texts_of_ids, st.integers(1, 11))
def test_every_transition_of_the_texts_is_in_the_rows_exactly_once_and_in_order(texts, length):
    rows = pack(texts, length=length, end_id=END)
    assert rows.token_ids.shape == rows.labels.shape == (-(-sum(len(text) + 1 for text in texts) // length), length)
    real = rows.labels > 0
    assert list(zip(rows.token_ids[real], rows.labels[real], strict=True)) == loop_transitions(texts)
    assert real[:-1].all()
    tail = real[-1].tolist()
    assert tail == sorted(tail, reverse=True)
    assert tail[0]
    assert (rows.token_ids[~real] == 0).all()


def test_each_epoch_packs_every_text_once():
    texts = {tuple(row[:-1]) for row in pairs()[0]}
    for epoch in (0, 1):
        rows = packed().packed(epoch)
        stream = rows.labels[rows.labels > 0].tolist()
        found, text = set(), []
        for token in stream:
            text = [*text, token] if token != END else (found.add(tuple(text)) or [])
        assert found == texts
        seen = np.concatenate([x for x, _ in packed().batches(epoch)])
        assert sorted(map(tuple, seen)) == sorted(map(tuple, rows.token_ids))


def test_texts_that_cannot_be_packed_are_named():
    with pytest.raises(ValueError, match="token_ids is empty: there is nothing to pack"):
        pack([], length=4, end_id=END)
    with pytest.raises(ValueError, match="token_ids holds 0, which is padding"):
        PackedBatches([[3, 0]], length=4, batch_size=1, end_id=END)
    with pytest.raises(ValueError, match="length=0 must be a whole number"):
        pack([[3]], length=0, end_id=END)
