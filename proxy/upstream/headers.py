"""Which of the agent's headers go where, and which tell one set of credentials from another.

A WebSocket's handshake speaks for every turn that follows. So what describes one request (a trace, a retry
count, a session) is not put into it, and everything else keeps conversations apart: a header that is not known
to be volatile might be somebody's credentials.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from blake3 import blake3

Headers: TypeAlias = tuple[tuple[str, str], ...]
"""Name and value pairs in the order and case in which they came."""

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers of one connection, not of the message (RFC 9110, section 7.6.1)."""

_OF_A_BODY = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "cache-control",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "origin",
        "pragma",
        "priority",
        "referer",
    }
)
"""Headers of an HTTP request and its body: a WebSocket's messages have none."""

_VOLATILE = frozenset(
    {
        "b3",
        "baggage",
        "date",
        "http-referer",
        "idempotency-key",
        "originator",
        "sentry-trace",
        "session-id",
        "session_id",
        "thread-id",
        "traceparent",
        "tracestate",
        "x-affinity",
        "x-client-request-id",
        "x-initiator",
        "x-litellm-session-id",
        "x-parent-session-id",
        "x-session-affinity",
        "x-session-id",
        "x-request-id",
        "x-title",
    }
)
_VOLATILE_PREFIXES = (
    "x-amzn-trace",
    "x-b3-",
    "x-codex-",
    "x-datadog-",
    "x-interaction-",
    "x-stainless-",
)
"""Headers that change from request to request in traces of real agents, or are a tracing standard's."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

_UNWRITABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")

_CREDENTIAL = re.compile("auth|cookie|cred|key|passw|secret|sign|token")
"""A name with this in it might be somebody's credentials, whatever it begins with."""

_PATIENCE = ("x-stainless-read-timeout", "x-stainless-timeout")
"""What OpenAI's SDKs say of their own timeout: Python's between two reads, JavaScript's until an answer begins.

JavaScript's says it only where it came with the request, not of one for the whole client (openai 6.40 and 7.15).
"""

_SECONDS = re.compile(r"[0-9]{1,20}(\.[0-9]{1,20})?", re.ASCII)

_MOST_IDENTITY = 64 * 1024
"""Bytes of headers for a handshake: servers take 8 to 64 KB."""

_ANSWERED = frozenset({"retry-after", "retry-after-ms", "x-should-retry", "x-request-id"})
_ANSWERED_PREFIXES = ("x-ratelimit-", "openai-", "x-codex-")
"""What an error event's headers may tell the agent; the last say how much of a plan is used, and until when."""


def of_wire(raw: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Read headers as they came, in their own case. The library writes UTF-8 alone: other bytes are replaced."""
    return tuple(
        (name.decode("utf-8", "replace"), writable(value.decode("utf-8", "replace"))) for name, value in raw
    )


def writable(text: str) -> str:
    """Return *text* without what the library reads in an answer and does not write: control characters, mostly."""
    return text if text.isprintable() else _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def end_to_end(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return *headers* without those of the hop they came over, named by the standard or by Connection."""
    kept = tuple(headers)
    named = {
        token.strip().lower() for name, value in kept if name.lower() == "connection" for token in value.split(",")
    }
    dropped = HOP_BY_HOP | named
    return tuple((name, value) for name, value in kept if name.lower() not in dropped)


def to_http(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return the agent's *headers* as they go upstream with its own body.

    Of names that differ in case alone the library keeps one, so they take the spelling of the first.
    """
    spelling: dict[str, str] = {}
    return tuple(
        (spelling.setdefault(low, name), value)
        for name, value in end_to_end(headers)
        if (low := name.lower()) not in {"host", "expect"}
    )


def of_identity(headers: Iterable[tuple[str, str]], volatile: frozenset[str] = frozenset()) -> Headers:
    """Return the *headers* that a WebSocket's handshake repeats, and that keep its conversations apart.

    *volatile* names further headers, in lower case, to leave out.
    """
    return tuple(
        (name, value)
        for name, value in end_to_end(headers)
        if (low := name.lower()) not in _OF_A_BODY
        and low not in _VOLATILE
        and low not in volatile
        and not low.startswith("sec-")
        and not (low.startswith(_VOLATILE_PREFIXES) and not _CREDENTIAL.search(low))
    )


def fits_a_handshake(headers: Headers) -> bool:
    """Whether a WebSocket's handshake carries *headers* to the byte, and a server may be expected to take them.

    They are kept for as long as the conversations that they keep apart.
    """
    size = sum(len(name) + len(value) for name, value in headers)
    return size <= _MOST_IDENTITY and all(value.isascii() for _, value in headers)


def patience(headers: Mapping[str, str]) -> float:
    """Return the seconds of silence that the agent's *headers* say it bears; 0 where they say nothing."""
    told = (headers.get(name, "") for name in _PATIENCE)
    return max((float(value) for value in told if _SECONDS.fullmatch(value)), default=0.0)


def partition_key(url: str, headers: Headers) -> bytes:
    """Fingerprint an upstream *url* and the identity *headers*; their order and case do not matter."""
    lines = sorted(f"{name.lower()}: {value}" for name, value in headers)
    return blake3("\n".join([url, *lines]).encode()).digest(16)


def of_answer(headers: Iterable[tuple[str, str]]) -> Headers:
    """Return those *headers* of an upstream error that tell the agent when and whether to try again."""
    return tuple(
        (name, value)
        for name, value in headers
        if (low := name.lower()) in _ANSWERED or low.startswith(_ANSWERED_PREFIXES)
        if _TOKEN.fullmatch(name) and value.isprintable()
    )
