"""`keras-transformer generate`: the translation of each text, or its continuation; one line in, one line out."""

from typing import Annotated

import typer

from keras_transformer.cli.lines import in_calls, print_answers, read_all, read_texts
from keras_transformer.cli.options import AsJson, ModelPath, Quiet, Seed, Temperature, TopK, TopP
from keras_transformer.cli.output import as_field, print_json, working


def generate(
    path: ModelPath,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="texts; without any, each line of standard input", show_default=False),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option("--beam", min=1, help="look for the likeliest text with so many beginnings", show_default="1"),
    ] = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            help="the most word pieces to write, the end included",
            show_default="what the model was trained on; a language model: half of it",
        ),
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Print the translation of each text, or the text with its continuation: one line in, one line out.

    Without options the likeliest piece is taken each time. --beam looks further; --temperature, --top-p and --top-k
    draw, the n-th text with the seed --seed + n - 1, so the same command prints the same texts.

    A source is cut at the length that the model was trained on; of the beginning of a long text, a language model
    reads the end, and leaves room for --max-tokens. Lines that can't be read are treated as `predict` does. A tab or
    line end in an output is printed as \\t or \\n.

    A .tflite file is read without TensorFlow; with the same seed it draws other texts than the run folder. A SavedModel
    takes --max-tokens, and --beam of the width that it was exported with; it draws nothing.
    """
    with working(quiet):
        from keras_transformer import generation

        decoding = generation.Decoding(
            beam=beam, temperature=temperature, top_p=top_p, top_k=top_k, max_tokens=max_tokens, seed=seed
        )
    batches = read_texts(texts)
    with working(quiet):
        from keras_transformer.export.lite_trial import tried

        with tried(path):
            pass
        writer = generation.load(path)

    def written(some: list[str], before: int) -> list[str]:
        with working(quiet):
            return writer.write(some, decoding, first=before)

    if as_json:
        every, found = read_all(batches), list[str]()
        for some in in_calls(every):
            found += written(some, len(found))
        print_json({"outputs": [{"text": text, "output": out} for text, out in zip(every, found, strict=True)]})
    else:
        print_answers(batches, lambda some, before: map(as_field, written(some, before)))
