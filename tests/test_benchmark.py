"""Latencies are fair: taken in turn, warmed up, in a process of its own with its own cores, tokenising included."""

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from keras_transformer import benchmark
from keras_transformer.benchmark import SAMPLE_TEXTS, Latency, Runtime
from keras_transformer.benchmark.this_machine import usable_cores
from keras_transformer.checks import UserError
from keras_transformer.export.lite_operators import signature_operators
from keras_transformer.files import ModelFileError, size_on_disk

TEXTS = ["a fine film", "dull", "not funny at all"]


class Recorder:
    """Predictors that write down who was asked what."""

    def __init__(self, names: str) -> None:
        self.calls: list[tuple[str, str]] = []
        self.predictors = {name: self.predictor(name) for name in names}

    def predictor(self, name: str):
        def predict(texts):
            (text,) = texts  # batch 1
            self.calls.append((name, text))

        return predict


def test_each_text_is_asked_of_all_before_the_next_and_the_turns_rotate():
    recorder = Recorder("abc")
    benchmark.latency(recorder.predictors, ["x", "y"], rounds=2, warmup=0)
    turns = [recorder.calls[start : start + 3] for start in range(0, 12, 3)]
    assert [{text for _, text in turn} for turn in turns] == [{"x"}, {"y"}, {"x"}, {"y"}]
    assert ["".join(name for name, _ in turn) for turn in turns] == ["abc", "bca", "cab", "abc"]


def test_every_predictor_goes_first_equally_often_on_each_text():
    recorder = Recorder("abc")
    benchmark.latency(recorder.predictors, list("vwxyz"), rounds=6, warmup=0)
    firsts = [name for name, _ in recorder.calls[::3]]
    assert {name: firsts.count(name) for name in "abc"} == {"a": 10, "b": 10, "c": 10}


def test_warming_up_is_done_and_not_counted():
    recorder = Recorder("ab")
    measured = benchmark.latency(recorder.predictors, TEXTS, rounds=5, warmup=2)
    assert len(recorder.calls) == 2 * 3 * (5 + 2)
    assert measured["a"].calls == measured["b"].calls == 15


def test_the_first_slow_call_of_a_traced_function_does_not_count():
    asked = set()

    def traced(texts):
        if texts[0] not in asked:
            time.sleep(0.05)
            asked.add(texts[0])

    assert benchmark.latency({"traced": traced}, TEXTS, rounds=3)["traced"].p95_ms < 25


def test_percentiles_are_those_of_the_calls_in_milliseconds():
    pauses = {"short": 0.002, "long": 0.02}

    def predict(texts):
        time.sleep(pauses[texts[0]])

    measured = benchmark.latency({"one": predict}, ["short", "short", "long"], rounds=6)["one"]
    assert 2 <= measured.p50_ms < 15
    assert 20 <= measured.p95_ms < 60
    assert measured.mean_ms == pytest.approx((2 + 2 + 20) / 3, abs=5)
    assert measured.per_second == pytest.approx(1000 / measured.mean_ms)


def test_garbage_is_not_collected_while_the_clock_runs_and_is_afterwards():
    seen = []
    benchmark.latency({"one": lambda texts: seen.append(gc.isenabled())}, TEXTS, rounds=1)
    assert not any(seen)
    assert gc.isenabled()


def test_garbage_collection_comes_back_when_a_predictor_fails():
    with pytest.raises(ZeroDivisionError):
        benchmark.latency({"one": lambda texts: 1 / 0}, TEXTS)
    assert gc.isenabled()


@pytest.mark.parametrize(("predictors", "texts"), [({}, TEXTS), ({"one": len}, [])])
def test_nothing_to_measure_is_refused(predictors, texts):
    with pytest.raises(ValueError, match=r"\d predictors and \d texts: one of each is the least"):
        benchmark.latency(predictors, texts)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds=0 must be a whole number of at least 1"):
        benchmark.latency({"one": len}, TEXTS, rounds=0)


def test_the_sample_texts_are_distinct_and_of_many_lengths():
    words = {len(text.split()) for text in SAMPLE_TEXTS}
    assert len(set(SAMPLE_TEXTS)) == len(SAMPLE_TEXTS) == 20
    assert min(words) <= 2
    assert max(words) >= 35


def test_the_machine_is_named_with_its_versions():
    machine = benchmark.machine()
    assert machine["cpu"]
    assert 1 <= machine["cores"] <= os.cpu_count()
    assert machine["memory_gb"] > 0.5
    assert machine["python"] == sys.version.split()[0]
    assert machine["tensorflow"].startswith("2.")
    assert json.loads(json.dumps(machine)) == machine


def test_a_child_measures_every_form_together(small_bundle, small_tflite, small_saved_model):
    paths = {"keras": small_bundle, "saved_model": small_saved_model, "tflite": small_tflite}
    measured = benchmark.in_one_thread(paths, TEXTS, rounds=3)
    assert list(measured) == ["keras", "saved_model", "tflite"]
    for latency in measured.values():
        assert isinstance(latency, Latency)
        assert latency.calls == 9
        assert 0 < latency.p50_ms <= latency.p95_ms < 1000


def test_measure_gives_bytes_parameters_and_memory(small_tflite, small_model):
    (one,) = benchmark.measure([small_tflite], TEXTS, rounds=2)
    assert one.path == str(small_tflite)
    assert (one.task, one.format) == ("classify", "tflite_float32")
    assert one.parameters == small_model.count_params()
    assert one.bytes == size_on_disk(small_tflite)
    assert 10e6 < one.peak_memory_bytes < 300e6  # TensorFlow alone would take 500 MB


@pytest.mark.parametrize("threads", [1, 2])
def test_the_child_has_as_many_cores_and_threads_as_are_asked_for(small_tflite, tmp_path, threads):
    """A stand-in for the serving module tells what the child's process looks like when a model is loaded."""
    if threads > usable_cores():
        pytest.skip("one core alone")
    spy = tmp_path / "sitecustomize.py"
    spy.write_text(
        "import sys, types\n"
        "def load_classifier(path, threads, *, xnnpack):\n"
        "    import os\n"
        "    from keras_transformer.checks import UserError\n"
        "    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else threads\n"
        "    print('a library that talks to standard output')\n"
        "    told = os.environ['TF_NUM_INTRAOP_THREADS'] + os.environ['OMP_NUM_THREADS']\n"
        "    raise UserError(f'{threads} {cores} {told} {xnnpack}')\n"
        "serving = types.ModuleType('keras_transformer.serving')\n"
        "serving.load_classifier = load_classifier\n"
        "sys.modules['keras_transformer.serving'] = serving\n"
    )
    code = (
        "import sys; from keras_transformer import benchmark, checks\n"
        "try: benchmark.measure([sys.argv[1]], ['a'], runtime=benchmark.Runtime(int(sys.argv[2]), False))\n"
        "except checks.UserError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_tflite), str(threads)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{threads} {threads} {threads}{threads} False\n"


def test_more_threads_than_cores_are_refused(small_tflite):
    with pytest.raises(UserError, match=r"--threads 999: this process may use \d+ cores.* Use \d+ or less"):
        benchmark.measure([small_tflite], TEXTS, runtime=Runtime(threads=999))
    with pytest.raises(ValueError, match="threads=0 must be a whole number of at least 1"):
        benchmark.measure([small_tflite], TEXTS, runtime=Runtime(threads=0))


def test_a_file_is_measured_without_xnnpack_and_its_operators_are_listed(small_tflite):
    fast, slow = (
        benchmark.measure([small_tflite], TEXTS, rounds=1, runtime=Runtime(xnnpack=xnnpack), operators=True)[0]
        for xnnpack in (True, False)
    )
    assert fast.operators == signature_operators(small_tflite)
    assert slow.operators == signature_operators(small_tflite, xnnpack=False) != fast.operators
    assert slow.latency.calls == fast.latency.calls == 3
    assert fast.token_latency is None


def test_what_belongs_to_tflite_files_is_refused_of_others(small_saved_model):
    with pytest.raises(
        UserError, match=r"--no-xnnpack with .*: only a \.tflite file runs with XNNPACK or without\. Lea"
    ):
        benchmark.measure([small_saved_model], TEXTS, runtime=Runtime(xnnpack=False))
    with pytest.raises(
        UserError, match=r"--operators with .*small: only of a \.tflite file the operators are listed\."
    ):
        benchmark.measure([small_saved_model], TEXTS, operators=True)


def test_what_the_child_cannot_load_is_the_users_mistake(tmp_path):
    with pytest.raises(UserError, match="nothing: there is no such file or folder"):
        benchmark.in_one_thread({"none": tmp_path / "nothing"}, TEXTS)


def run_instead(monkeypatch, code: str) -> None:
    """Let a small program stand in for the measuring process."""
    real = subprocess.run

    def run(command, **options):
        return real([sys.executable, "-c", code], **options)

    monkeypatch.setattr(subprocess, "run", run)


def test_a_model_that_kills_the_child_is_named_with_the_signal(monkeypatch):
    run_instead(monkeypatch, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ModelFileError, match=r"^broken\.tflite: the process that ran it was ended by SIGSEGV"):
        benchmark.in_one_thread({"a": Path("broken.tflite")}, TEXTS)


def test_a_child_that_fails_tells_its_last_words(monkeypatch):
    run_instead(monkeypatch, "raise SystemError('out of luck')")
    with pytest.raises(RuntimeError, match=r"the measuring process failed: .*out of luck"):
        benchmark.in_one_thread({"a": Path("model.tflite")}, TEXTS)
