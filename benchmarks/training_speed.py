"""What a training step of MiniLM costs: precision, XLA, a frozen token table, several steps an execution.

Command: python benchmarks/training_speed.py      (about 6 minutes on two cores; the machine must do nothing else)
Writes:  benchmarks/results/training_speed.md

Each way is compiled first; then all take turns, one step each, in rotating order, on the same batch of 32 texts of 32
word pieces. Each has its own process-wide model, so that nothing is shared but the machine.
"""

import argparse
import statistics
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_transformer import benchmark
from keras_transformer.data import assets
from keras_transformer.models import TextClassifier

RESULT = Path(__file__).parent / "results" / "training_speed.md"
BATCH, LENGTH, ROUNDS = 32, 32, 9


class Way(NamedTuple):
    """One way to train."""

    policy: str
    frozen_tokens: bool
    jit_compile: bool
    steps_per_execution: int = 1


WAYS = (
    Way("float32", False, False),
    Way("float32", True, False),
    Way("mixed_bfloat16", False, False),
    Way("mixed_bfloat16", True, False),
    Way("mixed_bfloat16", True, False, 4),
    Way("float32", True, True),
    Way("mixed_bfloat16", True, True),
)


def main() -> None:
    """Measure every way and write the table."""
    random = np.random.default_rng(0)
    ids = random.integers(1000, 30_000, (BATCH, LENGTH)).astype("int32")
    labels = random.integers(0, 2, BATCH).astype("int32")
    models, tracing = {}, {}
    for way in WAYS:
        models[way] = compiled(way)
        start = time.perf_counter()
        step(models[way], way, ids, labels)
        tracing[way] = time.perf_counter() - start
    times: dict[Way, list[float]] = {way: [] for way in WAYS}
    for turn in range(ROUNDS + 1):
        first = turn % len(WAYS)
        for way in WAYS[first:] + WAYS[:first]:
            start = time.perf_counter()
            step(models[way], way, ids, labels)
            if turn:  # the first round warms up
                times[way].append((time.perf_counter() - start) / way.steps_per_execution)
    text = page(times, tracing)
    RESULT.write_text(text, encoding="utf-8")
    print(text)


def compiled(way: Way) -> TextClassifier:
    """A MiniLM classifier, ready to train."""
    model = TextClassifier.from_pretrained(assets.minilm_folder(), 2, dtype=way.policy)
    model.get_layer("tokens").trainable = not way.frozen_tokens
    model.compile(
        keras.optimizers.AdamW(5e-5),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=way.jit_compile,
        steps_per_execution=way.steps_per_execution,
    )
    return model


def step(model: TextClassifier, way: Way, ids: np.ndarray, labels: np.ndarray) -> None:
    """One execution, as `fit` makes it."""
    if model.train_function is None:
        model.make_train_function()
    data = tf.data.Dataset.from_tensors((ids, labels)).repeat(way.steps_per_execution)
    logs = model.train_function(iter(data))
    float(logs["loss"])  # waits for the step


def page(times: dict[Way, list[float]], tracing: dict[Way, float]) -> str:
    """The Markdown page."""
    base = statistics.median(times[WAYS[0]])
    lines = []
    for way, spent in times.items():
        median = statistics.median(spent)
        lines.append(
            f"| {way.policy} | {'frozen' if way.frozen_tokens else 'trained'} | {'yes' if way.jit_compile else 'no'} "
            f"| {way.steps_per_execution} | {1000 * median:.0f} | {1000 * min(spent):.0f} to {1000 * max(spent):.0f} "
            f"| {base / median:.2f} | {tracing[way]:.0f} |"
        )
    machine = ", ".join(f"{name} {value}" for name, value in benchmark.machine().items())
    return (
        "\n\n".join(
            [
                "# What a training step of MiniLM costs",
                "Command: `python benchmarks/training_speed.py`",
                f"Machine: {machine}",
                f"{BATCH} texts of {LENGTH} word pieces a step; {ROUNDS} rounds, interleaved; AdamW; median, lowest to "
                "highest; the first call traces and compiles.",
                "| policy | token table | XLA | steps at once | ms a step | spread | times as fast | first call, s |\n"
                "|---|---|---|---:|---:|---:|---:|---:|\n" + "\n".join(lines),
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    main()
