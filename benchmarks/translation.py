"""English to German: ours beside PyTorch, then students of a quarter of the weights, with and without their teacher.

Command: python benchmarks/translation.py --torch-python PATH [SEED ...]  (default 0 1 2, of the students)
         python benchmarks/translation.py --quick --torch-python PATH       tiny, writes nothing: does it still run?
Needs:   pip install torch safetensors for the interpreter PATH, best in an environment of its own; without it PyTorch
         is reported as absent. Here sacrebleu (the extra `eval`).
Writes:  benchmarks/results/translation.md, out of saved_models/translation/results.json, which keeps what is done: a
         run that was stopped goes on with the next model.

The pairs are those of `english_german()`: whole groups of near-duplicates fall on one side, so that no test pair is
like one that was taught. One teacher, of the first seed, teaches the students of all seeds. PyTorch starts from our
initial weights and sees our batches in our order, with the same rates, number format and loss; its trained weights are
read back, and our decoder translates for both. What a step costs on both sides is `translator_steps.py`'s to say.
"""

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from peers.process import Peer
from peers.training_batches import how, write_batches
from safetensors.numpy import load_file, save_file
from seed_results import Column, SeedResults

from keras_transformer import benchmark, files
from keras_transformer.compression import inherit
from keras_transformer.data.catalog import english_german
from keras_transformer.data.pair_batches import PairBatches
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.data.text import Pairs
from keras_transformer.distillation import Distiller, LossTerm, soft_targets, true_labels
from keras_transformer.evaluation import evaluate_translations
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.generation import Decoding
from keras_transformer.generation.keras_writers import Translator
from keras_transformer.models import Seq2Seq
from keras_transformer.recipes import plan
from keras_transformer.recipes.fitting import Run, Schedule, fit
from keras_transformer.recipes.start import VOCAB_SIZE
from keras_transformer.recipes.token_fitting import WORD_LEVEL
from keras_transformer.recipes.token_start import INHERITED_FROM
from keras_transformer.recipes.translate import LABEL_SMOOTHING
from keras_transformer.training.precision import fastest_policy
from keras_transformer.training.token_losses import MaskedCrossEntropy
from keras_transformer.training.token_metrics import TokenAccuracy

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "translation.md"
KEPT = ROOT / "saved_models" / "translation"
TEACHER, PEER, BOTH = "teacher", "PyTorch", "word-level and sequence-level"
INHERITED, NARROW = "labels alone, inherited weights", "word-level, width 96"
SPEEDS = {BOTH: "tokens a second", NARROW: "tokens a second, width 96"}
"""Student -> what its speeds are kept as."""
BLEU, BEAM = Column("BLEU", "bleu", ".2f"), Column("BLEU, beam of 4", "beam_bleu", ".2f")
CHRF = Column("chrF", "chrf", ".2f")
WEIGHTS = Column("weights", "parameters", ",.0f")
GOALS = "Goals: BLEU within 0.5 of PyTorch's or better; of a student at least 95% of the teacher's "
GOALS += "BLEU (greedy), and at least 4 times its tokens a second."


@dataclass(frozen=True)
class Size:
    """A translator."""

    num_layers: int
    num_decoder_layers: int
    model_dim: int
    num_heads: int
    inner_dim: int


class Method(NamedTuple):
    """What a student learns from."""

    labels: bool  # the true translations
    sequences: bool  # the teacher's translations: Kim and Rush 2016, section 3.2
    words: bool  # the teacher's distribution at each token of them: section 3.1
    inherits: bool = True  # starts from the teacher's weights, narrowed: `compression.inherit`
    width: float = 1.0  # of the student, as a share of the others'


METHODS = {
    "labels alone": Method(True, False, False, inherits=False),
    INHERITED: Method(True, False, False),
    "word-level": Method(True, False, True),
    "sequence-level": Method(False, True, False),
    BOTH: Method(True, True, True),
    NARROW: Method(True, False, True, width=0.75),
}


@dataclass(frozen=True)
class Sizes:
    """The whole experiment."""

    teacher: Size = Size(3, 3, 256, 4, 1024)
    # Most of the time goes into the decoder, so that is where a student saves: Kasai et al. 2021.
    student: Size = Size(3, 1, 128, 4, 512)
    vocab_size: int = VOCAB_SIZE
    max_length: int = 32
    tokens: int = 2048  # of a batch, padding counted
    steps: int = 3000
    student_steps: int = 1500
    student_rate: float = 3e-3  # from random weights: learned more in 400 steps than 1e-3 and 6e-3 did
    inherited_rate: float = 1.5e-3  # from inherited ones: more in 300 steps than 3e-3 did
    beam: int = 4  # of the search whose results students learn from
    train_rows: int | None = None
    test_rows: int | None = None
    speed_rounds: int = 5
    force_ends: bool = False  # a teacher of three steps never ends a text

    def student_of(self, method: Method) -> Size:
        """The student that a method is for."""
        widths = {name: round(getattr(self.student, name) * method.width) for name in ("model_dim", "inner_dim")}
        return replace(self.student, **widths)


TINY = Size(1, 1, 16, 2, 32)
QUICK = Sizes(
    TINY,
    TINY,
    vocab_size=1000,
    max_length=24,
    tokens=512,
    steps=3,
    student_steps=2,
    beam=2,
    train_rows=256,
    test_rows=16,
    speed_rounds=2,
    force_ends=True,
)


class Bench:
    """The data, the vocabulary and the models of one seed."""

    def __init__(self, seed: int, sizes: Sizes, kept: Path) -> None:
        self.seed, self.sizes, self.kept = seed, sizes, kept
        kept.mkdir(parents=True, exist_ok=True)
        self.policy = fastest_policy()
        data = english_german()
        train = Pairs(data.train.sources[: sizes.train_rows], data.train.targets[: sizes.train_rows])
        self.tokenizer = ReversibleTokenizer.learn([*train.sources, *train.targets], sizes.vocab_size)
        self.sources, self.targets = self.fitting(train)[1:]
        kept_rows, self.test_ids, _ = self.fitting(data.test)
        self.all_tests, rows = len(data.test), kept_rows[: sizes.test_rows]
        self.test = Pairs([data.test.sources[row] for row in rows], [data.test.targets[row] for row in rows])

    def fitting(self, pairs: Pairs) -> tuple[list[int], list[list[int]], list[list[int]]]:
        """Row, source and target of each pair that has room."""
        most = self.sizes.max_length
        both = [self.tokenizer.encode(side, most + 1) for side in (pairs.sources, pairs.targets)]
        rows = [row for row in range(len(pairs)) if max(len(side[row]) for side in both) <= most]
        return rows, *([side[row] for row in rows] for side in both)

    def fresh(self, size: Size) -> Seq2Seq:
        """Random weights, as the recipe draws them."""
        keras.utils.set_random_seed(self.seed)
        return Seq2Seq(self.tokenizer.vocab_size, norm_first=True, dtype=self.policy, **asdict(size))

    def batches(self, sources: list[list[int]], targets: list[list[int]], schedule: Schedule) -> PairBatches:
        """Of about equal tokens."""
        ends = {"start_id": self.tokenizer.start_id, "end_id": self.tokenizer.end_id}
        return PairBatches(sources, targets, max_tokens=schedule.batch_size, seed=self.seed, **ends)

    def schedule(self, size: Size) -> Schedule:
        """The recipe's, with batches that leave time for more steps."""
        tokens = sum(map(len, self.sources)) + sum(map(len, self.targets))
        longest = 2 * self.sizes.max_length
        found = plan.token_schedule(plan.TRANSLATING, len(self.sources), tokens, size.model_dim, longest=longest)
        return replace(found, batch_size=self.sizes.tokens)

    def writer(self, model: Seq2Seq) -> Translator:
        """In float32, compiled."""
        return Translator(with_policy(model, "float32"), self.tokenizer, self.sizes.max_length, jit_compile=True)

    def scores(self, model: Seq2Seq) -> dict[str, float]:
        """What is kept of a trained model."""
        writer = self.writer(model)
        greedy = evaluate_translations(writer, self.test)
        beam = evaluate_translations(writer, self.test, Decoding(beam=4))
        return {
            "bleu": greedy.bleu,
            "chrf": greedy.chrf,
            "beam_bleu": beam.bleu,
            "parameters": model.count_params(),
            "pairs": len(self.sources),
            "tests": len(self.test),
            "all_tests": self.all_tests,
        }

    def file(self, name: str) -> Path:
        """Where a trained model is kept."""
        owner = TEACHER if name == TEACHER else f"{name.replace(' ', '_')}_{self.seed}"
        return self.kept / f"{owner}.keras"

    def save(self, name: str, model: Seq2Seq) -> None:
        """Keep a trained model."""
        with files.staged(self.file(name)) as staging:
            model.save(staging.with_suffix(".keras"))
            staging.with_suffix(".keras").replace(staging)

    def load(self, name: str) -> Seq2Seq:
        """A model that was kept."""
        if not self.file(name).exists():
            raise SystemExit(f"{self.file(name)} is missing: run `python benchmarks/translation.py` first.")
        return keras.models.load_model(self.file(name))


def train_teacher(bench: Bench) -> dict[str, float]:
    """The recipe, with a budget of steps."""
    size, steps = bench.sizes.teacher, bench.sizes.steps
    model, schedule = bench.fresh(size), bench.schedule(size)
    fit_labels(model, bench.batches(bench.sources, bench.targets, schedule), schedule, steps, bench.seed, TEACHER)
    bench.save(TEACHER, model)
    return bench.scores(model)


def fit_labels(model: Seq2Seq, batches: PairBatches, schedule: Schedule, steps: int, seed: int, title: str) -> None:
    """Train on the targets alone."""
    loss = MaskedCrossEntropy(LABEL_SMOOTHING)
    model.compile(schedule.optimizer(steps), loss, metrics=[TokenAccuracy()], jit_compile=False)
    fit(model, batches, schedule.epochs, title, Run(seed=seed), steps)


def train_peer(bench: Bench, peer: Peer) -> dict[str, float]:
    """PyTorch's model, from our first weights, on our batches."""
    size, steps = bench.sizes.teacher, bench.sizes.steps
    model, schedule = bench.fresh(size), bench.schedule(size)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{name}.safetensors") for name in ("weights", "trained", "batches")}
        names = {weight.path.removeprefix(f"{model.name}/"): weight for weight in model.weights}
        save_file({name: np.asarray(weight.numpy()) for name, weight in names.items()}, paths["weights"])
        write_batches(bench.batches(bench.sources, bench.targets, schedule), steps, Path(paths["batches"]))
        peer.ask(
            "train",
            size={"vocab_size": bench.tokenizer.vocab_size, **asdict(size)},
            dropout=model.dropout,
            seed=bench.seed,
            **paths,
            **how(schedule, steps, label_smoothing=LABEL_SMOOTHING, policy=bench.policy),
        )
        trained = load_file(paths["trained"])
    if trained.keys() != names.keys():
        raise ValueError(f"{peer.name} gave back other weights: {sorted(trained.keys() ^ names)}")
    for name, weight in names.items():
        weight.assign(trained[name])
    return bench.scores(model)


def teacher_pairs(bench: Bench) -> tuple[list[list[int]], list[list[int]]]:
    """The sources with what the teacher makes of them, but for what didn't come to an end."""
    path = bench.kept / "teacher_translations.json"
    if not path.exists():
        writer = bench.writer(bench.load(TEACHER))
        print(f"The teacher translates {len(bench.sources)} sources", file=sys.stderr, flush=True)
        files.write_json(path, writer.translate(bench.sources, Decoding(beam=bench.sizes.beam)))
    end_id, forced = bench.tokenizer.end_id, bench.sizes.force_ends
    translations = [[*ids[:-1], end_id] if forced else ids for ids in files.read_json(path)]
    pairs = zip(bench.sources, translations, strict=True)
    ended = [(source, target) for source, target in pairs if target[-1:] == [end_id]]
    return [source for source, _ in ended], [target for _, target in ended]


def train_student(bench: Bench, name: str) -> dict[str, float]:
    """A student by one method."""
    method, steps = METHODS[name], bench.sizes.student_steps
    size = bench.sizes.student_of(method)
    sources, targets = (bench.sources, bench.targets) if method.labels else ([], [])
    if method.sequences:
        more = teacher_pairs(bench)
        sources, targets = [*sources, *more[0]], [*targets, *more[1]]
    student = bench.fresh(size)
    rate = bench.sizes.inherited_rate if method.inherits else bench.sizes.student_rate
    schedule = replace(bench.schedule(size), learning_rate=rate)
    batches = bench.batches(sources, targets, schedule)
    if method.inherits:
        seen = itertools.islice(batches.batches(0), INHERITED_FROM)
        inherit(student, with_policy(bench.load(TEACHER), "float32"), [inputs for inputs, *_ in seen])
    if method.words:
        terms = [
            LossTerm("true_labels", 1.0 - WORD_LEVEL.weight, true_labels),
            LossTerm("soft_targets", WORD_LEVEL.weight, soft_targets(WORD_LEVEL.temperature)),
        ]
        distiller = Distiller(student, with_policy(bench.load(TEACHER), bench.policy), terms)
        distiller.compile(schedule.optimizer(steps), metrics=[TokenAccuracy()], jit_compile=False)
        fit(distiller, batches, schedule.epochs, name, Run(seed=bench.seed), steps)
    else:
        fit_labels(student, batches, schedule, steps, bench.seed, name)
    bench.save(name, student)
    return bench.scores(student)


def speeds(bench: Bench, student: str) -> dict[str, Any]:
    """Tokens a second, greedy, teacher and student in turns; and the ratio of each round."""
    writers = {name: bench.writer(bench.load(name)) for name in (TEACHER, student)}
    found: dict[str, Any] = {}
    for batch in (1, 64):
        sources = bench.test_ids[:64]
        rates: dict[str, list[float]] = {name: [] for name in writers}
        for turn in range(bench.sizes.speed_rounds + 1):
            for name in list(writers) if turn % 2 else list(writers)[::-1]:
                start, tokens = time.perf_counter(), 0
                for first in range(0, len(sources), batch):
                    written = writers[name].translate(sources[first : first + batch])
                    tokens += sum(map(len, written))
                if turn:
                    rates[name].append(tokens / (time.perf_counter() - start))
        times = [fast / slow for fast, slow in zip(rates[student], rates[TEACHER], strict=True)]
        found[str(batch)] = {TEACHER: rates[TEACHER], "student": rates[student], "times": times}
    return found


def main() -> None:
    """Train what isn't done yet, and write the page after each model."""
    options = arguments()
    sizes = QUICK if options.quick else Sizes(steps=options.steps, student_steps=options.student_steps)

    def write(results: SeedResults) -> None:
        if not options.quick and TEACHER in results.of(results.seeds[0]):
            RESULT.write_text(page(results, sizes), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if options.quick else KEPT
        results = SeedResults(kept / "results.json", repr(sizes), write)
        if any(TEACHER in results.of(seed) for seed in results.seeds if seed != str(options.seeds[0])):
            raise SystemExit(f"The teacher in {kept} is of another seed than {options.seeds[0]}. Name that one too.")
        for seed in options.seeds:
            run_seed(seed, sizes, kept, results, options.torch_python if seed == options.seeds[0] else None)
        write(results)
        print(page(results, sizes))


def run_seed(seed: int, sizes: Sizes, kept: Path, results: SeedResults, interpreter: str | None) -> None:
    """What is missing of one seed: with an interpreter of PyTorch's the teachers too."""
    made: list[Bench] = []

    def bench() -> Bench:
        made[:] = made or [Bench(seed, sizes, kept)]  # once, and only where something is missing
        return made[0]

    if interpreter is not None:
        results.complete(seed, TEACHER, lambda: train_teacher(bench()))
        run_peer(seed, bench, results, interpreter)
    for name in METHODS:
        results.complete(seed, name, lambda name=name: train_student(bench(), name))
    for name, kept_as in SPEEDS.items():
        results.complete(seed, kept_as, lambda name=name: speeds(bench(), name))


def run_peer(seed: int, bench: Callable[[], Bench], results: SeedResults, interpreter: str) -> None:
    """PyTorch's teacher, if it is missing."""
    if PEER in results.of(seed):
        return
    peer = Peer(PEER, interpreter, "training_translator", str(benchmark.machine()["cores"]))
    results.met(peer)
    if not peer.absent:
        results.complete(seed, PEER, lambda: train_peer(bench(), peer))
    peer.close()


def page(results: SeedResults, sizes: Sizes) -> str:
    """The Markdown page."""
    one = results.of(results.seeds[0])[TEACHER]
    lines = [
        "# English to German",
        f"Command: `python benchmarks/translation.py --torch-python PATH {' '.join(results.seeds)}`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        f"PyTorch: {results.peer}",
        f"{sizes}; numbers in {fastest_policy()}; {one['pairs']:,} training pairs; {one['tests']:,} of the "
        f"{one['all_tests']:,} test pairs, those of which neither text has more than {sizes.max_length} word pieces; "
        "no near-duplicate of them was taught (`english_german()` says what that means).",
        GOALS,
        "## The teacher, and PyTorch's",
        results.table((TEACHER, PEER), BLEU, (BEAM, CHRF), TEACHER),
        "## Students",
        "The first student begins with random weights, all others with the teacher's, narrowed "
        "(`compression.inherit`): what its words and sequences add is the difference from the second. The last is "
        "three quarters as wide as the others.",
        results.table((TEACHER, *METHODS), BLEU, (BEAM, CHRF, WEIGHTS), TEACHER),
        "## Tokens a second, greedy, compiled by XLA",
        speed_table(results),
    ]
    return "\n\n".join(lines) + "\n"


def speed_table(results: SeedResults) -> str:
    """Medians and spreads, over the rounds of all seeds together."""
    lines = ["| student | batch | teacher | student | times as fast |", "|---|---:|---:|---:|---:|"]
    for student, kept_as in SPEEDS.items():
        told = [results.of(seed)[kept_as] for seed in results.seeds if kept_as in results.of(seed)]
        for batch in told[0] if told else ():
            cells = []
            for key, form in ((TEACHER, ".0f"), ("student", ".0f"), ("times", ".2f")):
                values = [value for one in told for value in one[batch][key]]
                cells.append(f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})")
            lines.append(f"| {student} | {batch} | {' | '.join(cells)} |")
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="of the teacher and of PyTorch's")
    parser.add_argument("--student-steps", type=int, default=Sizes.student_steps, help="of each student")
    parser.add_argument("--quick", action="store_true", help="tiny, one seed; prints and writes nothing")
    options = parser.parse_args()
    options.seeds = options.seeds[:1] if options.quick else sorted(options.seeds)
    return options


if __name__ == "__main__":
    main()
