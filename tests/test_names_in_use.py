"""What benchmarks, notebooks and the README take from the package is there: nobody else runs all of them."""

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "notebooks")
    for path in (ROOT / folder).rglob("*.py")
    if path.name != "__init__.py"
)
TAKEN = "keras_transformer"


def imports(source: str) -> list[tuple[str, str]]:
    """Module and name of each `from keras_transformer... import name`, functions' own imports too."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom) and node.module]
    return [(node.module, one.name) for node in nodes if node.module.split(".")[0] == TAKEN for one in node.names]


def absent(names: list[tuple[str, str]]) -> list[str]:
    """Those that the package doesn't have."""
    found = []
    for module, name in names:
        if hasattr(importlib.import_module(module), name):
            continue
        try:
            importlib.import_module(f"{module}.{name}")
        except ModuleNotFoundError:
            found.append(f"{module}.{name}")
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_that_a_script_takes_is_there(path):
    assert absent(imports(path.read_text(encoding="utf-8"))) == []


def test_every_name_that_the_readme_takes_is_there():
    lines = re.findall(
        rf"^ *(from {TAKEN}.* import .*)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    names = [name for line in lines for name in imports(line)]
    assert names
    assert absent(names) == []


@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path.parent.name == "benchmarks"], ids=lambda path: path.name
)
def test_a_benchmark_that_is_run_reads_its_words_with_a_parser(path):
    """So `--help` prints its text, and doesn't start an hour of work."""
    source = path.read_text(encoding="utf-8")
    assert ('__name__ == "__main__"' in source) == ("argparse.ArgumentParser(" in source)


def test_a_name_that_moved_away_is_found():
    assert absent(imports("from keras_transformer.checks import UserError, gone")) == ["keras_transformer.checks.gone"]
