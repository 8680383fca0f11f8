"""Several teachers as one: the mean of their logits by a loop, taps by place, one forward pass of each."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    Outputs,
    RecordedTeacher,
    SeveralTeachers,
    cache_teacher,
    confidence,
    needing,
    soft_targets,
)

SOFT = LossTerm("soft_targets", 1.0, soft_targets(2.0))


class Fixed:
    """A teacher that says what it was given."""

    def __init__(self, logits, taps=None, mask=None):
        self.outputs, self.reads = Outputs(tf.constant(logits), taps or {}, mask), []

    def student_inputs(self, inputs):
        return inputs

    def reader(self, tap_names):
        self.wanted = tap_names

        def read(inputs):
            self.reads.append(inputs)
            return self.outputs

        return read


def logits(count, shape, seed=3, limit=4.0):
    random = np.random.default_rng(seed)
    return [random.uniform(-limit, limit, shape).astype("float32") for _ in range(count)]


def numpy_confidence(logits):
    """Entropies by loops, then 1 - exp(H) / sum of exp(H), over K - 1."""
    entropy = np.zeros((len(logits), *logits[0].shape[:-1]))
    for k, each in enumerate(logits):
        for index in np.ndindex(*each.shape[:-1]):
            p = np.exp(each[index].astype("float64") - each[index].max())
            for share in p / p.sum():
                entropy[(k, *index)] -= share * np.log(share)
    return (1 - np.exp(entropy) / np.exp(entropy).sum(axis=0)) / (len(logits) - 1)


def numpy_mean(logits, weights):
    out = np.zeros(logits[0].shape)
    for each, weight in zip(logits, weights, strict=True):
        for index in np.ndindex(*each.shape[:-1]):
            share = weight[index] if np.ndim(weight) else weight
            out[index] += share * each[index].astype("float64")
    return out


@pytest.mark.parametrize("shape", [(5, 3), (2, 7, 3)])
@pytest.mark.parametrize("count", [2, 3])
def test_the_logits_are_the_weighted_mean_of_the_loop(shape, count):
    every = logits(count, shape)
    given = [0.5, 1.5, 4.0][:count]
    cases = [
        (None, [1 / count] * count),
        (given, [weight / sum(given) for weight in given]),
        (confidence, numpy_confidence(every)),
    ]
    for weights, shares in cases:
        teacher = SeveralTeachers([Fixed(each) for each in every], weights)
        np.testing.assert_allclose(teacher.reader(())(None).logits, numpy_mean(every, shares), atol=1e-5)


def test_confidence_trusts_the_sure_teacher_on_each_row_and_sums_to_one():
    sure, unsure = np.array([[9.0, 0, 0], [0.1, 0, 0]], "float32"), np.array([[0.1, 0, 0], [0, 9.0, 0]], "float32")
    weights = confidence(tf.stack([sure, unsure, unsure[::-1]])).numpy()
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-6)
    assert weights[0, 0] > weights[1, 0]
    assert weights[0, 1] < weights[1, 1]
    np.testing.assert_allclose(confidence(tf.stack([sure, sure + 7])), 0.5, rtol=1e-5)  # a shift is no knowledge
    assert np.isfinite(confidence(tf.constant([[[1e4, -1e4]], [[0.0, 0.0]]]))).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_mean_is_taken_in_float32(dtype):
    every = [np.full((1, 2), 60000.0, "float32"), np.full((1, 2), 59999.0, "float32")]
    teacher = SeveralTeachers([Fixed(tf.cast(each, dtype)) for each in every])
    got = teacher.reader(())(None).logits
    assert got.dtype == "float32"
    assert np.isfinite(got).all()


def test_taps_come_from_the_named_teacher_and_the_mask_from_the_first_that_has_one():
    mask = tf.constant([[True, False]])
    first = Fixed(np.zeros((1, 3)), {"hidden": 1.0})
    second = Fixed(np.zeros((1, 3)), {"hidden": 2.0, "encoder/1/hidden": 3.0}, mask)
    outputs = SeveralTeachers([first, second]).reader(("1/encoder/1/hidden", "0/hidden", "1/hidden"))("batch")
    assert outputs.taps == {"1/encoder/1/hidden": 3.0, "0/hidden": 1.0, "1/hidden": 2.0}
    assert outputs.mask is mask
    assert (first.wanted, second.wanted) == (("hidden",), ("encoder/1/hidden", "hidden"))
    assert (first.reads, second.reads) == (["batch"], ["batch"])  # once each


def test_two_live_teachers_train_a_student_by_their_mean_and_stay_as_they_are(classifier, rows, fingerprint):
    @needing(teacher_taps=["0/hidden", "1/hidden"])
    def widths(labels, student, teacher):
        return tf.zeros(tf.shape(student.logits)[0]) + sum(tap.shape[-1] for tap in teacher.taps.values())

    x, labels = rows
    teachers, student = [classifier(units=11), classifier(units=13)], classifier()
    before = [fingerprint(teacher) for teacher in teachers]
    mean = (teachers[0](x) + 3 * teachers[1](x)).numpy() / 4
    distiller = Distiller(student, SeveralTeachers(teachers, [1, 3]), [SOFT, LossTerm("widths", 0.0, widths)])
    recorded = Distiller(student, RecordedTeacher(), [SOFT])
    for each in (distiller, recorded):
        each.compile("sgd", run_eagerly=True)
    logs = distiller.evaluate(x, labels, return_dict=True, verbose=0)
    want = recorded.evaluate({"features": x, "teacher_logits": mean}, labels, return_dict=True, verbose=0)
    np.testing.assert_allclose(logs["soft_targets"], want["soft_targets"], rtol=1e-5)
    assert logs["widths"] == 24
    distiller.fit(x, labels, verbose=0)
    assert [fingerprint(teacher) for teacher in teachers] == before
    assert len(distiller.trainable_weights) == len(student.trainable_weights)


def test_several_teachers_are_cached_as_one(classifier, rows, tmp_path):
    teachers, data = [classifier(), classifier()], tf.data.Dataset.from_tensors(rows[0])
    cached = cache_teacher(SeveralTeachers(teachers), data, tmp_path / "cache", taps=["1/hidden"])
    x = next(iter(cached.attach(data)))
    mean = (teachers[0](rows[0]) + teachers[1](rows[0])) / 2
    np.testing.assert_allclose(x["teacher_logits"], mean, atol=1e-6)
    for other in (SeveralTeachers(teachers, [1, 2]), SeveralTeachers(teachers, confidence)):
        with pytest.raises(ValueError, match="recorded from another teacher"):
            cache_teacher(other, data, tmp_path / "cache", taps=["1/hidden"])
    with pytest.raises(TypeError, match=r"has no fingerprint\(\) to tell it from another"):
        SeveralTeachers([teachers[0], Fixed(np.zeros((1, 3)))]).fingerprint()


def rule_of(source, name="rule", module="rules"):
    namespace = {"__name__": module, "ops": ops}
    exec(source, namespace)
    return namespace[name]


FIRST = "def rule(z):\n    return ops.softmax(z[..., 0] * 2.0, axis=0)"
OTHERS = {
    "name": (FIRST.replace("rule", "other"), "other", "rules"),
    "module": (FIRST, "rule", "elsewhere"),
    "number": (FIRST.replace("2.0", "3.0"), "rule", "rules"),
    "called": (FIRST.replace("softmax", "log_softmax"), "rule", "rules"),
    "default": (FIRST.replace("(z)", "(z, axis=0)"), "rule", "rules"),
    "inner": (FIRST.replace("2.0", "(lambda: 2.0)()"), "rule", "rules"),
}


def test_the_fingerprint_of_a_rule_is_that_of_its_code(classifier):
    teachers = [classifier(), classifier()]

    def of(rule):
        return SeveralTeachers(teachers, rule).fingerprint()

    first = rule_of(FIRST)
    one = of(first)
    for _ in range(50):
        first(np.ones((2, 5, 3), "float32"))  # the interpreter specialises code that runs often
    assert one == of(first) == of(rule_of(FIRST))
    changed = [of(rule_of(*parts)) for parts in OTHERS.values()] + [of(confidence), of(None)]
    assert len({one, *changed}) == 1 + len(changed)


def test_neither_the_order_of_a_set_nor_a_docstring_is_in_the_fingerprint(classifier):
    """Strings in a set stand in another order in each process, as these numbers do by the order of writing."""
    assert repr(frozenset((0, 8))) != repr(frozenset((8, 0)))
    sources = ["def rule(z):\n    'One.'\n    return z if z.shape[0] in {0, 8} else -z"]
    sources += [sources[0].replace("{0, 8}", "{8, 0}"), sources[0].replace("One", "Two")]
    teachers = [classifier(), classifier()]
    assert len({SeveralTeachers(teachers, rule_of(source)).fingerprint() for source in sources}) == 1


class Rules:
    def rule(self, logits):
        return confidence(logits)


@pytest.mark.parametrize(
    "rule",
    [
        lambda logits: ops.softmax(logits[..., 0], axis=0),
        functools.partial(confidence),
        Rules().rule,
        rule_of("def outer():\n    def rule(z):\n        return z\n    return rule", "outer")(),
        functools.wraps(confidence)(rule_of("def outer(k):\n    return lambda z: z * k", "outer")(2)),
    ],
)
def test_a_rule_that_another_may_be_taken_for_has_no_fingerprint_and_still_weighs(classifier, rows, rule):
    several = SeveralTeachers([classifier(), classifier()], rule)
    several.reader(())
    with pytest.raises(TypeError, match=r"has no fingerprint: only a function at the top of a module.*Write it with"):
        several.fingerprint()


def test_unequal_classes_are_told_with_both_shapes(classifier, rows):
    distiller = Distiller(classifier(), SeveralTeachers([classifier(), classifier(classes=5)]), [SOFT])
    distiller.compile("sgd", run_eagerly=True)
    with pytest.raises(ValueError, match=r"Teacher 0 gives logits \(23, 3\) and teacher 1 \(23, 5\): a mean needs"):
        distiller.fit(*rows, batch_size=23, verbose=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"weights=\[1.0\] don't fit 2 teachers.*Use for example weights=\[1.0, 1.0\]"),
        ([1.0, -1.0], "each needs a number of at least 0"),
        ([0.0, 0.0], "one must be above 0"),
        ([1.0, float("nan")], "don't fit"),
    ],
)
def test_weights_that_do_not_fit_are_named(classifier, weights, message):
    with pytest.raises(ValueError, match=message):
        SeveralTeachers([classifier(), classifier()], weights)


def test_what_is_not_several_teachers_is_refused(classifier):
    model = classifier()
    with pytest.raises(ValueError, match=r"teachers has 1: several are two or more. Give the one by itself"):
        SeveralTeachers([model])
    with pytest.raises(TypeError, match="is no teacher"):
        SeveralTeachers([model, "bert"])
    soft = keras.Model(model.input, keras.layers.Softmax()(model.output), name="soft")
    with pytest.raises(ValueError, match=r"The teacher 'soft' ends in a softmax"):
        SeveralTeachers([model, soft])
    for tap in ("hidden", "2/hidden", "encoder/1/hidden", "0/"):
        with pytest.raises(ValueError, match=rf"tap '{tap}' doesn't say whose it is.*Use for example '0/{tap}'"):
            SeveralTeachers([model, model]).reader((tap,))
