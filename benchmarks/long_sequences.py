"""What a training step of an encoder costs on long sequences: peak memory and time, ours beside KerasHub's.

Command: python benchmarks/long_sequences.py     (the machine must do nothing else; --quick for a minute's trial)
Writes:  benchmarks/results/long_sequences.md and long_sequences.png beside it; --quick writes nothing.

Each entry has a process of its own. Its memory is the highest resident size during the steps minus that before them,
with the library loaded, the weights and the batch made. One row of float32 vectors, no dropout, no padding, Adam.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib import pyplot as plt
from scheduling import command_prefix

from keras_transformer import benchmark

RESULTS = Path(__file__).parent / "results"
LENGTHS = (512, 1024, 2048, 4096, 8192, 16_384)
MODEL_DIM, NUM_HEADS, INNER_DIM = 256, 4, 1024
MOST_BYTES, MOST_SECONDS = 16e9, 180
LONG_STEP = 20  # seconds: of a step that takes longer, one is enough
PLAIN, BLOCKS, RECOMPUTED, HUB = "ours, all at once", "ours, blocks", "ours, blocks, recomputed", "KerasHub"
WAYS = (PLAIN, BLOCKS, RECOMPUTED, HUB)


class Entry(NamedTuple):
    """What a step needed."""

    bytes: int
    seconds: float

    def __str__(self) -> str:
        """As a cell of the table."""
        return f"{self.bytes / 1e6:,.0f} MB, {self.seconds:.3g} s"


def encoder(way: str, length: int, num_layers: int) -> Any:
    """A Keras model (1, T, D) -> (1, T, D), in training."""
    import keras

    x = keras.Input((length, MODEL_DIM), batch_size=1)
    if way == HUB:
        from keras_hub.layers import TransformerEncoder

        y = x
        for _ in range(num_layers):
            y = TransformerEncoder(INNER_DIM, NUM_HEADS, dropout=0.0, activation="gelu")(y)
        return keras.Model(x, y)
    from keras_transformer.layers import Encoder

    options = {"block_size": length if way == PLAIN else 256, "recompute_layers": way == RECOMPUTED}
    stack = Encoder(num_layers, MODEL_DIM, NUM_HEADS, INNER_DIM, dropout=0.0, **options)
    return keras.Model(x, stack(x))


def measure(way: str, length: int, num_layers: int) -> Entry:
    """Two steps, or one long one; the time is the last one's."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = encoder(way, length, num_layers)
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)
    x = tf.random.normal((1, length, MODEL_DIM))

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - x))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return loss

    traced = step.get_concrete_function()
    before, spent = peak(), 0.0
    for _ in range(2):
        start = time.perf_counter()
        traced().numpy()
        spent = time.perf_counter() - start
        if spent > LONG_STEP:
            break
    return Entry(peak() - before, spent)


def peak() -> int:
    """Highest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def measured_apart(way: str, length: int, num_layers: int) -> Entry | str:
    """`measure` in a process of its own; why not, where it took too long or failed."""
    words = [sys.executable, __file__, "--layers", str(num_layers), "--one", way, str(length)]
    try:
        run = subprocess.run(words, capture_output=True, text=True, timeout=2 * MOST_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"over {2 * MOST_SECONDS} s"
    return Entry(*json.loads(run.stdout.splitlines()[-1])) if run.returncode == 0 else f"ended with {run.returncode}"


def measure_all(
    lengths: tuple[int, ...], num_layers: int, done: Callable[[dict], None]
) -> dict[str, dict[int, Entry | str]]:
    """Way -> length -> entry; one is left out where four times the entry before would be too much."""
    found: dict[str, dict[int, Entry | str]] = {way: {} for way in WAYS}
    for length in lengths:
        for way in WAYS:
            last = found[way].get(length // 2, Entry(0, 0.0))
            if isinstance(last, str) or 4 * last.bytes > MOST_BYTES or 4 * last.seconds > MOST_SECONDS:
                found[way][length] = "left out"
            else:
                found[way][length] = measured_apart(way, length, num_layers)
            print(f"{length} tokens, {way}: {found[way][length]}", file=sys.stderr, flush=True)
        done(found)
    return found


def page(found: dict[str, dict[int, Entry | str]], num_layers: int) -> str:
    """The results as Markdown."""
    lengths = list(found[PLAIN])
    rows = [f"| {length:,} | {' | '.join(str(found[way][length]) for way in WAYS)} |" for length in lengths]
    machine = {**benchmark.machine(), "keras-hub": metadata.version("keras-hub")}
    more = "" if num_layers == 2 else f" --layers {num_layers}"
    return "\n\n".join(
        [
            "# What a training step costs on long sequences",
            f"Command: `{command_prefix()}python benchmarks/long_sequences.py{more}`",
            "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()),
            f"An encoder of {num_layers} layers, width {MODEL_DIM}, {NUM_HEADS} heads, inner width {INNER_DIM}; one "
            "row of float32 vectors, no dropout, Adam, graph mode. Peak memory above that of the loaded library, the "
            "weights and the batch; time of the second step, or of the first where that is "
            f"over {LONG_STEP} s. Each entry has a process of its own. Left out: what would need more than "
            f"{MOST_BYTES / 1e9:.0f} GB or {MOST_SECONDS} s, if four times the entry above it.",
            f"| tokens | {' | '.join(WAYS)} |\n|---:|{'---:|' * len(WAYS)}\n" + "\n".join(rows),
            "![Peak memory by length](long_sequences.png)",
        ]
    )


def plot(found: dict[str, dict[int, Entry | str]], path: Path) -> None:
    """Peak memory by length, both logarithmic."""
    mpl.use("Agg")
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for way, entries in found.items():
        there = {length: entry.bytes / 1e6 for length, entry in entries.items() if isinstance(entry, Entry)}
        axes.loglog(list(there), list(there.values()), marker="o", label=way)
    axes.set(xlabel="tokens", ylabel="peak memory of a training step, MB")
    axes.set_xticks(list(found[PLAIN]), [f"{length:,}" for length in found[PLAIN]], minor=False)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure one entry for the parent, or all of them."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--layers", type=int, default=2, help="of the encoder")
    words.add_argument("--quick", action="store_true", help="the two shortest lengths; writes nothing")
    words.add_argument("--one", nargs=2, metavar=("WAY", "LENGTH"), help="measure one entry and print it as JSON")
    options = words.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], int(options.one[1]), options.layers)))
        return

    def keep(found: dict[str, dict[int, Entry | str]]) -> None:
        if not options.quick:
            (RESULTS / "long_sequences.md").write_text(page(found, options.layers) + "\n", encoding="utf-8")
            plot(found, RESULTS / "long_sequences.png")

    lengths = LENGTHS[:2] if options.quick else LENGTHS
    print(page(measure_all(lengths, options.layers, keep), options.layers))


if __name__ == "__main__":
    main()
