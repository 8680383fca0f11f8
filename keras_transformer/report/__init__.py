"""Measured results as one JSON file, one table for the terminal, one for Markdown, and one picture.

`report.json` is a contract: other programs read it. The table, the Markdown and the picture are made from it alone.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from keras_transformer import files
from keras_transformer.report import plot
from keras_transformer.report.data import (
    FORMAT_NAMES,
    ModelRow,
    ParityRow,
    Report,
    short_bytes,
    short_count,
    three_figures,
)

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "ModelRow",
    "ParityRow",
    "Report",
    "markdown",
    "model_cells",
    "parity_cells",
    "parity_table",
    "plain_table",
    "read",
    "summary",
    "table",
    "write",
]

REPORT_JSON, REPORT_MARKDOWN, REPORT_PLOT = "report.json", "report.md", "report.png"


def write(report: Report, folder: Path | str) -> None:
    """Write `report.json`, `report.md` and `report.png` into a folder, each whole or not at all."""
    place = Path(folder)
    files.write_json(place / REPORT_JSON, report.to_json())
    with files.staged(place / REPORT_MARKDOWN) as staging:
        staging.write_text(markdown(report), encoding="utf-8")
    plot.write(report, place / REPORT_PLOT)


def read(path: Path | str) -> Report:
    """Read a `report.json`.

    Raises:
        UserError: if there is no such file, it isn't JSON, or a field is missing.
    """
    return Report.from_json(files.read_json(path))


def table(report: Report) -> "Table":
    """Return the models as a table for `rich.print`, made for 80 columns: a block of forms under each model."""
    caption = "p50, p95: latency of one text at batch 1, in ms, one thread.\n" + _footnote(report)
    drawn = _table(_headline(report), caption)
    columns = ["", "acc.", "recall", "F1", "params", "MB", "p50", "p95"]
    teacher = report.reference
    if teacher is not None:
        columns += ["smaller", "faster"]
    drawn.add_column(columns[0], no_wrap=True)
    for column in columns[1:]:
        drawn.add_column(column, justify="right", overflow="fold")
    for name, rows in itertools.groupby(report.models, key=lambda row: row.title):
        drawn.add_row(f"[bold]{name}[/bold]")
        for row in rows:
            cells = [f"{score:.3f}" for score in (row.accuracy, row.recall, row.f1)]
            cells += [short_count(row.parameters), three_figures(row.bytes / 1e6)]
            cells += [three_figures(row.latency_ms_p50), three_figures(row.latency_ms_p95)]
            drawn.add_row(f"  {row.format_title}", *cells, *_against(teacher, row)[1:])
    return drawn


def parity_table(report: Report) -> "Table":
    """Return what each written file lost against the Keras model it came from, as a table for `rich.print`."""
    return plain_table(parity_cells(report), words=1, title="Each file against its Keras model")


def plain_table(cells: Sequence[Sequence[str]], words: int, title: str) -> "Table":
    """Return rows of texts as a table for `rich.print`; the first row has the columns' names.

    The first `words` columns stand left; the others hold numbers and stand right.
    """
    drawn = _table(title, caption=None, gap=1)
    for number, column in enumerate(cells[0]):
        # where room is short, the first column alone is broken into lines
        justify: Literal["left", "right"] = "left" if number < words else "right"
        drawn.add_column(column, justify=justify, overflow="fold", no_wrap=number > 0)
    for row in cells[1:]:
        drawn.add_row(*row)
    return drawn


def summary(report: Report) -> str:
    """Return what the smallest file keeps and saves against the teacher, in one sentence; "" without a teacher."""
    teacher = report.reference
    others = [row for row in report.models if row.name != "teacher"]
    if teacher is None or not others:
        return ""
    best = min(others, key=lambda row: row.bytes)
    kept, smaller, faster = _against(teacher, best)
    return (
        f"{best.title} as {best.format_title} keeps {kept} of the teacher's accuracy, "
        f"{smaller} smaller and {faster} faster."
    )


def markdown(report: Report) -> str:
    """Return the report as a Markdown page: how it was made, the models, the files, the picture."""
    lines = [
        "# " + _headline(report),
        *([f"Made by `{report.command}`."] if report.command else []),
        _footnote(report),
        _markdown_table(model_cells(report), words=2),
        "Latency is for one text at batch 1 in one thread, tokenising included. Recall and F1 are macro.",
        "## Each file against its Keras model",
        _markdown_table(parity_cells(report), words=1),
        f"![accuracy against latency]({REPORT_PLOT})",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def model_cells(report: Report) -> list[list[str]]:
    """Return the models as rows of texts, the first with the columns' names.

    "smaller" and "faster" compare bytes and the median latency with the teacher in Keras; "kept" is the share of its
    accuracy. They are left out where there is no such row.
    """
    columns = ["model", "format", "accuracy", "recall", "F1", "parameters", "size", "p50 ms", "p95 ms"]
    rows = [
        [
            row.title,
            row.format_title,
            f"{row.accuracy:.3f}",
            f"{row.recall:.3f}",
            f"{row.f1:.3f}",
            short_count(row.parameters),
            short_bytes(row.bytes),
            three_figures(row.latency_ms_p50),
            three_figures(row.latency_ms_p95),
            *_against(report.reference, row),
        ]
        for row in report.models
    ]
    if report.reference is not None:
        columns += ["kept", "smaller", "faster"]
    return [columns, *rows]


def parity_cells(report: Report) -> list[list[str]]:
    """Return the comparisons of files with their models as rows of texts, the first with the columns' names."""
    columns = ["format", "largest logit error", "same answer", "Flex operators"]
    rows = [
        [
            FORMAT_NAMES.get(row.format, row.format),
            f"{row.max_abs_logit_error:.1e}",
            f"{row.top1_agreement:.2%}",
            ", ".join(row.flex_ops) or "none",
        ]
        for row in report.parity
    ]
    return [columns, *rows]


def _against(teacher: ModelRow | None, row: ModelRow) -> list[str]:
    """Share of the teacher's accuracy, and how many times smaller and faster; nothing without a teacher."""
    if teacher is None:
        return []
    kept = f"{row.accuracy / teacher.accuracy:.1%}" if teacher.accuracy else "-"
    return [kept, _times(teacher.bytes, row.bytes), _times(teacher.latency_ms_p50, row.latency_ms_p50)]


def _times(reference: float, value: float) -> str:
    return f"{three_figures(reference / value)}x" if value else "-"


def _headline(report: Report) -> str:
    return f"{report.data.get('test', 0)} test texts, seed {report.seed}, {report.seconds:.0f} s"


def _footnote(report: Report) -> str:
    facts = report.machine
    parts = [f"{report.data[name]} {name}" for name in ("train", "unlabelled") if name in report.data]
    parts += [str(facts["cpu"])] if "cpu" in facts else []
    parts += [f"{facts['cores']} cores"] if "cores" in facts else []
    parts += [f"{name} {facts[name]}" for name in ("python", "tensorflow", "keras") if name in facts]
    return ", ".join(parts)


def _table(title: str, caption: str | None, gap: int = 0) -> "Table":
    from rich import box
    from rich.table import Table

    return Table(
        title=title,
        caption=caption,
        header_style="bold",
        box=box.SIMPLE_HEAD,
        padding=(0, gap, 0, 0),
        pad_edge=False,
        title_justify="left",
        caption_justify="left",
    )


def _markdown_table(cells: list[list[str]], words: int) -> str:
    rules = ["---" if number < words else "---:" for number in range(len(cells[0]))]
    safe = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in [safe[0], rules, *safe[1:]])
