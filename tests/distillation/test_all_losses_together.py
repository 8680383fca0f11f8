"""Every loss at once: a text classifier learns from a wider, deeper one, with one forward pass of each a step."""

import functools

import keras
import numpy as np
import pytest

from keras_transformer.distillation import (
    Distiller,
    LossTerm,
    attention_divergence,
    attention_maps,
    attention_scores,
    contrastive,
    embedding_states,
    hidden_cosine,
    hidden_states,
    hint,
    patient_states,
    relations,
    similarity_preserving,
    soft_multi_labels,
    soft_targets,
    teacher_values,
    true_labels,
    value_relations,
)
from keras_transformer.layers import MeanPooling
from keras_transformer.models import TextClassifier

VOCABULARY, CLASSES, TEXTS, LENGTH = 31, 3, 17, 7
PAIRS = [("encoder/0", "encoder/1"), ("encoder/1", "encoder/2")]


def below(part):
    return [(f"{ours}/{part}", f"{theirs}/{part}") for ours, theirs in PAIRS]


LOSSES = {
    "true_labels": true_labels,
    "soft_targets": soft_targets(2.0),
    "soft_multi_labels": soft_multi_labels(2.0),
    "teacher_values": teacher_values,
    "hidden_states": None,
    "hidden_cosine": None,
    "hint": None,
    "embedding_states": None,
    "attention_maps": attention_maps(below("attention")),
    "attention_scores": attention_scores(PAIRS),
    "attention_divergence": attention_divergence(PAIRS[1:]),
    "relations": relations(PAIRS[1], relation_heads=4),
    "value_relations": value_relations(PAIRS[1], relation_heads=2),
    "similarity_preserving": similarity_preserving(),
    "contrastive": None,
}
WITH_WEIGHTS = {
    "hidden_states": lambda: hidden_states(below("hidden")),
    "hidden_cosine": lambda: hidden_cosine(below("hidden")),
    "hint": lambda: hint("encoder/0/hidden", "encoder/1/hidden"),
    "embedding_states": embedding_states,
    "contrastive": contrastive,
}


def terms():
    made = LOSSES | {name: make() for name, make in WITH_WEIGHTS.items()}
    return [LossTerm(name, 0.1, loss) for name, loss in made.items()]


def text_classifier(num_layers, model_dim, num_heads, **options):
    return TextClassifier(
        VOCABULARY, CLASSES, num_layers, model_dim, num_heads, inner_dim=13, max_length=32, dropout=0.0, **options
    )


def texts():
    random = np.random.default_rng(3)
    token_ids = random.integers(1, VOCABULARY, (TEXTS, LENGTH)).astype("int32")
    token_ids[np.arange(LENGTH) >= random.integers(1, LENGTH + 1, TEXTS)[:, None]] = 0
    return token_ids, random.integers(-1, CLASSES, TEXTS).astype("int32")


@pytest.fixture
def pooling_calls(monkeypatch):
    """Names of the pooling layers that ran: each model has one, called once a forward pass."""
    seen, call = [], MeanPooling.call

    @functools.wraps(call)
    def counted(self, *arguments, **options):
        seen.append(id(self))
        return call(self, *arguments, **options)

    monkeypatch.setattr(MeanPooling, "call", counted)
    return seen


def test_a_student_learns_by_all_terms_with_one_forward_of_each_and_is_saved_alone(tmp_path, pooling_calls):
    student, teacher = text_classifier(2, 8, 2), text_classifier(3, 12, 3)
    token_ids, labels = texts()
    labels = np.where(labels == -1, -1, np.argmax(teacher(token_ids), -1))  # what the other terms teach too
    distiller = Distiller(student, teacher, terms())
    distiller.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    pooling_calls.clear()
    weight = np.linspace(0.5, 1.5, TEXTS).astype("float32")
    history = distiller.fit(token_ids, labels, sample_weight=weight, batch_size=TEXTS, epochs=12, verbose=0).history
    assert len(pooling_calls) == 12 * 2
    assert len(set(pooling_calls)) == 2
    assert all(np.isfinite(history[name]).all() for name in LOSSES)
    # Untrained models have pooled vectors so alike that the other terms outweigh what is left of this one.
    worse = [name for name in LOSSES if not history[name][-1] < history[name][0]]
    assert set(worse) <= {"similarity_preserving"}
    assert history["loss"][-1] < 0.8 * history["loss"][0]

    projections = [w for term in distiller.terms if term.name in WITH_WEIGHTS for w in term.loss.weights]
    assert len(projections) == 2 + 2 + 1 + 1 + 1
    distiller.save(tmp_path / "student.keras")
    loaded = keras.models.load_model(tmp_path / "student.keras")
    assert isinstance(loaded, TextClassifier)
    assert loaded.count_params() == student.count_params()
    np.testing.assert_allclose(loaded(token_ids), student(token_ids), atol=1e-6)


def test_padding_changes_no_term():
    student, teacher = text_classifier(2, 8, 2), text_classifier(3, 12, 3)
    distiller = Distiller(student, teacher, terms())
    distiller.compile("sgd", run_eagerly=True)
    token_ids, labels = texts()
    options = {"batch_size": TEXTS, "return_dict": True, "verbose": 0}
    short = distiller.evaluate(token_ids, labels, **options)
    long = distiller.evaluate(np.pad(token_ids, ((0, 0), (0, 8))), labels, **options)
    assert long == pytest.approx(short, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_student_equal_to_its_teacher_has_no_distance_in_any_precision(dtype):
    same = text_classifier(2, 8, 2, dtype=dtype)
    equal = [("encoder/0", "encoder/0"), ("encoder/1", "encoder/1")]
    hidden = [(f"{layer}/hidden", f"{layer}/hidden") for layer, _ in equal]
    losses = {
        "soft_targets": soft_targets(2.0),
        "hidden_states": hidden_states(hidden),
        "hidden_cosine": hidden_cosine(hidden),
        "patient_states": patient_states(hidden),
        "attention_divergence": attention_divergence(equal),
        "relations": relations(equal[1], relation_heads=4),
        "similarity_preserving": similarity_preserving(),
    }
    distiller = Distiller(same, same, [LossTerm(name, 1.0, loss) for name, loss in losses.items()])
    distiller.compile("sgd", run_eagerly=True)
    logs = distiller.evaluate(texts()[0], batch_size=TEXTS, return_dict=True, verbose=0)
    assert logs == dict.fromkeys([*losses, "loss"], 0.0)
