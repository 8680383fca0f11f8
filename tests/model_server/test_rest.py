"""The REST paths of TensorFlow Serving over loopback: the JSON that its documentation shows, and clear refusals."""

import base64
import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_transformer import generation, serving
from keras_transformer.generation import Decoding

TEXTS = ["a fine and funny film", "a dull film", "funny!", "not funny at all"]
PREDICT = "/v1/models/small:predict"


def asked(server, method, path, body=None, headers=None):
    """Status and JSON of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=60)
    content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, content, headers or {})
    response = connection.getresponse()
    found = response.status, json.loads(response.read())
    assert response.getheader("Content-Type") == "application/json"
    connection.close()
    return found


def predicted(server, body, path=PREDICT):
    status, content = asked(server, "POST", path, body)
    assert status == 200, content
    return content


@pytest.fixture(scope="module")
def expected(small_bundle):
    """What the run folder says of the texts."""
    return serving.load(small_bundle).predict(TEXTS)


def test_rows_are_answered_by_row_and_columns_by_column(served, expected):
    rows = predicted(served, {"instances": [{"text": text} for text in TEXTS]})["predictions"]
    assert [row["labels"] for row in rows] == expected.labels
    np.testing.assert_allclose([row["scores"] for row in rows], expected.scores, atol=1e-5)
    columns = predicted(served, {"inputs": {"text": TEXTS}})["outputs"]
    assert columns["labels"] == expected.labels
    np.testing.assert_allclose(columns["scores"], expected.scores, atol=1e-5)


def test_a_single_input_and_a_single_output_need_no_names(served, expected):
    assert predicted(served, {"instances": TEXTS})["predictions"][2]["labels"] == expected.labels[2]
    assert predicted(served, {"inputs": TEXTS})["outputs"]["labels"] == expected.labels
    by_row = predicted(served, {"signature_name": "encode", "instances": TEXTS})["predictions"]
    by_column = predicted(served, {"signature_name": "encode", "inputs": TEXTS})["outputs"]
    assert np.shape(by_row) == np.shape(by_column) == (4, 8)
    assert by_row == by_column
    assert len({tuple(vector) for vector in by_row}) == 4


def test_ids_of_one_length_give_logits(served, expected, small_tokenizer):
    ids = small_tokenizer.pad(small_tokenizer.encode(TEXTS, 13)).tolist()
    logits = np.array(predicted(served, {"signature_name": "tokens", "instances": ids})["predictions"])
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)


def test_base64_is_another_way_to_write_a_text(served, expected):
    encoded = [{"b64": base64.b64encode(text.encode()).decode()} for text in TEXTS]
    assert predicted(served, {"inputs": encoded})["outputs"]["labels"] == expected.labels


def test_options_of_a_writer_are_one_a_row(served_writer, writer_folder):
    writer, path = generation.load(writer_folder), "/v1/models/writer:predict"
    limits = [1, 5, 3, 2]
    rows = [{"text": text, "max_tokens": limit} for text, limit in zip(TEXTS, limits, strict=True)]
    found = predicted(served_writer, {"signature_name": "generate", "instances": rows}, path)["predictions"]
    for row, text, limit in zip(found, TEXTS, limits, strict=True):
        assert [row["output"]] == writer.write([text], Decoding(max_tokens=limit))
        assert row["log_prob"] <= row["score"] < 0
    searched = predicted(served_writer, {"signature_name": "search", "instances": rows}, path)["predictions"]
    assert [len(row["output"]) for row in searched] == [3] * 4
    assert searched[1]["output"][0] == writer.write(TEXTS[1:2], Decoding(beam=3, max_tokens=5))[0]


def test_status_and_metadata_are_those_of_the_protos(served):
    available = {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    for path in ("/v1/models/small", "/v1/models/small/versions/1"):
        assert asked(served, "GET", path) == (200, {"model_version_status": [available]})
    status, content = asked(served, "GET", "/v1/models/small/metadata")
    assert status == 200
    assert content["model_spec"]["name"] == "small"
    assert content["model_spec"]["version"] == "1"
    signatures = content["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "encode", "tokens"}
    text = signatures["serving_default"]["inputs"]["text"]
    assert (text["dtype"], text["tensor_shape"]["dim"][0]["size"]) == ("DT_STRING", "-1")
    assert signatures["encode"]["method_name"] == "tensorflow/serving/predict"


WRONG = [
    ({"inputs": {"text": ["a"], "more": [1]}}, 400, r"takes ['text']. Missing: []; not known: ['more']"),
    ({"inputs": {}}, 400, "Missing: ['text']"),
    ({"inputs": [["a film"], ["another"]]}, 400, "input 'text' has shape (2, 1), and the signature takes (any,)"),
    ({"inputs": "a film"}, 400, "input 'text' has shape (), and the signature takes (any,)"),
    ({"instances": ["a", ["b"]]}, 400, "input 'text' has rows of different lengths"),
    ({"instances": [3]}, 400, "input 'text' has the value '3', and the signature takes string"),
    ({"instances": [{"b64": "?"}]}, 400, "'b64' that isn't base64"),
    ({"instances": []}, 400, '"instances" must be a list of at least one row'),
    ({"instances": ["a"], "inputs": ["a"]}, 400, 'either "instances", a list of rows, or'),
    ({"inputs": ["a"], "signature_name": 3}, 400, "signature_name 3 must be a string"),
    (
        {"inputs": ["a"], "signature_name": "logits"},
        400,
        "no signature 'logits'. Use one of ['encode',",
    ),
    ({"inputs": [[2, 1.5]], "signature_name": "tokens"}, 400, "the value '1.5', and the signature takes int32"),
    ({"inputs": [[2, True]], "signature_name": "tokens"}, 400, "the value 'True', and the signature takes int32"),
    ({"inputs": [[2, 2**31]], "signature_name": "tokens"}, 400, "the value '2147483648', and the signature"),
    ({"inputs": [[2, -1]], "signature_name": "tokens"}, 400, "token_ids must lie in 0..60, here they run from] [-1]"),
    (
        {"inputs": [[2] * 14], "signature_name": "tokens"},
        400,
        "at most 13 columns, here they have] [14]",
    ),
    ({"inputs": ["film " * (1 << 18)]}, 400, "a text may have at most 1048576 bytes of UTF-8, here one has] [1310720]"),
    (["a"], 400, "the body must be an object"),
    (b"{", 400, "the body isn't JSON"),
    (b"[" * 100_000, 400, "the body isn't JSON"),
    (b"\xff\xfe", 400, "the body isn't JSON"),
]


@pytest.mark.parametrize(("body", "status", "message"), WRONG)
def test_what_does_not_fit_is_refused_with_the_reason_and_the_server_lives_on(served, body, status, message):
    code, content = asked(served, "POST", PREDICT, body)
    assert list(content) == ["error"]
    assert message in content["error"]
    assert code == status
    assert predicted(served, {"instances": ["a film"]})


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/v1/models/large:predict", 404, "there is no model 'large' here. Ask for 'small'"),
        ("GET", "/v1/models/large", 404, "there is no model 'large'"),
        ("GET", "/v1/models/small/versions/2", 404, "there is no version 2 of 'small'. Ask for version 1"),
        ("POST", "/v1/models/small/labels/stable:predict", 404, "version label 'stable': this server gives none"),
        ("GET", "/v1/models/", 400, "GET /v1/models/: there is no such path. Use POST /v1/models/small:predict"),
        ("GET", "/", 400, "GET /: there is no such path"),
        ("GET", PREDICT, 400, "there is no such path"),
        ("POST", "/v1/models/small", 400, "there is no such path"),
        ("POST", "/v1/models/small:classify", 400, ":classify takes tf.Example, and these models take texts"),
    ],
)
def test_what_is_not_there_is_said_to_be_missing(served, method, path, status, message):
    code, content = asked(served, method, path, {"instances": ["a"]} if method == "POST" else None)
    assert (code, list(content)) == (status, ["error"])
    assert message in content["error"]


def test_another_method_is_refused_in_json(served):
    assert asked(served, "PUT", PREDICT, {"instances": ["a"]}) == (501, {"error": "Unsupported method ('PUT')"})


def test_a_body_without_a_length_or_beyond_the_limit_is_not_read(served):
    for length in ("", "Content-Length: 99999999999\r\n", "Content-Length: -3\r\n"):
        with socket.create_connection(("127.0.0.1", served.rest_port), timeout=60) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode())
            answer = connection.makefile("rb").read()  # to its end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"a body needs one, of at most 67108864 bytes" in answer


def test_clients_that_leave_or_talk_nonsense_do_not_stop_the_server(served):
    half = f"POST {PREDICT} HTTP/1.1\r\nContent-Length: 50\r\n\r\n{{".encode()
    for sent in (
        b"",
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        half,
    ):
        with socket.create_connection(("127.0.0.1", served.rest_port), timeout=60) as connection:
            connection.sendall(sent)
    assert predicted(served, {"instances": ["a film"]})


def test_requests_at_the_same_time_get_their_own_answers(served, expected):
    def ask(number):
        place = number % len(TEXTS)
        repeated = [TEXTS[place]] * (1 + number % 5)
        return place, predicted(served, {"instances": repeated})["predictions"]

    with ThreadPoolExecutor(8) as pool:
        for place, rows in pool.map(ask, range(40)):
            assert {row["labels"] for row in rows} == {expected.labels[place]}
            np.testing.assert_allclose(rows[-1]["scores"], expected.scores[place], atol=1e-5)


def test_a_connection_serves_more_than_one_request_and_no_text_is_logged(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.rest_port, timeout=60)
    for _ in range(2):
        connection.request("POST", PREDICT, json.dumps({"instances": ["funny secret"]}))
        response = connection.getresponse()
        assert response.status == 200
        response.read()
    connection.close()
    assert f'REST: "POST {PREDICT} HTTP/1.1" 200 -' in served.lines
    assert not any("secret" in line for line in served.lines)
