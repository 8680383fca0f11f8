"""The picture of a report: accuracy against latency, with the bytes of each file as the area of its circle."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keras_transformer import files
from keras_transformer.checks import UserError
from keras_transformer.report.data import ModelRow, Report, short_bytes, three_figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito 2008: for all eyes
INK, FAINT = "#333333", "#999999"
LEADER = {"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 0}
INCHES, DOTS_PER_INCH = (10.0, 6.0), 150
SMALLEST_AREA, AREA_PER_MEGABYTE = 40.0, 14.0  # square points
DIRECTIONS, NEAREST, FARTHEST, STEP = 24, 10, 330, 10  # where a label is tried, in pixels from its circle's edge


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlap(self, other: "Box", gap: float = 6.0) -> float:
        """Area in common, when a margin of `gap` is kept between the two."""
        width = min(self.right, other.right) - max(self.left, other.left) + gap
        height = min(self.top, other.top) - max(self.bottom, other.bottom) + gap
        return max(width, 0.0) * max(height, 0.0)

    def middle(self) -> tuple[float, float]:
        """Return its centre."""
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2

    def holds(self, x: float, y: float) -> bool:
        """Whether a point lies in it."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top

    def outside(self, frame: "Box") -> float:
        """How far it stands out of `frame`, over its four sides."""
        sides = (frame.left - self.left, frame.bottom - self.bottom, self.right - frame.right, self.top - frame.top)
        return sum(max(side, 0.0) for side in sides)


def write(report: Report, path: Path | str) -> None:
    """Write the picture as PNG, whole or not at all.

    Raises:
        UserError: if the report has no models, or a latency that a logarithmic axis can't show.
    """
    figure = draw(report)
    with files.staged(path) as staging:
        figure.savefig(staging, format="png", dpi=DOTS_PER_INCH)


def draw(report: Report) -> "Figure":
    """Return the picture as a figure of its own; pyplot and its global state stay out of it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    _check(report)
    figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(dict.fromkeys(row.name for row in report.models))
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(names)}
    _draw_axes(axes, report)
    for row in sorted(report.models, key=_area, reverse=True):  # a small circle lies on a large one
        colour = colours[row.name]
        axes.scatter(*_point(row), s=_area(row), color=colour, alpha=0.75, edgecolor="white", zorder=3)
    _draw_key(figure, axes, report, colours)
    figure.canvas.draw()  # settles the layout: from here on a pixel stays where it is
    figure.set_layout_engine("none")
    _label_circles(axes, report.models, colours)
    return figure


def _check(report: Report) -> None:
    wrong = [row for row in report.models if not (row.latency_ms_p50 > 0 and math.isfinite(row.accuracy))]
    if wrong or not report.models:
        raise UserError(
            f"the report has {len(report.models)} models, {len(wrong)} of them without an accuracy or a latency "
            "above 0 ms. Measure at least one model, and each of them whole."
        )


def _point(row: ModelRow) -> tuple[float, float]:
    return row.latency_ms_p50, 100 * row.accuracy


def _area(row: ModelRow) -> float:
    return SMALLEST_AREA + AREA_PER_MEGABYTE * row.bytes / 1e6


def _draw_axes(axes: "Axes", report: Report) -> None:
    latencies, accuracies = zip(*(_point(row) for row in report.models), strict=True)
    room = 0.25 * max(max(accuracies) - min(accuracies), 1.0)
    axes.set_xscale("log")
    axes.set_xlim(min(latencies) / 2.2, max(latencies) * 2.2)
    axes.set_ylim(min(accuracies) - room, min(max(accuracies) + room, 101.0))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.set_xlabel("latency of one text at batch 1, median, one thread (ms, logarithmic)", color=INK)
    axes.set_ylabel(f"accuracy on {report.data.get('test', 0)} test texts (%)", color=INK)
    axes.grid(which="major", color=FAINT, alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors=INK, length=4)
    teacher = report.reference
    if teacher is not None:
        accuracy = 100 * teacher.accuracy
        axes.axhline(accuracy, color=FAINT, linewidth=0.9, linestyle=(0, (4, 4)), zorder=1)
        axes.annotate(
            f"the teacher's accuracy, {accuracy:.1f}%",
            (0, accuracy),
            xycoords=("axes fraction", "data"),
            xytext=(4, 3),
            textcoords="offset points",
            color=FAINT,
            fontsize=8,
        )


def _draw_key(figure: "Figure", axes: "Axes", report: Report, colours: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    titles = {row.name: row.title for row in report.models}
    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=9, color=colour, label=titles[name])
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False, labelcolor=INK)
    axes.set_title("Accuracy against latency; the more bytes, the larger the circle", loc="left", color=INK)


def _label_circles(axes: "Axes", rows: Sequence[ModelRow], colours: dict[str, str]) -> None:
    """Write what each circle is beside it, the crowded ones first, each label where it covers least."""
    frame = Box(*axes.get_window_extent().extents)
    pixels_per_point = axes.figure.dpi / 72
    centres = [tuple(axes.transData.transform(_point(row))) for row in rows]
    radii = [math.sqrt(_area(row) / math.pi) * pixels_per_point for row in rows]
    circles = [Box(x - r, y - r, x + r, y + r) for (x, y), r in zip(centres, radii, strict=True)]
    # what is there already: the teacher's line and its words
    labels = [Box(*item.get_window_extent().extents) for item in (*axes.lines, *axes.texts)]
    crowd = [sum(math.dist(centre, other) for other in centres) for centre in centres]
    for number in sorted(range(len(rows)), key=lambda index: crowd[index]):
        label = _write_label(axes, rows[number], colours, radii[number] / pixels_per_point)
        extent = label.get_window_extent()
        places = _places(centres[number], radii[number], extent.width, extent.height)
        # of the best places the first is the nearest, and `min` keeps the first
        box = min(places, key=lambda place: _cost(place, centres[number], circles, labels, frame))
        labels.append(box)
        (x, y), (to_x, to_y) = centres[number], box.middle()
        label.set_position(((to_x - x) / pixels_per_point, (to_y - y) / pixels_per_point))


def _write_label(axes: "Axes", row: ModelRow, colours: dict[str, str], radius: float) -> "Annotation":
    return axes.annotate(
        f"{row.format_title}\n{short_bytes(row.bytes)}, {three_figures(row.latency_ms_p50)} ms",
        _point(row),
        xytext=(0, 0),
        textcoords="offset points",
        color=colours[row.name],
        fontsize=9,
        linespacing=1.15,
        ha="center",
        va="center",
        arrowprops={**LEADER, "shrinkB": radius},
        zorder=4,
    )


def _cost(place: Box, centre: tuple[float, float], circles: Sequence[Box], labels: Sequence[Box], frame: Box) -> int:
    """What a label would cover there, in pixels; standing out of the frame and crossing a label cost most."""
    covered = sum(place.overlap(other) for other in (*circles, *labels))
    (x, y), (to_x, to_y) = centre, place.middle()
    steps = [number / 16 for number in range(17)]
    crossed = sum(other.holds(x + s * (to_x - x), y + s * (to_y - y)) for other in labels for s in steps)
    return round(covered + 200 * crossed + 1000 * place.outside(frame))


def _places(centre: tuple[float, float], radius: float, width: float, height: float) -> Iterator[Box]:
    """Boxes around a circle, the nearest first."""
    for distance in range(NEAREST, FARTHEST, STEP):
        for turn in range(DIRECTIONS):
            angle = 2 * math.pi * turn / DIRECTIONS
            x = centre[0] + math.cos(angle) * (radius + distance + width / 2)
            y = centre[1] + math.sin(angle) * (radius + distance + height / 2)
            yield Box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)
