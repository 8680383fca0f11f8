"""`keras-transformer evaluate`: how good a model is on labelled texts, in whatever form it is."""

from keras_transformer.cli.options import AsJson, DataFile, LabelColumn, ModelPath, Quiet, TextColumn
from keras_transformer.cli.output import counting, print_facts, print_json, working


def evaluate(
    path: ModelPath,
    data: DataFile,
    text_column: TextColumn = "text",
    label_column: LabelColumn = "label",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on labelled texts: accuracy, macro recall, macro F1. Takes every form that we write."""
    with working(quiet):
        from keras_transformer import evaluation, serving
        from keras_transformer.data.text import read_table

        table = read_table(data, text_column, label_column)
        predictor = serving.load(path)
        with counting("texts", len(table)) as count:
            scores = evaluation.evaluate(predictor, table, progress=count)
    if as_json:
        print_json(scores._asdict())
    else:
        print_facts(str(path), scores._asdict())
