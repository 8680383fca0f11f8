"""`keras-transformer distill`: a small model that learns from a large one."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from keras_transformer.checks import UserError
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
    SourceColumn,
    TargetColumn,
    TextColumn,
)
from keras_transformer.cli.output import working
from keras_transformer.cli.train import check_numbers, show_run
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE


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
            help="more texts, whose labels or translations are the teacher's alone (the same column of texts)",
            show_default=False,
        ),
    ] = None,
    init: Annotated[
        Literal["teacher", "none"] | None,
        typer.Option(
            "--init",
            help="what a classifier starts from: half of its teacher's layers, narrower; or nothing, as other students",
            show_default="teacher; none with --size",
        ),
    ] = None,
    size: Annotated[
        Size | None,
        typer.Option(
            "--size",
            help=SIZES,
            show_default="of a classifier tiny with --init none; of others half the teacher's layers and width",
        ),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            "--beam",
            min=0,
            help="width of the search by which a translator writes what its student learns beside the true "
            "translations; 1 is greedy, which costs least; 0 = the true ones alone, word by word",
            show_default="1",
        ),
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    max_length: MaxLength = None,
    learning_rate: LearningRate = None,
    minutes: Minutes = None,
    seed: Seed = 0,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train a small student on a teacher's answers; the same command again continues a run that was stopped.

    A classifier's student learns its logits. A translator's student learns, word by word, its teacher's distribution,
    on true translations and on those that the teacher writes first (see --beam). A language model's student learns the
    distribution at each word piece of --data.
    """
    check_numbers(learning_rate, minutes)
    given: dict[str, Any] = {
        "teacher": teacher,
        "data": data,
        "out": out,
        "init": init,
        "size": size,
        "epochs": epochs,
        "batch_size": batch_size,
        "max_length": max_length,
        "learning_rate": learning_rate,
        "minutes": minutes,
        "seed": seed,
        "quiet": quiet,
    }
    with working(quiet):
        from keras_transformer import bundle

        task = bundle.read(teacher).manifest.task
        _refuse_options(task, beam, unlabelled)
        if task == TRANSLATE:
            from keras_transformer.recipes import translate

            given |= {"source_column": source_column, "target_column": target_column, "beam": beam}
            result = translate.distill(translate.DistillSettings(**given, unlabelled=unlabelled))
        elif task == LANGUAGE_MODEL:
            from keras_transformer.recipes import language_model

            result = language_model.distill(language_model.DistillSettings(**given, text_column=text_column))
        else:
            from keras_transformer.recipes import classify

            given |= {"text_column": text_column, "label_column": label_column}
            result = classify.distill(classify.DistillSettings(**given, unlabelled=unlabelled))
    show_run(out, result, as_json)


def _refuse_options(task: str, beam: int | None, unlabelled: Path | None) -> None:
    """Raise UserError for what the teacher's task has no use for."""
    if beam is not None and task != TRANSLATE:
        raise UserError(
            f"--beam {beam}: the teacher was trained for {task!r}, and only a translator searches. Leave it out."
        )
    if unlabelled is not None and task == LANGUAGE_MODEL:
        raise UserError(
            f"--unlabelled {unlabelled}: no text of a language model has a label. Put these texts into --data, too."
        )
