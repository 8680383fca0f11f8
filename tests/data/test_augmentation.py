"""Words are exchanged for words, as often as asked, and what a text becomes depends on the text alone."""

import numpy as np
import pytest
import tensorflow as tf

from keras_transformer.data.augmentation import WholeWords, augment, masked_words, nearest_words
from keras_transformer.data.batching import Batches

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused1]"]
WORDS = [f"w{letter}" for letter in "abcdefghijklmnopqrs"]
VOCAB = [*SPECIAL, *WORDS, "##ing", "##s", ".", "7", "##"]
WHOLE = WholeWords.of(VOCAB)
WORD_IDS = np.arange(len(SPECIAL), len(SPECIAL) + len(WORDS))
ING, DOT = VOCAB.index("##ing"), VOCAB.index(".")
TABLE = np.random.default_rng(3).normal(size=(len(VOCAB), 7)).astype("float32")


def numpy_nearest(table, count):
    """Of each word the other words by cosine, the nearest first: loops in float64."""
    near, unit = {}, [row.astype("float64") / np.linalg.norm(row.astype("float64")) for row in table]
    for word in WORD_IDS:
        cosine = {other: unit[word] @ unit[other] for other in WORD_IDS if other != word}
        near[word] = sorted(cosine, key=lambda other: -cosine[other])[:count]
    return near


def texts(count=23, seed=5):
    random = np.random.default_rng(seed)
    choices = [*WORD_IDS, ING, DOT]
    return [[2, *random.choice(choices, random.integers(1, 17)).tolist(), 3] for _ in range(count)]


def batches(ids=None, batch_size=5, multiple=8, shuffle=True):
    ids = texts() if ids is None else ids
    return Batches(ids, np.arange(len(ids)), batch_size=batch_size, shuffle=shuffle, length_multiple=multiple)


def augmented(ids=None, count=3, *, batching=None, **options):
    """Text -> its copies in order, each without padding."""
    data = batches(ids, **(batching or {})).dataset()
    options = {"copies": 4, "seed": 1, "keep_labels": True, **options}
    candidates = options.pop("candidates", nearest_words(TABLE, WHOLE, count))
    found = {}
    for x, labels in augment(data, WHOLE, candidates, **options):
        for row, label in zip(x["token_ids"].numpy(), labels.numpy(), strict=True):
            found.setdefault(int(label), []).append(np.trim_zeros(row, "b").tolist())
    return found


def test_the_vocabulary_is_sorted_into_words_and_continuations():
    assert np.flatnonzero(WHOLE.words).tolist() == WORD_IDS.tolist()
    assert [VOCAB[index] for index in np.flatnonzero(WHOLE.continues)] == ["##ing", "##s"]


def test_each_text_comes_first_as_it_is_and_its_copies_hold_near_words_in_the_places_of_words():
    near, ids = numpy_nearest(TABLE, 3), texts()
    exchanged = 0
    for place, (original, *copies) in augmented(ids).items():
        assert original == ids[place]
        assert len(copies) == 4
        for copy in copies:
            assert len(copy) == len(original)
            for index, (old, new) in enumerate(zip(original, copy, strict=True)):
                many_pieces = index + 1 < len(original) and original[index + 1] == ING
                if old not in near or many_pieces:
                    assert new == old
                else:
                    assert new == old or new in near[old]
                    exchanged += new != old
    assert exchanged > 100


def test_words_are_exchanged_as_often_as_asked_and_each_candidate_is_as_likely():
    ids = [[2, *np.random.default_rng(row).permutation(WORD_IDS).tolist(), 3] for row in range(200)]
    near = numpy_nearest(TABLE, 3)
    pairs = [
        (old, new)
        for original, *copies in augmented(ids, probability=0.3, copies=3).values()
        for copy in copies
        for old, new in zip(original[1:-1], copy[1:-1], strict=True)
    ]
    changed = [(old, new) for old, new in pairs if old != new]
    tolerance = 4 * np.sqrt(0.3 * 0.7 / len(pairs))
    np.testing.assert_allclose(len(changed) / len(pairs), 0.3, atol=tolerance)
    for place in range(3):
        share = np.mean([new == near[old][place] for old, new in changed])
        np.testing.assert_allclose(share, 1 / 3, atol=4 * np.sqrt(2 / 9 / len(changed)))


@pytest.mark.parametrize(("probability", "share"), [(0.0, 0.0), (1.0, 1.0)])
def test_no_word_or_every_word(probability, share):
    ids = [[2, *WORD_IDS.tolist(), 3]]
    (original, *copies) = augmented(ids, probability=probability)[0]
    assert all(np.mean(np.array(copy[1:-1]) != original[1:-1]) == share for copy in copies)


def test_what_a_copy_becomes_depends_on_the_text_its_number_and_the_seed_alone():
    first = augmented()
    assert augmented() == first
    assert augmented(batching={"batch_size": 7, "multiple": 13, "shuffle": False}) == first
    assert augmented(copies=2) == {place: copies[:3] for place, copies in first.items()}
    other = augmented(seed=2)
    assert sum(other[place][1:] != first[place][1:] for place in first) > len(first) / 2
    long = [copies for copies in first.values() if len(copies[0]) > 8]
    assert all(len({tuple(copy) for copy in copies}) > 2 for copies in long)


def test_texts_that_differ_in_one_word_get_other_choices():
    ids = [[2, *[WORD_IDS[0]] * 15, last, 3] for last in WORD_IDS[:2]]
    (_, first, *_), (_, second, *_) = augmented(ids, probability=0.5).values()
    assert first[1:-2] != second[1:-2]


def test_a_text_longer_than_the_table_of_multipliers_works():
    ids = [[2, *np.resize(WORD_IDS, 5000).tolist(), 3]]
    (original, copy, *_) = augmented(ids, copies=1)[0]
    assert len(copy) == len(original)


def test_copies_are_unlabelled_unless_asked():
    data = batches().dataset()
    seen = [labels.numpy() for _, labels in augment(data, WHOLE, nearest_words(TABLE, WHOLE, 3), copies=2)]
    assert len(seen) == 3 * 5 == int(augment(data, WHOLE, nearest_words(TABLE, WHOLE, 3), copies=2).cardinality())
    assert all((labels >= 0).all() for labels in seen[::3])
    assert all((labels == -1).all() for place, labels in enumerate(seen) if place % 3)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint32"])
def test_labels_that_can_not_hold_minus_one_are_refused_unless_they_are_kept(dtype):
    data = tf.data.Dataset.from_tensors((np.full((3, 5), WORD_IDS[2]), np.array([0, 1, 1], dtype)))
    near = nearest_words(TABLE, WHOLE, 3)
    with pytest.raises(
        ValueError, match=rf"labels have dtype {dtype}, which can't hold -1.*astype\('int32'\), or keep"
    ):
        augment(data, WHOLE, near, copies=1)
    _, (_, kept) = augment(data, WHOLE, near, copies=1, keep_labels=True)
    np.testing.assert_array_equal(kept, [0, 1, 1])


@pytest.mark.parametrize("form", ["x", "dict", "x, y", "x, y, w"])
def test_batches_keep_their_form(form):
    ids = np.full((3, 5), WORD_IDS[2], "int64")
    x = {"token_ids": ids, "segments": ids * 0} if form == "dict" else ids
    labels, weights = np.ones(3, "float32"), np.arange(3.0)
    element = {"x": x, "dict": x, "x, y": (x, labels), "x, y, w": (x, labels, weights)}[form]
    data = tf.data.Dataset.from_tensors(element)
    original, copy = augment(data, WHOLE, nearest_words(TABLE, WHOLE, 3), copies=1, probability=1.0)
    assert tf.nest.map_structure(lambda tensor: tensor.dtype, copy) == tf.nest.map_structure(
        lambda tensor: tensor.dtype, original
    )
    got = copy[0] if isinstance(copy, tuple) else copy
    got = got["token_ids"] if isinstance(got, dict) else got
    assert (got.numpy() != ids).all()
    if isinstance(copy, tuple):
        assert np.isnan(copy[1]).all()
        assert len(copy) == len(element)
        np.testing.assert_array_equal(copy[-1], np.full(3, np.nan) if form == "x, y" else weights)


def test_a_masked_language_model_sees_masks_in_the_places_and_proposes_words_alone():
    mask_id, seen = VOCAB.index("[MASK]"), []

    def model(token_ids):
        """Likes special pieces most, then the word that stands one to the left."""
        tf.numpy_function(lambda ids: seen.append(ids), [token_ids], [])
        left = tf.one_hot(tf.roll(token_ids, 1, axis=1), len(VOCAB)) * 5
        return left + tf.constant(np.where(WHOLE.words, 0.0, 9.0), tf.float32)

    ids = [[2, *WORD_IDS[:7].tolist(), 3]]
    found = augmented(ids, candidates=masked_words(model, mask_id, WHOLE, 1), probability=0.5, copies=6)[0]
    original = found[0]
    for copy in found[1:]:
        for place, (old, new) in enumerate(zip(original, copy, strict=True)):
            if new != old and copy[place - 1] == original[place - 1] and original[place - 1] in WORD_IDS:
                assert new == original[place - 1]
            assert new == old or new in WORD_IDS
    assert sum((given == mask_id).sum() for given in seen) >= sum(
        np.sum(np.array(copy) != original) for copy in found[1:]
    )
    assert any((given == mask_id).any() for given in seen)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_words(TABLE[1:], WHOLE), "table has 29 rows, but the vocabulary has 30 pieces"),
        (lambda: nearest_words(TABLE, WHOLE, 19), "count=19 neighbours of 19 words: use count=18 or less"),
        (lambda: masked_words(lambda ids: ids, 4, WHOLE, 20), "count=20 guesses of 19 words"),
        (lambda: augmented(probability=1.5), r"probability=1.5 must be from 0 to 1. Use for example probability=0.4"),
        (lambda: augmented(seed=-1), "seed=-1 must be a whole number of at least 0. Use for example seed=0"),
        (lambda: augmented(seed=0.5), "seed=0.5 must be a whole number of at least 0"),
        (lambda: augmented(seed=None), "seed=None must be a whole number of at least 0"),
        (lambda: augmented(copies=0), "copies=0 must be a whole number of at least 1"),
    ],
)
def test_arguments_that_do_not_fit_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_inputs_without_ids_or_with_a_teachers_outputs_are_refused():
    near = nearest_words(TABLE, WHOLE, 3)
    with pytest.raises(ValueError, match=r"ids='token_ids': x has \['tokens'\] and no such entry"):
        augment(tf.data.Dataset.from_tensors({"tokens": [[7]]}), WHOLE, near)
    stale = {"token_ids": [[7]], "teacher_logits": [[0.5]]}
    with pytest.raises(ValueError, match=r"holds \['teacher_logits'\], recorded for the texts as they were.*Augment"):
        augment(tf.data.Dataset.from_tensors(stale), WHOLE, near)
