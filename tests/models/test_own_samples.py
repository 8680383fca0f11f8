"""What a student writes for itself: drawn from its own distribution, at its present weights, in the batch's shape."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import randomise

from keras_transformer.models import CausalLM, MaskedLM, OwnContinuations, OwnTargets, Seq2Seq

VOCAB_SIZE, START, END = 7, 1, 2
WRITERS = [Seq2Seq, CausalLM]


def writer(kind=Seq2Seq, seed=3, vocab_size=VOCAB_SIZE, scale=0.9, **options):
    """A tiny random model that would write something else with dropout."""
    options = {"dropout": 0.5, "norm_first": True, "tie_embeddings": False, **options}
    return randomise(kind(vocab_size, 1, 6, 2, 11, **options), seed, scale)


def always(kind, *token_ids, padding=0.0):
    """A model that writes one of a few ids, whatever it reads."""
    model = writer(kind)
    model.get_layer("final_norm").set_weights([np.zeros(6), np.ones(6)])
    kernel = np.zeros((6, VOCAB_SIZE))
    kernel[:, list(token_ids)], kernel[:, 0] = 20.0, padding
    model.get_layer("logits").set_weights([kernel])
    return model


def pairs(batch=3, sources=5, targets=4, seed=1):
    random = np.random.default_rng(seed)
    source_ids, target_ids = (random.integers(3, VOCAB_SIZE, (batch, length)) for length in (sources, targets))
    return {"source_ids": tf.constant(source_ids, tf.int32), "target_ids": tf.constant(target_ids, tf.int32)}


def own_targets(student, inputs, seed=5, **options):
    return OwnTargets(START, END, **options).write(student, inputs, tf.constant(seed, tf.int64))["target_ids"].numpy()


def continued(student, token_ids, seed=5, prompt_length=3, **options):
    rule = OwnContinuations(prompt_length, END, **options)
    return rule.write(student, tf.constant(token_ids, tf.int32), tf.constant(seed, tf.int64)).numpy()


def probabilities(logits, temperature):
    """softmax(logits / temperature) of the ids 1 .. V - 1, in float64."""
    powers = [np.exp(float(logit) / temperature) for logit in logits[1:]]
    return [0.0, *(power / sum(powers) for power in powers)]


def assert_drawn_with(counts, expected):
    assert counts[np.asarray(expected) == 0].sum() == 0
    wanted = np.asarray(expected) * counts.sum()
    enough = wanted > 0
    chi_square = ((counts - wanted)[enough] ** 2 / wanted[enough]).sum()
    freedom = enough.sum() - 1
    assert chi_square < freedom + 5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_targets_are_drawn_from_the_students_distribution_without_dropout_and_without_padding(temperature):
    student = writer()
    one = {"source_ids": np.array([[4, 6, 3]]), "target_ids": np.array([[START, 5, 6]])}
    rows = {name: tf.repeat(tf.constant(ids, tf.int32), 8_000, axis=0) for name, ids in one.items()}
    drawn = own_targets(student, rows, temperature=temperature)
    logits = student(one).numpy()[0]
    first = np.bincount(drawn[:, 1], minlength=VOCAB_SIZE)
    expected = probabilities(logits[0], temperature)
    # A row shows 0 in the place of the token after which nothing more is read: the end.
    expected[0], expected[END] = expected[END], 0.0
    assert_drawn_with(first, expected)
    token = int(first[END + 1 :].argmax()) + END + 1
    then = np.bincount(drawn[drawn[:, 1] == token, 2], minlength=VOCAB_SIZE)
    logits = student({**one, "target_ids": np.array([[START, token, 0]])}).numpy()[0]
    expected = probabilities(logits[1], temperature)
    expected[0], expected[END] = expected[END], 0.0
    assert then.sum() > 500
    assert_drawn_with(then, expected)


def test_continuations_are_drawn_from_the_students_distribution_each_row_from_its_own_end():
    student = writer(CausalLM)
    prompts = np.array([[4, 6, 3, 5, 5], [3, 0, 0, 0, 0]], "int32")
    drawn = continued(student, np.repeat(prompts, 4_000, axis=0))
    for row, known in enumerate((3, 1)):
        expected = probabilities(student(prompts[[row], :known]).numpy()[0, -1], 1.0)
        expected[0], expected[END] = expected[END], 0.0
        counts = np.bincount(drawn[row * 4_000 : (row + 1) * 4_000, known], minlength=VOCAB_SIZE)
        assert_drawn_with(counts, expected)


def test_a_student_that_always_writes_one_token_fills_the_room_with_it():
    empty = {name: tf.concat([ids, tf.zeros_like(ids[:1])], axis=0) for name, ids in pairs(batch=2).items()}
    wanted = [[START, 5, 5, 5], [START, 5, 5, 5], [0, 0, 0, 0]]  # a row without a target stays one
    np.testing.assert_array_equal(own_targets(always(Seq2Seq, 5), empty), wanted)
    rows = [[3, 4, 6, 3, 4, 6], [3, 0, 0, 0, 0, 0], [3, 0, 4, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    wanted = [[3, 4, 6, 5, 5, 5], [3, 5, 5, 5, 0, 0], [3, 0, 4, 5, 5, 5], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(continued(always(CausalLM, 5), rows), wanted)


def test_a_student_that_always_ends_leaves_nothing_after_the_beginning():
    np.testing.assert_array_equal(own_targets(always(Seq2Seq, END), pairs(batch=2)), [[START, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(continued(always(CausalLM, END), [[3, END, 6, 3, 4]]), [[3, END, 6, 0, 0]])


def test_what_follows_an_end_is_padding_and_the_end_itself_is_not_read():
    drawn = own_targets(always(Seq2Seq, 5, END), pairs(batch=61, targets=7))
    for row in drawn:
        length = np.count_nonzero(row)
        np.testing.assert_array_equal(row, [START, *[5] * (length - 1), *[0] * (7 - length)])
    assert {np.count_nonzero(row) for row in drawn} >= {1, 2, 3}


def test_padding_is_never_drawn_even_where_it_is_the_likeliest():
    fives = own_targets(always(Seq2Seq, 5, padding=40.0), pairs(batch=31))
    np.testing.assert_array_equal(fives, [[START, 5, 5, 5]] * 31)
    rows = continued(always(CausalLM, 5, padding=40.0), [[3, 4, 6, 3, 4]] * 31)
    np.testing.assert_array_equal(rows, [[3, 4, 6, 5, 5]] * 31)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_seed_writes_the_same_and_other_seeds_or_weights_something_else(kind):
    def write(student, seed):
        inputs = pairs(batch=11, targets=7)
        return own_targets(student, inputs, seed) if kind is Seq2Seq else continued(student, inputs["target_ids"], seed)

    student = writer(kind)
    first = write(student, 5)
    np.testing.assert_array_equal(write(student, 5), first)
    assert (write(student, 6) != first).any()
    randomise(student, seed=4)
    assert (write(student, 5) != first).any()


class Counting(Seq2Seq):
    """Counts the calls of `step`, the one in `prompt` among them."""

    def step(self, token_ids, state):
        self.calls.assign_add(1)
        return super().step(token_ids, state)


def test_batches_of_unknown_length_are_written_alike_and_the_loop_ends_with_the_batch():
    student, inputs = writer(), pairs(batch=11, targets=5)
    counting = Counting.from_config(student.get_config())
    counting.set_weights(student.get_weights())
    counting.calls = tf.Variable(0, trainable=False)
    rule = OwnTargets(START, END, max_tokens=23)
    ids = tf.TensorSpec((None, None), tf.int32)
    write = tf.function(
        lambda inputs: rule.write(counting, inputs, tf.constant(5, tf.int64)),
        input_signature=[{"source_ids": ids, "target_ids": ids}],
    )
    np.testing.assert_array_equal(write(inputs)["target_ids"], own_targets(student, inputs))
    assert counting.calls.numpy() <= 1 + 5

    language_model, rule = writer(CausalLM), OwnContinuations(3, END, max_tokens=23)
    write = tf.function(
        lambda token_ids: rule.write(language_model, token_ids, tf.constant(5, tf.int64)), input_signature=[ids]
    )
    for length in (2, 3, 4, 7):
        token_ids = inputs["source_ids"][:, :1] + tf.zeros((1, length), tf.int32)
        wanted = token_ids if length <= 3 else continued(language_model, token_ids)
        np.testing.assert_array_equal(write(token_ids), wanted)


def test_no_more_than_max_tokens_are_drawn():
    np.testing.assert_array_equal(own_targets(always(Seq2Seq, 5), pairs(batch=1), max_tokens=2), [[START, 5, 0, 0]])
    rows = [[3, 4, 6, 3, 4, 6], [3, 0, 0, 0, 0, 0]]
    wanted = [[3, 4, 6, 5, 5, 0], [3, 5, 5, 0, 0, 0]]
    np.testing.assert_array_equal(continued(always(CausalLM, 5), rows, max_tokens=2), wanted)


def test_what_else_is_in_the_inputs_stays_and_so_do_the_types():
    inputs = {**pairs(), "weight": tf.constant(2.0)}
    inputs["target_ids"] = tf.cast(inputs["target_ids"], tf.int64)
    written = OwnTargets(START, END).write(writer(), inputs, tf.constant(5, tf.int64))
    assert list(written) == list(inputs)
    assert written["target_ids"].dtype == tf.int64
    assert written["source_ids"] is inputs["source_ids"]
    named = {"token_ids": tf.constant([[3, 4, 6, 3]], tf.int64), "weight": tf.constant(2.0)}
    written = OwnContinuations(3, END).write(always(CausalLM, 5), named, tf.constant(5, tf.int64))
    np.testing.assert_array_equal(written["token_ids"], [[3, 4, 6, 5]])
    assert list(written) == list(named)


def test_positions_count_from_the_prompts_last_token_on():
    rows = tf.constant([[3, 4, 6, 3, 4], [3, 0, 0, 0, 0], [3, 0, 4, 0, 0], [3, 4, 0, 0, 0]])
    wanted = [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]]
    for inputs in (rows, {"token_ids": rows}):
        np.testing.assert_array_equal(OwnContinuations(3, END).counted(inputs), np.array(wanted, bool))
    assert OwnTargets(START, END).counted(pairs()) is None


@pytest.mark.parametrize("kind", WRITERS)
def test_a_student_in_bfloat16_writes_as_one_in_float32_does_where_it_is_sure(kind):
    exact = always(kind, 5)
    half = kind.from_config({**exact.get_config(), "dtype": "mixed_bfloat16"})
    half.set_weights(exact.get_weights())
    inputs = pairs(targets=5)
    write = own_targets if kind is Seq2Seq else lambda student, inputs: continued(student, inputs["target_ids"])
    np.testing.assert_array_equal(write(half, inputs), write(exact, inputs))


def unknown_length(rule, student):
    ids = tf.TensorSpec((None, None), tf.int32)
    inputs = {"source_ids": ids, "target_ids": ids, "token_ids": ids}
    tf.function(lambda inputs: rule.write(student, inputs, tf.constant(1)), input_signature=[inputs])(
        {**pairs(), "token_ids": pairs()["target_ids"]}
    )


WRONG = {
    "start": (lambda: OwnTargets(0, 2), ValueError, "start_id=0 must be a whole number of at least 1"),
    "end": (lambda: OwnContinuations(3, 0), ValueError, "end_id=0 must be a whole number of at least 1"),
    "prompt": (lambda: OwnContinuations(0, 2), ValueError, "prompt_length=0 must be a whole number"),
    "most": (lambda: OwnTargets(1, 2, max_tokens=0), ValueError, "max_tokens=0 must be a whole number"),
    "cold": (lambda: OwnTargets(1, 2, temperature=0), ValueError, "temperature=0 must be finite and above 0"),
    "names": (
        lambda: own_targets(writer(), {"source_ids": tf.constant([[3]])}),
        ValueError,
        r"OwnTargets needs 'target_ids' .* which have \['source_ids'\]\. Pass x as a dict with 'target_ids'",
    ),
    "no names": (
        lambda: own_targets(writer(), tf.constant([[3, 4]])),
        ValueError,
        "OwnTargets needs 'target_ids' .*have one EagerTensor without names.* For a CausalLM use OwnContinuations",
    ),
    "language model": (
        lambda: own_targets(writer(CausalLM, name="small"), pairs()),
        TypeError,
        "OwnTargets lets a Seq2Seq write, and the student 'small' is a CausalLM. .* OwnContinuations for a CausalLM",
    ),
    "masked": (
        lambda: continued(MaskedLM(7, 1, 6, 2, 11, max_length=5, name="masked"), [[3, 4, 5, 6]]),
        TypeError,
        "OwnContinuations lets a CausalLM write, and the student 'masked' is a MaskedLM",
    ),
    "vocabulary": (
        lambda: OwnContinuations(3, 7).write(writer(CausalLM, name="small"), tf.constant([[3, 4, 5, 6]]), 1),
        ValueError,
        "has end_id=7, and the student 'small' knows the ids 0 to 6. Give the end_id of its tokenizer",
    ),
    "no room": (
        lambda: continued(writer(CausalLM), [[3, 4, 5]]),
        ValueError,
        "prompt_length=3 leaves a row of 3 tokens no room .* Use prompt_length=2 or less",
    ),
    "unknown targets": (
        lambda: unknown_length(OwnTargets(1, 2), writer()),
        ValueError,
        r"OwnTargets has max_tokens=None.* Give OwnTargets\(\.\.\., max_tokens=\.\.\.\)",
    ),
    "unknown texts": (
        lambda: unknown_length(OwnContinuations(3, 2), writer(CausalLM)),
        ValueError,
        r"OwnContinuations has max_tokens=None.* Give OwnContinuations\(",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_written_is_refused_with_the_way_out(make, error, message):
    keras.utils.set_random_seed(1)
    with pytest.raises(error, match=message):
        make()
