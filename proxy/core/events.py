"""What crosses the WebSocket: events from upstream, and the one message we send."""

import json  # noqa: TID251  (takes what some servers write though it is not JSON)
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.core.delta import Delta, TurnRequest
from proxy.core.hoist import Hoisted
from proxy.core.items import Raw
from proxy.core.message import Message
from proxy.errors import REJECTIONS, UpstreamError

DONE = "response.done"
"""How some servers end a response over a WebSocket alone."""

TERMINAL = frozenset(
    {
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.cancelled",
        DONE,
        "response.error",
        "error",
    }
)
"""After one of these upstream is done with the turn."""

ERRORS = frozenset({"error", "response.error"})

_ENDINGS = {each: f"response.{each}" for each in ("completed", "incomplete", "failed")}
"""With what a response of each status ends over HTTP."""

AGE_LIMIT = b"websocket_connection_limit_reached"
"""The code of an error that is about the connection, and none of its turns."""

_ASIDES = ("codex.", "responsesapi.")

_TYPE_FIRST = re.compile(rb'\s*\{\s*"type"\s*:\s*"([a-z0-9_.]+)"')
_LINE_BREAKS = bytes.maketrans(b"\r\n", b"  ")
_NAMES_PARENT = re.compile(rb'"previous_response_id"\s*:\s*("[^"\\]*")')


class GarbledEvent(ValueError):
    """Upstream sent something that is not a JSON object with a type."""


@dataclass(frozen=True, slots=True)
class ServerEvent:
    """One message from upstream: its *type*, and *raw*, the JSON on one line, which is what the agent gets."""

    type: str
    raw: bytes

    @classmethod
    def parse(cls, message: bytes) -> "ServerEvent":
        """Read one message. Raises GarbledEvent where it is not an object with a type, or not UTF-8.

        The type stands first in nearly everything services send, so the rest is read only where it is needed. An
        object without one that tells an error is an error: xAI writes `error` so, and ChatGPT's servers `detail`.
        """
        if not message.isascii():
            _check_utf8(message)  # here, as most events are passed on without being read
        if b"\n" in message or b"\r" in message:
            # Between tokens a line break is a space; inside a JSON string it cannot stand (RFC 8259, section 7).
            message = message.translate(_LINE_BREAKS)
        found = _TYPE_FIRST.match(message)
        if found:
            return cls(found[1].decode(), message)
        try:
            value = orjson.loads(message)
        except orjson.JSONDecodeError as exc:
            raise GarbledEvent("not JSON") from exc
        if isinstance(value, dict) and (value.get("error") or value.get("detail")) and "type" not in value:
            return cls("error", _written({"type": "error", **value}))
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str) or "\n" in kind or "\r" in kind:
            raise GarbledEvent("no type")
        return cls(kind, message)

    @property
    def terminal(self) -> bool:
        """Whether upstream is done with the turn."""
        return self.type in TERMINAL

    @property
    def of_response(self) -> bool:
        """Whether this belongs to a response, rather than to the connection or the account."""
        return self.type.startswith("response.") and self.type != "response.metadata"

    @property
    def is_aside(self) -> bool:
        """Whether it is no event of the API, but tells a WebSocket what is in the headers of an HTTP answer.

        Nobody who speaks HTTP is sent such (openai/codex#10324), and agents that know the API's events alone fail.
        """
        return self.type.startswith(_ASIDES)

    @property
    def is_piece(self) -> bool:
        """Whether it adds to what an item says, and neither begins nor ends anything."""
        return self.type.endswith(".delta")

    @property
    def is_unexplained(self) -> bool:
        """Whether it says that a response failed, and not why."""
        if self.type != "response.failed":
            return False
        try:
            response = self.json().get("response")
        except GarbledEvent:
            return False
        return isinstance(response, dict) and not (response.get("error") or response.get("incomplete_details"))

    def json(self) -> dict[str, Any]:
        """Parse the whole event. Raises GarbledEvent where it is not a JSON object.

        NaN, Infinity and lone surrogates, which some servers write, are taken.
        """
        try:
            try:
                value = orjson.loads(self.raw)
            except orjson.JSONDecodeError:
                value = json.loads(self.raw)
        except (ValueError, RecursionError) as exc:
            raise GarbledEvent("not JSON") from exc
        if not isinstance(value, dict):
            raise GarbledEvent("not an object")
        return value

    def as_over_http(self, created: "ServerEvent | None") -> "ServerEvent":
        """Return a `response.done` as the event with which HTTP ends: those who speak it do not know that one.

        ChatGPT's servers end some responses so (digitallyinduced/haskell-agent#316), and tell little more than an
        id then: the rest is as *created* had it, and where nothing else is said the response completed. One that
        ended in a way that HTTP has no event for stays as it is, and so does one that does not say which ended.
        Raises GarbledEvent where the event cannot be read.
        """
        event = self.json()
        response = event.get("response")
        if not (isinstance(response, dict) and isinstance(response.get("id"), str)):
            return self
        told = {name: value for name, value in response.items() if value is not None}
        fallen_short = "failed" if "error" in told else "incomplete" if "incomplete_details" in told else None
        status = told.setdefault("status", fallen_short or "completed")
        if not isinstance(status, str) or status not in _ENDINGS:
            return self
        begun = created.json().get("response") if created is not None else None
        whole = {**begun, **told} if isinstance(begun, dict) else told
        return ServerEvent(_ENDINGS[status], _written({**event, "type": _ENDINGS[status], "response": whole}))

    def telling(self, fields: Mapping[str, Any]) -> "ServerEvent":
        """Return this event with the values of *fields* in its `response` object, as far as it has such fields."""
        if b'"response"' not in self.raw:  # inside a text the quotes would be escaped
            return self
        try:
            event = self.json()
        except GarbledEvent:
            return self
        response = event.get("response")
        if not isinstance(response, dict):
            return self
        shown = {name: value for name, value in fields.items() if name in response}
        return ServerEvent(self.type, _written({**event, "response": {**response, **shown}}))

    def continuing_none(self, parent: str) -> "ServerEvent":
        """Return this event with null for *parent* where its `response` names that as the one before it.

        All else stays to the byte, unless the same words stand elsewhere as well, as in metadata.
        """
        quoted = orjson.dumps(parent)
        if quoted not in self.raw:
            return self
        try:
            response = self.json().get("response")
        except GarbledEvent:
            return self
        if not isinstance(response, dict) or response.get("previous_response_id") != parent:
            return self
        named = [found for found in _NAMES_PARENT.finditer(self.raw) if found[1] == quoted]
        if len(named) != 1:
            return self.telling({"previous_response_id": None})
        start, end = named[0].span(1)
        return ServerEvent(self.type, self.raw[:start] + b"null" + self.raw[end:])

    def __repr__(self) -> str:
        return f"<{self.type}, {len(self.raw)} bytes>"


def _check_utf8(message: bytes) -> None:
    try:
        message.decode()
    except UnicodeDecodeError as exc:
        raise GarbledEvent("not UTF-8") from exc


def _written(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # half a character
        return json.dumps(value).encode()


def response_create(
    request: TurnRequest,
    upload: Delta | None,
    hoisted: Hoisted | None = None,
    *,
    quiet: bool = False,
    warm_up: Sequence[Raw] | None = None,
) -> Message:
    """Write the message that starts a turn: *upload* if it continues a chain, else the whole history.

    Settings go in a fixed order, with the agent's own values, so that compression finds the previous turn's; those
    that are *hoisted* are told as the first items of a history instead. Instructions that upstream keeps for a
    chain are told at its beginning alone.
    A *quiet* turn asks for events without padding. A *warm_up* has upstream hold the history and these items,
    and answer nothing.
    """
    message: dict[str, Any] = {"type": "response.create", **request.fields}
    for name in hoisted.fields if hoisted is not None else ():
        del message[name]
    if quiet:
        message["stream_options"] = {**(request.fields.get("stream_options") or {}), "include_obfuscation": False}
    if upload is not None:
        if upload.baseline.kept:
            message.pop("instructions", None)
        message["previous_response_id"] = upload.baseline.response_id
        message["input"] = [item.raw for item in upload.items]
    elif hoisted is not None:
        message["input"] = [*hoisted.items, *request.raws]
    elif (whole := request.input) is not None:
        message["input"] = whole
    if warm_up is not None:
        message["generate"] = False
        message["input"] = [*_items(message.get("input")), *warm_up]
    return Message.of(message)


def _items(whole: Any) -> list[Any]:
    """Return an `input` as items: a text is what a user says."""
    return [{"type": "message", "role": "user", "content": whole}] if isinstance(whole, str) else whole or []


@dataclass(frozen=True, slots=True)
class Fault:
    """An error in upstream's words, whichever way it wrote them.

    *is_vague* says that nothing in them tells its *status*, which is then 500.
    """

    status: int
    error: Mapping[str, Any]
    headers: Mapping[str, str]
    is_vague: bool = False

    @classmethod
    def of(cls, event: Raw) -> "Fault":
        """Read an `error` event (nested or flat) or a `response.failed`.

        Sources for the shapes: the public OpenAPI description (ResponseErrorEvent), the SDK's WebSocket types,
        the alias `status_code` that the Codex client accepts, and for others the protocol notes, section 3.
        """
        response, body = event.get("response"), event.get("body")
        said = {**body, **event} if isinstance(body, dict) else event
        error = response.get("error") if isinstance(response, dict) else said.get("error")
        if isinstance(error, str):
            error = {"message": error}
        if not isinstance(error, dict):
            error = {key: said[key] for key in ("code", "message", "param") if key in said}
            if not error and (detail := said.get("detail")):
                error = {"message": detail if isinstance(detail, str) else _written(detail).decode()}
        headers = {**_texts(event.get("headers")), **_texts(error.get("headers"))}
        error = {key: value for key, value in error.items() if key != "headers"}
        statuses = (_error_status(each.get(name)) for each in (event, error) for name in _STATUS_NAMES)
        status = next((each for each in statuses if each is not None), None) or _status_of(error)
        return cls(status or 500, error, headers, is_vague=status is None)

    @property
    def code(self) -> str:
        """The error's code, or its type where it has no code, or one that is a status."""
        code = self.error.get("code")
        if not code or (isinstance(code, str) and code.isdecimal()):
            code = self.error.get("type")
        return code if isinstance(code, str) else ""

    @property
    def message(self) -> str:
        """The error's message."""
        message = self.error.get("message")
        return message if isinstance(message, str) else ""

    def as_error(self) -> UpstreamError:
        """Return it as the HTTP answer that it would have been, in upstream's own words."""
        body = _written({"error": dict(self.error)})
        return UpstreamError(self.status, body, self.headers, code=self.code, is_vague=self.is_vague)

    @property
    def is_miss(self) -> bool:
        """Whether upstream no longer knows the response we continue; some have a code of their own, or none."""
        if self.code not in _VAGUE:
            return "previous_response" in self.code
        return self.is_about("previous_response_id") or _GONE.search(self.message, 0, _GONE_WITHIN) is not None

    @property
    def is_age_limit(self) -> bool:
        """Whether the connection is too old for another turn."""
        return AGE_LIMIT.decode() in (self.code, self.message)  # some gateways write no more than the code

    @property
    def is_rejection(self) -> bool:
        """Whether the request itself was refused, which a delta can be where its full history is not."""
        return self.status in REJECTIONS and self.code != "context_length_exceeded"

    def is_about(self, parameter: str) -> bool:
        """Whether it names *parameter*."""
        return parameter in f"{self.error.get('param')} {self.message}"

    @property
    def is_duplicate(self) -> bool:
        """Whether upstream still holds items of an earlier turn on this connection."""
        return "duplicate item" in self.message.lower()


def _texts(headers: Any) -> dict[str, str]:
    if not isinstance(headers, dict):
        return {}
    return {name.lower(): str(value) for name, value in headers.items() if isinstance(value, str | int | float)}


def _error_status(status: Any) -> int | None:
    if isinstance(status, str) and len(status) == 3 and status.isdecimal():
        status = int(status)
    return status if type(status) is int and 400 <= status <= 599 else None


_STATUS_NAMES = ("status", "status_code", "code")

_STATUSES = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "slow_down": 429,
    "too_many_requests": 429,
    "insufficient_quota": 429,
    "usage_limit_reached": 429,
    "usage_not_included": 429,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "unsupported_country_region_territory": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "server_error": 500,
    "internal_error": 500,
    "server_is_overloaded": 503,
    "overloaded_error": 503,
    "service_unavailable_error": 503,
    "message_too_big": 413,
    "bad_request": 400,
    "previous_response_not_found": 400,
    "websocket_connection_limit_reached": 400,
    "context_length_exceeded": 400,
    "invalid_request_error": 400,
    "invalid_request": 400,
    "invalid_prompt": 400,
}
"""The HTTP status for an error that came without one, by its code or else its type."""


def _status_of(error: Mapping[str, Any]) -> int | None:
    for name in (error.get("code"), error.get("type")):
        if isinstance(name, str) and name in _STATUSES:
            return _STATUSES[name]
    is_about_the_request = bool(error.get("param")) or str(error.get("code")).startswith(_REFUSED)
    return 400 if is_about_the_request or _REFUSAL.search(str(error.get("message"))) else None


_REFUSED = ("invalid_", "missing_", "unknown_parameter", "unsupported_")
"""How codes begin that find fault with the request."""

_REFUSAL = re.compile(
    r"previous_response_id|request validation error|argument not supported|(unsupported|unknown) parameter",
    re.IGNORECASE,
)
"""What messages say, xAI's and ChatGPT's among them, that find fault with the request and give no code."""

_GONE = re.compile(
    r"\bresponse with id\b.*\bnot found\b|\bprevious response\b.*\b(not found|expired|no longer)\b", re.IGNORECASE
)
_GONE_WITHIN = 1000
"""Characters of a message in which it is looked for: some quote megabytes, and the time grows with the square."""

_VAGUE = frozenset({"", "api_error", "invalid_request", "invalid_request_error", "not_found_error"})
"""Codes, or types where there is none, that leave it to the message to say what is wrong."""
