"""A report is a JSON contract; the tables and the picture show its numbers and no others."""

import io
import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from matplotlib.text import Text
from rich.console import Console

from keras_transformer import report as reports
from keras_transformer.checks import UserError
from keras_transformer.files import ModelFileError
from keras_transformer.report import ModelRow, ParityRow, Report
from keras_transformer.report import data as report_data
from keras_transformer.report import plot as report_plot

TEACHER = ModelRow("teacher", "keras", 0.875, 0.874, 0.8744, 22_713_602, 90_953_216, 27.4, 41.2)
PLAIN = ModelRow("student_labels_only", "keras", 0.8106, 0.81, 0.8101, 1_430_017, 5_790_003, 2.3, 2.9)
STUDENT = ModelRow("student_distilled", "keras", 0.861, 0.86, 0.8601, 1_430_017, 5_790_003, 2.35, 3.1)
FORMS = [
    replace(STUDENT, format="saved_model", bytes=5_991_234, latency_ms_p50=1.9),
    replace(STUDENT, format="tflite_float32", bytes=5_721_234, latency_ms_p50=0.41),
    replace(STUDENT, format="tflite_int8", accuracy=0.8595, bytes=1_551_234, latency_ms_p50=0.1796),
]


@pytest.fixture
def report() -> Report:
    return Report(
        seconds=412.3,
        seed=7,
        data={"train": 8056, "test": 2014, "unlabelled": 13098},
        models=[TEACHER, PLAIN, STUDENT, *FORMS],
        parity=[
            ParityRow("saved_model", 2.1e-7, 1.0, []),
            ParityRow("tflite_int8", 0.1234, 0.9921, ["FlexErf", "FlexTanh"]),
        ],
        command="keras-transformer demo --seed 7",
        machine={"cpu": "Some CPU", "cores": 2, "python": "3.11.7", "tensorflow": "2.21.0"},
    )


def shown(table, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_the_json_has_the_names_that_other_programs_read(report):
    content = report.to_json()
    assert {"seconds", "seed", "data", "models", "parity"} <= set(content)
    assert content["data"] == {"train": 8056, "test": 2014, "unlabelled": 13098}
    assert content["models"][0] == {
        "name": "teacher",
        "format": "keras",
        "accuracy": 0.875,
        "recall": 0.874,
        "f1": 0.8744,
        "parameters": 22_713_602,
        "bytes": 90_953_216,
        "latency_ms_p50": 27.4,
        "latency_ms_p95": 41.2,
    }
    assert content["parity"][1] == {
        "format": "tflite_int8",
        "max_abs_logit_error": 0.1234,
        "top1_agreement": 0.9921,
        "flex_ops": ["FlexErf", "FlexTanh"],
    }


def test_a_report_comes_back_from_its_json_text_unchanged(report):
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_fields_that_a_later_version_added_are_passed_over(report):
    content = report.to_json()
    content["kelvin"] = 290
    content["models"][0]["watts"] = 15
    assert Report.from_json(content) == report


def test_fields_with_a_default_may_be_missing(report):
    content = report.to_json()
    del content["command"], content["machine"]
    assert Report.from_json(content) == replace(report, command="", machine={})


def test_a_missing_field_is_named(report):
    content = report.to_json()
    del content["models"][2]["f1"]
    with pytest.raises(UserError, match=r"a row of 'models' has no 'f1'\. Write the report again"):
        Report.from_json(content)
    with pytest.raises(UserError, match="the report has no 'seconds'"):
        Report.from_json({})
    with pytest.raises(UserError, match="must be a JSON object"):
        Report.from_json([])


def test_write_leaves_three_files_and_read_finds_the_report(report, tmp_path):
    reports.write(report, tmp_path / "run")
    assert sorted(os.listdir(tmp_path / "run")) == ["report.json", "report.md", "report.png"]
    assert reports.read(tmp_path / "run" / "report.json") == report
    assert (tmp_path / "run" / "report.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"report\.json: there is no such file"):
        reports.read(tmp_path / "report.json")


def test_the_table_fits_a_terminal_of_80_columns_and_shows_every_measured_number(report):
    text = shown(reports.table(report))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "…" not in text
    rows = {line.strip().split("  ")[0]: line.split() for line in text.splitlines() if "TFLite" in line}
    assert rows["TFLite int8"][2:] == ["0.860", "0.860", "0.860", "1.43M", "1.55", "0.180", "3.10", "58.6x", "153x"]
    for name in ("teacher", "student, labels only", "student, distilled", "Some CPU", "2014 test texts, seed 7"):
        assert name in text


def test_without_a_teacher_nothing_is_compared(report):
    alone = replace(report, models=FORMS)
    assert "smaller" not in shown(reports.table(alone))
    assert "smaller" not in reports.markdown(alone)
    assert reports.summary(alone) == ""


def test_the_summary_says_what_the_smallest_file_keeps_and_saves(report):
    assert reports.summary(report) == (
        "student, distilled as TFLite int8 keeps 98.2% of the teacher's accuracy, 58.6x smaller and 153x faster."
    )


def test_the_parity_table_shows_error_agreement_and_flex_operators(report):
    text = shown(reports.parity_table(report))
    assert "2.1e-07" in text
    assert "99.21%" in text
    assert "FlexErf, FlexTanh" in text
    assert "none" in text


def test_the_markdown_has_one_row_a_model_with_as_many_cells_as_columns(report):
    page = reports.markdown(report)
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert len(tables) == (2 + 6) + (2 + 2)
    assert {line.count("|") for line in tables[:8]} == {13}
    assert (
        "| teacher | Keras | 0.875 | 0.874 | 0.874 | 22.7M | 91.0 MB | 27.4 | 41.2 | 100.0% | 1.00x | 1.00x |" in page
    )
    assert "Made by `keras-transformer demo --seed 7`." in page
    assert "![accuracy against latency](report.png)" in page


def test_a_bar_in_a_name_does_not_break_the_markdown_table(report):
    page = reports.markdown(replace(report, models=[replace(TEACHER, name="a|b")]))
    assert r"| a\|b | Keras |" in page


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.17964, "0.180"),
        (0.9996, "1.00"),
        (9.999, "10.0"),
        (27.44, "27.4"),
        (153.2, "153"),
        (1234.5, "1234"),
    ],
)
def test_three_figures_never_needs_an_exponent(number, text):
    assert report_data.three_figures(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(7, "7"), (999, "999"), (1000, "1.00k"), (999_999, "1.00M"), (22_713_602, "22.7M")]
)
def test_counts_are_short(number, text):
    assert report_data.short_count(number) == text


@pytest.mark.parametrize(("number", "text"), [(12, "12 B"), (1_551_234, "1.55 MB"), (90_953_216, "91.0 MB")])
def test_bytes_are_counted_in_thousands(number, text):
    assert report_data.short_bytes(number) == text


def overlap(first, second) -> bool:
    return first.x0 < second.x1 and second.x0 < first.x1 and first.y0 < second.y1 and second.y0 < first.y1


@pytest.mark.parametrize("crowded", [False, True])
def test_no_label_of_the_picture_covers_another_or_leaves_the_frame(report, crowded):
    if crowded:
        near = [replace(STUDENT, accuracy=0.86 + i / 2000, latency_ms_p50=1 + i / 50) for i in range(6)]
        report = replace(report, models=[TEACHER, *near])
    (axes,) = report_plot.draw(report).axes
    frame = axes.get_window_extent()
    boxes = [Text.get_window_extent(text) for text in axes.texts]  # an annotation's own adds its leader
    assert len(boxes) == len(report.models) + 1  # the teacher's line has words too
    for number, box in enumerate(boxes):
        assert frame.x0 <= box.x0 <= box.x1 <= frame.x1
        assert frame.y0 <= box.y0 <= box.y1 <= frame.y1
        assert not any(overlap(box, other) for other in boxes[number + 1 :])


def test_the_picture_puts_each_model_at_its_latency_and_accuracy(report):
    (axes,) = report_plot.draw(report).axes
    drawn = {tuple(map(float, circles.get_offsets()[0])) for circles in axes.collections}
    assert drawn == {(row.latency_ms_p50, 100 * row.accuracy) for row in report.models}
    assert axes.get_xscale() == "log"
    assert "(ms" in axes.get_xlabel()
    assert axes.get_ylabel() == "accuracy on 2014 test texts (%)"
    area = {float(c.get_offsets()[0][0]): float(c.get_sizes()[0]) for c in axes.collections}
    assert area[TEACHER.latency_ms_p50] > area[STUDENT.latency_ms_p50] > area[0.1796]


def test_the_picture_is_the_same_bytes_each_time(report, tmp_path):
    for name in ("a.png", "b.png"):
        report_plot.write(report, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("models", [[], [replace(TEACHER, latency_ms_p50=0)], [replace(TEACHER, accuracy=math.nan)]])
def test_what_a_logarithmic_axis_cannot_show_is_refused(report, tmp_path, models):
    with pytest.raises(UserError, match=r"the report has \d models, \d of them without an accuracy or a latency"):
        report_plot.write(replace(report, models=models), tmp_path / "a.png")
    assert os.listdir(tmp_path) == []


def test_reading_a_report_imports_neither_tensorflow_nor_matplotlib_nor_rich(report, tmp_path):
    reports.write(report, tmp_path)
    code = (
        "import sys; from keras_transformer import report; report.read(sys.argv[1]); "
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras', 'matplotlib', 'rich')))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "report.json")]
    assert subprocess.run(command, check=False).returncode == 0
