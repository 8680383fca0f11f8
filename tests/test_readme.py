"""What the README shows is true: its example runs, its tree is the tree."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tracked_files():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(listed.split())


def test_the_example_runs_as_it_stands_and_has_fifteen_lines(tmp_path):
    [example] = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len([line for line in example.splitlines() if line]) <= 15
    done = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "student.tflite").stat().st_size > 1_000_000


def test_the_tree_names_each_file_of_the_package_and_no_other():
    [tree] = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
    named, folders = set(), []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name = line.split()[0]
        folders = [*folders[:depth], name.rstrip("/")]
        if not name.endswith("/"):
            named.add("/".join(folders))
    package = {path for path in tracked_files() if path.startswith(("keras_transformer/", "notebooks/", "benchmarks/"))}
    assert named & package == package - {path for path in package if path.endswith(("__init__.py", "py.typed"))}
    assert {path for path in named if not (ROOT / path).exists()} == set()
