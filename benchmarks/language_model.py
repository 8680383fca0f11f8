"""A language model of GPT-2's layout: ours beside Hugging Face's in PyTorch, on chapters that neither has seen.

Command: python benchmarks/language_model.py --torch-python PATH [SEED ...]    (default 0 1 2)
         python benchmarks/language_model.py --quick --torch-python PATH     tiny, writes nothing: does it still run?
Needs:   pip install torch transformers safetensors for the interpreter PATH, best in an environment of its own; without
         them PyTorch is reported as absent
Writes:  benchmarks/results/language_model.md, out of saved_models/language_model/results.json, which keeps what is
         done: a run that was stopped goes on with the next model.

The texts are the chapters of `world_english_bible()`, whose test chapters have no verse that was taught. Hugging Face's
GPT2LMHeadModel starts from our initial weights, exchanged in its own layout, and sees our batches in our order, with
the same rates, number format and loss; its trained weights are read back, and one function scores both.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import keras
from peers.process import Peer
from peers.training_batches import how, write_batches
from seed_results import Column, SeedResults

from keras_transformer import benchmark
from keras_transformer.data.catalog import world_english_bible
from keras_transformer.data.continuations import WHOLE
from keras_transformer.data.packing import PackedBatches
from keras_transformer.data.reversible_tokenizer import ReversibleTokenizer
from keras_transformer.evaluation import evaluate_language
from keras_transformer.export.keras_runner import with_policy
from keras_transformer.generation.keras_writers import Continuer
from keras_transformer.models import SMALL, CausalLM, TransformerSize
from keras_transformer.pretrained import gpt2
from keras_transformer.recipes import plan
from keras_transformer.recipes.fitting import Run, Schedule, fit
from keras_transformer.recipes.start import VOCAB_SIZE
from keras_transformer.training.precision import fastest_policy
from keras_transformer.training.token_losses import MaskedCrossEntropy
from keras_transformer.training.token_metrics import TokenAccuracy

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "language_model.md"
KEPT = ROOT / "saved_models" / "language_model"
OURS, PEER = "ours", "PyTorch"
WORD = Column("perplexity a word", "perplexity_word", ".1f")
REST = (
    Column("a byte", "perplexity_byte", ".4f"),
    Column("bits a byte", "bits_per_byte", ".4f"),
    Column("a token", "perplexity", ".2f"),
    Column("weights", "parameters", ",.0f"),
)


@dataclass(frozen=True)
class Sizes:
    """The whole experiment."""

    model: TransformerSize = SMALL
    vocab_size: int = VOCAB_SIZE
    max_length: int = 256
    steps: int = 700
    train_chapters: int | None = None
    test_chapters: int | None = None


QUICK = Sizes(TransformerSize(1, 16, 2, 32), 1000, 32, 3, 20, 3)


class Bench:
    """The data, the vocabulary and the models of one seed."""

    def __init__(self, seed: int, sizes: Sizes) -> None:
        self.seed, self.sizes, self.policy = seed, sizes, fastest_policy()
        data = world_english_bible()
        train, self.test = data.train[: sizes.train_chapters], data.test[: sizes.test_chapters]
        self.tokenizer = ReversibleTokenizer.learn(train, sizes.vocab_size)
        self.ids = [ids[:-1] for ids in self.tokenizer.encode(train, WHOLE)]
        self.tokens = sum(len(ids) + 1 for ids in self.ids)

    def fresh(self) -> CausalLM:
        """Random weights, as the recipe draws them."""
        keras.utils.set_random_seed(self.seed)
        size, length = asdict(self.sizes.model), self.sizes.max_length
        return CausalLM(self.tokenizer.vocab_size, max_length=length, dtype=self.policy, **size)

    def schedule(self) -> Schedule:
        """The recipe's."""
        model, length = self.sizes.model, self.sizes.max_length
        return plan.token_schedule(plan.CONTINUING, len(self.ids), self.tokens, model.model_dim, longest=length)

    def batches(self, schedule: Schedule) -> PackedBatches:
        """Rows of one length."""
        length = self.sizes.max_length
        rows = schedule.batch_size // length
        return PackedBatches(self.ids, length=length, batch_size=rows, end_id=self.tokenizer.end_id, seed=self.seed)

    def scores(self, model: CausalLM) -> dict[str, float]:
        """What is kept of a trained model."""
        writer = Continuer(with_policy(model, "float32"), self.tokenizer, self.sizes.max_length)
        found = evaluate_language(writer, self.test)._asdict()
        return found | {"parameters": model.count_params(), "tokens": self.tokens}


def train_ours(bench: Bench) -> dict[str, float]:
    """The recipe, with a budget of steps."""
    model, schedule, steps = bench.fresh(), bench.schedule(), bench.sizes.steps
    model.compile(schedule.optimizer(steps), MaskedCrossEntropy(), metrics=[TokenAccuracy()], jit_compile=False)
    fit(model, bench.batches(schedule), schedule.epochs, OURS, Run(seed=bench.seed), steps)
    return bench.scores(model)


def train_peer(bench: Bench, peer: Peer) -> dict[str, float]:
    """Hugging Face's model, from our first weights, on our batches."""
    model, schedule, steps = bench.fresh(), bench.schedule(), bench.sizes.steps
    with tempfile.TemporaryDirectory() as folder:
        weights, trained, batches = (Path(folder) / name for name in ("weights", "trained", "batches.safetensors"))
        gpt2.save(model, weights)
        write_batches(bench.batches(schedule), steps, batches)
        paths = {"weights": str(weights), "trained": str(trained), "batches": str(batches)}
        given = how(schedule, steps, label_smoothing=0.0, policy=bench.policy)
        peer.ask("train", seed=bench.seed, **paths, **given)
        gpt2.load_weights(model, trained)
    return bench.scores(model)


def main() -> None:
    """Train what isn't done yet, and write the page after each model."""
    options = arguments()
    sizes = QUICK if options.quick else Sizes(steps=options.steps)

    def write(results: SeedResults) -> None:
        if not options.quick:
            RESULT.write_text(page(results, sizes), encoding="utf-8")

    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if options.quick else KEPT
        kept.mkdir(parents=True, exist_ok=True)
        results = SeedResults(kept / "results.json", repr(sizes), write)
        for seed in options.seeds:
            if {OURS, PEER} <= results.of(seed).keys():
                continue
            bench = Bench(seed, sizes)
            results.complete(seed, OURS, lambda bench=bench: train_ours(bench))
            peer = Peer(PEER, options.torch_python, "training_gpt2", str(benchmark.machine()["cores"]))
            results.met(peer)
            if not peer.absent:
                results.complete(seed, PEER, lambda bench=bench, peer=peer: train_peer(bench, peer))
            peer.close()
        print(page(results, sizes))


def page(results: SeedResults, sizes: Sizes) -> str:
    """The Markdown page."""
    one = results.of(results.seeds[0])[OURS]
    lines = [
        "# A language model of GPT-2's layout",
        f"Command: `python benchmarks/language_model.py --torch-python PATH --steps {sizes.steps} "
        f"{' '.join(results.seeds)}`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        f"PyTorch: {results.peer}",
        f"{sizes}; numbers in {fastest_policy()}; {one['tokens']:,} training tokens, {one['n']} test chapters, each "
        "read from its beginning. Lower is better: a perplexity of 1 is certainty.",
        results.table((OURS, PEER), WORD, REST, OURS),
    ]
    return "\n\n".join(lines) + "\n"


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter that has PyTorch")
    parser.add_argument("--steps", type=int, default=Sizes.steps, help="of each model")
    parser.add_argument("--quick", action="store_true", help="tiny, one seed; prints and writes nothing")
    options = parser.parse_args()
    options.seeds = options.seeds[:1] if options.quick else options.seeds
    return options


if __name__ == "__main__":
    main()
