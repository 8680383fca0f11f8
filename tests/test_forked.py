"""What stands in for `python -c` in many tests does what it does."""

import os
import signal
import subprocess
import sys
import time

import pytest

SHOWS = """
import os, sys
print(__name__, sys.argv, os.getcwd(), sys.stdin.read())
print("oops", file=sys.stderr)
"""


def test_a_program_has_its_arguments_input_folder_and_output(forked, tmp_path):
    arguments = ["a b", "7"]
    done = forked.run(SHOWS, *arguments, given="line\nline", folder=tmp_path)
    command = [sys.executable, "-c", SHOWS, *arguments]
    other = subprocess.run(command, input="line\nline", cwd=tmp_path, capture_output=True, text=True, check=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, other.stdout, other.stderr)


@pytest.mark.parametrize(
    ("code", "status"), [("raise SystemExit(3)", 3), ("import sys; sys.exit('no')", 1), ("1 / 0", 1), ("", 0)]
)
def test_its_exit_code_is_told(forked, code, status):
    assert forked.run(code).returncode == status


def test_what_went_wrong_is_told(forked):
    assert "ZeroDivisionError" in forked.run("1 / 0").stderr
    assert forked.run("import sys; sys.exit('no')").stderr == "no\n"


def test_it_can_be_killed_and_the_next_one_runs(forked, tmp_path):
    program = forked.start("import sys, time; open(sys.argv[1], 'w'); time.sleep(60)", tmp_path / "begun")
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    os.kill(program.pid, signal.SIGKILL)
    assert program.wait().returncode == -signal.SIGKILL
    assert forked.run("print(5)").stdout == "5\n"


def test_a_program_knows_nothing_of_the_one_before_and_begins_with_nothing_of_ours(forked):
    assert forked.run("import keras; keras.left = 1; import keras_transformer").returncode == 0
    names = "[name.split('.')[0] for name in sys.modules]"
    code = f"import keras, sys; print(hasattr(keras, 'left'), 'keras_transformer' in {names}, 'pytest' in {names})"
    assert forked.run(code).stdout == "False False False\n"
