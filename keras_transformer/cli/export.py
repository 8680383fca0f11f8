"""`keras-transformer export`: a trained model as a file for phones or a folder for servers, proved to agree."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from keras_transformer.checks import UserError
from keras_transformer.cli.options import AsJson, Quiet, SomeDataFile, TextColumn
from keras_transformer.cli.output import print_facts, print_json, working
from keras_transformer.tasks import CLASSIFY

if TYPE_CHECKING:
    from keras_transformer.bundle import Bundle
    from keras_transformer.export import ExportReport

FEW_TEXTS = 50
Format = Literal["saved_model", "tflite"]
Quantize = Literal["none", "float16", "dynamic", "int8", "int16", "int4", "mixed"]


def export(
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="run folder that `train` or `distill` wrote", show_default=False),
    ],
    form: Annotated[
        Format,
        typer.Option("--format", help="tflite: one file for phones; saved_model: a folder for TensorFlow Serving"),
    ],
    out: Annotated[Path, typer.Option("--out", help="file (.tflite) or folder to write", show_default=False)],
    quantize: Annotated[
        Quantize | None,
        typer.Option(
            "--quantize",
            help="number format of a .tflite: dynamic has int8 weights (a classifier int8 attention too), int8 and "
            "int16 have activations of fixed ranges too, int4 has the smallest weights, mixed has int4 for those of a "
            "classifier's weights that can best do with it",
            show_default="dynamic",
        ),
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option("--max-bytes", min=1, help="of the file, for --quantize mixed", show_default=False),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            min=3,
            help="word pieces that there is room for; what writes takes less time and memory with fewer",
            show_default="what the model was trained on",
        ),
    ] = None,
    data: SomeDataFile = None,
    text_column: TextColumn = "text",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a trained model for phones or servers, reload it, and prove that it still gives the same answers.

    Beside a SavedModel lie SERVING.md, with the commands of TensorFlow Serving for this model, and its settings.

    Longer texts than --max-length are cut. What writes texts has so much room for a source and for its translation, or
    for a text and its continuation together, and each token costs the whole room.

    It is compared on texts of --data, or on those that the run folder keeps for that; what writes texts on 64 of them,
    token by token.
    """
    _check_place(out, form, quantize)
    _check_mixed(quantize, max_bytes)
    with working(quiet):
        from keras_transformer import bundle
        from keras_transformer.data.text import read_table
        from keras_transformer.export.requirements import length_of

        info = bundle.read(folder)
        length = length_of(max_length, info.manifest.max_length)
        examples = read_table(data, text_column, None).texts[: bundle.MOST_EXAMPLES] if data else info.examples
        if not examples:
            raise UserError(f"{folder}: keeps no texts to prove an export with. Give some with --data FILE.")
        if info.manifest.task == CLASSIFY:
            report = _write_classifier(
                bundle.load(folder), out, form, quantize or "dynamic", length, examples, max_bytes
            )
        elif quantize == "mixed":
            raise UserError(f"--quantize mixed: is for classifiers, and {folder} writes texts. Use --quantize int4.")
        else:
            report = _write_writer(bundle.load(folder), out, form, quantize or "dynamic", length, examples)
    if as_json:
        print_json(asdict(report))
    else:
        print_facts(report.path, _facts(report, len(examples)))


def _facts(report: "ExportReport", examples: int) -> dict[str, object]:
    from keras_transformer.export import WritingReport

    facts = {"bytes": report.bytes, "largest logit error": f"{report.max_abs_logit_error:.1e}"}
    if isinstance(report, WritingReport):
        same = f"{report.same_texts:.2%} of {_how_many(report.texts, report.format)}"
        return {**facts, "same token": f"{report.top1_agreement:.2%}", "same text": same}
    return {**facts, "same answer": f"{report.top1_agreement:.2%} of {_how_many(examples, report.format)}"}


def _how_many(texts: int, form: str) -> str:
    """Say of how many texts; an integer form is held to a share of them, and of few no small share can be seen."""
    few = form.endswith(("int8", "int16", "int4", "mixed")) and texts < FEW_TEXTS
    return f"{texts} texts (few texts prove little: give {FEW_TEXTS} or more with --data)" if few else f"{texts} texts"


def _write_classifier(
    loaded: "Bundle",
    out: Path,
    form: Format,
    quantize: Quantize,
    max_length: int,
    examples: list[str],
    max_bytes: int | None,
) -> "ExportReport":
    from keras_transformer import export as exports
    from keras_transformer.data.saved_tokenizers import word_pieces

    parts: dict[str, Any] = {
        "tokenizer": word_pieces(loaded.tokenizer, loaded.folder),
        "labels": loaded.labels,
        "max_length": max_length,
        "examples": examples,
    }
    if form == "saved_model":
        return exports.saved_model(loaded.model, out, **parts)
    return exports.tflite(loaded.model, out, quantize=quantize, max_bytes=max_bytes, **parts)


def _write_writer(
    loaded: "Bundle", out: Path, form: Format, quantize: Quantize, max_length: int, examples: list[str]
) -> "ExportReport":
    from keras_transformer import export as exports
    from keras_transformer.data.saved_tokenizers import reversible_pieces

    parts: dict[str, Any] = {
        "tokenizer": reversible_pieces(loaded.tokenizer, loaded.folder),
        "task": loaded.manifest.task,
        "max_length": max_length,
        "examples": examples,
    }
    if form == "saved_model":
        return exports.saved_model_writer(loaded.model, out, **parts)
    return exports.tflite_writer(loaded.model, out, quantize=quantize, **parts)


def _check_place(out: Path, form: Format, quantize: Quantize | None) -> None:
    """Refuse before minutes of work what would be refused after them."""
    if form == "tflite":
        if out.suffix != ".tflite":
            raise UserError(f"--out {out}: a TFLite file ends in .tflite. Use --out {out.with_suffix('.tflite')}.")
        if out.is_dir():
            raise UserError(f"--out {out}: is a folder, and a TFLite file is to be written. Give another name.")
        return
    if quantize is not None:
        raise UserError(f"--quantize {quantize}: is for --format tflite; a SavedModel is float32. Leave it out.")
    if out.suffix == ".tflite" or out.is_file():
        raise UserError(f"--out {out}: is the name of a file, and a SavedModel is a folder. Give another name.")
    if (out / "manifest.json").exists():
        raise UserError(f"--out {out}: is a run folder. Give the SavedModel a folder of its own.")


def _check_mixed(quantize: Quantize | None, max_bytes: int | None) -> None:
    """Refuse a mixture of which nothing is said, and a length that nothing is chosen by."""
    if quantize == "mixed" and max_bytes is None:
        raise UserError("--quantize mixed: needs --max-bytes, how long the file may be. Give for example 50000.")
    if quantize != "mixed" and max_bytes is not None:
        raise UserError(f"--max-bytes {max_bytes}: is for --quantize mixed alone. Add that, or leave it out.")
