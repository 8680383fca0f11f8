"""Measure in a process of its own, with as many cores and threads as are asked for: `__main__` is what runs there."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from keras_transformer.benchmark.this_machine import usable_cores
from keras_transformer.benchmark.timing import Latency
from keras_transformer.checks import UserError, positive_integer
from keras_transformer.export.lite_operators import SignatureOperators
from keras_transformer.files import ended_by_signal
from keras_transformer.generation.writer import GREEDY, Decoding

NUMBERS_OF_THREADS = (
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    "RAYON_NUM_THREADS",  # tokenizers
)
QUIET_CPU = {"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}


class Runtime(NamedTuple):
    """How models are run while they are measured."""

    threads: int = 1  # and cores, where the system can pin a process
    xnnpack: bool = True  # False: LiteRT's own kernels, for .tflite files alone


ONE_THREAD = Runtime()


class ChildReport(NamedTuple):
    """What the child process tells: each model's latency and facts, and its own memory."""

    latency: dict[str, Latency]  # of a text
    token_latency: dict[str, Latency]  # of models that write
    facts: dict[str, dict[str, Any]]  # task, format, parameters, bytes
    operators: dict[str, list[SignatureOperators]]  # of .tflite files, if they were asked for
    peak_memory_bytes: int


def run_child(
    paths: Mapping[str, Path | str],
    texts: Sequence[str],
    rounds: int,
    warmup: int,
    runtime: Runtime,
    operators: bool = False,
    decoding: Decoding = GREEDY,
) -> ChildReport:
    """Measure models on disk in a child process.

    Args:
        paths: name -> bundle, `.tflite` file or SavedModel folder.
        texts: what is asked, one at a time.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted.
        runtime: how the models are run.
        operators: True to list the operators of `.tflite` files, after all else was measured.
        decoding: how what writes texts chooses its words.

    Raises:
        UserError: if a path can't be loaded, a text can't be answered, or there are fewer cores than threads.
        RuntimeError: if the child process fails otherwise.
    """
    _check_threads(runtime.threads)
    request = {
        "paths": {name: str(path) for name, path in paths.items()},
        "texts": list(texts),
        "rounds": rounds,
        "warmup": warmup,
        "operators": operators,
        "decoding": asdict(decoding),
        **runtime._asdict(),
    }
    done = subprocess.run(
        [sys.executable, "-m", "keras_transformer.benchmark"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env={**os.environ, **dict.fromkeys(NUMBERS_OF_THREADS, str(runtime.threads)), **QUIET_CPU},
        check=False,
    )
    if done.returncode < 0:
        raise ended_by_signal(", ".join(map(str, paths.values())), done.returncode)
    if done.returncode:
        raise RuntimeError(f"the measuring process failed: {' '.join(done.stderr.split())[-500:]}")
    return _report(json.loads(done.stdout))


def _check_threads(threads: int) -> None:
    positive_integer("threads", threads)
    cores = usable_cores()
    if threads > cores:
        raise UserError(
            f"--threads {threads}: this process may use {cores} cores, and threads that share one are timed waiting "
            f"for each other. Use {cores} or less."
        )


def _report(answer: Mapping[str, Any]) -> ChildReport:
    if "error" in answer:
        raise UserError(answer["error"])
    latency, token_latency = (
        {name: Latency(*numbers) for name, numbers in answer[key].items()} for key in ("latency", "token_latency")
    )
    operators = {name: [SignatureOperators(*one) for one in found] for name, found in answer["operators"].items()}
    return ChildReport(latency, token_latency, answer["facts"], operators, answer["peak_memory_bytes"])
