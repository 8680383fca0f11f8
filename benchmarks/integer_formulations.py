"""How a classifier's masks should be written, and which operators be integers: time, error and pieces of each way.

Command: python benchmarks/integer_formulations.py           (the machine must do nothing else)
         python benchmarks/integer_formulations.py --quick   tiny, writes nothing: does it still run?
Writes:  benchmarks/results/integer_formulations.md

The classifiers of `edge_latency.py`, of random weights, at full length, batch 1, one thread. Ranges are from 32 texts;
the product that gives the logits has float32 activations but in the converter's own file. A round asks each file for
all texts, in rotating order; the first isn't counted. A piece is a run of operators that XNNPACK takes.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tensorflow as tf
from edge_latency import FULL, QUICK, prepared_model, random_model, texts
from peers.process import in_rounds
from scheduling import command_prefix

from keras_transformer import benchmark
from keras_transformer.export.integer_forms import in_integers
from keras_transformer.export.lite_converter import convert
from keras_transformer.export.lite_masks import with_capped_scores
from keras_transformer.export.lite_operators import signature_operators
from keras_transformer.export.lite_runner import INPUT, SIGNATURE, LiteRunner
from keras_transformer.export.preparation import Prepared
from keras_transformer.export.signatures import BareWeights, token_function

RESULT = Path(__file__).parent / "results" / "integer_formulations.md"
CONVERTED, CAPPED, SHORT = "masks and norms as converted", "masks capped", "masks capped and norms short"
FLOAT = f"none: float32, {SHORT}"
FORMS = {"none": "none: float32", "dynamic": "weights alone", "int8": "dense products and tables"}
EXPORTED = "{}, and the attention's products with keys and values symmetric: as `export` writes it"
CONVERTER = "all, by TensorFlow's converter"
ATTENTION = ("BATCH_MATMUL",)
NORMS = ("ADD", "SUB", "MUL", "MEAN", "SQUARED_DIFFERENCE", "RSQRT")
CHOICES: dict[str, tuple[str, ...]] = {
    "and GELU": ("GELU",),
    "and the attention's products, no range symmetric": ATTENTION,
    "and the attention's products and softmax": (*ATTENTION, "SOFTMAX"),
    "and what moves or adds": (*ATTENTION, "SOFTMAX", "GELU", "RESHAPE", "TRANSPOSE", "ADD"),
    "and the norms": (*ATTENTION, "SOFTMAX", "GELU", "RESHAPE", "TRANSPOSE", *NORMS),
}
"""What is told of a file -> operators that are integers beside the dense products and tables."""


@dataclass
class Measured:
    """One file."""

    bytes: int
    pieces: int
    taken: int
    operators: int
    seconds: list[list[float]] = field(default_factory=list)  # of each round, of each text
    logits: list[np.ndarray] = field(default_factory=list)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny; prints and writes nothing")
    quick = parser.parse_args().quick
    plan = QUICK if quick else FULL
    lines = [
        "# How masks should be written, and which operators be integers",
        f"Command: `{command_prefix()}python benchmarks/integer_formulations.py`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        f"Batch 1, one thread, {plan.texts} texts of the full length, {plan.rounds} rounds, interleaved; milliseconds "
        "a text: median, and lowest and highest median of a round. Error: the largest difference of a logit from "
        "float32, as a share of the standard deviation of the logits over the texts; weights are random. As converted, "
        "a mask chooses between each score and a number below all; capped, it is the smaller of a score and its key's "
        "cap. A short norm has five operators for six. What is told without these has both.",
    ]
    for title, size in plan.models.items():
        model = random_model(size)
        asked = [np.array([ids], np.int32) for ids in texts(size, plan.texts, seed=1)]
        for fixed in (False, True):
            prepared = prepared_model(model, size, fixed=fixed)
            with tempfile.TemporaryDirectory() as folder:
                found = measure(files(prepared, Path(folder)), asked, plan.rounds)
            lines += [f"## {title}, {'of a fixed length' if fixed else 'of any length'}", table(found)]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not quick:
        RESULT.write_text(text, encoding="utf-8")


def files(prepared: Prepared, folder: Path) -> dict[str, Path]:
    """Write each form of a model."""
    plain = convert(prepared, "none")

    def seen(_: bytes) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
        for ids in prepared.token_ids:
            yield SIGNATURE, {INPUT: np.array([ids], np.int32)}

    converted = by_converter(prepared)
    stages = {CONVERTED: converted, CAPPED: with_capped_scores(converted), SHORT: plain}
    contents = {CONVERTER: by_converter(prepared, lambda: seen(plain))}
    for form, told in FORMS.items():
        for stage, content in stages.items():
            contents[f"{told}, {stage}"] = content if form == "none" else in_integers(content, form, seen)
        if form != "none":
            contents[EXPORTED.format(told)] = in_integers(plain, form, seen, attention=True)
    contents |= {name: in_integers(plain, "int8", seen, more) for name, more in CHOICES.items()}
    found = {}
    for number, (name, content) in enumerate(contents.items()):
        found[name] = folder / f"{number}.tflite"
        found[name].write_bytes(content)
    return found


def by_converter(prepared: Prepared, seen: Callable[[], Iterator] | None = None) -> bytes:
    """What TensorFlow's converter makes by itself: float32, or with inputs to be seen its full integer form."""
    function = token_function(prepared.model, (1, prepared.fixed_length), limits=None)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {SIGNATURE: function.get_concrete_function()}
        tf.saved_model.save(BareWeights(prepared.model), folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        if seen is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = seen
        return converter.convert()


def measure(paths: dict[str, Path], asked: list[np.ndarray], rounds: int) -> dict[str, Measured]:
    """Seconds of each file in each round, and its logits."""
    runners, found = {}, {}
    for name, path in paths.items():
        (counted,) = signature_operators(path)
        totals = sum(counted.taken.values()), sum(counted.in_file.values())
        found[name] = Measured(path.stat().st_size, counted.pieces, *totals)
        runners[name] = LiteRunner(path, threads=1)
    for turn, name in in_rounds(list(runners), rounds):
        seconds, found[name].logits = [], []
        for row in asked:
            start = time.perf_counter()
            logits = runners[name](row)
            seconds.append(time.perf_counter() - start)
            found[name].logits.append(logits[0].copy())
        if turn:
            found[name].seconds.append(seconds)
    return found


def table(found: dict[str, Measured]) -> str:
    """A row a file."""
    rows = ["| in integers | MB | ms a text | spread | error | taken by XNNPACK | in pieces |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    exact = np.array(found[FLOAT].logits)
    for name, one in found.items():
        rounds = [1000 * statistics.median(seconds) for seconds in one.seconds]
        middle = 1000 * statistics.median(second for each in one.seconds for second in each)
        error = np.abs(np.array(one.logits) - exact).max() / exact.std(axis=0).mean()
        rows.append(
            f"| {name} | {one.bytes / 1e6:.2f} | {middle:.2f} | {min(rounds):.2f} to {max(rounds):.2f} | {error:.2g} | "
            f"{one.taken} of {one.operators} | {one.pieces} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
