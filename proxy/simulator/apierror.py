"""ApiError: one refusal, and the shapes in which servers word it."""

from collections.abc import Iterable, Mapping
from typing import Any

from proxy.simulator.model import Event
from proxy.simulator.settings import ErrorShape

CURT = "api_error"
"""The type of errors that are a message and no more."""


class ApiError(Exception):
    """A request is refused with *status*; *headers* travel along (``retry-after``)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        type: str | None = None,  # noqa: A002  the wire format's word
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.type = type or _type_of(status)
        self.param = param
        self.headers = dict(headers or {})

    def __repr__(self) -> str:
        return f"<ApiError {self.status} {self.code or self.type}: {self.message}>"

    def body(self) -> dict[str, Any]:
        """Word it as the body of an HTTP answer."""
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def event(self, shape: ErrorShape = "nested", *, with_status: bool = True) -> Event:
        """Word it as a WebSocket event; the caller adds ``sequence_number`` and ``stream_id``."""
        if self.type == CURT:
            return {"error": {"message": self.message, "type": self.type}}
        if shape == "detail":
            return {"detail": self.message}
        if shape == "flat":
            return {"type": "error", "code": self.code, "message": self.message, "param": self.param}
        if shape == "response_failed":
            failure = {"code": self.code or self.type, "message": self.message}
            response: Event = {
                "id": None,
                "object": "response",
                "status": "failed",
                "error": failure,
                "output": [],
            }
            return {"type": "response.failed", "response": response}
        error: dict[str, Any] = {
            "type": self.type,
            "code": self.code,
            "message": self.message,
            "param": self.param,
        }
        if shape == "codeless" and self.code == "previous_response_not_found":
            error = {"message": "Invalid `previous_response_id`."}
        event: Event = {"type": "error"}
        if with_status:
            event["status"] = self.status
        event["error"] = error
        if self.headers:
            error["headers"] = self.headers
            event["headers"] = self.headers
        return event

    def streamed(self) -> Event:
        """Word it as the event of an SSE stream, as api.openai.com does (openai/openai-dotnet#881).

        The caller adds ``sequence_number``.
        """
        return {"type": "error", **self.body()}


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """Refuse a malformed request."""
    return ApiError(400, message, code=code, param=param)


def missing(param: str) -> ApiError:
    """Refuse a request that lacks *param*."""
    return invalid(f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter")


def unsupported(value: object, supported: Iterable[str], param: str) -> ApiError:
    """Refuse a *value* that is none of those *supported*."""
    *most, last = (f"'{name}'" for name in supported)
    choices = f"{', '.join(most)} and {last}" if most else last
    message = f"Invalid value: '{value}'. Supported values are: {choices}."
    return invalid(message, param=param, code="invalid_value")


def out_of_range(param: str, value: float, fault: str, expected: str) -> ApiError:
    """Refuse a number; *fault* says how it is wrong, as in ``integer below minimum``."""
    message = f"Invalid '{param}': {fault} value. Expected a value {expected}, but got {value:g} instead."
    code = f"{fault.replace('minimum', 'min').replace('maximum', 'max').replace(' ', '_')}_value"
    return invalid(message, param=param, code=code)


def previous_response_not_found(response_id: str, *, curt: bool = False) -> ApiError:
    """Refuse to continue a response that is not remembered; if *curt* in as few words as possible."""
    if curt:
        return ApiError(404, f"gRPC error: Response with id={response_id} not found", type=CURT)
    return ApiError(
        400,
        f"Previous response with id '{response_id}' not found.",
        code="previous_response_not_found",
        param="previous_response_id",
    )


def _type_of(status: int) -> str:
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    if status in types:
        return types[status]
    if status == 503:
        return "service_unavailable_error"
    return "server_error" if status >= 500 else "invalid_request_error"
