"""What a translator or language model costs, a text and a token; and that the tokens are counted rightly."""

from pathlib import Path

import pytest
from writing_models import TEXTS

from keras_transformer import benchmark, generation
from keras_transformer.benchmark import Runtime
from keras_transformer.checks import UserError
from keras_transformer.export import lite_trial
from keras_transformer.export.lite_steps import LiteSteps
from keras_transformer.files import size_on_disk
from keras_transformer.generation import Decoding


@pytest.fixture(params=["translate", "language-model"])
def task(request):
    return request.param


def test_the_new_tokens_of_a_text_are_those_of_the_greedy_loop(task, lite_writer, in_keras, served_writer, greedy_loop):
    expected = greedy_loop(task)[1]
    served = Path(served_writer(task).path)
    for writer in (in_keras(task), generation.load(lite_writer(task).path), generation.load(served)):
        assert writer.new_token_ids(TEXTS) == expected
    assert len(set(map(len, expected))) > (1 if task == "translate" else 0)


def test_a_text_and_a_token_are_timed(task, lite_writer, greedy_loop, writing_model):
    report, text = lite_writer(task), TEXTS[2]
    (one,) = benchmark.measure([report.path], [text], rounds=5)
    assert (one.task, one.format) == (task, "tflite_float32")
    assert (one.parameters, one.bytes) == (writing_model(task).count_params(), size_on_disk(report.path))
    tokens = len(greedy_loop(task)[1][2])
    for a_text, a_token in zip(one.latency[:3], one.token_latency[:3], strict=True):
        assert a_text == pytest.approx(tokens * a_token)
    assert one.latency.calls == one.token_latency.calls == 5
    assert 10e6 < one.peak_memory_bytes < 300e6  # without TensorFlow


DRAWN = Decoding(temperature=1.5, top_p=0.95, seed=5)


def test_the_new_tokens_of_a_drawn_text_are_those_that_are_written(lite_writer, in_keras):
    for writer in (in_keras("translate"), generation.load(lite_writer("translate").path)):
        drawn = writer.new_token_ids(TEXTS[:2], DRAWN)
        assert [writer.tokenizer.decode(ids) for ids in drawn] == writer.write(TEXTS[:2], DRAWN)
        assert drawn != writer.new_token_ids(TEXTS[:2])


def test_a_drawn_text_is_divided_by_its_own_tokens(lite_writer):
    path = lite_writer("translate").path
    drawn, greedy = (
        [len(generation.load(path).new_token_ids([text], how)[0]) for text in TEXTS] for how in (DRAWN, Decoding())
    )
    place = next(place for place in range(len(TEXTS)) if drawn[place] != greedy[place])
    (one,) = benchmark.measure([path], [TEXTS[place]], rounds=3, decoding=DRAWN)
    assert one.latency.p50_ms == pytest.approx(drawn[place] * one.token_latency.p50_ms)


def test_what_draws_no_words_is_refused(served_writer, small_tflite):
    with pytest.raises(UserError, match=r"a SavedModel draws no texts: .* Leave out --temperature"):
        benchmark.measure([served_writer("translate").path], TEXTS[:1], decoding=DRAWN)
    with pytest.raises(
        UserError, match=r"small\.tflite finds labels and chooses no words\. .* or give what writes texts"
    ):
        benchmark.measure([small_tflite], TEXTS[:1], decoding=DRAWN)


def test_each_text_is_divided_by_its_own_tokens(lite_writer, greedy_loop):
    """Texts of many tokens cost more, and each of their tokens not much more."""
    (one,) = benchmark.measure([lite_writer("translate").path], TEXTS, rounds=3)
    counts = [len(ids) for ids in greedy_loop("translate")[1]]
    total = one.latency.mean_ms * len(TEXTS)
    assert min(counts) < max(counts)
    assert total / max(counts) < one.token_latency.mean_ms * len(TEXTS) < total / min(counts)


def test_a_file_and_a_saved_model_are_timed_together(lite_writer, served_writer):
    paths = {"file": lite_writer("language-model").path, "folder": served_writer("language-model").path}
    found = benchmark.in_one_thread(paths, TEXTS[:2], rounds=2)
    assert [one.calls for one in found.values()] == [4, 4]


def test_the_operators_of_each_signature_are_listed(task, lite_writer):
    (one,) = benchmark.measure([lite_writer(task).path], TEXTS[:1], rounds=1, operators=True)
    tokens = ["tokens"] if task == "language-model" else []
    assert [each.signature for each in one.operators] == ["prompt", "step", *tokens]


def test_the_first_load_of_a_file_that_writes_reads_and_adds_a_token(task, lite_writer, monkeypatch):
    added, step = [], LiteSteps.step
    monkeypatch.setattr(LiteSteps, "step", lambda *given: added.append(step(*given).logits.shape))
    lite_trial.answer_once(lite_writer(task).path)
    assert added == [(generation.load(lite_writer(task).path).tokenizer.vocab_size,)]


def test_models_of_several_tasks_are_not_compared(lite_writer, small_tflite):
    paths = [lite_writer("translate").path, small_tflite]
    message = r"translate-none\.tflite was trained for 'translate' and .*small\.tflite for 'classify': .* one task at a"
    with pytest.raises(UserError, match=message):
        benchmark.measure(paths, TEXTS)


def test_only_a_tflite_file_runs_without_xnnpack(served_writer, lite_writer):
    with pytest.raises(UserError, match=r"--no-xnnpack with .*: only a \.tflite file"):
        generation.load(served_writer("translate").path, xnnpack=False)
    (one,) = benchmark.measure([lite_writer("translate").path], TEXTS[:1], rounds=1, runtime=Runtime(xnnpack=False))
    assert one.latency.calls == 1
