"""What the README shows is true: its example runs, its tree is the tree."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


SHOWN = ("keras_transformer", "notebooks", "benchmarks")  # folders whose every file the tree names


def files_below(root, folders):
    """Paths of the files in some folders of `root`, from there; no caches, which are not part of the project."""
    paths = [path.relative_to(root) for folder in folders for path in (root / folder).rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if not any(is_cache(part) for part in path.parts)}


def is_cache(name):
    return name.startswith(".") or name in ("__pycache__", "build", "dist") or name.endswith((".egg-info", ".pyc"))


def test_files_are_found_without_git_and_without_caches(tmp_path):
    for name in (
        "keras_transformer/a.py",
        "keras_transformer/__pycache__/a.pyc",
        "notebooks/.ipynb_checkpoints/b.ipynb",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert files_below(tmp_path, SHOWN) == {"keras_transformer/a.py"}


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
    package = files_below(ROOT, SHOWN)
    assert named & package == package - {path for path in package if path.endswith(("__init__.py", "py.typed"))}
    assert {path for path in named if not (ROOT / path).exists()} == set()
