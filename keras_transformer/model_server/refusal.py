"""A request that gets a status and a reason instead of an answer, in the terms of gRPC and of HTTP."""

from http import HTTPStatus

INVALID, MISSING, NOT_READY = "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION"
UNIMPLEMENTED, INTERNAL = "UNIMPLEMENTED", "INTERNAL"

HTTP = {
    INVALID: HTTPStatus.BAD_REQUEST,
    MISSING: HTTPStatus.NOT_FOUND,
    NOT_READY: HTTPStatus.PRECONDITION_FAILED,
    UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    "RESOURCE_EXHAUSTED": HTTPStatus.SERVICE_UNAVAILABLE,
    "CANCELLED": HTTPStatus.SERVICE_UNAVAILABLE,
}


class RefusedError(Exception):
    """What is wrong with a request.

    Args:
        code: name of a gRPC status, such as "INVALID_ARGUMENT".
        message: for whoever sent the request.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @property
    def http_status(self) -> HTTPStatus:
        """The status of a REST answer."""
        return HTTP.get(self.code, HTTPStatus.INTERNAL_SERVER_ERROR)
