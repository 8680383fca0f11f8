"""The program as a user meets it: real processes, their exit codes, and one line on standard error."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from keras_transformer.cli import main; main()"]


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def modules_after(code: str, *arguments: object) -> set[str]:
    """The top-level modules that a program had imported when it ended."""
    program = (
        f"import atexit, json, os, sys\n"
        f"real = os.dup(2)\n"
        f"write = lambda: os.write(real, json.dumps([n for n in sys.modules if '.' not in n]).encode())\n"
        f"atexit.register(write)\n"
        f"{code}"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(done.stderr))


def processor_seconds(*arguments: object) -> float:
    """What a second run costs: processor time, not the clock, since other tests may run beside this one."""
    run(*arguments)  # writes the byte code
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run(*arguments).returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def test_help_imports_neither_tensorflow_nor_numpy():
    modules = modules_after("from keras_transformer.cli import main; main()", "--help")
    assert "typer" in modules
    assert not modules & {"tensorflow", "keras", "numpy", "matplotlib", "tokenizers", "ai_edge_litert"}


def test_help_takes_less_than_half_a_second_of_the_processor():
    assert processor_seconds("--help") < 0.5


def test_without_arguments_the_help_is_shown():
    done = run()
    assert done.returncode == 0
    for command in ("demo", "train", "distill", "export", "evaluate", "predict", "generate", "benchmark", "serve"):
        assert command in done.stdout


def test_the_version_is_that_of_the_package():
    from keras_transformer import __version__

    assert run("--version").stdout == f"{__version__}\n"


def test_the_installed_script_is_this_program():
    script = shutil.which("keras-transformer", path=str(Path(sys.executable).parent))
    assert script, "the package isn't installed: python -m pip install -e '.[dev]'"
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == run("--version").stdout


def test_predicting_with_a_tflite_file_never_imports_tensorflow(small_tflite):
    code = "from keras_transformer.cli import main; main()"
    modules = modules_after(code, "predict", small_tflite, "a fine film")
    assert "ai_edge_litert" in modules
    assert not modules & {"tensorflow", "keras", "matplotlib"}


def test_evaluating_a_tflite_file_never_imports_tensorflow(small_tflite, tmp_path):
    data = tmp_path / "reviews.csv"
    data.write_text("text,label\na fine film,positive\n")
    code = "from keras_transformer.cli import main; main()"
    modules = modules_after(code, "evaluate", small_tflite, "--data", data)
    assert not modules & {"tensorflow", "keras", "sklearn"}


def test_a_model_in_keras_answers_with_a_clean_standard_error(small_bundle):
    done = run("predict", small_bundle, "a fine film", "--json")
    assert done.returncode == 0
    assert done.stderr == ""
    assert set(json.loads(done.stdout)) == {"predictions"}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["trian"], "No such command 'trian'. Did you mean 'train'? Try 'keras-transformer --help'."),
        (["predict"], "Missing argument 'PATH'. Try 'keras-transformer predict --help'."),
        (
            ["train", "classify", "--data", __file__, "--out", "x", "--size", "huge"],
            "Invalid value for '--size': 'huge' is not one of 'tiny', 'small', 'base'. "
            "Try 'keras-transformer train --help'.",
        ),
        (
            ["train", "classify", "--data", __file__, "--out", "x", "--epochs=0"],
            "Invalid value for '--epochs', '0': Input should be greater than or equal to 1. "
            "Try 'keras-transformer train --help'.",
        ),
        (
            ["train", "translat", "--data", __file__, "--out", "x"],
            "TASK='translat' must be one of ['classify', 'translate', 'language-model']. "
            "Did you mean TASK='translate'?",
        ),
        (
            ["predict", "nowhere", "fine"],
            "nowhere: there is no such file or folder. Give a folder written by `train` or `distill`, or a .tflite "
            "file or SavedModel written by `export`.",
        ),
    ],
)
def test_a_mistake_ends_in_one_line_and_code_2(arguments, line, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"keras-transformer: {line}\n")
    assert os.listdir(tmp_path) == []


def test_a_damaged_file_ends_in_one_line_and_code_2(small_tflite, tmp_path):
    cut = tmp_path / "cut.tflite"
    cut.write_bytes(small_tflite.read_bytes()[:9999])
    for command in (["predict", cut, "fine"], ["benchmark", cut]):
        done = run(*command)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.startswith(f"keras-transformer: {cut}: ")
        assert done.stderr.count("\n") == 1


BROKEN = """
from keras_transformer import cli, serving
def load(path):
    print("a library that talks")
    raise {error}
serving.load = load
cli.main(["predict", "model.tflite", "fine"])
"""


def run_broken(error: str, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", BROKEN.format(error=error)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


@pytest.mark.parametrize("error", ["ZeroDivisionError('by\\nzero')", "AssertionError()", "MemoryError('by zero')"])
def test_a_fault_of_ours_ends_in_one_line_and_code_1(error):
    done = run_broken(error)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert len(lines) == 2  # the other is the library's
    assert lines[1].startswith(f"keras-transformer: this is a fault of ours, {error.split('(')[0]}: ")
    assert "KERAS_TRANSFORMER_TRACEBACK=1" in lines[1]


def test_the_traceback_of_a_fault_can_be_asked_for():
    done = run_broken("ZeroDivisionError('by zero')", KERAS_TRANSFORMER_TRACEBACK="1")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert done.stderr.endswith("ZeroDivisionError: by zero\n")


def test_a_value_error_of_another_library_is_no_mistake_of_the_user():
    done = run_broken("__import__('json').JSONDecodeError('bad', '', 0)")
    assert done.returncode == 1
    assert "this is a fault of ours, JSONDecodeError" in done.stderr


@pytest.mark.parametrize(
    "error", ["OSError(28, 'No space left on device', 'x')", "OSError(122, 'Disk quota exceeded')"]
)
def test_a_full_disk_is_the_users_to_mend(error):
    done = run_broken(error)
    assert done.returncode == 2
    assert "keras-transformer: the disk is full, nothing was written" in done.stderr


def test_ctrl_c_ends_in_one_line_and_code_130():
    done = run_broken("KeyboardInterrupt()")
    assert done.returncode == 130
    assert done.stderr.endswith("keras-transformer: stopped by Ctrl-C\n")
    assert "Traceback" not in done.stderr


def test_ctrl_c_while_waiting_for_a_line_ends_at_once(small_tflite):
    command = [*PROGRAM, "predict", str(small_tflite)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Where the tests run in a shell's background, Ctrl-C is ignored there, and by all that they start.
    pipes["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write("a fine film\n")
        process.stdin.flush()
        first = process.stdout.readline()  # answered while the pipe is still open
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 130
        assert first.count("\t") == 1
        assert process.stderr.read() == "keras-transformer: stopped by Ctrl-C\n"


def test_a_reader_that_leaves_early_causes_no_traceback(small_tflite):
    command = [*PROGRAM, "predict", str(small_tflite)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        process.stdin.write("a fine film\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("a dull film\n" * 9)
        process.stdin.close()
        assert process.wait(timeout=10) == 1
        assert process.stderr.read() == ""


def shell(line: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a line of sh in which "$@" is the program with its arguments."""
    command = ["sh", "-c", line, "sh", *PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_closed_standard_input_with_nothing_to_predict_is_the_users_mistake(small_tflite):
    done = shell('"$@" <&-', "predict", small_tflite)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "keras-transformer: standard input is closed, and no TEXT was given. Give a text, or pipe lines into the "
        "command.\n"
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_that_is_not_needed_does_no_harm(small_tflite, small_bundle, closed):
    for model in (small_tflite, small_bundle) if closed == "<&- >&- 2>&-" else (small_tflite,):
        done = shell(f'"$@" {closed}', "predict", model, "a fine film")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == (0 if ">&- " in f"{closed} ".replace("2>&-", "") else 1)


def test_with_a_closed_standard_error_a_mistake_still_ends_with_code_2(small_tflite):
    assert shell('"$@" 2>&-', "predict", "nowhere", "fine").returncode == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
@pytest.mark.parametrize(
    "arguments", [["predict", "MODEL", "fine"], ["predict", "MODEL", "fine", "--json"], ["--help"]]
)
def test_a_full_standard_output_is_named_as_such(small_tflite, arguments):
    done = shell('"$@" > /dev/full', *[small_tflite if word == "MODEL" else word for word in arguments])
    assert done.returncode == 2
    assert done.stderr == (
        "keras-transformer: standard output can't be written (No space left on device), so answers are missing. Free "
        "some room where it leads, or send it to another place.\n"
    )


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs Linux's /proc, in which no file can be made")
@pytest.mark.parametrize(
    ("form", "out"),
    [("tflite", "/proc/x.tflite"), pytest.param("saved_model", "/proc/served", marks=pytest.mark.slow)],
)
def test_a_place_that_takes_no_files_ends_in_one_line_and_code_2(small_bundle, form, out):
    done = run("export", small_bundle, "--format", form, "--out", out)
    place = out if form == "tflite" else f"{out}/1"
    assert done.returncode == 2
    assert done.stderr == (
        f"keras-transformer: {place}: can't be written (No such file or directory). "
        "Give a place that you may write to.\n"
    )


def test_what_tensorflow_prints_by_itself_does_not_reach_standard_error():
    code = (
        "import os, sys, time; from keras_transformer.cli import output; output.silence_libraries(); "
        "os.write(2, b'native noise'); import logging, warnings; logging.warning('noise'); warnings.warn('noise'); "
        "print('ours', file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "ours\n"


def test_the_answer_of_a_tflite_file_takes_less_than_a_second_and_a_half_of_the_processor(small_tflite):
    assert processor_seconds("predict", small_tflite, "fine") < 1.5  # TensorFlow alone takes 4 to import
