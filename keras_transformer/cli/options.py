"""Options that more than one command has, each defined once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Size = Literal["tiny", "small", "base"]
SIZES = "layers x width of a model from nothing: tiny 2 x 128, small 4 x 256, base 6 x 512; a translator has both twice"
LARGEST_SEED = 2**32 - 1  # what numpy takes

ModelPath = Annotated[
    Path,
    typer.Argument(
        metavar="PATH",
        help="a run folder, a .tflite file or a SavedModel folder",
        show_default=False,
    ),
]
DataFile = Annotated[
    Path,
    typer.Option(
        "--data",
        help="CSV, TSV or JSON Lines file with a header",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
SomeDataFile = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="CSV, TSV or JSON Lines file with a header",
        exists=True,
        dir_okay=False,
        show_default=False,
    ),
]
TextColumn = Annotated[str, typer.Option("--text-column", help="column of the texts")]
LabelColumn = Annotated[str, typer.Option("--label-column", help="column of the labels")]
SourceColumn = Annotated[str, typer.Option("--source-column", help="column of the texts to translate")]
TargetColumn = Annotated[str, typer.Option("--target-column", help="column of their translations")]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else")]
Quiet = Annotated[bool, typer.Option("--quiet", help="show no progress")]
Temperature = Annotated[
    float | None,
    typer.Option("--temperature", help="draw; below 1 likelier, above 1 more varied", show_default="don't draw"),
]
TopP = Annotated[
    float | None,
    typer.Option("--top-p", help="draw from the likeliest pieces that have this share, 0 to 1", show_default="all"),
]
TopK = Annotated[
    int | None, typer.Option("--top-k", min=1, help="draw from so many likeliest pieces", show_default="all")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=LARGEST_SEED, help="seed of all that is random")]

RunFolder = Annotated[Path, typer.Option("--out", help="run folder to write", file_okay=False, show_default=False)]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, help="passes over the data", show_default="from the data's size")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="texts a step; to translate, of the longest: of shorter ones there are more",
        show_default="from the texts' length",
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        "--max-length",
        min=3,
        help="word pieces a text is cut to; longer pairs to translate are left out; a language model reads so many",
        show_default="the 95th percentile of the data",
    ),
]
LearningRate = Annotated[
    float | None,
    typer.Option("--learning-rate", help="peak step size of AdamW", show_default="from --init and --size"),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        "--minutes",
        help="minutes that training may take at most, and a teacher's writing before it",
        show_default="no limit",
    ),
]
