"""What speculative decoding gains: a translator whose student proposes, beside the same translator alone.

Command: python benchmarks/speculative.py        (the machine must do nothing else; 5 minutes)
         python benchmarks/speculative.py --quick    few texts, writes nothing: does it still run?
Needs:   the models that `translation.py` keeps in saved_models/translation: run it first.
Writes:  benchmarks/results/speculative.md

Batch 1, greedy, compiled by XLA, in float32. The ways take turns, text by text, in rotating order; a first round
compiles and isn't counted. Each answer of a pair of models is compared with the teacher's own.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from peers.process import in_rounds, timed
from scheduling import command_prefix
from translation import KEPT, METHODS, TEACHER, Bench, Sizes

from keras_transformer import benchmark
from keras_transformer.models import Seq2Seq
from keras_transformer.models.decoding import greedy, speculative

RESULT = Path(__file__).parent / "results" / "speculative.md"
ALONE = "the teacher alone"
DRAFTED = (1, 2, 3, 4, 6)
SEED = 0
LENGTH = 32  # of each source, padded: one graph for all
Write = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""Source ids (1, S) -> new token ids (1, T), and how often the teacher was asked for them."""


class Plan(NamedTuple):
    """How much of everything."""

    texts: int
    rounds: int
    drafted: Sequence[int]


FULL, QUICK = Plan(64, 5, DRAFTED), Plan(2, 2, (3,))


class Way(NamedTuple):
    """One way to write, and what it did."""

    title: str
    write: Write
    seconds: list[float]  # of all texts, a round
    calls: list[int]  # a text
    token_ids: list[list[int]]  # a text


def main() -> None:
    """Measure and write the page."""
    options = arguments()
    plan = QUICK if options.quick else FULL
    bench = Bench(SEED, Sizes(), KEPT)
    teacher, draft = bench.load(TEACHER), bench.load(options.draft)
    ways = [Way(ALONE, alone(bench, teacher), [], [], [])]
    for drafted in plan.drafted:
        write = together(bench, teacher, draft, drafted)
        ways.append(Way(f"{drafted} proposed at a time", write, [], [], []))
    places = np.linspace(0, len(bench.test_ids) - 1, plan.texts).astype(int)
    measure(ways, [bench.test_ids[place] for place in places], bench.tokenizer.end_id, plan.rounds)
    lines = [
        "# Speculative decoding",
        f"Command: `{command_prefix()}python benchmarks/speculative.py`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        f"The teacher ({teacher.count_params():,} weights) and its student, {options.draft!r} "
        f"({draft.count_params():,}), of seed {SEED} of [`translation.md`](translation.md); {plan.texts} test sources, "
        f"one at a time, greedy, float32, compiled by XLA; {plan.rounds} rounds, interleaved.",
        table(ways),
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def alone(bench: Bench, teacher: Seq2Seq) -> Write:
    """Greedy decoding of the teacher."""
    ends, most = bench.tokenizer, bench.sizes.max_length

    def write(source_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        prompted = teacher.prompt(source_ids, most, ends.start_id)
        token_ids = greedy(teacher.step, prompted, end_id=ends.end_id, max_tokens=most).token_ids
        return token_ids, tf.reduce_sum(tf.cast(token_ids != 0, tf.int32)) - 1  # the prompt foresees the first

    return compiled(write)


def together(bench: Bench, teacher: Seq2Seq, draft: Seq2Seq, drafted: int) -> Write:
    """The student proposes, the teacher decides."""
    ends, most = bench.tokenizer, bench.sizes.max_length
    room = most + drafted + 1

    def write(source_ids: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        found = speculative(
            draft.step,
            draft.prompt(source_ids, room, ends.start_id),
            teacher.extend,
            teacher.prompt(source_ids, room, ends.start_id),
            end_id=ends.end_id,
            max_tokens=most,
            num_drafted=drafted,
        )
        return found.decoded.token_ids, found.target_calls

    return compiled(write)


def compiled(write: Write) -> Write:
    """One graph for all sources."""
    signature = [tf.TensorSpec((1, LENGTH), tf.int32)]
    return tf.function(write, input_signature=signature, autograph=False, jit_compile=True)


def measure(ways: Sequence[Way], sources: Sequence[Sequence[int]], end_id: int, rounds: int) -> None:
    """Fill in what each way did."""
    padded = [tf.constant([[*ids, *[0] * (LENGTH - len(ids))]], tf.int32) for ids in sources]
    for turn, way in in_rounds(ways, rounds):
        seconds, answers = timed(lambda way=way: [[part.numpy() for part in way.write(ids)] for ids in padded])
        if turn:
            way.seconds.append(seconds)
        way.calls[:] = [int(calls) for _, calls in answers]
        way.token_ids[:] = [ids[ids != 0].tolist() for ids, _ in answers]


def table(ways: Sequence[Way]) -> str:
    """A row a way."""
    first = ways[0]
    tokens = sum(map(len, first.token_ids))
    head = "| way | tokens a second | times as fast | tokens a call of the teacher | same texts as the teacher |"
    lines = [head, "|---|---:|---:|---:|---:|"]
    for way in ways:
        times = [base / mine for base, mine in zip(first.seconds, way.seconds, strict=True)]
        speed = statistics.median(tokens / seconds for seconds in way.seconds)
        same = sum(mine == theirs for mine, theirs in zip(way.token_ids, first.token_ids, strict=True))
        lines.append(
            f"| {way.title} | {speed:.0f} | {statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f}) | "
            f"{tokens / sum(way.calls):.2f} | {same} of {len(first.token_ids)} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [name for name in METHODS if METHODS[name].inherits]
    parser.add_argument("--draft", choices=names, default="word-level", help="how the student learned")
    parser.add_argument("--quick", action="store_true", help="few texts; prints and writes nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
