"""Every class of models in every format that it has: what the file loses, what it weighs, how long it takes.

Command: python benchmarks/parity_matrix.py [--classifier DIR] [--masked DIR] [--translator DIR] [--writer DIR]
         python benchmarks/parity_matrix.py --quick      tiny, a minute or two, writes nothing: does it still run?
Needs:   sacrebleu (pip install -e ".[eval]"); the built-in data, which are fetched once. Run folders that are not given
         are trained: --minutes for each, --size tiny; the masked language model for a number of steps.
Writes:  docs/parity.md; saved_models/parity/ has the trained run folders, which the next run takes, and the files.

A run folder must be one of the built-in data, whose test texts are what counts: film snippets, English to German, the
World English Bible. A masked language model is asked for a word of each film snippet. Each export compares what it
wrote with its Keras model on the texts that the run folder keeps. One that is over its limit, or that there isn't, is a
row with the reason.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import hidden_words
from scheduling import command_prefix

from keras_transformer import benchmark, bundle, export, generation, serving
from keras_transformer.checks import UserError
from keras_transformer.data.catalog import english_german, snippets, world_english_bible
from keras_transformer.data.text import Pairs, Table
from keras_transformer.evaluation import evaluate, evaluate_language, evaluate_translations, require_sacrebleu
from keras_transformer.export import ExportReport
from keras_transformer.recipes import classify, language_model, translate
from keras_transformer.tasks import CLASSIFY, LANGUAGE_MODEL, TRANSLATE

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "docs" / "parity.md"
KEPT = ROOT / "saved_models" / "parity"
SAVED_MODEL, KERAS = "saved_model", "keras"
FORMATS = (*export.QUANTIZATIONS, SAVED_MODEL)
TITLES = {
    KERAS: "Keras",
    "none": "TFLite float32",
    "float16": "TFLite float16",
    "dynamic": "TFLite int8 weights",
    "int8": "TFLite static int8",
    "int16": "TFLite int16 activations",
    "int4": "TFLite int4 weights",
    SAVED_MODEL: "SavedModel",
}
SHORT = 60  # characters of the texts that are timed: all forms read them whole


class Plan(NamedTuple):
    """How much of everything."""

    rows: int | None  # to train on; None = all there are
    tests: dict[str, int]  # class of models -> texts that the metric counts
    epochs: int | None
    hidden_steps: int  # of the masked language model
    timed: int  # texts
    rounds: int


CLASSIFIER, MASKED, TRANSLATOR, WRITER = "TextClassifier", "MaskedLM", "Seq2Seq", "CausalLM"
FULL = Plan(None, {CLASSIFIER: 2014, MASKED: 2014, TRANSLATOR: 300, WRITER: 40}, None, 3_000, 20, 5)
QUICK = Plan(400, {CLASSIFIER: 40, MASKED: 40, TRANSLATOR: 6, WRITER: 1}, 1, 3, 3, 1)


class Kind(NamedTuple):
    """A class of models, its data, and how it is measured."""

    task: str
    option: str
    metric: str
    recipe: Any | None  # the module that trains one; None = `hidden_words`


KINDS = {
    CLASSIFIER: Kind(CLASSIFY, "classifier", "accuracy", classify),
    MASKED: Kind(CLASSIFY, "masked", "hidden words found", None),
    TRANSLATOR: Kind(TRANSLATE, "translator", "BLEU", translate),
    WRITER: Kind(LANGUAGE_MODEL, "writer", "perplexity a token", language_model),
}


class Data(NamedTuple):
    """The built-in data of a class of models."""

    train: list[dict[str, str]]  # rows of a JSON Lines file
    test: Table | Pairs | list[str]
    timed: list[str]


@dataclass
class Row:
    """A model in one format; None = not measured."""

    form: str
    report: ExportReport | None = None
    path: Path | None = None
    metric: float | None = None
    bytes: int | None = None
    p50_ms: float | None = None
    refused: str = ""


class Matrix(NamedTuple):
    """A class of models in all formats."""

    manifest: bundle.Manifest
    rows: list[Row]
    tests: int  # texts that the metric counts


def main() -> None:
    """Train what isn't there, export, measure, write."""
    options = arguments()
    require_sacrebleu()
    plan = QUICK if options.quick else FULL
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) if options.quick else KEPT
        kept.mkdir(parents=True, exist_ok=True)
        found = {name: matrix(name, options, plan, kept) for name in KINDS}
    text = page(options, plan, found)
    print(text)
    if not options.quick:
        RESULT.write_text(text, encoding="utf-8")


def matrix(name: str, options: argparse.Namespace, plan: Plan, kept: Path) -> Matrix:
    """The rows of one class of models."""
    kind, data = KINDS[name], data_of(name, plan)
    folder = getattr(options, kind.option) or trained(name, data, options, plan, kept)
    loaded = bundle.load(folder, task=kind.task)
    if name == MASKED:
        data = data._replace(
            test=hidden_words.questions(data.test.texts, loaded.labels),
            timed=hidden_words.questions(data.timed, loaded.labels).texts,
        )
    rows = [Row(KERAS, path=folder, bytes=bundle.read(folder).bytes)]
    for form in FORMATS:
        tell(f"{name}: {TITLES[form]}")
        rows.append(exported(loaded, form, kept / "files" / name))
    there = [row for row in rows if row.path is not None]
    for row in there:
        row.metric = scored(kind.task, row.path, data.test)
    paths = {row.form: str(row.path) for row in there}
    times = latencies(paths, data.timed, plan.rounds)
    for row in there:
        row.p50_ms = times[row.form]
    return Matrix(loaded.manifest, rows, len(data.test))


def data_of(name: str, plan: Plan) -> Data:
    """What is trained on and what counts."""
    most = plan.tests[name]
    if name in (CLASSIFIER, MASKED):
        train, test, _ = snippets()
        rows = [{"text": text, "label": label} for text, label in zip(train.texts, train.labels or [], strict=True)]
        counted = Table(spread(test.texts, most), spread(test.labels or [], most))
        return Data(spread(rows, plan.rows), counted, short(test.texts, plan.timed))
    if name == TRANSLATOR:
        taught, _, test = english_german()
        rows = [{"source": one, "target": other} for one, other in zip(taught.sources, taught.targets, strict=True)]
        counted = Pairs(spread(test.sources, most), spread(test.targets, most))
        return Data(spread(rows, plan.rows), counted, short(test.sources, plan.timed))
    bible = world_english_bible()
    chapters = [{"text": text} for text in spread(bible.train, plan.rows and plan.rows // 10)]
    return Data(chapters, spread(bible.test, most), [text[:SHORT] for text in spread(bible.test, plan.timed)])


def spread(rows: Sequence[Any], most: int | None) -> list[Any]:
    """`most` of the rows, spread over all of them, since neighbours are alike; None = all."""
    wanted = len(rows) if most is None else min(most, len(rows))
    return [rows[place * len(rows) // wanted] for place in range(wanted)]


def short(texts: Sequence[str], most: int) -> list[str]:
    """Texts that every model reads whole."""
    return spread([text for text in texts if len(text) <= SHORT], most)


def trained(name: str, data: Data, options: argparse.Namespace, plan: Plan, kept: Path) -> Path:
    """The run folder that an earlier run left, or a new one."""
    kind, out = KINDS[name], kept / KINDS[name].option
    if (out / bundle.MANIFEST).is_file():
        return out
    if kind.recipe is None:
        texts = [row["text"] for row in data.train]
        hidden_words.train(texts, out, plan.hidden_steps, quiet=options.quick)
        return out
    table = kept / f"{kind.option}.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in data.train), encoding="utf-8")
    kind.recipe.train(
        kind.recipe.TrainSettings(
            data=table,
            out=out,
            size=options.size,
            minutes=None if options.quick else options.minutes,
            epochs=plan.epochs,
            quiet=options.quick,
        )
    )
    return out


def exported(loaded: bundle.Bundle, form: str, place: Path) -> Row:
    """One format, or why there is none."""
    place.mkdir(parents=True, exist_ok=True)
    known = {
        "tokenizer": loaded.tokenizer,
        "max_length": loaded.manifest.max_length,
        "examples": loaded.examples,
        "task": loaded.manifest.task,
    }
    if loaded.manifest.task == CLASSIFY:
        write, write_folder = export.tflite, export.saved_model
        known["labels"] = loaded.labels
    else:
        write, write_folder = export.tflite_writer, export.saved_model_writer
    try:
        if form == SAVED_MODEL:
            report = write_folder(loaded.model, place / "serving", **known)
        else:
            report = write(loaded.model, place / f"{form}.tflite", quantize=form, **known)
    except (UserError, ValueError) as error:
        return Row(form, refused=" ".join(str(error).replace(f"{place}/", "").split()))
    return Row(form, report, Path(report.path), bytes=report.bytes)


def scored(task: str, path: Path, test: Any) -> float:
    """The task's metric of a model in any form."""
    if task == CLASSIFY:
        return evaluate(serving.load_classifier(path), test).accuracy
    writer = generation.load(path)
    if task == TRANSLATE:
        return evaluate_translations(writer, test).bleu
    return evaluate_language(writer, test).perplexity or float("inf")


def latencies(paths: dict[str, str], texts: Sequence[str], rounds: int) -> dict[str, float]:
    """Median milliseconds of one text, all forms in turn, in a process with one thread."""
    return {name: one.p50_ms for name, one in benchmark.in_one_thread(paths, texts, rounds).items()}


def tell(line: str) -> None:
    """Say what is being done."""
    print(line, file=sys.stderr, flush=True)


def page(options: argparse.Namespace, plan: Plan, found: dict[str, Matrix]) -> str:
    """The Markdown page."""
    given = "".join(
        f" --{kind.option} {getattr(options, kind.option)}" for kind in KINDS.values() if getattr(options, kind.option)
    )
    lines = [
        "# Every format against its Keras model",
        f"Generated by `{command_prefix()}python benchmarks/parity_matrix.py{given}`; don't edit.",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in benchmark.machine().items()),
        "Logits and likeliest class or token are those of the file, reloaded, against the Keras model's on texts that "
        "the run folder keeps; of what writes, token by token, each after Keras' own tokens. p50: one text at batch 1 "
        f"in one thread, all forms in turn, {plan.rounds} rounds over {plan.timed} texts of up to {SHORT} characters, "
        f"tokenising included; of what writes, greedy and to its end. Flex: TensorFlow operators "
        "that a phone would need; a SavedModel is made of them.",
        *(section(name, matrix) for name, matrix in found.items()),
    ]
    return "\n\n".join(lines) + "\n"


def section(name: str, found: Matrix) -> str:
    """One class of models."""
    kind, manifest = KINDS[name], found.manifest
    table = [
        f"| format | largest logit error | same likeliest | {kind.metric} | bytes | p50, ms | Flex |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *map(line, found.rows),
    ]
    refused = [f"- {TITLES[row.form]}: {row.refused}" for row in found.rows if row.refused]
    about = (
        f"{manifest.parameters:,} weights, texts of up to {manifest.max_length} word pieces; {kind.metric} on "
        f"{found.tests:,} test texts. Trained by `{manifest.command.replace(f'{ROOT}/', '')}`."
    )
    return "\n\n".join([f"## {name}", about, "\n".join(table), *(["\n".join(refused)] if refused else [])])


def line(row: Row) -> str:
    """One row of a table."""
    if row.refused:
        return f"| {TITLES[row.form]} | not written: see below | | | | | |"
    error, agreement, flex = "", "", ""
    if row.report is not None:
        error, agreement = f"{row.report.max_abs_logit_error:.1e}", f"{row.report.top1_agreement:.2%}"
        operators = sum(name.startswith("Flex") for name in row.report.operators)
        flex = "" if row.form == SAVED_MODEL else str(operators)
    return (
        f"| {TITLES[row.form]} | {error} | {agreement} | {row.metric:.4g} | {row.bytes:,} | {row.p50_ms:.3g} | {flex} |"
    )


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, kind in KINDS.items():
        parser.add_argument(f"--{kind.option}", type=Path, help=f"run folder of a {name}; else one is trained")
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each model")
    parser.add_argument("--size", default="tiny", choices=["tiny", "small", "base"], help="of what is trained")
    parser.add_argument("--quick", action="store_true", help="tiny, few texts; prints and writes nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
