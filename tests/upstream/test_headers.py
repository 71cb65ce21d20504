"""Which of the agent's headers go where, and which keep conversations apart."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from proxy.upstream.headers import (
    HOP_BY_HOP,
    end_to_end,
    fits_a_handshake,
    of_answer,
    of_identity,
    of_wire,
    partition_key,
    patience,
    to_http,
)

names = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,12}", fullmatch=True) | st.sampled_from(
    ["Authorization", "Host", "TE", "Connection", "Upgrade", "Expect", "Content-Type", "X-Stainless-OS"]
)
values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)
pairs = st.lists(st.tuples(names, values), max_size=8).map(tuple)

OF_THE_ACCOUNT = [
    "Authorization",
    "api-key",
    "x-api-key",
    "OpenAI-Organization",
    "OpenAI-Project",
    "OpenAI-Beta",
    "chatgpt-account-id",
    "Cookie",
    "User-Agent",
    "X-Anything-Else",
    "X-Forwarded-For",
]
OF_ONE_REQUEST = [
    "Host",
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Accept",
    "Accept-Encoding",
    "Transfer-Encoding",
    "Connection",
    "Keep-Alive",
    "Upgrade",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Extensions",
    "Proxy-Authorization",
    "Expect",
    "traceparent",
    "X-Request-Id",
    "x-stainless-retry-count",
    "x-stainless-read-timeout",
    "session_id",
    "x-parent-session-id",
    "x-codex-turn-metadata",
    "Idempotency-Key",
]


@pytest.mark.parametrize("name", [*OF_THE_ACCOUNT, *map(str.upper, OF_THE_ACCOUNT)])
def test_what_may_be_a_credential_tells_agents_apart(name: str) -> None:
    """A header that is not known to be harmless is in the handshake, and another value is another partition."""
    one, other = of_identity([(name, "one")]), of_identity([(name, "other")])
    assert one == ((name, "one"),)
    assert len({partition_key("wss://x", headers) for headers in (one, other, ())}) == 3


@pytest.mark.parametrize("name", [*OF_ONE_REQUEST, *map(str.upper, OF_ONE_REQUEST)])
def test_what_is_of_one_request_is_not_in_the_handshake(name: str) -> None:
    """What changes with each request would speak for all that follow on the connection."""
    assert of_identity([(name, "x")]) == ()


def test_the_user_can_name_more_volatile_headers() -> None:
    """A header that the settings list is left out, in whatever case it comes."""
    headers = [("X-Turn", "1"), ("X-Account", "a")]
    assert of_identity(headers, frozenset({"x-turn"})) == (("X-Account", "a"),)


def test_a_header_that_is_not_ascii_is_identity_too() -> None:
    """Two tenants whose names a handshake cannot carry are still two."""
    assert of_identity([("X-Name", "caf\xe9"), ("X-A", "1")]) == (("X-Name", "caf\xe9"), ("X-A", "1"))


@pytest.mark.parametrize("name", ["X-Session-Token", "X-Codex-Api-Key", "X-Interaction-Secret", "X-Datadog-Auth"])
def test_what_sounds_like_a_credential_is_identity(name: str) -> None:
    """However volatile the rest of its family is."""
    assert of_identity([(name, "1")]) == ((name, "1"),)


@pytest.mark.parametrize("name", sorted(HOP_BY_HOP))
def test_hop_by_hop_headers_end_here(name: str) -> None:
    """What the standard calls hop-by-hop goes nowhere, in any case."""
    assert end_to_end([(name, "x"), (name.title(), "x"), ("Kept", "1")]) == (("Kept", "1"),)


def test_connection_names_further_ones() -> None:
    """What any of several Connection headers names goes too."""
    given = [("Connection", "close, X-A"), ("X-A", "1"), ("x-b", "2"), ("connection", " X-B "), ("X-C", "3")]
    assert end_to_end(given) == (("X-C", "3"),)


def test_http_keeps_the_rest() -> None:
    """Only Host and Expect are not the upstream request's own; order, case and duplicates stay."""
    given = [
        ("b", "1"),
        ("Host", "x"),
        ("A", "2"),
        ("b", "3"),
        ("Expect", "100-continue"),
        ("Content-Length", "7"),
    ]
    assert to_http(given) == (("b", "1"), ("A", "2"), ("b", "3"), ("Content-Length", "7"))


@given(pairs)
def test_the_case_of_names_loses_no_header(headers: Any) -> None:
    """Each header that is end to end goes upstream, and of one name there is one spelling."""
    sent = to_http(headers)
    kept = [pair for pair in end_to_end(headers) if pair[0].lower() not in {"host", "expect"}]
    assert [(name.lower(), value) for name, value in sent] == [(name.lower(), value) for name, value in kept]
    assert len({name for name, _ in sent}) == len({name.lower() for name, _ in sent})


@given(pairs, st.randoms(use_true_random=False))
def test_order_and_case_do_not_tell_agents_apart(headers: Any, random: Any) -> None:
    """The same headers shuffled and shouted are the same agent."""
    shuffled = [(name.upper(), value) for name, value in headers]
    random.shuffle(shuffled)
    assert partition_key("wss://x", tuple(shuffled)) == partition_key("wss://x", headers)


@given(pairs, pairs)
def test_only_equal_headers_share_a_partition(one: Any, other: Any) -> None:
    """No two sets of headers run together into one key."""

    def meaning(headers: Any) -> list[tuple[str, str]]:
        return sorted((name.lower(), value) for name, value in headers)

    same = partition_key("wss://x", one) == partition_key("wss://x", other)
    assert same == (meaning(one) == meaning(other))


@pytest.mark.parametrize("other", ["Bearer sk-ABC", "bearer sk-aBC", "Bearer sk-aBC ", "Bearer sk-aBCd"])
def test_keys_that_are_nearly_the_same_are_two(other: str) -> None:
    """The values of headers are compared to the byte: two keys may differ in case alone."""
    keys = {partition_key("wss://x", (("Authorization", value),)) for value in ("Bearer sk-aBC", other)}
    assert len(keys) == 2


def test_another_upstream_is_another_partition() -> None:
    """The URL, query included, is part of the key."""
    urls = ["wss://x/v1/responses", "ws://x/v1/responses", "wss://x/v1/responses?api-version=2"]
    assert len({partition_key(url, ()) for url in urls}) == 3


def test_errors_tell_when_to_try_again() -> None:
    """Of an error's headers the agent gets those that its SDK acts on, and none that could break the head."""
    told = [
        ("Retry-After", "7"),
        ("retry-after-ms", "7000"),
        ("x-should-retry", "false"),
        ("X-Request-Id", "req_1"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("openai-processing-ms", "7"),
        ("X-Codex-Primary-Used-Percent", "100"),
    ]
    untold = [
        ("Content-Length", "5"),
        ("Set-Cookie", "a"),
        ("Transfer-Encoding", "chunked"),
        ("x-ratelimit-x", "a\r\nSet-Cookie: b"),
        ("retry-after", "1\n"),
    ]
    assert of_answer([*told, *untold]) == tuple(told)


@given(st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=5))
def test_any_bytes_are_read_as_headers(raw: Any) -> None:
    """Whatever crossed the wire becomes text that can be written again."""
    headers = of_wire(raw)
    assert len(headers) == len(raw)
    assert all(text.encode() for pair in headers for text in pair if text)


def test_text_survives_the_reading() -> None:
    """UTF-8 comes back to the byte, in the case in which it came."""
    assert of_wire([(b"x-NAME", "caf\xe9 \N{SNOWMAN}".encode())]) == (("x-NAME", "caf\xe9 \N{SNOWMAN}"),)


@pytest.mark.parametrize(
    ("value", "fits"),
    [("key", True), ("caf\xe9", False), ("x" * 65_000, True), ("x" * 65_600, False)],
    ids=["short", "not ASCII", "long", "too long"],
)
def test_a_handshake_carries_what_is_ascii_and_of_a_size_that_servers_take(value: str, *, fits: bool) -> None:
    """Anything else goes over plain HTTP, and is not kept to tell conversations apart."""
    assert fits_a_handshake((("Authorization", "key"), ("X-Any", value))) is fits


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"x-stainless-read-timeout": "900.0"}, 900),
        ({"X-Stainless-Timeout": "1200"}, 1200),
        ({"x-stainless-read-timeout": "666.6666666666666"}, 2000 / 3),
        ({"x-stainless-read-timeout": "10000000000"}, 1e10),
        ({"x-stainless-timeout": "600", "x-stainless-read-timeout": "0.5"}, 600),
        *(({"x-stainless-read-timeout": value}, 0) for value in ("", "inf", "nan", "-1", "1e9", 21 * "9", "٩")),
    ],
)
def test_an_agents_patience_is_what_its_sdk_says(headers: dict[str, str], seconds: float) -> None:
    """In seconds; what is no such number says nothing."""
    assert patience(CIMultiDict(headers)) == seconds
