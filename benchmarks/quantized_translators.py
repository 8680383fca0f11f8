"""Do small numbers harm a translator? BLEU of each `.tflite` format on held-out pairs, beside Keras in float32.

Command: python benchmarks/quantized_translators.py        (5 minutes; a quiet machine for the times)
         python benchmarks/quantized_translators.py --quick    few texts and formats, writes nothing: does it still run?
Needs:   sacrebleu (pip install -e ".[eval]"), and the models that `translation.py` keeps in saved_models/translation:
         run it first.
Writes:  benchmarks/results/quantized_translators.md

The files are those of `export.tflite_writer`, proved on training pairs. Two sources, two translations: how many
different texts come out is counted too, since a file that lost its source would write one.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from parity_matrix import TITLES
from scheduling import command_prefix
from translation import BOTH, KEPT, TEACHER, Bench, Sizes

from keras_transformer import benchmark, generation
from keras_transformer.checks import UserError
from keras_transformer.data.catalog import english_german
from keras_transformer.data.text import Pairs
from keras_transformer.evaluation import require_sacrebleu
from keras_transformer.export import QUANTIZATIONS, tflite_writer
from keras_transformer.generation import Writer
from keras_transformer.scores import translation_scores
from keras_transformer.tasks import TRANSLATE

RESULT = Path(__file__).parent / "results" / "quantized_translators.md"
QUICK = ("dynamic",)
EXAMPLES = 64  # training pairs that the export is proved and calibrated with
SEED = 0
GOAL = "Goal: int8 within 0.5 BLEU of float32, and different translations of different sources."


class Row(NamedTuple):
    """One form of a translator."""

    title: str
    bleu: float
    chrf: float
    texts: list[str]
    seconds: float
    bytes: int | None = None
    agreement: float | None = None  # of tokens, on the examples
    refused: str = ""


def main() -> None:
    """Export, translate, write the page."""
    options = arguments()
    require_sacrebleu()
    bench = Bench(SEED, Sizes(test_rows=12 if options.quick else None), KEPT)
    sections = []
    for name in (TEACHER, BOTH):
        rows = forms(bench, name, QUICK if options.quick else QUANTIZATIONS)
        sections += [f"## {name}", table(rows)]
        sections += [f"{row.title} refused: {row.refused}" for row in rows if row.refused]
    lines = [
        "# Translators in small numbers",
        f"Command: `{command_prefix()}python benchmarks/quantized_translators.py`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        f"The teacher, and the student on words and sequences, of seed {SEED} of [`translation.md`](translation.md); "
        f"{len(bench.test):,} test pairs, greedy, one text at a time in the files, in batches in Keras. Agreement: of "
        f"the tokens, on {EXAMPLES} training pairs, as `export` asks for.",
        GOAL,
        *sections,
    ]
    text = "\n\n".join(lines) + "\n"
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def forms(bench: Bench, name: str, formats: tuple[str, ...]) -> list[Row]:
    """Keras, then each format."""
    sources = english_german().train.sources
    model, examples = bench.load(name), sources[:: len(sources) // EXAMPLES][:EXAMPLES]
    rows = [translated("Keras", bench.writer(model), bench.test)]
    with tempfile.TemporaryDirectory() as folder:
        for quantize in formats:
            path = Path(folder) / f"{quantize}.tflite"
            try:
                report = tflite_writer(
                    model,
                    path,
                    tokenizer=bench.tokenizer,
                    task=TRANSLATE,
                    max_length=bench.sizes.max_length,
                    examples=examples,
                    quantize=quantize,
                )
            except (UserError, ValueError) as error:
                rows.append(Row(TITLES[quantize], 0.0, 0.0, [], 0.0, refused=str(error).removeprefix(f"{path}: ")))
                continue
            row = translated(TITLES[quantize], generation.load(path), bench.test)
            rows.append(row._replace(bytes=report.bytes, agreement=report.top1_agreement))
            print(rows[-1]._replace(texts=[]), flush=True)
    return rows


def translated(title: str, writer: Writer, test: Pairs) -> Row:
    """The scores of a writer, and how long it took."""
    start = time.perf_counter()
    texts = writer.write(test.sources)
    seconds = time.perf_counter() - start
    scores = translation_scores(texts, test.targets)
    return Row(title, scores.bleu, scores.chrf, texts, seconds)


def table(rows: list[Row]) -> str:
    """A row a form."""
    first = rows[0]
    head = "| form | MB | BLEU | less than Keras | chrF | same texts as Keras | different texts | tokens agree | s |"
    lines = [head, "|---|" + "---:|" * 8]
    for row in rows:
        if row.refused:
            lines.append(f"| {row.title} | refused |" + " |" * 7)
            continue
        same = sum(mine == theirs for mine, theirs in zip(row.texts, first.texts, strict=True))
        size = "" if row.bytes is None else f"{row.bytes / 1e6:.2f}"
        agreement = "" if row.agreement is None else f"{row.agreement:.1%}"
        lines.append(
            f"| {row.title} | {size} | {row.bleu:.2f} | {first.bleu - row.bleu:+.2f} | {row.chrf:.2f} | "
            f"{same / len(row.texts):.1%} | {len(set(row.texts)):,} | {agreement} | {row.seconds:.0f} |"
        )
    return "\n".join(lines)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few texts, one format; prints and writes nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
