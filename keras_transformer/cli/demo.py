"""`keras-transformer demo`: the main job, end to end, on real film reviews."""

from pathlib import Path
from typing import Annotated

import typer

from keras_transformer.cli.options import AsJson, Quiet, Seed
from keras_transformer.cli.output import print_facts, print_json, results, working


def demo(
    out: Annotated[Path, typer.Option("--out", file_okay=False, help="folder for models, files and report")] = Path(
        "saved_models/sentiment"
    ),
    seed: Seed = 0,
    quick: Annotated[bool, typer.Option("--quick", help="fewer steps: a try in under 2 minutes")] = False,
    write_data: Annotated[
        Path | None,
        typer.Option(
            "--write-data",
            file_okay=False,
            metavar="DIR",
            help="only write the data there as train.csv, test.csv and unlabelled.csv",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Teach, distil, write phone and server files, prove them, measure them: about 10 minutes on two cores."""
    if write_data is not None:
        _write_data(write_data, as_json, quiet)
        return
    with working(quiet):
        from keras_transformer import report as reports
        from keras_transformer.recipes import sentiment

        made = sentiment.demo(out, seed=seed, quick=quick, quiet=quiet)
    if as_json:
        print_json(made.to_json())
        return
    console = results()
    console.print(reports.table(made))
    console.print(reports.parity_table(made))
    print_facts(str(out / reports.REPORT_JSON), {})
    console.print(reports.summary(made))


def _write_data(folder: Path, as_json: bool, quiet: bool) -> None:
    with working(quiet):
        from keras_transformer.recipes import sentiment

        rows = sentiment.write_data(folder)
    if as_json:
        print_json({"folder": str(folder), "rows": rows})
    else:
        print_facts(str(folder), rows)
