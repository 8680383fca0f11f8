"""`keras-transformer benchmark`: what an answer costs, for any form of a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_transformer.cli.options import AsJson, Quiet, Seed, SomeDataFile, Temperature, TopK, TopP
from keras_transformer.cli.output import print_json, results, working

if TYPE_CHECKING:
    from keras_transformer.benchmark import Latency, Measurement
    from keras_transformer.export.lite_operators import SignatureOperators

MOST_TEXTS = 200


def benchmark(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="run folders, .tflite files or SavedModel folders, of one task; several are timed in turn",
            show_default=False,
        ),
    ],
    data: SomeDataFile = None,
    text_column: Annotated[
        str | None,
        typer.Option("--text-column", help="column of the texts", show_default="text; of a translator: source"),
    ] = None,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="how often each text is asked")] = 5,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="threads that one answer may use, each on a core of its own")
    ] = 1,
    xnnpack: Annotated[
        bool,
        typer.Option(
            " /--no-xnnpack", help="run .tflite files without XNNPACK, which makes LiteRT fast", show_default=False
        ),
    ] = True,
    operators: Annotated[
        bool, typer.Option("--operators", help="list the operators of .tflite files, and which of them XNNPACK takes")
    ] = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Measure latency (batch 1, tokenising included), memory, bytes and parameters.

    Of what writes texts: the time of a whole text, and of each new token in it, where the time for reading the text is
    shared out among them. The likeliest piece is taken each time, or one is drawn as in `generate`, with the same seed
    for each text and round.

    The texts are the first 200 of --data, or twenty short film reviews that come with the program.
    """
    with working(quiet):
        from keras_transformer import benchmark as benchmarks
        from keras_transformer.export.lite_trial import tried
        from keras_transformer.generation import Decoding

        decoding = Decoding(temperature=temperature, top_p=top_p, top_k=top_k, seed=seed)
        for path in paths:
            with tried(path):
                pass
        texts = _texts(paths[0], data, text_column) if data else benchmarks.SAMPLE_TEXTS
        runtime = benchmarks.Runtime(threads, xnnpack)
        measured = benchmarks.measure(
            paths, texts, rounds=rounds, runtime=runtime, operators=operators, decoding=decoding
        )
        machine = benchmarks.machine()
    if as_json:
        drawn = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed} if decoding.draws else {}
        how = {"texts": len(texts), "rounds": rounds, **runtime._asdict(), **drawn, "machine": machine}
        print_json({"models": [_as_json(one) for one in measured], **how})
        return
    how_many = "one thread" if threads == 1 else f"{threads} threads"
    without = "" if xnnpack else " without XNNPACK"
    drawn_so = ", drawn" if decoding.draws else ""
    _print_table(
        measured, f"{len(texts)} texts{drawn_so}, {rounds} rounds, batch 1, {how_many}{without} of {machine['cpu']}"
    )
    for one in measured:
        for signature in one.operators or []:
            _print_operators(one.path, signature)


def _texts(path: Path, data: Path, text_column: str | None) -> list[str]:
    from keras_transformer import places
    from keras_transformer.data.text import read_table
    from keras_transformer.tasks import TRANSLATE

    column = text_column or ("source" if places.find(path).task == TRANSLATE else "text")
    return list(read_table(data, column, None).texts[:MOST_TEXTS])


def _as_json(measured: "Measurement") -> dict[str, Any]:
    latency = measured.latency
    found: dict[str, Any] = {}
    if measured.token_latency is not None:
        found |= {
            "latency_ms_per_token_p50": measured.token_latency.p50_ms,
            "latency_ms_per_token_p95": measured.token_latency.p95_ms,
        }
    if measured.operators is not None:
        found["signatures"] = [
            {"signature": one.signature, "operators": _rows(one), "xnnpack_pieces": one.pieces}
            for one in measured.operators
        ]
    return {
        "path": measured.path,
        "task": measured.task,
        "format": measured.format,
        "parameters": measured.parameters,
        "bytes": measured.bytes,
        "peak_memory_bytes": measured.peak_memory_bytes,
        "latency_ms_p50": latency.p50_ms,
        "latency_ms_p95": latency.p95_ms,
        "texts_per_second": latency.per_second,
        **found,
    }


def _rows(signature: "SignatureOperators") -> list[dict[str, Any]]:
    """Each operator with how many there are in the file and how many of them XNNPACK took, the most frequent first."""
    often = sorted(signature.in_file.items(), key=lambda item: (-item[1], item[0]))
    return [{"name": name, "in_file": count, "xnnpack": signature.taken[name]} for name, count in often]


def _print_table(measured: list["Measurement"], title: str) -> None:
    from keras_transformer.report import plain_table
    from keras_transformer.report.data import FORMAT_NAMES, short_bytes, short_count, three_figures

    # one task, so all have it or none; for both speeds a terminal of 80 columns has no room
    rate = ["texts/s"] if measured[0].token_latency is None else ["p50/tok", "p95/tok"]
    columns = ["path", "format", "params", "size", "p50 ms", "p95 ms", *rate, "memory"]
    rows = [
        [
            one.path,
            FORMAT_NAMES.get(one.format, one.format),
            short_count(one.parameters),
            short_bytes(one.bytes),
            *_percentiles(one.latency),
            *(
                [three_figures(one.latency.per_second)]
                if one.token_latency is None
                else _percentiles(one.token_latency)
            ),
            short_bytes(one.peak_memory_bytes),
        ]
        for one in measured
    ]
    results().print(plain_table([columns, *rows], words=2, title=title))


def _percentiles(latency: "Latency") -> list[str]:
    from keras_transformer.report.data import three_figures

    return [three_figures(latency.p50_ms), three_figures(latency.p95_ms)]


def _print_operators(path: str, signature: "SignatureOperators") -> None:
    from keras_transformer.report import plain_table

    rows = _rows(signature)
    taken, every = sum(row["xnnpack"] for row in rows), sum(row["in_file"] for row in rows)
    pieces = "1 piece" if signature.pieces == 1 else f"{signature.pieces} pieces"
    title = f"{path}, signature {signature.signature}: XNNPACK takes {taken} of {every} operators, in {pieces}"
    cells = [[row["name"], str(row["in_file"]), str(row["xnnpack"])] for row in rows]
    results().print(plain_table([["operator", "in the file", "XNNPACK"], *cells], words=1, title=title))
