"""How long one text takes on a processor: our `.tflite` files, ONNX Runtime, PyTorch and Keras, with the same weights.

Command: python benchmarks/edge_latency.py --torch-python PATH          (the machine must do nothing else)
         python benchmarks/edge_latency.py --quick --torch-python PATH  tiny models, writes nothing: does it still run?
Needs:   pip install torch safetensors onnx onnxruntime for the interpreter PATH, best in an environment of its own.
Writes:  benchmarks/results/edge_latency.md

Classifiers of random weights, in the sizes of the demo's student and of MiniLM without its vocabulary. Each way is a
process of its own; one works at a time. A round asks each for all texts, one after the other, in rotating order; the
first isn't counted. Every text has the full length, so that nobody computes padding and nobody saves it.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import keras
import numpy as np
from peers.process import Peer, in_rounds
from safetensors.numpy import save_file
from scheduling import command_prefix

from keras_transformer import benchmark
from keras_transformer.data.tokenizer import WordPiece
from keras_transformer.export.lite_converter import convert
from keras_transformer.export.preparation import Prepared
from keras_transformer.export.requirements import Limits
from keras_transformer.export.tflite import FORMATS
from keras_transformer.models import TextClassifier

RESULT = Path(__file__).parent / "results" / "edge_latency.md"
CALIBRATION_TEXTS = 32
FIXED = "fixed_"  # begins the name of a file of one length
REFERENCE = "Keras in a graph"
GOALS = "Goals: at most half of ONNX Runtime's best time; float32 no slower than its float32; static int8 faster than "
GOALS += "float32. How often a trained model's answer stays the same is for `parity_matrix.py` to say."

WAYS = {
    "ours, float32": ("python", "latency_ours", "none"),
    "ours, float32, fixed length": ("python", "latency_ours", f"{FIXED}none"),
    "ours, float16 weights": ("python", "latency_ours", "float16"),
    "ours, int8 weights (dynamic)": ("python", "latency_ours", "dynamic"),
    "ours, dynamic, fixed length": ("python", "latency_ours", f"{FIXED}dynamic"),
    "ours, static int8": ("python", "latency_ours", "int8"),
    "ours, static int8, fixed length": ("python", "latency_ours", f"{FIXED}int8"),
    "ours, int16 activations": ("python", "latency_ours", "int16"),
    "ours, int4 weights": ("python", "latency_ours", "int4"),
    REFERENCE: ("python", "latency_ours", "keras"),
    "ONNX Runtime, float32": ("torch_python", "latency_onnx", "float32"),
    "ONNX Runtime, int8": ("torch_python", "latency_onnx", "int8"),
    "PyTorch": ("torch_python", "latency_torch"),
}
"""Name in the tables -> option that has its interpreter, module, words."""


@dataclass(frozen=True)
class Plan:
    """Sizes and rounds."""

    models: dict[str, dict[str, int]]
    texts: int
    rounds: int
    threads: tuple[int, ...]


SHARED = {"max_length": 128, "num_heads": 12, "model_dim": 384}
FULL = Plan(
    {
        "the demo's student": {"num_layers": 2, "inner_dim": 256, "vocab_size": 11_799, "embedding_dim": 192, **SHARED},
        "6 layers of width 384": {"num_layers": 6, "inner_dim": 1536, "vocab_size": 8_000, **SHARED},
    },
    texts=20,
    rounds=5,
    threads=(1, 2),
)
TINY = {"num_layers": 2, "inner_dim": 64, "vocab_size": 997, "max_length": 16, "num_heads": 4, "model_dim": 32}
QUICK = Plan({"tiny": TINY}, texts=3, rounds=2, threads=(1,))


@dataclass
class Measured:
    """What one way did with one model."""

    bytes: int = 0
    seconds: list[list[float]] = field(default_factory=list)  # of each round, of each text
    logits: list[list[float]] = field(default_factory=list)
    failed: str = ""


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    plan = QUICK if options.quick else FULL
    results: dict[tuple[str, int], dict[str, Measured]] = {}
    versions: dict[str, str] = {}
    for title, size in plan.models.items():
        with tempfile.TemporaryDirectory() as folder:
            write_models(size, Path(folder))
            token_ids = texts(size, plan.texts, seed=1)
            for threads in plan.threads:
                print(f"{title}, {threads} threads", file=sys.stderr, flush=True)
                peers = [start(name, options, threads) for name in WAYS]
                versions |= {name: version for peer in peers for name, version in peer.versions.items()}
                results[title, threads] = measure(peers, folder, token_ids, plan.rounds)
    text = page(plan, results, versions)
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch and ONNX Runtime")
    parser.add_argument("--quick", action="store_true", help="tiny; prints and writes nothing")
    options = parser.parse_args()
    options.python = sys.executable
    return options


def write_models(size: dict[str, int], folder: Path) -> None:
    """One model of random weights, in every form."""
    model = random_model(size)
    model.save(folder / "model.keras")
    (folder / "size.json").write_text(json.dumps(size), encoding="utf-8")
    save_file({weight.path: np.asarray(weight.numpy()) for weight in model.weights}, folder / "weights.safetensors")
    for beginning in ("", FIXED):
        prepared = prepared_model(model, size, fixed=beginning == FIXED)
        for form in FORMATS:
            if f"{beginning}{form}" in {words[0] for _, _, *words in WAYS.values() if words}:
                (folder / f"{beginning}{form}.tflite").write_bytes(convert(prepared, form))


def random_model(size: dict[str, int]) -> TextClassifier:
    """A classifier that nobody taught."""
    keras.utils.set_random_seed(0)
    model = TextClassifier(num_classes=3, dropout=0.0, **size)
    random = np.random.default_rng(0)
    for weight in model.weights:  # as a trained one has them: no bias is 0, no gamma 1
        weight.assign(weight.numpy() + 0.02 * random.normal(size=weight.shape))
    return model


def prepared_model(model: TextClassifier, size: dict[str, int], *, fixed: bool) -> Prepared:
    """As an export has it, with texts that show the ranges; `fixed` for one of the full length alone."""
    length = size["max_length"]
    if fixed:
        inputs = keras.Input((length,), dtype="int32", name="token_ids")
        model = keras.Model(inputs, model(inputs))
    seen = texts(size, CALIBRATION_TEXTS, seed=0)
    limits = Limits(vocab_size=size["vocab_size"], max_length=length)
    labels = [str(number) for number in range(3)]
    answers = np.zeros((CALIBRATION_TEXTS, 3), np.float32)
    return Prepared(model, tokenizer(), labels, limits, length, length if fixed else None, seen, answers)


def texts(size: dict[str, int], count: int, seed: int) -> list[list[int]]:
    """Ids of random texts of the full length."""
    return np.random.default_rng(seed).integers(1, size["vocab_size"], (count, size["max_length"])).tolist()


def tokenizer() -> WordPiece:
    """Any: it only pads."""
    return WordPiece.learn(["a text"], 30)


def start(name: str, options: argparse.Namespace, threads: int) -> Peer:
    """The process of one way."""
    interpreter, module, *words = WAYS[name]
    environment = {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    return Peer(name, getattr(options, interpreter), module, *words, str(threads), environment=environment)


def measure(peers: list[Peer], folder: str, token_ids: list[list[int]], rounds: int) -> dict[str, Measured]:
    """Seconds of each way in each round, and the logits of the last."""
    found = {peer.name: Measured(failed=peer.absent) for peer in peers}
    for turn, peer in in_rounds(peers, rounds):
        one = found[peer.name]
        if one.failed:
            continue
        try:
            one.bytes = one.bytes or peer.ask("load", folder=folder)["bytes"]
            answer = peer.ask("run", token_ids=token_ids)
        except RuntimeError as error:
            one.failed = str(error)
            continue
        one.logits = answer["logits"]
        if turn:
            one.seconds.append(answer["seconds"])
    for peer in peers:
        peer.close()
    return found


def page(plan: Plan, results: dict[tuple[str, int], dict[str, Measured]], versions: dict[str, str]) -> str:
    """The Markdown page."""
    machine = benchmark.machine() | versions
    lines = [
        "# How long one text takes on a processor",
        f"Command: `{command_prefix()}python benchmarks/edge_latency.py --torch-python PATH`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()),
        f"{plan.texts} texts of the full length one by one, {plan.rounds} rounds, interleaved; milliseconds a text: "
        "median over all, and the lowest and highest median of a round. Weights are random. The logits' error is the "
        f"largest difference from {REFERENCE}, as a share of the standard deviation of its logits over the texts.",
        GOALS,
    ]
    for (title, threads), found in results.items():
        size = ", ".join(f"{name.replace('_', ' ')} {value:,}" for name, value in plan.models[title].items())
        lines += [f"## {title}, {threads} thread{'s' * (threads > 1)}", size, table(found)]
    return "\n\n".join(lines) + "\n"


def table(found: dict[str, Measured]) -> str:
    """A row a way."""
    rows = ["| way | MB | ms a text | spread | times ONNX Runtime's best | error of logits |"]
    rows.append("|---|---:|---:|---:|---:|---:|")
    best = min((middle(one) for name, one in found.items() if name.startswith("ONNX") and not one.failed), default=None)
    right = found[REFERENCE].logits
    for name, one in found.items():
        if one.failed:
            rows.append(f"| {name} | {one.failed} | | | | |")
            continue
        rounds = [1000 * statistics.median(seconds) for seconds in one.seconds]
        logits, wanted = np.array(one.logits), np.array(right)
        error = np.abs(logits - wanted).max() / wanted.std(axis=0).mean()
        times = "" if best is None else f"{middle(one) / best:.2f}"
        rows.append(
            f"| {name} | {one.bytes / 1e6:.2f} | {1000 * middle(one):.2f} | {min(rounds):.2f} to {max(rounds):.2f} | "
            f"{times} | {error:.1e} |"
        )
    return "\n".join(rows)


def middle(one: Measured) -> float:
    """The median second of a text."""
    return statistics.median(seconds for each in one.seconds for seconds in each)


if __name__ == "__main__":
    main()
