"""The notebooks run as they stand, and their two forms say the same."""

import time
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
MINUTES = 5


def test_there_is_a_notebook_to_test():
    assert "01_teach_distil_export" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_script_and_the_notebook_hold_the_same_cells(name):
    script, notebook = (jupytext.read(FOLDER / f"{name}{suffix}") for suffix in (".py", ".ipynb"))
    assert [(cell.cell_type, cell.source) for cell in script.cells] == [
        (cell.cell_type, cell.source) for cell in notebook.cells
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_notebook_runs_within_its_minutes_and_draws_its_pictures(name):
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    start = time.monotonic()
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    spent = time.monotonic() - start
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert len(pictures) >= 2
    assert spent < 60 * MINUTES
