"""`keras-transformer distill`: a small model that learns from a large one."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from keras_transformer.cli.options import (
    SIZES,
    AsJson,
    BatchSize,
    DataFile,
    Epochs,
    LabelColumn,
    LearningRate,
    MaxLength,
    Minutes,
    Quiet,
    RunFolder,
    Seed,
    Size,
    TextColumn,
)
from keras_transformer.cli.output import working
from keras_transformer.cli.train import check_numbers, show_run


def distill(
    teacher: Annotated[
        Path,
        typer.Argument(
            metavar="TEACHER_DIR",
            help="run folder that `train` wrote",
            exists=True,
            file_okay=False,
            show_default=False,
        ),
    ],
    data: DataFile,
    out: RunFolder,
    unlabelled: Annotated[
        Path | None,
        typer.Option(
            "--unlabelled",
            exists=True,
            dir_okay=False,
            help="more texts, whose labels the teacher guesses (the same column of texts)",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        Literal["teacher", "none"] | None,
        typer.Option(
            "--init",
            help="what the student starts from: half of its teacher's layers, narrower; or nothing",
            show_default="teacher; none with --size",
        ),
    ] = None,
    size: Annotated[Size | None, typer.Option("--size", help=SIZES, show_default="tiny with --init none")] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    learning_rate: LearningRate = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small student on a teacher's answers; the same command again continues a run that was stopped."""
    check_numbers(learning_rate, minutes)
    with working(quiet):
        from keras_transformer.recipes import classify

        result = classify.distill(
            classify.DistillSettings(
                teacher=teacher,
                data=data,
                unlabelled=unlabelled,
                out=out,
                init=init,
                size=size,
                epochs=epochs,
                batch_size=batch_size,
                max_length=max_length,
                learning_rate=learning_rate,
                minutes=minutes,
                seed=seed,
                text_column=text_column,
                label_column=label_column,
                quiet=quiet,
            )
        )
    show_run(out, result, as_json)
