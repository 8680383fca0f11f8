"""What a training step of a translator costs: ours beside PyTorch, the same weights and the same batches.

Command: python benchmarks/translator_steps.py --torch-python PATH     (the machine must do nothing else)
Needs:   pip install torch safetensors for the interpreter PATH, best in an environment of its own.
Writes:  benchmarks/results/translator_steps.md

The teacher of `translation.py`, in float32 and in mixed bfloat16 on both sides. A round is one pass over the first
batches of its training, each way once, in rotating order; the first round traces and isn't counted. Batches are in
memory before the clock starts.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np
import tensorflow as tf
from peers.process import Peer
from peers.training_batches import how, write_batches
from safetensors.numpy import save_file
from scheduling import command_prefix
from translation import Bench, Sizes

from keras_transformer import benchmark
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.models import Seq2Seq
from keras_transformer.recipes.fitting import Schedule
from keras_transformer.recipes.translate import LABEL_SMOOTHING
from keras_transformer.training.token_losses import MaskedCrossEntropy
from keras_transformer.training.token_metrics import TokenAccuracy

RESULT = Path(__file__).parent / "results" / "translator_steps.md"
STEPS, ROUNDS = 40, 3
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}
Round = Callable[[], float]
"""Train on all batches once -> seconds."""


def our_round(bench: Bench, schedule: Schedule, batches: PairBatches, policy: str) -> Round:
    """Ours, compiled as the recipe does."""
    bench.policy = policy
    model = bench.fresh(bench.sizes.teacher)
    model.compile(
        schedule.optimizer(STEPS * (ROUNDS + 1)),
        MaskedCrossEntropy(LABEL_SMOOTHING),
        metrics=[TokenAccuracy()],
        jit_compile=False,
    )
    kept = list(islice(batches.batches(0), STEPS))
    signature = tf.nest.map_structure(lambda array: tf.TensorSpec((None, None), array.dtype), kept[0])
    data = tf.data.Dataset.from_generator(lambda: iter(kept), output_signature=signature).prefetch(1)

    def run() -> float:
        start = time.perf_counter()
        model.fit(data, epochs=1, verbose=0)
        return time.perf_counter() - start

    return run


def peer_round(bench: Bench, schedule: Schedule, batches: PairBatches, policy: str, peer: Peer, folder: Path) -> Round:
    """PyTorch's."""
    model: Seq2Seq = bench.fresh(bench.sizes.teacher)
    paths = {name: str(folder / f"{name}.safetensors") for name in ("weights", "trained", "batches")}
    names = {weight.path.removeprefix(f"{model.name}/"): np.asarray(weight.numpy()) for weight in model.weights}
    save_file(names, paths["weights"])
    write_batches(batches, STEPS, Path(paths["batches"]))
    size = {"vocab_size": bench.tokenizer.vocab_size, **asdict(bench.sizes.teacher)}
    more = how(schedule, STEPS, label_smoothing=LABEL_SMOOTHING, policy=policy)

    def run() -> float:
        answer = peer.ask("train", size=size, dropout=model.dropout, seed=bench.seed, **paths, **more)
        return float(answer["seconds"])

    return run


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-python", required=True, help="interpreter that has PyTorch")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(0, Sizes(), Path(folder))
        schedule = bench.schedule(bench.sizes.teacher)
        batches = bench.batches(bench.sources, bench.targets, schedule)
        peer = Peer("PyTorch", options.torch_python, "training_translator", str(benchmark.machine()["cores"]))
        if peer.absent:
            raise SystemExit(f"PyTorch: {peer.absent}")
        rounds: dict[str, Round] = {}
        for name, policy in POLICIES.items():
            rounds[f"ours, {name}"] = our_round(bench, schedule, batches, policy)
            rounds[f"PyTorch, {name}"] = peer_round(bench, schedule, batches, policy, peer, Path(folder))
        seconds = measured(rounds)
        peer.close()
    versions = ", ".join(f"{name} {version}" for name, version in peer.versions.items())
    text = page(seconds, bench.sizes, versions)
    print(text)
    RESULT.write_text(text, encoding="utf-8")


def measured(rounds: dict[str, Round]) -> dict[str, list[float]]:
    """Seconds of each way, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    names = list(rounds)
    for turn in range(ROUNDS + 1):
        first = turn % len(names)
        for name in [*names[first:], *names[:first]]:
            spent = rounds[name]()
            print(f"round {turn}, {name}: {spent:.1f} s", file=sys.stderr, flush=True)
            if turn:
                seconds[name].append(spent)
    return seconds


def page(seconds: dict[str, list[float]], sizes: Sizes, versions: str) -> str:
    """The Markdown page."""
    rows = ["| way | ms a step | spread | its time / the fastest of PyTorch's |", "|---|---:|---:|---:|"]
    fastest = min((name for name in seconds if name.startswith("PyTorch")), key=lambda n: statistics.median(seconds[n]))
    for name, spent in seconds.items():
        low, middle, high = statistics.quantiles(
            [one / other for one, other in zip(spent, seconds[fastest], strict=True)], n=4, method="inclusive"
        )
        median, lowest, highest = (1000 * f(spent) / STEPS for f in (statistics.median, min, max))
        rows.append(
            f"| {name} | {median:.0f} | {lowest:.0f} to {highest:.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
    lines = [
        "# What a training step of a translator costs",
        f"Command: `{command_prefix()}python benchmarks/translator_steps.py --torch-python PATH`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()) + f", {versions}",
        f"{sizes.teacher}; batches of {sizes.tokens} tokens; {ROUNDS} rounds of {STEPS} steps, interleaved; median, "
        "lowest to highest; ratios are taken within a round: median and quartiles.",
        "Goal: training takes no more time than PyTorch's.",
        "\n".join(rows),
    ]
    return "\n\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
