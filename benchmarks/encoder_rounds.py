"""One encoder in several libraries, in turns: what `forward.py` and `train_step.py` share.

Each way has a process and the same batch; ours and PyTorch's have the same weights, and must give the same logits.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import keras
import numpy as np
from peers.process import Peer, in_rounds
from safetensors.numpy import save_file
from scheduling import command_prefix

from keras_transformer import benchmark
from keras_transformer.models import TextClassifier
from keras_transformer.pretrained import bert

RESULTS = Path(__file__).parent / "results"
PEAK_WIDTH = 2048
LIMIT = 1e-4  # of the largest difference of a logit from PyTorch's


@dataclass(frozen=True)
class Encoder:
    """A classifier and its batch."""

    num_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int
    vocab_size: int
    length: int
    batch: int
    num_classes: int = 2
    rate: float = 1e-4

    @property
    def forward_gflop(self) -> float:
        """Operations of the products of a forward pass, in billions; the token table is looked up, not multiplied."""
        dense = 4 * self.model_dim**2 + 2 * self.model_dim * self.inner_dim
        attention = 2 * self.length * self.model_dim
        return 2 * self.batch * self.length * self.num_layers * (dense + attention) / 1e9


@dataclass(frozen=True)
class Way:
    """A library, its numbers, and whether XLA compiles it."""

    library: str
    bfloat16: bool
    xla: bool = False

    def __str__(self) -> str:
        """Its name in the table."""
        how = "" if self.library == "PyTorch" else ", XLA" if self.xla else ", graph"
        return f"{self.library}{how}, {'bfloat16' if self.bfloat16 else 'float32'}"


@dataclass
class Measured:
    """What came out of a run."""

    peaks: dict[bool, float]  # bfloat16? -> GFLOP/s of the best product of two square matrices
    ideal: dict[bool, float]  # ms that the products alone would take at that rate
    spent: dict[Way, list[float]] = field(default_factory=dict)  # ms, the median of each round
    versions: dict[str, str] = field(default_factory=dict)

    def paragraphs(self) -> list[str]:
        """The page, from the machine on."""
        machine = {**benchmark.machine(), **self.versions}
        rates = "; ".join(
            f"{'bfloat16' if half else 'float32'} {self.peaks[half]:.0f} GFLOP/s, the products alone {ms:.0f} ms"
            for half, ms in sorted(self.ideal.items())
        )
        return [
            "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()),
            "Median of the rounds' medians, lowest to highest; ratios are taken within a round: median and quartiles. "
            f"Ours and PyTorch's have the same weights and give the same logits (to {LIMIT:.0e}, checked at first).",
            f"Peak, the best square product that any of the libraries made: {rates}.",
            "Goal: no slower than PyTorch, and at least 1.4 times as fast as KerasHub's best.",
            "| way | ms | spread | its time / PyTorch's | KerasHub's best / its time | share of the peak |\n"
            "|---|---:|---:|---:|---:|---:|\n" + "\n".join(map(self.line, self.spent)),
        ]

    def line(self, way: Way) -> str:
        """One row of the table."""
        mine, torch = self.spent[way], self.spent.get(Way("PyTorch", way.bfloat16))
        hubs = [self.spent[one] for one in self.spent if (one.library, one.bfloat16) == ("KerasHub", way.bfloat16)]
        best = min(hubs, key=statistics.median, default=None)
        to_torch = shares([one / other for one, other in zip(mine, torch, strict=True)]) if torch else ""
        to_hub = shares([other / one for one, other in zip(mine, best, strict=True)]) if best else ""
        median, share = statistics.median(mine), self.ideal[way.bfloat16] / statistics.median(mine)
        return f"| {way} | {median:.0f} | {min(mine):.0f} to {max(mine):.0f} | {to_torch} | {to_hub} | {share:.0%} |"


def shares(ratios: list[float]) -> str:
    """Median and quartiles."""
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


WAYS = tuple(
    Way(library, bfloat16, xla)
    for bfloat16 in (False, True)
    for library, xla in (("ours", False), ("ours", True), ("KerasHub", False), ("KerasHub", True), ("PyTorch", False))
)
MAKERS = {"ours": "ours", "KerasHub": "keras_hub"}


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options of both scripts."""
    parser.add_argument("--torch-python", required=True, help="interpreter that has PyTorch and transformers")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="a round, of each way")
    parser.add_argument("--only", default="", help="ways whose names hold this; prints and writes nothing")
    return parser.parse_args()


def compare(what: str, title: str, name: str, encoder: Encoder, products: int, options: argparse.Namespace) -> None:
    """Measure every way and write the page.

    Args:
        what: "forward" or "train".
        title: of the page.
        name: of the script and of the page.
        encoder: what is measured.
        products: how many times the operations of a forward pass are needed: 1, or 3 with both gradients.
        options: of the command line.
    """
    ways = [way for way in WAYS if options.only in str(way)]
    with running(encoder, ways, options.torch_python) as peers:
        agree(peers)
        peaks = {
            half: max(peers[way].ask("peak", width=PEAK_WIDTH)["gflops"] for way in ways if way.bfloat16 == half)
            for half in {way.bfloat16 for way in ways}
        }
        measured = Measured(
            peaks, {half: products * encoder.forward_gflop / peak * 1000 for half, peak in peaks.items()}
        )
        for turn, way in in_rounds(ways, options.rounds):
            middle = statistics.median(peers[way].ask(what, count=options.steps)["ms"])
            print(f"round {turn}, {way}: {middle:.0f} ms", file=sys.stderr, flush=True)
            if turn:
                measured.spent.setdefault(way, []).append(middle)
            measured.versions.update(peers[way].versions)
    more = "" if (options.rounds, options.steps) == (7, 3) else f" --rounds {options.rounds} --steps {options.steps}"
    lines = [
        f"# {title}",
        f"Command: `{command_prefix()}python benchmarks/{name}.py --torch-python PATH{more}`",
        f"{encoder}; {options.rounds} rounds of {options.steps} steps, interleaved.",
        *measured.paragraphs(),
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not options.only:
        (RESULTS / f"{name}.md").write_text(text, encoding="utf-8")


@contextmanager
def running(encoder: Encoder, ways: list[Way], torch_python: str) -> Iterator[dict[Way, Peer]]:
    """A process for each way, all with the weights of one folder."""
    threads = str(benchmark.machine()["cores"])
    with tempfile.TemporaryDirectory() as folder:
        write(encoder, Path(folder))
        peers = {}
        for way in ways:
            half, xla = ("yes" if one else "no" for one in (way.bfloat16, way.xla))
            if way.library == "PyTorch":
                peers[way] = Peer(str(way), torch_python, "encoder_torch", folder, half, threads)
            else:
                words = (MAKERS[way.library], folder, half, xla, threads)
                peers[way] = Peer(str(way), sys.executable, "encoder_keras", *words)
            if peers[way].absent:
                raise SystemExit(f"{way}: {peers[way].absent}")
        yield peers
        for peer in peers.values():
            peer.close()


def write(encoder: Encoder, folder: Path) -> None:
    """The same random weights for ours and, in Hugging Face's layout, for PyTorch."""
    keras.utils.set_random_seed(1)
    sizes = (encoder.num_layers, encoder.model_dim, encoder.num_heads, encoder.inner_dim)
    model = TextClassifier(encoder.vocab_size, encoder.num_classes, *sizes, max_length=encoder.length)
    bert.save(model, folder)
    model.save_weights(folder / "ours.weights.h5")
    head = model.get_layer("logits")
    save_file(
        {"kernel": np.asarray(head.kernel.numpy()), "bias": np.asarray(head.bias.numpy())}, folder / "head.safetensors"
    )
    (folder / "size.json").write_text(json.dumps(asdict(encoder)))


def agree(peers: dict[Way, Peer]) -> None:
    """Stop if ours and PyTorch's logits differ: then they aren't one model."""
    logits = {
        way.library: np.array(peer.ask("logits")["logits"])
        for way, peer in peers.items()
        if way.library in ("ours", "PyTorch") and not way.bfloat16 and not way.xla
    }
    if len(logits) == 2 and not (error := np.abs(logits["ours"] - logits["PyTorch"]).max()) < LIMIT:
        raise SystemExit(f"a logit differs by {error:.1e} from PyTorch's: these are two models")
