"""`keras-transformer predict`: the label of each text, one line in, one line out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_transformer.cli.lines import in_calls, print_answers, read_all, read_texts
from keras_transformer.cli.options import AsJson, ModelPath, Quiet
from keras_transformer.cli.output import as_field, print_json, working

if TYPE_CHECKING:
    from keras_transformer.serving import Predictor


def predict(
    path: ModelPath,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="texts; without any, each line of standard input", show_default=False),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the label of each text and its score (0 to 1), with a tab between: one line in, one line out.

    A line of standard input that has no word or isn't UTF-8 gets an empty line, so that the others stay beside their
    answers; the first such line is named at the end, with exit code 2. Where answers can't be given bit by bit (texts
    on the command line, --json) nothing is printed then. A tab or line end in a label is printed as \\t or \\n.

    A .tflite file is answered without TensorFlow, so that the first answer comes in half a second.
    """
    batches = read_texts(texts)
    with working(quiet):
        from keras_transformer.export.lite_trial import tried

        with tried(path):
            from keras_transformer import serving
        predictor = serving.load_classifier(path)

    def answers(some: list[str]) -> Iterator[tuple[str, Any]]:
        with working(quiet):
            labels, scores = predictor.predict(some)
        return zip(labels, scores, strict=True)

    if as_json:
        found = [_with_scores(predictor, *one) for some in in_calls(read_all(batches)) for one in answers(some)]
        print_json({"predictions": found})
    else:
        print_answers(batches, lambda some, _: (f"{as_field(name)}\t{max(each):.4f}" for name, each in answers(some)))


def _with_scores(predictor: "Predictor", label: str, scores: Any) -> dict[str, Any]:
    by_label = {name: float(score) for name, score in zip(predictor.labels, scores, strict=True)}
    return {"label": label, "score": max(by_label.values()), "scores": by_label}
