"""`keras-transformer compress`: the smallest, fastest file within a budget that keeps the accuracy asked for."""

from pathlib import Path
from typing import Annotated

import typer

from keras_transformer.checks import UserError
from keras_transformer.cli.options import AsJson, DataFile, Epochs, LabelColumn, Quiet, Seed, TextColumn
from keras_transformer.cli.output import print_facts, print_json, working


def compress(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="TEACHER_DIR",
            help="run folder of a classifier that `train` wrote",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    data: DataFile,
    out: Annotated[Path, typer.Option("--out", help="folder to write", file_okay=False, show_default=False)],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="4MB,5ms",
            help="the most that the file may cost: bytes (KB, MB, MiB), and ms of one text in one thread or so many "
            "times (20x) faster than the teacher as a Keras graph",
            show_default="a tenth of the teacher's weights in float32",
        ),
    ] = None,
    min_accuracy: Annotated[
        str,
        typer.Option(
            "--min-accuracy", metavar="0.97x", help="accuracy to keep: of the teacher's (0.97x), or of the texts (0.85)"
        ),
    ] = "0.97x",
    test: Annotated[
        Path | None,
        typer.Option(
            "--test",
            exists=True,
            dir_okay=False,
            help="labelled texts that only measure; needed if the teacher has learned from all of --data",
            show_default="a tenth of --data",
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            "--unlabelled",
            exists=True,
            dir_okay=False,
            help="more texts to learn from, whose labels are the teacher's alone",
            show_default=False,
        ),
    ] = None,
    quantize: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize", help="number formats to choose from; may be given several times", show_default="dynamic, int8"
        ),
    ] = None,
    latency_table: Annotated[
        Path | None,
        typer.Option(
            "--latency-table",
            exists=True,
            dir_okay=False,
            help="CSV of file,ms measured on your phone, by the names in search.json (and `teacher`)",
            show_default="measured on this machine",
        ),
    ] = None,
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="shapes that learn for a short while, to be compared")
    ] = 4,
    epochs: Epochs = None,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Find the smallest .tflite file within a budget that keeps the accuracy; the same command again goes on.

    Layers, heads, feed-forward units, width, ranks, vocabulary and number format are chosen: first by what each cut
    alone does to the teacher's answers, then by short lessons from the teacher, of those that fit as written and timed.
    The best learn in full. The folder gets model.tflite, the student's run folder, search.json, report.md and
    pareto.png. Where not all wishes can be had together, the nearest file is written, and the exit code is 2.
    """
    with working(quiet):
        from keras_transformer.budget_search.settings import DEFAULT_FORMS, SearchSettings
        from keras_transformer.budget_search.wishes import Budget, LeastAccuracy

        settings = SearchSettings(
            teacher=teacher,
            data=data,
            out=out,
            budget=Budget() if budget is None else Budget.parse(budget),
            min_accuracy=LeastAccuracy.parse(min_accuracy),
            test=test,
            unlabelled=unlabelled,
            latency_table=latency_table,
            forms=tuple(quantize or DEFAULT_FORMS),
            candidates=candidates,
            epochs=epochs,
            seed=seed,
            text_column=text_column,
            label_column=label_column,
            quiet=quiet,
        )
        from keras_transformer.budget_search import search

        result = search.compress(settings)
    if as_json:
        print_json(result)
    else:
        print_facts(str(out), {name: value for name, value in result.items() if name not in ("folder", "instead")})
    if not result["met"]:
        raise UserError(f"{out}: {result['instead']}")
