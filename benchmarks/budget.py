"""The search to a budget on the demo's teacher: what 2 MB and a twentieth of the time can hold, and what 1 MB can.

Command: python benchmarks/budget.py TEACHER_DIR DATA_DIR [--seeds 0 1 2] [--epochs N]
         TEACHER_DIR: the demo's `teacher`; DATA_DIR: of `keras-transformer demo --write-data DATA_DIR`
Writes:  benchmarks/results/budget.md, and each search into saved_models/budget/; one that is done isn't done again

Each search is a process of its own, `keras-transformer compress`, with the command that the page shows. The teacher has
learned from all of train.csv, so test.csv measures; it was in no training and chose nothing but the file handed over,
out of those that the page lists.
"""

import argparse
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

from keras_transformer import benchmark, files

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "budget.md"
RUNS = ROOT / "saved_models" / "budget"
BUDGETS = ("2MB,20x", "1MB")
MIN_ACCURACY = "0.96x"
USERS_MISTAKE = 2  # the exit code where not all wishes could be had together


def main(teacher: Path, data: Path, seeds: list[int], epochs: int | None) -> None:
    """Search for each budget and seed, and write the page."""
    options = " ".join(["--seeds", *map(str, seeds), *(["--epochs", str(epochs)] if epochs else [])])
    for seed in seeds:
        for budget in BUDGETS:
            search(teacher, data, budget, seed, epochs)
            text = page(seeds, options)
            RESULT.write_text(text, encoding="utf-8")
    print(text)


def folder_of(budget: str, seed: int) -> Path:
    """Where a search is written."""
    return RUNS / f"{budget.replace(',', '_')}_seed_{seed}"


def refusal_of(budget: str, seed: int) -> Path:
    """A file that says that nothing fits."""
    return RUNS / f"{folder_of(budget, seed).name}.refused.json"


def search(teacher: Path, data: Path, budget: str, seed: int, epochs: int | None) -> None:
    """Run one search to its end, unless it is done."""
    out = folder_of(budget, seed)
    if (out / "search.json").exists():
        return
    command = ["keras-transformer", "compress", str(teacher), "--data", str(data / "train.csv")]
    command += ["--test", str(data / "test.csv"), "--unlabelled", str(data / "unlabelled.csv"), "--budget", budget]
    command += [
        "--min-accuracy",
        MIN_ACCURACY,
        "--seed",
        str(seed),
        *(["--epochs", str(epochs)] if epochs else []),
        "--out",
        str(out),
    ]
    started = time.perf_counter()
    done = subprocess.run(command, check=False)
    if done.returncode == USERS_MISTAKE and not (out / "search.json").exists():
        files.write_json(refusal_of(budget, seed), "no candidate fits")
        return
    if done.returncode not in (0, USERS_MISTAKE):
        raise SystemExit(f"{shlex.join(command)}: ended with code {done.returncode}. See what it said above.")
    files.write_json(out.with_name(f"{out.name}.seconds.json"), round(time.perf_counter() - started))


def page(seeds: list[int], options: str) -> str:
    """Everything as Markdown, without the places of this machine."""
    records = {(budget, seed): record_of(budget, seed) for seed in seeds for budget in BUDGETS}
    found = {key: record for key, record in records.items() if record is not None}
    lines = [
        "# The search to a budget",
        "",
        "Command: `keras-transformer demo --out DEMO && keras-transformer demo --write-data DATA && "
        f"python benchmarks/budget.py DEMO/teacher DATA {options}`",
        "",
        f"Machine: {', '.join(f'{name} {value}' for name, value in benchmark.machine().items())}",
        "",
        f"Asked for: at least {MIN_ACCURACY} of the teacher's accuracy.",
        "",
        "| budget | seed | handed over | MB | ms | times faster | accuracy | of the teacher's | all met | minutes |",
        "|---|---:|---|---:|---:|---:|---:|---:|---|---:|",
        *(summary(budget, seed, record) for (budget, seed), record in found.items()),
        "",
        *(
            f"{budget}, seed {seed}: no candidate fits.\n"
            for budget, seed in records
            if refusal_of(budget, seed).exists()
        ),
        "Times faster: than the teacher as a Keras graph, text in, label out, in one thread, both timed in turn.",
    ]
    for (budget, seed), record in found.items():
        report = (folder_of(budget, seed) / "report.md").read_text(encoding="utf-8").splitlines()
        shown = [line for line in report[1:] if record["command"] not in line]
        lines += ["", f"## {budget}, seed {seed}", *shown]
    return "\n".join([*lines, ""])


def record_of(budget: str, seed: int) -> dict[str, Any] | None:
    """What a search wrote down; None if it isn't done."""
    path = folder_of(budget, seed) / "search.json"
    return files.read_json(path) if path.exists() else None


def summary(budget: str, seed: int, record: dict[str, Any]) -> str:
    """A row of the first table."""
    told = record["result"]
    timed = folder_of(budget, seed).with_name(f"{folder_of(budget, seed).name}.seconds.json")
    minutes = f"{files.read_json(timed) / 60:.0f}" if timed.exists() else ""
    cells = [budget, str(seed), f"{told['name']}/{told['form']}", f"{told['bytes'] / 1e6:.2f}", f"{told['ms']:.2f}"]
    cells += [f"{told['speedup']:.1f}", f"{told['accuracy']:.4f}", f"{told['accuracy'] / told['teacher_accuracy']:.1%}"]
    return f"| {' | '.join([*cells, 'yes' if told['met'] else 'no', minutes])} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int)
    given = parser.parse_args()
    main(given.teacher, given.data, given.seeds, given.epochs)
