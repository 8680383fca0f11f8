"""A narrower model that starts from a wider one: what loses nothing computes the same."""

import numpy as np
import pytest
from weights import randomise

from keras_transformer.compression import inherit
from keras_transformer.compression.inheritance import hindrance
from keras_transformer.compression.residual_stream import Moments, narrowed
from keras_transformer.layers.positions import sinusoidal_positions
from keras_transformer.models import CausalLM, Seq2Seq, TextClassifier

VOCAB, WIDTH, HEADS, INNER, LONGEST = 29, 14, 2, 11, 13
SOURCES = np.array([[2, 17, 28, 5, 0, 0, 0], [2, 23, 0, 0, 0, 0, 0], [3, 7, 11, 13, 19, 2, 23]], "int32")
TARGETS = np.array([[2, 11, 23, 0, 0], [2, 28, 17, 5, 3], [2, 7, 0, 0, 0]], "int32")
PAIRS = {"source_ids": SOURCES, "target_ids": TARGETS}


def translator(width=WIDTH, heads=HEADS, inner=INNER, layers=2, head_dim=6, **options):
    options = {"norm_first": True, "tie_embeddings": False, "num_decoder_layers": layers, **options}
    return Seq2Seq(VOCAB, 2, width, heads, inner, head_dim=head_dim, **options)


def writer(width=WIDTH, heads=HEADS, inner=INNER, layers=2, head_dim=6, **options):
    options = {"tie_embeddings": False, "max_length": LONGEST, **options}
    return CausalLM(VOCAB, layers, width, heads, inner, head_dim=head_dim, **options)


FORMS = [
    pytest.param(translator, PAIRS, {}, id="translator"),
    *(pytest.param(writer, SOURCES, {"positions": kind}, id=kind) for kind in ("learned", "rotary", "alibi")),
    pytest.param(writer, SOURCES, {"positions": "sinusoidal"}, id="sinusoidal"),
]


def weight(model, path):
    return next(one for one in model.weights if one.path.removeprefix(f"{model.name}/") == path)


def change(model, path, how):
    found = weight(model, path)
    found.assign(how(found.numpy()))


def same_last_norm(model, gamma=1.0):
    """Make the last norm one that can be turned."""
    change(model, "final_norm/gamma", lambda old: np.full_like(old, gamma))
    change(model, "final_norm/beta", np.zeros_like)


def taught(make, **options):
    return randomise(make(**options), scale=0.4)


def within(model, directions):
    """Leave of all that is added to the stream what lies in some directions (n, D)."""
    into = directions.T @ directions
    ends = ("tokens/table", "positions/table", "output/kernel", "output/bias", "outer/kernel", "outer/bias")
    for one in model.weights:
        if one.path.endswith(ends):
            one.assign(one.numpy() @ into)


def directions_without_mean(count, seed=3):
    noise = np.random.default_rng(seed).normal(size=(WIDTH, count))
    return np.linalg.qr(noise - noise.mean(axis=0))[0].T


def assert_same_logits(student, teacher, inputs, tolerance=2e-5):
    ours, theirs = np.asarray(student(inputs)), np.asarray(teacher(inputs))
    assert np.ptp(theirs) > 0.1
    ids = inputs["target_ids"] if isinstance(inputs, dict) else inputs
    np.testing.assert_allclose(ours[ids != 0], theirs[ids != 0], atol=tolerance * np.abs(theirs).max())


@pytest.mark.parametrize(("make", "inputs", "options"), FORMS)
def test_a_student_of_the_same_size_computes_what_its_teacher_does(make, inputs, options):
    teacher, student = taught(make, **options), make(**options)
    inherit(student, teacher, [inputs])
    assert_same_logits(student, teacher, inputs)


@pytest.mark.parametrize(("make", "inputs", "options"), FORMS[1:4])
def test_a_narrow_student_loses_nothing_of_a_stream_that_uses_few_directions(make, inputs, options):
    teacher = taught(make, **options)
    within(teacher, directions_without_mean(6))
    student = make(width=7, **options)
    inherit(student, teacher, [inputs])
    assert_same_logits(student, teacher, inputs)


@pytest.mark.parametrize("width", [WIDTH, 7])
@pytest.mark.parametrize("gamma", [1.0, 1.7])
def test_tied_logits_are_the_teachers_where_the_last_gammas_are_alike(gamma, width):
    teacher = taught(writer, tie_embeddings=True)
    same_last_norm(teacher, gamma)
    within(teacher, directions_without_mean(6))
    student = writer(tie_embeddings=True, width=width)
    inherit(student, teacher, [SOURCES])
    assert_same_logits(student, teacher, SOURCES)


def test_a_narrow_translator_looks_its_rows_up_in_the_size_that_its_stream_has():
    """Its table is multiplied by the root of its own width, the teacher's by that of a larger one."""
    teacher, student = taught(translator), translator(width=7)
    inherit(student, teacher, [PAIRS])
    ours, theirs = (model.stack.tokens.scale * weight(model, "tokens/table").numpy() for model in (student, teacher))
    turn = np.linalg.lstsq(theirs, ours, rcond=None)[0].T  # (7, 14)
    np.testing.assert_allclose(theirs @ turn.T, ours, atol=1e-5)
    np.testing.assert_allclose(turn @ turn.T, 0.5 * (np.eye(7) - 1 / 7), atol=1e-5)  # the square of sqrt(7 / 14)


def test_heads_and_units_that_add_nothing_are_those_that_go():
    teacher = taught(writer, heads=3, inner=13)
    for layer, (dead_head, dead_unit) in enumerate([(1, 4), (0, 12)]):
        rows = slice(6 * dead_head, 6 * dead_head + 6)
        change(teacher, f"decoder_{layer}/attention/output/kernel", lambda old, rows=rows: _without(old, rows))
        unit = slice(dead_unit, dead_unit + 1)
        change(teacher, f"decoder_{layer}/feed_forward/outer/kernel", lambda old, unit=unit: _without(old, unit))
    student = writer(heads=2, inner=12)
    inherit(student, teacher, [SOURCES])
    assert_same_logits(student, teacher, SOURCES)


def test_a_narrower_head_is_the_same_where_its_products_have_no_higher_rank():
    teacher = taught(translator)
    rng = np.random.default_rng(5)
    projector = np.linalg.qr(rng.normal(size=(6, 3)))[0]
    for one in teacher.weights:
        if one.path.endswith(("attention/query/kernel", "attention/value/kernel")):
            of_heads = one.numpy().reshape(WIDTH, HEADS, 6)
            one.assign((of_heads @ projector @ projector.T).reshape(WIDTH, -1))
        elif one.path.endswith(("attention/query/bias", "attention/value/bias")):
            one.assign((one.numpy().reshape(HEADS, 6) @ projector @ projector.T).ravel())
    student = translator(head_dim=3)
    inherit(student, teacher, [PAIRS])
    assert_same_logits(student, teacher, PAIRS)


def test_every_nth_layer_stays_beginning_with_the_first():
    teacher = taught(writer, layers=4)
    for layer in (1, 3):
        for part in ("attention/output", "feed_forward/outer"):
            change(teacher, f"decoder_{layer}/{part}/kernel", np.zeros_like)
            change(teacher, f"decoder_{layer}/{part}/bias", np.zeros_like)
    student = writer(layers=2)
    inherit(student, teacher, [SOURCES])
    assert_same_logits(student, teacher, SOURCES)


def test_sinusoids_are_laid_nearer_to_the_students_than_by_any_of_many_turns():
    rng = np.random.default_rng(11)
    moments = Moments(WIDTH)
    moments.add("embeddings", rng.normal(size=(50, WIDTH)))
    stream = narrowed(moments, rng.normal(size=(VOCAB, WIDTH)), 8, sinusoids=17)
    theirs, ours = (np.asarray(sinusoidal_positions(17, width)) for width in (WIDTH, 8))
    ours = ours - ours.mean(axis=1, keepdims=True)  # a LayerNorm doesn't see the mean
    plain = narrowed(moments, rng.normal(size=(VOCAB, WIDTH)), 8)

    def distance(basis):
        return np.linalg.norm(stream.size * theirs @ basis.T - ours)

    axes = np.linalg.svd(np.eye(8) - 1 / 8)[0][:, :7]  # in which a turn keeps the mean at 0
    turns = [axes @ np.linalg.qr(rng.normal(size=(7, 7)))[0] @ axes.T for _ in range(50)]
    assert distance(stream.basis) < min(distance(turn @ stream.basis) for turn in turns)
    for basis in (stream.basis, plain.basis):
        np.testing.assert_allclose(basis @ basis.T, np.eye(8) - 1 / 8, atol=1e-12)
        np.testing.assert_allclose(basis.sum(axis=1), 0.0, atol=1e-12)


def test_the_directions_kept_are_those_in_which_most_flows():
    rng = np.random.default_rng(7)
    strong = directions_without_mean(4)
    flowing = rng.normal(size=(53, 4)) @ strong + 0.01 * rng.normal(size=(53, WIDTH))
    moments = Moments(WIDTH)
    moments.add("embeddings", flowing)
    stream = narrowed(moments, rng.normal(size=(VOCAB, 4)) @ strong, 5)
    np.testing.assert_allclose(stream.basis.T @ stream.basis, strong.T @ strong, atol=0.01)
    assert stream.norm**2 * 5 / WIDTH == pytest.approx(1.0, abs=1e-3)


def test_the_teacher_stays_as_it_was():
    teacher = taught(writer)
    before = [one.copy() for one in teacher.get_weights()]
    inherit(writer(width=8), teacher, [SOURCES])
    for old, new in zip(before, teacher.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    ("student", "teacher", "reason"),
    [
        pytest.param(writer, translator, "must be one class", id="classes"),
        pytest.param(lambda: writer(width=15), writer, "model_dim=15 must be at most the teacher's, 14", id="wider"),
        pytest.param(lambda: writer(width=1), writer, "model_dim=1", id="one channel"),
        pytest.param(lambda: writer(epsilon=0.01), writer, "epsilon=0.01 must be the teacher's", id="epsilon"),
        pytest.param(lambda: writer(max_length=17), writer, "max_length=17 must be at most", id="longer"),
        pytest.param(lambda: writer(activation="relu"), writer, "activation=relu must be the teacher's", id="relu"),
        pytest.param(lambda: writer(positions="alibi"), writer, "positions=alibi must be", id="positions"),
        pytest.param(lambda: translator(norm_first=False), translator, "norm_first=False", id="post-norm"),
        pytest.param(writer, lambda: writer(embedding_dim=5), "embedding_dim=5", id="factorised"),
        pytest.param(
            lambda: writer(num_key_value_heads=1), lambda: writer(), "num_key_value_heads=1", id="shared keys"
        ),
        pytest.param(
            lambda: writer(positions="rotary", head_dim=4),
            lambda: writer(positions="rotary"),
            "head_dim=4 must be the teacher's, 6",
            id="rotary",
        ),
        pytest.param(
            lambda: writer(positions="alibi", heads=1),
            lambda: writer(positions="alibi"),
            "num_heads=1 must be the teacher's, 2",
            id="alibi",
        ),
    ],
)
def test_what_does_not_fit_is_named(student, teacher, reason):
    ours, theirs = student(), teacher()
    assert reason in hindrance(ours, theirs)
    with pytest.raises(ValueError, match="can't start from the weights of"):
        inherit(ours, theirs, [SOURCES])


def test_a_classifier_is_not_inherited():
    one = TextClassifier(VOCAB, 3, 1, WIDTH, HEADS, INNER, max_length=LONGEST)
    assert "must be one class, and that a Seq2Seq or CausalLM" in hindrance(one, one)


@pytest.mark.parametrize("batches", [[], [np.zeros((2, 3), "int32")]])
def test_batches_without_a_real_token_are_refused(batches):
    with pytest.raises(ValueError, match="batches has no real token"):
        inherit(writer(), writer(), batches)


@pytest.mark.parametrize("batches", [SOURCES, [(SOURCES, SOURCES)]])
def test_batches_of_another_form_are_refused(batches):
    with pytest.raises(ValueError, match="Leave labels out, and pass a list of them"):
        inherit(writer(), writer(), batches)


def test_a_head_may_be_wider_than_the_stream():
    student, teacher = writer(width=4, head_dim=5), taught(writer)
    inherit(student, teacher, [SOURCES])
    assert np.isfinite(student(SOURCES)).all()


def _without(kernel, rows):
    left = kernel.copy()
    left[rows] = 0.0
    return left
