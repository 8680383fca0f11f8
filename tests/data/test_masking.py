"""Hidden tokens: the shares of Devlin et al., special tokens left alone, the same again for one seed."""

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.data.masking import hide_tokens

MASK, VOCAB, SPECIAL = 4, 97, (0, 1, 2, 3, 4)


def ids(rows: int = 211, length: int = 331) -> np.ndarray:
    drawn = np.random.default_rng(3).integers(5, VOCAB, (rows, length)).astype(np.int32)
    drawn[:, 0], drawn[:, -9], drawn[:, -8:] = 2, 3, 0
    return drawn


def hidden(token_ids: np.ndarray, batch: int = 7, **options) -> list[tuple[np.ndarray, np.ndarray]]:
    options = {"mask_id": MASK, "vocab_size": VOCAB, "special_ids": SPECIAL, "seed": 5, **options}
    data = tf.data.Dataset.from_tensor_slices(token_ids).batch(batch).apply(hide_tokens(**options))
    return list(data.as_numpy_iterator())


def test_the_shares_are_those_of_the_paper():
    before = ids()
    batches = hidden(before)
    after, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
    asked, real = labels != -1, before >= 5
    np.testing.assert_array_equal(labels[asked], before[asked])
    np.testing.assert_array_equal(after[~asked], before[~asked])
    assert not (asked & ~real).any()
    # Standard errors: 0.0014 of the first, at most 0.004 of the others.
    assert asked[real].mean() == pytest.approx(0.15, abs=0.006)
    assert (after[asked] == MASK).mean() == pytest.approx(0.8, abs=0.015)
    other = asked & (after != MASK) & (after != before)
    assert other.sum() / asked.sum() == pytest.approx(0.1 * (1 - 1 / (VOCAB - 5)), abs=0.012)
    assert set(after[other]) == set(range(5, VOCAB))


def test_what_is_hidden_depends_on_the_seed_and_the_number_of_the_batch_alone():
    def listed(batches):
        return [(x.tolist(), y.tolist()) for x, y in batches]

    data = ids(rows=35, length=41)
    whole = listed(hidden(data))
    assert listed(hidden(data)) == whole
    assert listed(hidden(data[14:], first_batch=2)) == whole[2:]
    assert listed(hidden(data, seed=6)) != whole
    twice = listed(hidden(np.concatenate([data, data])))
    assert twice[:5] == whole
    assert twice[5:] != whole  # another epoch hides other tokens


def test_other_inputs_stay_and_labels_are_replaced():
    data = ids(rows=3, length=41)
    x = {"token_ids": data, "weight": np.arange(3.0)}
    dataset = tf.data.Dataset.from_tensor_slices((x, np.arange(3))).batch(3)
    apply = hide_tokens(mask_id=MASK, vocab_size=VOCAB, special_ids=SPECIAL, seed=5)
    ((inputs, labels),) = dataset.apply(apply).as_numpy_iterator()
    ((alone, alone_labels),) = hidden(data)
    np.testing.assert_array_equal(inputs["token_ids"], alone)
    np.testing.assert_array_equal(labels, alone_labels)
    np.testing.assert_array_equal(inputs["weight"], np.arange(3.0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chosen": 1.0}, "chosen=1.0 must be at least 0 and below 1"),
        ({"mask_id": 97}, r"mask_id=97 isn't in the vocabulary: ids are 0 to 96"),
        ({"special_ids": range(97)}, "all 97 ids are special, so no token is left"),
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number"),
    ],
)
def test_numbers_out_of_range_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        hide_tokens(**{"mask_id": MASK, "vocab_size": VOCAB, "special_ids": SPECIAL, "seed": 5, **options})
