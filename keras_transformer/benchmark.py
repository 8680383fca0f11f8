"""What an answer costs: latency at batch 1 in one thread, memory, bytes and parameters of any model we write.

Every figure is for a text that goes in and a label that comes out, so tokenising is part of it.
"""

import gc
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from keras_transformer.checks import UserError, positive_integer
from keras_transformer.files import ModelFileError

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "RAYON_NUM_THREADS": "1",  # tokenizers
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "-1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

SAMPLE_TEXTS = (
    "a delight",
    "too long by half",
    "the jokes fall flat and keep falling",
    "warm, funny and beautifully acted from the first scene to the last",
    "i laughed twice , both times at the wrong moment",
    "nobody in this film behaves like a person , and after an hour you stop hoping that anyone will",
    "a small film about a small town that somehow holds the whole world",
    "the camera loves her , the script does not",
    "two hours of explosions in search of a story",
    "what begins as a heist turns , slowly and cleverly , into a film about forgiveness",
    "it is not bad so much as it is absent : scenes arrive , people talk , scenes leave",
    "the ending alone is worth the ticket",
    "he has made this film before , and better , and with more money , and still one cannot look away from it",
    "clumsy dialogue , wooden acting and a score that tells you what to feel every single minute",
    "an honest , patient documentary that trusts its viewers",
    "fans of the book will be furious , and everybody else will be asleep",
    "never has a chase across roof tops been so dull",
    "the young lead gives the performance of the year in a film that deserves her",
    "if you can forgive the first twenty minutes , what follows is a sharp , sad and very funny look at a "
    "family that cannot stop lying to itself , played by a cast without a single weak link",
    "skip it",
)
"""Film reviews written for this file, two to forty words long: what is timed when no data are given."""


class Latency(NamedTuple):
    """How long one text takes at batch 1, in milliseconds, over all texts and rounds."""

    p50_ms: float
    p95_ms: float
    mean_ms: float
    calls: int  # that were timed

    @property
    def per_second(self) -> float:
        """Texts a second when they come one after the other."""
        return 1000.0 / self.mean_ms


class Measurement(NamedTuple):
    """All that a model in one form costs."""

    path: str
    format: str  # as in report.json: "keras", "saved_model", "tflite_float32", ...
    parameters: int
    bytes: int  # on disk
    peak_memory_bytes: int  # of a process that does nothing but load the model and answer
    latency: Latency


class ChildReport(NamedTuple):
    """What the child process of `in_one_thread` tells: each model's latency and facts, and its own memory."""

    latency: dict[str, Latency]
    facts: dict[str, dict[str, Any]]
    peak_memory_bytes: int


def latency(
    predictors: Mapping[str, Callable[[list[str]], object]],
    texts: Sequence[str],
    rounds: int = 5,
    warmup: int = 1,
) -> dict[str, Latency]:
    """Time each predictor on each text alone, all predictors in turn on one text before the next text.

    The turns rotate, so that whatever slows the machine down for a while slows all of them, and none profits from
    always running after the same one. Call it through `in_one_thread` for figures that can be compared.

    Args:
        predictors: name -> function that takes a list of one text and answers; tokenising belongs to it.
        texts: what is asked.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted: they trace functions and fill caches.

    Raises:
        ValueError: if there is no predictor, no text or no round.
    """
    positive_integer("rounds", rounds)
    if not predictors or not texts:
        raise ValueError(
            f"{len(predictors)} predictors and {len(texts)} texts: one of each is the least. "
            "Use for example texts=SAMPLE_TEXTS."
        )
    names = list(predictors)
    times: dict[str, list[int]] = {name: [] for name in names}
    with _no_garbage_collection():
        for turn, text in enumerate([text for _ in range(warmup + rounds) for text in texts]):
            start = turn % len(names)
            for name in names[start:] + names[:start]:
                before = time.perf_counter_ns()
                predictors[name]([text])
                times[name].append(time.perf_counter_ns() - before)
    return {name: _summary(spent[warmup * len(texts) :]) for name, spent in times.items()}


def in_one_thread(
    paths: Mapping[str, Path | str], texts: Sequence[str], rounds: int = 5, warmup: int = 1
) -> dict[str, Latency]:
    """`latency` of models on disk, in a child process with one thread on one core (where the system can pin it).

    Text in, label out: each model's own tokenizer is part of what is timed. Keras models and SavedModels run as
    graphs.

    Args:
        paths: name -> bundle, `.tflite` file or SavedModel folder.
        texts: what is asked, one at a time.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted.

    Raises:
        UserError: if a path can't be loaded or a text can't be answered.
        RuntimeError: if the child process fails otherwise.
    """
    return _run_child(paths, texts, rounds, warmup).latency


def measure(
    paths: Sequence[Path | str], texts: Sequence[str] = SAMPLE_TEXTS, rounds: int = 5, warmup: int = 1
) -> list[Measurement]:
    """Latency of all paths together, interleaved; memory of each in a process of its own; size and parameters.

    Raises:
        UserError: if a path can't be loaded or a text can't be answered.
    """
    named = {str(path): path for path in paths}
    together = _run_child(named, texts, rounds, warmup)
    measurements = []
    for name, path in named.items():
        alone = together if len(named) == 1 else _run_child({name: path}, texts, rounds=1, warmup=0)
        facts = together.facts[name]
        measurements.append(
            Measurement(
                path=name,
                format=facts["format"],
                parameters=facts["parameters"],
                bytes=facts["bytes"],
                peak_memory_bytes=alone.peak_memory_bytes,
                latency=together.latency[name],
            )
        )
    return measurements


def machine() -> dict[str, str | int | float]:
    """The machine and the versions that a figure belongs to, for reports."""
    facts: dict[str, str | int | float] = {
        "cpu": _cpu_name(),
        "cores": _cores(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
    for name in ("tensorflow", "keras", "numpy", "ai-edge-litert"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "none"
    return facts


def _summary(nanoseconds: Sequence[int]) -> Latency:
    import numpy as np

    milliseconds = np.array(nanoseconds) / 1e6
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return Latency(float(p50), float(p95), float(milliseconds.mean()), len(milliseconds))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of a call would be counted as the model's."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _run_child(paths: Mapping[str, Path | str], texts: Sequence[str], rounds: int, warmup: int) -> ChildReport:
    request = {
        "paths": {name: str(path) for name, path in paths.items()},
        "texts": list(texts),
        "rounds": rounds,
        "warmup": warmup,
    }
    done = subprocess.run(
        [sys.executable, "-m", "keras_transformer.benchmark"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, **ONE_THREAD},
        check=False,
    )
    if done.returncode < 0:
        raise ModelFileError(
            f"{', '.join(map(str, paths.values()))}: the process that ran it was ended by "
            f"{signal.Signals(-done.returncode).name}. Write the file again; if it is large, free some memory."
        )
    if done.returncode:
        raise RuntimeError(f"the measuring process failed: {' '.join(done.stderr.split())[-500:]}")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise UserError(answer["error"])
    latencies = {name: Latency(*numbers) for name, numbers in answer["latency"].items()}
    return ChildReport(latencies, answer["facts"], answer["peak_memory_bytes"])


def _child() -> None:
    """Read a request from standard input, measure, and write one JSON object to standard output."""
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not get between the JSON
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before a thread pool counts the cores
    request = json.load(sys.stdin)
    try:
        answer = _answer(**request)
    except UserError as error:
        answer = {"error": str(error)}
    json.dump(answer, answer_to)
    answer_to.close()


def _answer(paths: dict[str, str], texts: list[str], rounds: int, warmup: int) -> dict[str, Any]:
    from keras_transformer import serving

    predictors = {name: serving.load(path, threads=1) for name, path in paths.items()}
    measured = latency({name: one.predict for name, one in predictors.items()}, texts, rounds, warmup)
    return {
        "latency": measured,
        "facts": {
            name: {"format": one.format, "parameters": one.parameters, "bytes": one.bytes}
            for name, one in predictors.items()
        },
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _peak_memory_bytes() -> int:
    """The most memory that this process held. `ru_maxrss` also counts its parent's before exec, so it comes last."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    _child()
