"""Measure models on disk: their latency together and in turn, the memory of each in a process of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from keras_transformer.benchmark.child_process import ONE_THREAD, Runtime, run_child
from keras_transformer.benchmark.sample_texts import SAMPLE_TEXTS
from keras_transformer.benchmark.timing import Latency
from keras_transformer.export.lite_operators import SignatureOperators
from keras_transformer.generation.writer import GREEDY, Decoding


class Measurement(NamedTuple):
    """All that a model in one form costs."""

    path: str
    task: str  # one of `tasks.TASKS`
    format: str  # as in report.json: "keras", "saved_model", "tflite_float32", ...
    parameters: int
    bytes: int  # on disk
    peak_memory_bytes: int  # of a process that does nothing but load the model and answer
    latency: Latency  # of a text
    token_latency: Latency | None  # of a model that writes: of a new token, the time for reading the text shared out
    operators: list[SignatureOperators] | None  # of a .tflite file, if they were asked for


def in_one_thread(
    paths: Mapping[str, Path | str], texts: Sequence[str], rounds: int = 5, warmup: int = 1
) -> dict[str, Latency]:
    """`latency` of models on disk, in a child process with one thread on one core (where the system can pin it).

    Text in, label or text out: each model's own tokenizer is part of what is timed. Keras models and SavedModels run
    as graphs, and what writes is greedy.

    Args:
        paths: name -> bundle, `.tflite` file or SavedModel folder, all of one task.
        texts: what is asked, one at a time.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted.

    Raises:
        UserError: if a path can't be loaded, a text can't be answered, or the models are of several tasks.
        RuntimeError: if the child process fails otherwise.
    """
    return run_child(paths, texts, rounds, warmup, ONE_THREAD).latency


def measure(
    paths: Sequence[Path | str],
    texts: Sequence[str] = SAMPLE_TEXTS,
    rounds: int = 5,
    warmup: int = 1,
    runtime: Runtime = ONE_THREAD,
    operators: bool = False,
    decoding: Decoding = GREEDY,
) -> list[Measurement]:
    """Latency of all paths together, interleaved; memory of each in a process of its own; size and parameters.

    Args:
        paths: bundles, `.tflite` files and SavedModel folders, all of one task.
        texts: what is asked, one at a time.
        rounds: how often all texts are asked.
        warmup: rounds before, which aren't counted.
        runtime: number of threads, and whether `.tflite` files get XNNPACK.
        operators: True to list the operators of `.tflite` files too.
        decoding: how what writes texts chooses its words; one that draws writes the same words in each round.

    Raises:
        UserError: if a path can't be loaded, a text can't be answered, the models are of several tasks or choose no
            words so, there are fewer cores than threads, or what is asked for needs a `.tflite` file and there is none.
    """
    named = {str(path): path for path in paths}
    together = run_child(named, texts, rounds, warmup, runtime, operators, decoding)
    measurements = []
    for name, path in named.items():
        alone = together if len(named) == 1 else run_child({name: path}, texts, 1, 0, runtime, decoding=decoding)
        measurements.append(
            Measurement(
                path=name,
                **together.facts[name],
                peak_memory_bytes=alone.peak_memory_bytes,
                latency=together.latency[name],
                token_latency=together.token_latency.get(name),
                operators=together.operators.get(name),
            )
        )
    return measurements
