"""What a search leaves to read: all that was tried as JSON, a table, and a picture of accuracy against the cost."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_transformer import files
from keras_transformer.budget_search.outcome import FileRow, Wanted, pareto
from keras_transformer.files import staged
from keras_transformer.report.data import short_bytes, three_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SEARCH, TABLE, PICTURE = "search.json", "report.md", "pareto.png"
FILES = (SEARCH, TABLE, PICTURE)
INCHES, DOTS_PER_INCH = (11.0, 5.0), 130
TEACHER_COLOUR, CANDIDATE_COLOUR, CHOSEN_COLOUR, LIMIT_COLOUR = "#0072B2", "#009E73", "#D55E00", "#999999"


def write(record: Mapping[str, Any], rows: Sequence[FileRow], wanted: Wanted, folder: Path) -> None:
    """Write search.json, report.md and pareto.png into the folder."""
    files.write_json(folder / SEARCH, record)
    with staged(folder / TABLE) as staging:
        staging.write_text(markdown(record, rows, wanted), encoding="utf-8")
    with staged(folder / PICTURE) as staging:
        draw(record, rows, wanted, staging)


def markdown(record: Mapping[str, Any], rows: Sequence[FileRow], wanted: Wanted) -> str:
    """The report as Markdown: what was handed over, all files that were measured, and all tries."""
    result = record["result"]
    best = set(pareto(rows))
    verdict = "All wishes are met." if result["met"] else result["instead"]
    share = result["accuracy"] / result["teacher_accuracy"]
    lines = [
        "# Compression to a budget",
        "",
        f"`{record['command']}`",
        "",
        f"Handed over: {result['name']}/{result['form']}, {short_bytes(result['bytes'])}, "
        f"{three_figures(result['ms'])} ms, {result['speedup']:.1f} times as fast as the teacher, accuracy "
        f"{result['accuracy']:.4f}, {share:.1%} of the teacher's {result['teacher_accuracy']:.4f}. {verdict}",
        "",
        "Files of the teacher and of candidates that learned in full; accuracy on "
        f"{record['measuring_rows']} rows that neither trained nor chose. Bold: no other file is better in all three.",
        "",
        "| file | bytes | ms | times faster | accuracy | misses |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for row in sorted(rows, key=lambda one: -one.accuracy):
        name = f"**{row.file}**" if row in best else row.file
        cells = [name, short_bytes(row.bytes), three_figures(row.ms), f"{row.speedup:.1f}", f"{row.accuracy:.4f}"]
        lines.append(f"| {' | '.join(cells)} | {', '.join(wanted.misses(row)) or 'nothing'} |")
    lines += [
        "",
        f"Candidates after a short lesson; accuracy on {record['choosing_rows']} other rows, files timed untrained.",
        "",
        "| candidate | accuracy | files within the budget |",
        "|---|---:|---|",
    ]
    for one in record["tries"]:
        costs = "; ".join(
            f"{form} {short_bytes(cost['bytes'])}, {three_figures(cost['ms'])} ms"
            for form, cost in one["costs"].items()
        )
        lines.append(f"| {one['name']} | {one['accuracy']:.4f} | {costs} |")
    return "\n".join([*lines, ""])


def draw(record: Mapping[str, Any], rows: Sequence[FileRow], wanted: Wanted, path: Path) -> None:
    """Draw accuracy against bytes and against time, with the wishes as lines; write it as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    result = record["result"]
    budget = wanted.budget
    limits = [] if budget.max_ms is None else [budget.max_ms]
    if budget.min_speedup is not None:
        limits += [min(row.ms * row.speedup for row in rows) / budget.min_speedup]
    most = None if budget.max_bytes is None else budget.max_bytes / 1e6
    _draw_side(left, rows, result, [row.bytes / 1e6 for row in rows], most)
    _draw_side(right, rows, result, [row.ms for row in rows], min(limits, default=None))
    for axes in (left, right):
        axes.axhline(100 * wanted.accuracy, color=LIMIT_COLOUR, linestyle="--", linewidth=1)
    left.set_xlabel("megabytes (logarithmic)")
    right.set_xlabel("ms of one text, median, one thread (logarithmic)")
    left.set_ylabel(f"accuracy on {record['measuring_rows']} rows (%)")
    left.set_title("Accuracy against bytes and time; dashed: what was asked for", loc="left")
    figure.savefig(path, format="png")


def _draw_side(
    axes: "Axes", rows: Sequence[FileRow], result: Mapping[str, Any], places: Sequence[float], limit: float | None
) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        chosen = (row.name, row.form) == (result["name"], result["form"])
        own = TEACHER_COLOUR if row.name == "teacher" else CANDIDATE_COLOUR
        axes.scatter(
            place, 100 * row.accuracy, s=70 if chosen else 40, color=CHOSEN_COLOUR if chosen else own, zorder=3
        )
        axes.annotate(
            row.file,
            (place, 100 * row.accuracy),
            xytext=(5, (5, -11)[number % 2]),
            textcoords="offset points",
            fontsize=7,
        )
    if limit is not None:
        axes.axvline(limit, color=LIMIT_COLOUR, linestyle="--", linewidth=1)
    axes.margins(x=0.25, y=0.15)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
