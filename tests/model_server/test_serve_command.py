"""`keras-transformer serve` as a process: what it prints, what it answers, how it ends, and what it refuses."""

import json
import os
import re
import select
import shlex
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_transformer.checks import UserError
from keras_transformer.cli import app
from keras_transformer.files import ModelFileError
from keras_transformer.model_server import ModelServer, ServedModel

SERVE = [sys.executable, "-c", "from keras_transformer.cli import main; main()", "serve"]
START_SECONDS = 240


@pytest.fixture
def started(small_saved_model, tmp_path):
    """A function: options -> the process, once it has printed its line, and that line. What is left is killed."""
    processes = []

    def start(*options):
        errors = (tmp_path / "errors.txt").open("w")
        command = [*SERVE, small_saved_model, "--port", "0", "--rest-port", "0", *options]
        # Where the tests run in a shell's background, Ctrl-C is ignored there, and by all that they start.
        heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, preexec_fn=heard)
        processes.append((process, errors))
        ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
        assert ready, "the server didn't print where it is"
        return process, process.stdout.readline()

    yield start
    for process, errors in processes:
        process.kill()
        process.wait()
        process.stdout.close()
        errors.close()


def test_it_says_where_it_is_answers_and_is_ended_by_ctrl_c(started, tmp_path):
    process, line = started("--json")
    facts = json.loads(line)
    assert (facts["name"], facts["version"]) == ("small", 1)
    assert facts["signatures"] == ["encode", "serving_default", "tokens"]
    with urllib.request.urlopen(facts["rest"], timeout=60) as answer:
        assert json.load(answer)["model_version_status"][0]["state"] == "AVAILABLE"
    client = client_on_page(folder_of(facts), facts["grpc"])
    done = subprocess.run([sys.executable, "-c", client], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"labels \[b'(negative|neutral|positive)'\]\nscores \[\[0\.\d+", done.stdout)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert process.stdout.read() == ""
    lines = (tmp_path / "errors.txt").read_text().splitlines()
    assert lines == [
        'REST: "GET /v1/models/small HTTP/1.1" 200 -',
        "gRPC: Predict OK",
        "keras-transformer: stopped by Ctrl-C",
    ]


@pytest.fixture(autouse=True)
def saved_model_folder(small_saved_model):
    folder_of.folder = small_saved_model


def folder_of(facts):
    assert facts["name"] == folder_of.folder.name
    return folder_of.folder


def client_on_page(folder, address):
    """The Python client of SERVING.md, sent to the port of the test."""
    [client] = re.findall(r"```python\n(.*?)```", (folder / "SERVING.md").read_text(), flags=re.DOTALL)
    assert client.count("localhost:8500") == 1
    return client.replace("localhost:8500", address)


def test_every_curl_of_the_page_is_answered(served, small_saved_model):
    page = (small_saved_model / "SERVING.md").read_text()
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("curl ")]
    assert len(commands) == 6  # status, metadata, three signatures, rows
    for curl, quiet, url, *data in commands:
        assert (curl, quiet) == ("curl", "-s")
        assert url.startswith("http://localhost:8501/v1/models/small")
        address = url.replace("localhost:8501", f"127.0.0.1:{served.rest_port}")
        body = data[1].encode() if data[:1] == ["-d"] else None  # curl posts what -d gives it
        with urllib.request.urlopen(address, body, timeout=60) as answer:
            assert not {"error"} & set(json.load(answer))


def run(*arguments):
    result = CliRunner().invoke(app, ["serve", *map(str, arguments)], env={"COLUMNS": "300"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_what_is_no_saved_model_is_refused_with_what_to_type(small_bundle, small_tflite, tmp_path):
    for path in (small_bundle, small_tflite):
        with pytest.raises(ModelFileError, match=r"is no SavedModel, .* `keras-transformer export RUN_FOLDER --format"):
            run(path)
    with pytest.raises(ModelFileError, match="there is no such file or folder"):
        run(tmp_path / "nothing")


def test_a_port_that_is_taken_is_named(served, small_saved_model):
    ports = {"--rest-port": ("--port", served.rest_port), "--port": ("--rest-port", served.grpc_port)}
    for option, (other, port) in ports.items():
        with pytest.raises(UserError, match=rf"{option} {port} at 127\.0\.0\.1: .* Give another port, 0 for any"):
            run(small_saved_model, option, port, other, 0)
    with pytest.raises(UserError, match=r"--rest-port 0 at 192\.0\.2\.1: "):
        run(small_saved_model, "--host", "192.0.2.1", "--port", 0, "--rest-port", 0)
    assert run(small_saved_model, "--port", "70000").exit_code == 2


def test_the_newest_version_is_served_by_the_name_of_its_folder(own_copy):
    os.rename(own_copy / "1", own_copy / "12")
    for folder in (own_copy, own_copy / "12"):
        model = ServedModel(folder)
        assert (model.name, model.version) == ("small", 12)
        model.close()


def test_a_damaged_model_is_refused(own_copy):
    graph = own_copy / "1" / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-9])
    with pytest.raises(ModelFileError, match=r"saved_model\.pb: is missing, cut short or changed"):
        ServedModel(own_copy)


def test_a_stopped_server_has_given_its_ports_back(small_saved_model):
    ports = {}
    for _ in range(2):
        with ModelServer(
            ServedModel(small_saved_model),
            grpc_port=ports.get("grpc", 0),
            rest_port=ports.get("rest", 0),
            log=lambda line: None,
        ) as server:
            ports = {"grpc": server.grpc_port, "rest": server.rest_port}
    assert all(ports.values())


def test_the_help_says_that_production_takes_the_real_one():
    text = " ".join(run("--help").output.split())
    assert "For development alone" in text
    assert "TensorFlow Serving, which is what production takes" in text


def test_what_starts_the_server_is_the_installed_package():
    assert Path(sys.modules["keras_transformer.cli"].__file__).is_relative_to(Path(__file__).parents[2])
