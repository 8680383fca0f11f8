"""`benchmark` prints what files cost, of which operators they are, and as JSON too; the files are small and real."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from keras_transformer.cli import app


def run(*arguments: object) -> str:
    """What the command prints; an error gets through."""
    result = CliRunner().invoke(app, ["benchmark", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def measured(*arguments: object) -> dict:
    printed = run(*arguments, "--json")
    assert printed.count("\n") == 1
    return json.loads(printed)


@pytest.fixture
def reviews(tmp_path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\na fine film,positive\na dull film,negative\nnot funny,neutral\nfunny,positive\n")
    return path


def test_benchmark_prints_what_a_file_costs(small_tflite):
    (one,) = measured(small_tflite, "--rounds", 1)["models"]
    assert set(one) == {
        *("path", "task", "format", "parameters", "bytes", "peak_memory_bytes"),
        *("latency_ms_p50", "latency_ms_p95", "texts_per_second"),
    }
    text = run(small_tflite, "--rounds", 1)
    assert "20 texts, 1 rounds, batch 1, one thread" in text
    assert "TFLite float32" in text


def test_benchmark_lists_operators_and_leaves_xnnpack_out(small_tflite):
    content = measured(small_tflite, "--rounds", 1, "--operators")
    assert (content["threads"], content["xnnpack"]) == (1, True)
    (signature,) = content["models"][0]["signatures"]
    rows = signature["operators"]
    assert signature["signature"] == "tokens"
    assert signature["xnnpack_pieces"] > 0
    assert {"name": "SOFTMAX", "in_file": 1, "xnnpack": 1} in rows
    assert [row["in_file"] for row in rows] == sorted((row["in_file"] for row in rows), reverse=True)
    every = sum(row["in_file"] for row in rows)
    text = " ".join(run(small_tflite, "--rounds", 1, "--operators", "--no-xnnpack").split())
    assert "batch 1, one thread without XNNPACK of" in text
    assert f"small.tflite, signature tokens: XNNPACK takes 0 of {every} operators, in 0 pieces" in text


def test_benchmark_takes_texts_from_a_file(small_tflite, reviews):
    content = measured(small_tflite, "--data", reviews, "--rounds", 2)
    assert (content["texts"], content["rounds"]) == (4, 2)
    assert content["machine"]["cpu"]
