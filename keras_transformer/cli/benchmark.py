"""`keras-transformer benchmark`: what an answer costs, for any form of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_transformer.cli.options import AsJson, Quiet, SomeDataFile, TextColumn
from keras_transformer.cli.output import print_json, results, working

if TYPE_CHECKING:
    from keras_transformer.benchmark import Measurement

MOST_TEXTS = 200


def benchmark(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="run folders, .tflite files or SavedModel folders; several are timed in turn",
            show_default=False,
        ),
    ],
    data: SomeDataFile = None,
    text_column: TextColumn = "text",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="how often each text is asked")] = 5,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency (batch 1, one thread, tokenising included), memory, bytes and parameters.

    The texts are the first 200 of --data, or twenty short film reviews that come with the program.
    """
    with working(quiet):
        from keras_transformer import benchmark as benchmarks
        from keras_transformer.data.text import read_table

        texts = read_table(data, text_column, None).texts[:MOST_TEXTS] if data else benchmarks.SAMPLE_TEXTS
        measured = benchmarks.measure(paths, texts, rounds=rounds)
        machine = benchmarks.machine()
    if as_json:
        models = [_as_json(one) for one in measured]
        print_json({"models": models, "texts": len(texts), "rounds": rounds, "machine": machine})
    else:
        _print_table(measured, f"{len(texts)} texts, {rounds} rounds, batch 1, one thread of {machine['cpu']}")


def _as_json(measured: "Measurement") -> dict[str, Any]:
    latency = measured.latency
    return {
        "path": measured.path,
        "format": measured.format,
        "parameters": measured.parameters,
        "bytes": measured.bytes,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "latency_ms_p50": latency.p50_ms,
        "latency_ms_p95": latency.p95_ms,
        "texts_per_second": latency.per_second,
    }


def _print_table(measured: list["Measurement"], title: str) -> None:
    from keras_transformer.report import plain_table
    from keras_transformer.report.data import FORMAT_NAMES, short_bytes, short_count, three_figures

    columns = ["path", "format", "params", "size", "p50 ms", "p95 ms", "texts/s", "memory"]
    rows = [
        [
            one.path,
            FORMAT_NAMES.get(one.format, one.format),
            short_count(one.parameters),
            short_bytes(one.bytes),
            three_figures(one.latency.p50_ms),
            three_figures(one.latency.p95_ms),
            three_figures(one.latency.per_second),
            short_bytes(one.peak_memory_bytes),
        ]
        for one in measured
    ]
    results().print(plain_table([columns, *rows], words=2, title=title))
