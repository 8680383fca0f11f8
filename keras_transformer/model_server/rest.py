"""The REST paths of TensorFlow Serving: predict by rows or columns, status, metadata."""

import json
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from keras_transformer.model_server.json_tensors import answer, arrays, parse
from keras_transformer.model_server.messages import metadata_json, status_json
from keras_transformer.model_server.refusal import INVALID, NOT_READY, RefusedError
from keras_transformer.model_server.served_model import ServedModel

MODEL = r"/v1/models/(?P<name>[^/:]+)(?:/versions/(?P<version>\d{1,18})|/labels/(?P<label>[^/:]+))?"
READ = re.compile(MODEL + r"(?P<metadata>/metadata)?", re.IGNORECASE)
ASK = re.compile(MODEL + r":(?P<method>predict|classify|regress)", re.IGNORECASE)
MOST_BODY_BYTES = 64 << 20
PATIENCE_SECONDS = 60  # with a client that sends nothing

Log = Callable[[str], None]


class RestServer(ThreadingHTTPServer):
    """Answers each connection in a thread of its own.

    Args:
        address: host, and port; 0 for any free one.
        model: what is asked.
        log: is told a line for each request.

    Raises:
        OSError: if the address can't be had.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], model: ServedModel, log: Log) -> None:
        self.model, self.log = model, log
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say in one line what broke a connection; one that the client closed isn't worth it."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            self.log(f"REST: a connection broke: {type(error).__name__}: {error}")


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"  # a connection serves more than one request
    server_version, sys_version = "keras_transformer", ""
    timeout = PATIENCE_SECONDS

    def do_GET(self) -> None:
        """Answer for status and metadata."""
        self._reply(self._told)

    def do_POST(self) -> None:
        """Answer a prediction."""
        self._reply(self._predicted)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Pass a line on: method, path and status. It holds no text of a request."""
        self.server.log(f"REST: {format % arguments}")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what http.server itself refuses, such as another method, as JSON too."""
        self.close_connection = True
        self._send(HTTPStatus(code), {"error": message or HTTPStatus(code).phrase})

    def _reply(self, find: Callable[[], dict[str, Any]]) -> None:
        try:
            status, content = HTTPStatus.OK, find()
        except RefusedError as refusal:
            status, content = refusal.http_status, {"error": refusal.message}
        self._send(status, content)

    def _send(self, status: HTTPStatus, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def _told(self) -> dict[str, Any]:
        found = self._matched(READ)
        self._check_model(found)
        return metadata_json(self.server.model) if found["metadata"] else status_json(self.server.model)

    def _predicted(self) -> dict[str, Any]:
        body = self._body()
        found = self._matched(ASK)
        self._check_model(found)
        if found["method"].lower() != "predict":
            raise RefusedError(
                INVALID, f":{found['method']} takes tf.Example, and these models take texts. Use :predict."
            )
        asked, model = parse(body), self.server.model
        try:
            signature = model.signature(asked.signature_name)
        except RefusedError as refusal:  # over REST the real one calls it the argument's fault
            raise RefusedError(INVALID if refusal.code == NOT_READY else refusal.code, refusal.message) from refusal
        outputs = model.predict(asked.signature_name, arrays(asked, signature.inputs))
        return answer(outputs, asked.by_row)

    def _matched(self, pattern: re.Pattern[str]) -> re.Match[str]:
        found = pattern.fullmatch(self.path.partition("?")[0])
        if found is None:
            root = f"/v1/models/{self.server.model.name}"
            raise RefusedError(
                INVALID,
                f"{self.command} {self.path}: there is no such path. Use POST {root}:predict, GET {root} or "
                f"GET {root}/metadata.",
            )
        return found

    def _check_model(self, found: re.Match[str]) -> None:
        version = found["version"]
        label = unquote(found["label"] or "")
        self.server.model.check_name(unquote(found["name"]), None if version is None else int(version), label)

    def _body(self) -> bytes:
        """The body; what can't be read to its end closes the connection, or the rest would pass for a request."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
            self.close_connection = True
            raise RefusedError(
                INVALID,
                f"Content-Length {length!r}: a body needs one, of at most {MOST_BODY_BYTES} bytes. Send fewer rows.",
            )
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.close_connection = True
            raise RefusedError(INVALID, f"the body ended after {len(body)} of {length} bytes.")
        return body
