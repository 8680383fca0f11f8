"""`keras-transformer evaluate`: how good a model is on texts with known answers, in whatever form it is."""

from pathlib import Path
from typing import Annotated, Any

import typer

from keras_transformer.checks import UserError
from keras_transformer.cli.options import (
    AsJson,
    DataFile,
    LabelColumn,
    ModelPath,
    Quiet,
    SourceColumn,
    TargetColumn,
    TextColumn,
)
from keras_transformer.cli.output import counting, print_facts, print_json, working
from keras_transformer.tasks import LANGUAGE_MODEL, TRANSLATE


def evaluate(
    path: ModelPath,
    data: DataFile,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    source_column: SourceColumn = "source",
    target_column: TargetColumn = "target",
    beam: Annotated[
        int | None,
        typer.Option("--beam", min=1, help="width of a translator's search; 1 is greedy", show_default="1"),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on texts with known answers; what it was trained for decides how.

    A classifier: accuracy, macro recall, macro F1, in every form that we write. A translator: BLEU and chrF, 0 to 100.
    A language model: perplexity per word piece, per word and per byte.
    """
    with working(quiet):
        from keras_transformer.export.lite_trial import tried

        with tried(path):
            from keras_transformer import places

            task = places.find(path).task
        if beam is not None and task != TRANSLATE:
            raise UserError(
                f"--beam {beam}: the model was trained for {task!r}, and only a translator searches. Leave it out."
            )
        if task == TRANSLATE:
            scores = _translations(path, data, (source_column, target_column), beam)
        elif task == LANGUAGE_MODEL:
            scores = _language(path, data, text_column)
        else:
            scores = _classes(path, data, text_column, label_column)
    if as_json:
        print_json(scores)
    else:
        print_facts(str(path), scores)


def _classes(path: Path, data: Path, text_column: str, label_column: str) -> dict[str, Any]:
    from keras_transformer import evaluation, serving
    from keras_transformer.data.text import read_table

    table = read_table(data, text_column, label_column)
    predictor = serving.load_classifier(path)
    with counting("texts", len(table)) as count:
        return evaluation.evaluate(predictor, table, progress=count)._asdict()


def _translations(path: Path, data: Path, columns: tuple[str, str], beam: int | None) -> dict[str, Any]:
    from keras_transformer import evaluation, generation
    from keras_transformer.data.text import read_pairs

    pairs = read_pairs(data, *columns)
    writer, decoding = generation.load(path), generation.Decoding(beam=beam)
    with counting("texts", len(pairs)) as count:
        return evaluation.evaluate_translations(writer, pairs, decoding, progress=count)._asdict()


def _language(path: Path, data: Path, text_column: str) -> dict[str, Any]:
    from keras_transformer import evaluation, generation
    from keras_transformer.data.text import read_table

    texts = read_table(data, text_column, None).texts
    writer = generation.load(path)
    with counting("texts", len(texts)) as count:
        return evaluation.evaluate_language(writer, texts, progress=count)._asdict()
