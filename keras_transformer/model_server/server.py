"""Both servers of one model, REST and gRPC, started and stopped together."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from keras_transformer.checks import UserError
from keras_transformer.model_server.grpc_services import grpc_server
from keras_transformer.model_server.rest import RestServer
from keras_transformer.model_server.served_model import ServedModel

GRACE_SECONDS = 1.0  # that requests under way have when the server stops

Log = Callable[[str], None]


def to_standard_error(line: str) -> None:
    """Write a line about a request."""
    print(line, file=sys.stderr)


class ModelServer:
    """Answers from when it is made until `stop`, or until the end of its context.

    `grpc_port` and `rest_port` are those it listens on.

    Args:
        model: what is asked; it is closed with the server.
        host: address to listen on. Nobody is asked who they are, so take one that others reach only on purpose.
        grpc_port: 0 for any free one.
        rest_port: 0 for any free one.
        log: is told a line for each request.

    Raises:
        UserError: if a port is taken, or the host isn't an address of this machine.
    """

    def __init__(
        self,
        model: ServedModel,
        *,
        host: str = "127.0.0.1",
        grpc_port: int = 8500,
        rest_port: int = 8501,
        log: Log = to_standard_error,
    ) -> None:
        self.model = model
        try:
            self._rest = RestServer((host, rest_port), model, log)
        except (OSError, OverflowError) as error:
            raise _unheard("--rest-port", host, rest_port, str(error)) from error
        self._grpc = grpc_server(model, log)
        try:
            self.grpc_port = self._grpc.add_insecure_port(f"{host}:{grpc_port}")
        except RuntimeError as error:
            self._rest.server_close()
            raise _unheard("--port", host, grpc_port, "the address can't be used") from error
        self.rest_port = self._rest.server_address[1]
        self._grpc.start()
        self._thread = threading.Thread(target=self._rest.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def wait(self) -> None:
        """Return when gRPC has stopped; Ctrl-C ends it with KeyboardInterrupt."""
        self._grpc.wait_for_termination()

    def stop(self) -> None:
        """Take no more requests, let those under way end for a second, and free the model."""
        stopped = self._grpc.stop(GRACE_SECONDS)
        self._rest.shutdown()
        self._rest.server_close()
        self._thread.join()
        stopped.wait()
        self.model.close()


def _unheard(option: str, host: str, port: int, reason: str) -> UserError:
    return UserError(f"{option} {port} at {host}: {reason}. Give another port, 0 for any free one, or another --host.")
