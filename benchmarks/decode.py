"""How fast tokens come: ours with the cache, KerasHub, Hugging Face on PyTorch, CTranslate2; same weights, same tokens.

Command: python benchmarks/decode.py --torch-python PATH --ctranslate2-python PATH
                                          (the machine must do nothing else)
         python benchmarks/decode.py --quick ...        tiny models, writes nothing: does it still run?
Needs:   KerasHub: pip install keras-hub==0.32.0, in this interpreter or in that of --keras-hub-python;
         PyTorch and Hugging Face: pip install torch transformers safetensors, best in an environment of their own;
         CTranslate2: pip install ctranslate2 safetensors, there too. What isn't installed is reported as absent.
Writes:  benchmarks/results/decode.md

Each way is a process of its own that keeps its models; one works at a time. A round asks each once, in rotating order;
the first round compiles and isn't counted. Ratios are taken within a round. A time is that of the whole answer: prompt
or source, then all new tokens. Nobody may end early: see `peers/decoding_weights.py`.
"""

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peers import decoding_weights
from peers.decoding_weights import DECODER, TRANSLATOR
from peers.process import Peer, in_rounds
from scheduling import command_prefix

from keras_transformer import benchmark

RESULT = Path(__file__).parent / "results" / "decode.md"
OURS = "ours"
INT8 = "int8"  # in the name of a way whose tokens may differ
AT_POSITION = 32  # new tokens whose mean is the cost of one token at a position
GOALS = (
    "Goals, in float32: at least 2 times as fast as KerasHub and Hugging Face, at most 1.5 times as slow as "
    "CTranslate2. The cost of a token grows at most linearly with its position."
)


class Task(NamedTuple):
    """One kind of answer."""

    kind: str
    batch: int
    beams: int
    prompt: int  # tokens that are given, of the text or of its source
    new_tokens: int

    @property
    def title(self) -> str:
        """In words."""
        way = "greedy" if self.beams == 1 else f"beam of {self.beams}"
        given = "prompt" if self.kind == DECODER else "source"
        return f"{self.kind}, batch {self.batch}, {way}: {given} of {self.prompt}, {self.new_tokens} new tokens"


class Plan(NamedTuple):
    """Sizes and rounds."""

    size: dict[str, int]
    lengths: dict[str, tuple[int, int]]  # kind -> prompt, new tokens
    batches: tuple[int, ...]
    positions: tuple[int, ...]
    rounds: int
    curve_rounds: int

    def tasks(self, kind: str) -> list[Task]:
        """Each batch, greedy and by beam search."""
        return [Task(kind, batch, beams, *self.lengths[kind]) for batch in self.batches for beams in (1, 4)]


SIZE = {"vocab_size": 8000, "num_layers": 6, "model_dim": 512, "num_heads": 8, "inner_dim": 2048, "max_length": 2048}
FULL = Plan(SIZE, {DECODER: (16, 64), TRANSLATOR: (32, 48)}, (1, 16), (16, 64, 256, 512, 1024, 2015), 3, 3)
TINY = {"vocab_size": 997, "num_layers": 2, "model_dim": 32, "num_heads": 4, "inner_dim": 64, "max_length": 96}
QUICK = Plan(TINY, {DECODER: (5, 7), TRANSLATOR: (5, 7)}, (1, 3), (8, 32), 2, 1)


@dataclass
class Measured:
    """What one way did with one task."""

    seconds: list[float] = field(default_factory=list)
    behind_prompt: list[float] = field(default_factory=list)  # of them, where the way can tell
    token_ids: list[list[int]] = field(default_factory=list)
    failed: str = ""


Results = dict[Any, dict[str, Measured]]


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    plan = QUICK if options.quick else FULL
    started = [start(name, WAYS[name], options) for name in options.ways or WAYS]
    absent = {peer.name: peer.absent for peer in started if peer.absent}
    peers = [peer for peer in started if not peer.absent]
    results: Results = {}
    curve: Results = {}
    parameters = {}
    for kind in (DECODER, TRANSLATOR):
        parameters[kind], failed = load(peers, kind, plan.size)
        absent |= failed
        peers = [peer for peer in peers if f"{peer.name}, {kind}" not in failed]
        for task in plan.tasks(kind):
            tell(task.title)
            results[task] = measure(peers, task, plan.rounds)
        if kind == DECODER:
            exact = [peer for peer in peers if INT8 not in peer.name]
            for position in plan.positions:
                tell(f"position {position}")
                curve[position] = at_position(exact, position, plan.curve_rounds)
    versions = {name: version for peer in peers for name, version in peer.versions.items()}
    for peer in started:
        peer.close()
    text = page(options, plan, parameters, results, curve, absent, versions)
    print(text)
    if not options.quick and not options.ways:
        RESULT.write_text(text, encoding="utf-8")


WAYS = {
    OURS: ("python", "decoding_ours", "xla"),
    "ours, no XLA": ("python", "decoding_ours", "graph"),
    "KerasHub": ("keras_hub_python", "decoding_keras_hub", "default"),
    "KerasHub, no XLA": ("keras_hub_python", "decoding_keras_hub", "graph"),
    "Hugging Face": ("torch_python", "decoding_hugging_face"),
    "CTranslate2": ("ctranslate2_python", "decoding_ctranslate2", "float32"),
    "ours, int8": ("python", "decoding_ours", "int8"),
    "CTranslate2, int8": ("ctranslate2_python", "decoding_ctranslate2", "int8"),
}
"""Name in the tables -> option that has its interpreter, module, words."""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for library in ("torch", "ctranslate2", "keras-hub"):
        parser.add_argument(f"--{library}-python", default=sys.executable, help=f"interpreter that has {library}")
    parser.add_argument("--threads", type=int, default=benchmark.machine()["cores"], help="of each way")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), help="only these; prints and writes nothing")
    parser.add_argument("--quick", action="store_true", help="tiny models; prints and writes nothing")
    options = parser.parse_args()
    options.python = sys.executable
    if options.ways and OURS not in options.ways:
        parser.error(f"--ways: {OURS!r} is what the others are compared with. Name it too.")
    return options


def start(name: str, way: tuple[str, ...], options: argparse.Namespace) -> Peer:
    """The process of one way, with as many threads as all others."""
    interpreter, module, *words = way
    threads = str(options.threads)
    environment = {"OMP_NUM_THREADS": threads, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    peer = Peer(name, getattr(options, interpreter), module, *words, threads, environment=environment)
    tell(f"{name}: {peer.absent or peer.versions}")
    return peer


def load(peers: Sequence[Peer], kind: str, size: dict[str, int]) -> tuple[int, dict[str, str]]:
    """Give all of them the same weights; return how many numbers that is, and who couldn't take them and why."""
    failed = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        weights = decoding_weights.random_weights(kind, size)
        decoding_weights.save(weights, path)
        for peer in peers:
            try:
                peer.ask("load", kind=kind, size=size, weights=str(path))
            except RuntimeError as error:
                failed[f"{peer.name}, {kind}"] = str(error)
                tell(str(error))
    return sum(value.size for value in weights.values()), failed


def measure(peers: Sequence[Peer], task: Task, rounds: int) -> dict[str, Measured]:
    """Seconds of each way in each round, and the tokens of the last one."""
    ids = np.random.default_rng(task.batch).integers(3, 900, (task.batch, task.prompt)).tolist()
    found = {peer.name: Measured() for peer in peers}
    for turn, peer in in_rounds(peers, rounds):
        one = found[peer.name]
        if one.failed:
            continue
        try:
            answer = peer.ask("run", token_ids=ids, beams=task.beams, new_tokens=task.new_tokens)
        except RuntimeError as error:
            one.failed = str(error)
            tell(one.failed)
            continue
        one.token_ids = answer["token_ids"]
        if turn:
            one.seconds.append(answer["seconds"])
            if "prompt_seconds" in answer:
                one.behind_prompt.append(answer["seconds"] - answer["prompt_seconds"])
    return found


def at_position(peers: Sequence[Peer], position: int, rounds: int) -> dict[str, Measured]:
    """Seconds of one token behind a prompt.

    A few new ones are timed, behind the prompt where the way can tell; else together with it, less the time of the
    prompt and one token, of which long prompts leave little that is certain.
    """
    one = measure(peers, Task(DECODER, 1, 1, position, 1), rounds)
    several = measure(peers, Task(DECODER, 1, 1, position, 1 + AT_POSITION), rounds)
    return {
        name: Measured(
            [seconds / AT_POSITION for seconds in several[name].behind_prompt]
            or [
                (more - less) / AT_POSITION
                for more, less in zip(several[name].seconds, one[name].seconds, strict=False)
                if not several[name].failed + one[name].failed
            ],
            failed=several[name].failed or one[name].failed,
        )
        for name in one
    }


def tell(line: str) -> None:
    """Say what is being done."""
    print(line, file=sys.stderr, flush=True)


def page(
    options: argparse.Namespace,
    plan: Plan,
    parameters: dict[str, int],
    results: Results,
    curve: Results,
    absent: dict[str, str],
    versions: dict[str, str],
) -> str:
    """The Markdown page."""
    machine = benchmark.machine() | versions
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plan.size.items())
    counted = ", ".join(f"{kind} {number:,}" for kind, number in parameters.items())
    lines = [
        "# How fast tokens come",
        f"Command: `{command_prefix()}python benchmarks/decode.py --torch-python PATH --ctranslate2-python PATH`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + f", threads {options.threads}",
        f"Sizes: {about} (the translator has so many layers on each side); weights: {counted}. {plan.rounds} rounds, "
        "interleaved. float32 unless the name says int8: there CTranslate2 computes in int8 with weights of the same, "
        "and ours is a LiteRT file with int8 weights. Ours is compiled by XLA, as `generation.load(path, "
        "jit_compile=True)` does, and so is KerasHub's where the name doesn't say no.",
        GOALS,
        "Absent: " + ("; ".join(f"{name} ({why})" for name, why in absent.items()) or "none") + ".",
        *(f"## {task.title}\n\n{table(task, found)}" for task, found in results.items()),
        "## The cost of one token at a position",
        f"Decoder, batch 1, greedy: milliseconds a token, mean over {AT_POSITION} tokens behind a prompt of so many; "
        f"median of {plan.curve_rounds} rounds. Growth: the exponent k between the last two positions, cost being "
        "position to the power of k; 1 would be linear.",
        curve_table(curve),
    ]
    return "\n\n".join(lines) + "\n"


def table(task: Task, found: dict[str, Measured]) -> str:
    """Tokens a second, and how many times as long as ours."""
    ours = found[OURS]
    rows = ["| way | tokens a second | spread | its time / ours | same texts as ours |", "|---|---:|---:|---:|---:|"]
    for name, one in found.items():
        if one.failed or not ours.seconds:
            rows.append(f"| {name} | {one.failed or 'not compared'} | | | |")
            continue
        speeds = [task.batch * task.new_tokens / seconds for seconds in one.seconds]
        same = sum(mine == theirs for mine, theirs in zip(ours.token_ids, one.token_ids, strict=True))
        rows.append(
            f"| {name} | {statistics.median(speeds):.0f} | {min(speeds):.0f} to {max(speeds):.0f} | "
            f"{ratio(one.seconds, ours.seconds)} | {same} of {task.batch}{agreement(ours, one, same < task.batch)} |"
        )
    return "\n".join(rows)


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Median and quartiles of the ratios of each round."""
    low, middle, high = statistics.quantiles(
        [a / b for a, b in zip(above, below, strict=True)], n=4, method="inclusive"
    )
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def agreement(ours: Measured, one: Measured, wanted: bool) -> str:
    """How long the texts are the same where they aren't to the end."""
    if not wanted:
        return ""
    agreeing = []
    for mine, theirs in zip(ours.token_ids, one.token_ids, strict=True):
        pairs = zip(mine, theirs, strict=False)
        agreeing.append(next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(mine), len(theirs))))
    return f", first {statistics.median(agreeing):g} tokens (median)"


def curve_table(curve: Results) -> str:
    """A row a way, a column a position."""
    positions = list(curve)
    names = list(curve[positions[0]])
    rows = [f"| way | {' | '.join(f'{at:,}' for at in positions)} | growth |", f"|---|{'---:|' * (len(positions) + 1)}"]
    for name in names:
        failed = next((curve[at][name].failed for at in positions if curve[at][name].failed), "")
        if failed:
            rows.append(f"| {name} | {failed} |{' |' * len(positions)}")
            continue
        costs = [1000 * statistics.median(curve[at][name].seconds) for at in positions]
        before, last = (max(cost, 1e-6) for cost in costs[-2:])
        growth = log(last / before) / log(positions[-1] / positions[-2])
        rows.append(f"| {name} | {' | '.join(f'{cost:.2f}' for cost in costs)} | {growth:.2f} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
