"""The step on what the student writes itself: how often, by which tokens, against a float64 oracle on those tokens."""

import decoder_oracles
import keras
import numpy as np
import pytest
import tensorflow as tf
from weights import by_name, randomise

from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    OnPolicyDistiller,
    RecordedTeacher,
    SeveralTeachers,
    jensen_shannon,
    reverse_targets,
    true_labels,
)
from keras_transformer.models import CausalLM, OwnContinuations, OwnTargets, Seq2Seq

VOCAB_SIZE, START, END, BATCH, SOURCES, TARGETS, PROMPT = 13, 1, 2, 7, 5, 8, 3
KINDS = [Seq2Seq, CausalLM]
NEVER_MET = 1e-12  # a share above 0 that no step of a test falls into


def model(kind, dim, seed, scale=0.5, **options):
    options = {"dropout": 0.0, "norm_first": True, **options}
    return randomise(kind(VOCAB_SIZE, 1, dim, 2, 17, **options), seed, scale)


def sides(kind, **options):
    return model(kind, 6, seed=3, **options), model(kind, 8, seed=4, scale=0.8)


class Noise:
    """Writes random tokens in the place of all: as an own sample is, by its seed, and quickly."""

    def write(self, student, inputs, seed):
        drawn = tf.random.stateless_uniform(inputs.shape, tf.stack([seed, 0]), 3, VOCAB_SIZE, inputs.dtype)
        return tf.where(inputs != 0, drawn, 0)

    def counted(self, inputs):
        return None


def samples_of(kind, **options):
    return OwnTargets(START, END, **options) if kind is Seq2Seq else OwnContinuations(PROMPT, END, **options)


def data(kind, batch=BATCH, seed=1):
    """Inputs and labels; rows of any length, one of them empty, one shorter than the prompt."""
    random = np.random.default_rng(seed)
    labels = random.integers(3, VOCAB_SIZE, (batch, TARGETS)).astype("int32")
    for row, length in enumerate([0, 2, *random.integers(3, TARGETS, batch - 3)]):
        labels[row, length:] = 0
    before = np.where(labels == 0, 0, np.pad(labels[:, :-1], [(0, 0), (1, 0)], constant_values=START)).astype("int32")
    if kind is CausalLM:
        return before, labels
    return {
        "source_ids": random.integers(3, VOCAB_SIZE, (batch, SOURCES)).astype("int32"),
        "target_ids": before,
    }, labels


def terms():
    return [LossTerm("true_labels", 0.5, true_labels), LossTerm("divergence", 1.0, reverse_targets())]


def on_policy(student, teacher, share, *, seed=0, samples=None, own_terms=None, rate=0.5, **options):
    samples = samples or samples_of(type(student))
    made = OnPolicyDistiller(student, teacher, own_terms or terms(), samples=samples, share=share, seed=seed)
    made.compile(keras.optimizers.SGD(rate), **{"metrics": ["accuracy"], "run_eagerly": True, **options})
    return made


def plain(student, teacher, own_terms=None):
    made = Distiller(student, teacher, own_terms or terms())
    made.compile(keras.optimizers.SGD(0.5), metrics=["accuracy"], run_eagerly=True)
    return made


def copy_of(student):
    copy = type(student).from_config(student.get_config())
    copy.set_weights(student.get_weights())
    return copy


def fitted(distiller, x, labels, sample_weight=None, epochs=1, batch_size=4):
    return distiller.fit(
        x, labels, sample_weight=sample_weight, epochs=epochs, batch_size=batch_size, shuffle=False, verbose=0
    ).history


def written_next(distiller, x):
    """What the next step of `distiller` on a whole batch `x` writes; the count of its steps stays."""
    _, seed = distiller.draw()
    distiller.steps_drawn.assign_add(-1)
    return distiller.samples.write(distiller.student, keras.tree.map_structure(tf.constant, x), seed)


def assert_same_weights(one, other, tolerance=0.0):
    for left, right in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(left, right, rtol=0, atol=tolerance)


@pytest.mark.parametrize("share", [0, NEVER_MET])
@pytest.mark.parametrize("kind", KINDS)
def test_steps_on_data_are_those_of_a_distiller_to_the_bit(kind, share):
    student, teacher = sides(kind)
    other, (x, labels) = copy_of(student), data(kind)
    weight = np.random.default_rng(2).uniform(0, 2, BATCH).astype("float32")
    history = fitted(on_policy(student, teacher, share), x, labels, weight)
    assert history == fitted(plain(other, teacher), x, labels, weight)
    assert_same_weights(student, other)


def numpy_logits(net, token_ids, sources):
    weights = by_name(net)
    if isinstance(net, CausalLM):
        return decoder_oracles.causal_lm(token_ids, weights, 1, 2, norm_first=True)[0]
    return decoder_oracles.seq2seq(sources, token_ids, weights, 1, 2, 1, None, True, "relu")[0]


def numpy_reverse(p, q):
    p, q = (np.exp(row - row.max()) / np.exp(row - row.max()).sum() for row in (p, q))
    return sum(own * np.log(own / other) for own, other in zip(q, p, strict=True))


def counted_places(kind, given, written):
    """(row, place) of each position whose token the student drew: by hand, from the two batches."""
    for row in range(BATCH):
        length = np.count_nonzero(written[row])
        known = np.count_nonzero(given[row, :PROMPT]) if kind is CausalLM else 1
        yield from ((row, place) for place in range(max(known - 1, 0), length))


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_on_own_samples_is_the_mean_of_a_float64_loop_over_the_tokens_that_were_drawn(kind):
    student, teacher = sides(kind, tie_embeddings=False)
    x, labels = data(kind)
    distiller = on_policy(student, teacher, 1.0, rate=0.0)
    written = keras.tree.map_structure(np.asarray, written_next(distiller, x))
    token_ids, given, sources = written, x, None
    if kind is Seq2Seq:
        token_ids, given, sources = written["target_ids"], x["target_ids"], written["source_ids"]
    lengths = np.count_nonzero(token_ids, axis=1)
    assert lengths[0] == 0, "an empty row stays one"
    assert 1 < lengths[1:].min() < lengths.max() == TARGETS, "some rows have ended, some were cut"
    places = list(counted_places(kind, given, token_ids))
    of_student, of_teacher = (numpy_logits(net, token_ids, sources) for net in (student, teacher))
    wanted = np.mean([numpy_reverse(of_teacher[place], of_student[place]) for place in places])
    history = fitted(distiller, x, labels, batch_size=BATCH)
    np.testing.assert_allclose(history["divergence"], [wanted], rtol=1e-4)
    np.testing.assert_allclose(history["loss"], [wanted], rtol=1e-4)


def test_a_step_on_own_samples_is_a_distillers_step_on_them_as_data_so_no_gradient_goes_through_the_drawing():
    student, teacher = sides(Seq2Seq)
    other, (x, labels) = copy_of(student), data(Seq2Seq)
    weight = np.random.default_rng(2).uniform(0, 2, BATCH).astype("float32")
    distiller = on_policy(student, teacher, 1.0)
    for _ in range(2):  # the second on the weights that the first has made
        written = keras.tree.map_structure(np.asarray, written_next(distiller, x))
        fitted(distiller, x, labels, weight, batch_size=BATCH)
        fitted(plain(other, teacher), written, np.full_like(labels, -1), weight, batch_size=BATCH)
        assert_same_weights(student, other)
    assert (written["target_ids"] != x["target_ids"]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_labels_and_what_the_data_hold_behind_the_prompt_teach_nothing_on_own_samples(kind):
    student, teacher = sides(kind)
    other, (x, labels) = copy_of(student), data(kind)
    changed = keras.tree.map_structure(np.copy, x)
    targets = changed["target_ids"] if kind is Seq2Seq else changed
    targets[:, 4:] = np.where(targets[:, 4:] == 0, 0, 12)
    history = fitted(on_policy(student, teacher, 1.0), x, labels, batch_size=BATCH)
    assert history["true_labels"] == history["accuracy"] == [0.0]
    assert history["divergence"] == history["loss"] != [0.0]
    assert fitted(on_policy(other, teacher, 1.0), changed, labels[::-1], batch_size=BATCH) == history
    assert_same_weights(student, other)


def test_in_an_epoch_of_both_labels_count_in_the_steps_on_data_alone():
    student, teacher = sides(CausalLM)
    x, labels = data(CausalLM, batch=40)
    own = on_policy(student, teacher, 0.5, rate=0.0, samples=Noise())
    is_own = [bool(own.draw()[0]) for _ in range(10)]
    own.steps_drawn.assign(0)
    assert 2 < sum(is_own) < 8
    history = fitted(own, x, labels)
    on_data = np.repeat(np.logical_not(is_own), 4)
    values = plain(student, teacher).evaluate(x[on_data], labels[on_data], verbose=0, return_dict=True)
    assert history["true_labels"] == [pytest.approx(values["true_labels"], rel=1e-5)]
    assert history["accuracy"] == [pytest.approx(values["accuracy"], rel=1e-6)]


@pytest.mark.parametrize("dtype", ["int32", "uint8", "float32"])
def test_a_loss_is_told_that_nothing_labels_own_samples(dtype):
    seen = []

    def spy(labels, student, teacher):
        seen.append(labels.numpy())
        return 0.0 * student.logits[..., 0]

    (x, labels), nets = data(CausalLM), sides(CausalLM)
    spies = [LossTerm("spy", 1.0, spy)]
    fitted(on_policy(*nets, 1.0, samples=Noise(), own_terms=spies, metrics=None), x, labels.astype(dtype))
    assert all((np.isnan(found) if dtype == "float32" else found == -1).all() for found in seen)
    assert len(seen) == 2


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_about_the_wanted_share_of_the_steps_is_on_own_samples_each_with_a_seed_of_its_own(share):
    distiller = on_policy(*sides(CausalLM), share, seed=5)
    is_own, seeds = zip(*[distiller.draw() for _ in range(800)], strict=True)
    assert abs(np.mean(is_own) - share) < 4 * np.sqrt(share * (1 - share) / 800)
    assert len({int(seed) for seed in seeds}) == 800
    assert bool(distiller.draw()[0]) in (True, False)
    assert int(distiller.steps_drawn) == 801


def test_a_share_of_one_is_every_step():
    distiller = on_policy(*sides(CausalLM), 1)
    assert all(distiller.draw()[0] for _ in range(100))


def test_the_same_seed_is_the_same_run_and_one_that_goes_on_ends_where_a_whole_one_does(tmp_path):
    student, teacher = sides(CausalLM)
    copies, (x, labels) = [copy_of(student) for _ in range(4)], data(CausalLM)
    made = [on_policy(net, teacher, 0.5, seed=3 + (net is copies[1]), samples=Noise()) for net in (student, *copies)]
    history, again, other = (fitted(each, x, labels, epochs=2) for each in made[:3])
    assert again == history != other
    assert_same_weights(student, copies[0])
    first = fitted(made[3], x, labels)
    made[3].save_weights(tmp_path / "cut.weights.h5")
    made[4].optimizer.build(made[4].trainable_weights)
    made[4].load_weights(tmp_path / "cut.weights.h5")
    second = fitted(made[4], x, labels)
    assert {name: first[name] + second[name] for name in first} == history
    assert_same_weights(student, copies[3])


def test_a_graph_trains_as_eager_code_does_on_batches_of_several_lengths():
    student, teacher = sides(Seq2Seq)
    other = copy_of(student)
    random = np.random.default_rng(1)
    texts = [[*random.integers(3, VOCAB_SIZE, length).tolist(), END] for length in random.integers(1, 9, 22)]
    options = {"start_id": START, "end_id": END, "max_tokens": 70, "length_multiple": 3, "shuffle": False}
    batches = PairBatches(texts[:11], texts[11:], **options)
    histories = []
    for net, run_eagerly in ((student, True), (other, False)):
        samples = samples_of(Seq2Seq, max_tokens=9)
        made = on_policy(net, teacher, 0.5, samples=samples, rate=0.1, run_eagerly=run_eagerly, jit_compile=False)
        steps = {"steps_per_epoch": batches.steps_per_epoch, "verbose": 0, "shuffle": False}
        histories.append(made.fit(batches.dataset(0, 1), **steps).history)
    for name, values in histories[0].items():
        np.testing.assert_allclose(histories[1][name], values, rtol=1e-4, err_msg=name)
    assert_same_weights(student, other, tolerance=1e-5)


def test_a_student_in_mixed_precision_keeps_float32_weights_and_losses():
    student, teacher = sides(Seq2Seq, dtype="mixed_bfloat16")
    x, labels = data(Seq2Seq)
    history = fitted(on_policy(student, teacher, 1.0), x, labels, batch_size=BATCH)
    assert 0 < history["divergence"][0] < np.inf
    assert {weight.dtype for weight in student.trainable_weights} == {"float32"}


@pytest.mark.slow
def test_a_student_comes_near_its_teacher_on_what_it_writes_itself():
    divergence = jensen_shannon(0.5)
    teacher = model(CausalLM, 8, seed=4, scale=0.6)
    student = CausalLM(VOCAB_SIZE, 1, 6, 2, 17, dropout=0.0)
    prompts = np.pad(data(CausalLM, batch=32)[0][:, :PROMPT], [(0, 0), (0, 4)])
    made = on_policy(student, teacher, 1.0, own_terms=[LossTerm("divergence", 1.0, divergence)], run_eagerly=False)
    made.compile(keras.optimizers.Adam(0.02), jit_compile=False)
    history = made.fit(prompts, batch_size=32, epochs=40, verbose=0).history["divergence"]
    assert history[-1] < 0.4 * history[0]


def test_evaluation_is_that_of_a_distiller_on_data():
    student, teacher = sides(CausalLM)
    x, labels = data(CausalLM)
    made = on_policy(student, teacher, 1.0)
    expected = plain(student, teacher).evaluate(x, labels, verbose=0, return_dict=True)
    assert made.evaluate(x, labels, verbose=0, return_dict=True) == expected
    assert float(made.compute_loss(x, labels, training=False)) == pytest.approx(expected["loss"], rel=1e-6)
    assert int(made.steps_drawn) == 0


class Shorter(OwnContinuations):
    """Forgets to fill its rows up."""

    def write(self, student, inputs, seed):
        return inputs[:, :-1]


def step_with(teacher=None, samples=None, weight=None, **inputs):
    student, own = sides(CausalLM)
    x, labels = data(CausalLM)
    made = on_policy(student, teacher or own, 1.0, samples=samples)
    fitted(made, {"token_ids": x, **inputs} if inputs else x, labels, weight)


RECORDED = np.zeros((BATCH, TARGETS, VOCAB_SIZE), "float32")
WRONG = {
    "share": (lambda: on_policy(*sides(CausalLM), 1.5), ValueError, r"share=1\.5 must be at least 0 and at most 1"),
    "flag": (lambda: on_policy(*sides(CausalLM), True), ValueError, "share=True must be .* for example share=0.5"),
    "seed": (lambda: on_policy(*sides(CausalLM), 1, seed=0.5), ValueError, r"seed=0\.5 must be a whole number"),
    "samples": (
        lambda: on_policy(*sides(CausalLM), 1, samples=lambda inputs: inputs),
        TypeError,
        r"can't let a student write: .* Use models\.OwnTargets\(start_id, end_id\) for a Seq2Seq",
    ),
    "class": (lambda: on_policy(*sides(CausalLM), 1, samples=OwnTargets), TypeError, "can't let a student write"),
    "recorded": (
        lambda: step_with(RecordedTeacher(), teacher_logits=RECORDED),
        ValueError,
        "x holds 'teacher_logits', .* the teacher must run. Give the teacher itself, or share=0",
    ),
    "recorded among others": (
        lambda: step_with(SeveralTeachers([RecordedTeacher(), sides(CausalLM)[1]]), teacher_logits=RECORDED),
        ValueError,
        "x holds 'teacher_logits'",
    ),
    "weights of tokens": (
        lambda: step_with(weight=np.ones((BATCH, TARGETS), "float32")),
        ValueError,
        r"sample_weight has shape \(4, 8\): .* Give one weight a row, \(B,\), or share=0",
    ),
    "shape": (
        lambda: step_with(samples=Shorter(PROMPT, END)),
        ValueError,
        r"samples\.write gave int32 \(4, 7\) for int32 \(4, 8\): .* cut them to the batch's shape",
    ),
}


@pytest.mark.parametrize(("make", "error", "message"), WRONG.values(), ids=WRONG)
def test_what_cannot_go_on_is_refused_with_the_way_out(make, error, message):
    with pytest.raises(error, match=message):
        make()
