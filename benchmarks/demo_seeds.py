"""The demo over several seeds: what it reaches, with the spread.

Command: python benchmarks/demo_seeds.py [SEED ...]      (default 0 1 2; about 10 minutes a seed on two cores)
Writes:  benchmarks/results/demo.md, and each run into saved_models/demo_seeds/seed_N

Each seed is a process of its own, `keras-transformer demo --seed N`, on a machine that does nothing else. Peak memory
is the largest sum, over that process and its children, of proportional set sizes (a page that several share is counted
once), read each second from /proc: needs Linux.
"""

import argparse
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from scheduling import command_prefix

from keras_transformer import report

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "demo.md"
RUNS = ROOT / "saved_models" / "demo_seeds"
FORMS = ("keras", "saved_model", "tflite_float32", "tflite_int8")
KIBIBYTE, GIGABYTE = 1024, 1e9
SECONDS_BETWEEN_LOOKS = 1.0


def main(seeds: list[int]) -> None:
    """Run the demo for each seed and write the table."""
    made, peaks = [], []
    for seed in seeds:
        out = RUNS / f"seed_{seed}"
        peaks.append(watched(["keras-transformer", "demo", "--seed", str(seed), "--out", str(out)]))
        made.append(report.read(out / report.REPORT_JSON))
    text = page(made, max(peaks) / GIGABYTE)
    RESULT.write_text(text, encoding="utf-8")
    print(text)


def watched(command: list[str]) -> int:
    """Run a command to its end; return the most bytes that it and its children had at one time."""
    peak = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            peak = max(peak, bytes_of_tree(process.pid))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"{shlex.join(command)}: ended with code {process.returncode}. See what it said above.")
    return peak


def bytes_of_tree(pid: int) -> int:
    """Proportional set size of a process and all below it; 0 for one that has just ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = [task.read_text().split() for task in Path(f"/proc/{pid}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    own = next((int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)
    return own * KIBIBYTE + sum(bytes_of_tree(int(child)) for listed in children for child in listed)


def page(made: list[report.Report], peak_gigabytes: float) -> str:
    """The Markdown page: what was asked for, what each seed gave; of several also lowest, median and highest."""
    facts = {
        "whole demo, s": ("at most 600", [one.seconds for one in made], "{:.0f}"),
        "teacher accuracy": ("at least .86", [row(one, "teacher", "keras").accuracy for one in made], "{:.4f}"),
        "distilled student, accuracy": ("", [distilled(one).accuracy for one in made], "{:.4f}"),
        "share of the teacher's accuracy kept": (
            "at least .96, aim .98",
            [distilled(one).accuracy / row(one, "teacher", "keras").accuracy for one in made],
            "{:.4f}",
        ),
        "student on labels alone, accuracy": ("", [alone(one).accuracy for one in made], "{:.4f}"),
        "distilled minus labels alone, points": (
            "above the seeds' spread",
            [100 * (distilled(one).accuracy - alone(one).accuracy) for one in made],
            "{:.2f}",
        ),
        "int8 file, accuracy": ("", [row(one, "student_distilled", "tflite_int8").accuracy for one in made], "{:.4f}"),
        "int8 file, MB": ("", [row(one, "student_distilled", "tflite_int8").bytes / 1e6 for one in made], "{:.2f}"),
        "int8 file, times smaller than the teacher": (
            "at least 15",
            [row(one, "teacher", "keras").bytes / row(one, "student_distilled", "tflite_int8").bytes for one in made],
            "{:.1f}",
        ),
        "int8 file, times faster (p50)": (
            "at least 10",
            [
                row(one, "teacher", "keras").latency_ms_p50
                / row(one, "student_distilled", "tflite_int8").latency_ms_p50
                for one in made
            ],
            "{:.1f}",
        ),
        "SavedModel, largest logit error": ("at most 1e-5", [parity(one, "saved_model") for one in made], "{:.1e}"),
        "TFLite float32, largest logit error": (
            "at most 1e-4",
            [parity(one, "tflite_float32") for one in made],
            "{:.1e}",
        ),
        "TFLite int8, same top answer": ("at least .98", [agreement(one) for one in made], "{:.4f}"),
    }
    seeds = " | ".join(f"seed {one.seed}" for one in made)
    lines = [
        "# The demo over several seeds",
        f"Command: `{command_prefix()}python benchmarks/demo_seeds.py {' '.join(str(one.seed) for one in made)}`",
        "Machine: " + ", ".join(f"{name} {value}" for name, value in made[0].machine.items()),
        f"Peak memory of the demo and its children together: {peak_gigabytes:.2f} GB (at most 6).",
        "Flex operators in any TFLite file: "
        + (", ".join(sorted({name for one in made for file in one.parity for name in file.flex_ops})) or "none"),
        f"Spread of the distilled student over the seeds: {spread([distilled(one).accuracy for one in made])}; "
        f"of the one on labels alone: {spread([alone(one).accuracy for one in made])}.",
        f"| what | asked for | {' | '.join([seeds, *over(made)])} |\n"
        f"|---|---|{'---:|' * (len(made) + len(over(made)))}\n"
        + "\n".join(
            f"| {name} | {goal} | "
            + " | ".join(form.format(value) for value in [*values, *(take(values) for take in over(made).values())])
            + " |"
            for name, (goal, values, form) in facts.items()
        ),
        "## Latency of one text at batch 1 in one thread, ms, p50 / p95",
        f"| form | {seeds} |\n|---|{'---:|' * len(made)}\n"
        + "\n".join(
            f"| {name} {form} | " + " | ".join(latency(row(one, name, form)) for one in made) + " |"
            for name, form in [("teacher", "keras"), *(("student_distilled", form) for form in FORMS)]
        ),
    ]
    return "\n\n".join(lines) + "\n"


def over(made: list[report.Report]) -> dict[str, Callable[[list[float]], float]]:
    """What is said of several seeds together; nothing of one."""
    return {"lowest": min, "median": statistics.median, "highest": max} if len(made) > 1 else {}


def row(one: report.Report, name: str, form: str) -> report.ModelRow:
    """The measured row of a model in a form."""
    return next(found for found in one.models if (found.name, found.format) == (name, form))


def distilled(one: report.Report) -> report.ModelRow:
    """The distilled student in Keras."""
    return row(one, "student_distilled", "keras")


def alone(one: report.Report) -> report.ModelRow:
    """The student that saw labels alone."""
    return row(one, "student_labels_only", "keras")


def parity(one: report.Report, form: str) -> float:
    """The largest difference in a logit between a file and its Keras model."""
    return next(found.max_abs_logit_error for found in one.parity if found.format == form)


def agreement(one: report.Report) -> float:
    """Share of test texts on which the int8 file gives the Keras model's answer."""
    return next(found.top1_agreement for found in one.parity if found.format == "tflite_int8")


def latency(measured: report.ModelRow) -> str:
    """Median and 95th percentile as text."""
    return f"{measured.latency_ms_p50:.2f} / {measured.latency_ms_p95:.2f}"


def spread(values: list[float]) -> str:
    """Highest minus lowest, in points; one seed has none."""
    if len(values) < 2:
        return "not known from one seed"
    return f"{100 * (max(values) - min(values)):.2f} points"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seeds", nargs="*", type=int, default=[0, 1, 2])
    main(parser.parse_args().seeds)
