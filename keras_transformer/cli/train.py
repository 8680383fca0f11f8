"""`keras-transformer train`: a model of one's own out of a file of texts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_transformer.checks import one_of, positive
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
from keras_transformer.cli.output import print_facts, print_json, working
from keras_transformer.tasks import LANGUAGE_MODEL, TASKS, TRANSLATE


def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help=f"what to learn: {', '.join(TASKS)}", show_default=False)],
    data: DataFile,
    out: RunFolder,
    init: Annotated[
        str,
        typer.Option(
            "--init",
            metavar="minilm|DIR|none",
            help="weights to start from: an older run folder of the same task; to classify, MiniLM or Hugging Face's "
            "folder of a BERT, too",
        ),
    ] = "none",
    size: Annotated[Size | None, typer.Option("--size", help=SIZES, show_default="small")] = None,
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
    """Train a model on your own texts; the same command again continues a run that was stopped.

    A tenth of the rows is held back and measured on. The columns are text and label to classify, source and target to
    translate, text for a language model.
    """
    one_of("TASK", task, TASKS)
    check_numbers(learning_rate, minutes)
    given: dict[str, Any] = {
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
        if task == TRANSLATE:
            from keras_transformer.recipes import translate

            given |= {"source_column": source_column, "target_column": target_column}
            result = translate.train(translate.TrainSettings(**given))
        elif task == LANGUAGE_MODEL:
            from keras_transformer.recipes import language_model

            result = language_model.train(language_model.TrainSettings(**given, text_column=text_column))
        else:
            from keras_transformer.recipes import classify

            given |= {"text_column": text_column, "label_column": label_column}
            result = classify.train(classify.TrainSettings(**given))
    show_run(out, result, as_json)


def check_numbers(learning_rate: float | None, minutes: float | None) -> None:
    """Raise ValueError for a number that an option's own range can't refuse: NaN, infinity, 0."""
    if learning_rate is not None:
        positive("--learning-rate", learning_rate, example=0.0003)
    if minutes is not None:
        positive("--minutes", minutes, example=5)


def show_run(out: Path, result: dict[str, object], as_json: bool) -> None:
    """Print what a run of `train` or `distill` gave."""
    if as_json:
        print_json({"folder": str(out), **result})
    else:
        print_facts(str(out), {name: value for name, value in result.items() if name != "folder"})
