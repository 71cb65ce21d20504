"""Who may talk to the proxy: programs on this machine, and no web page."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from proxy.config import Config, load
from proxy.errors import BadConfiguration
from proxy.server import Server

KEY = ("Authorization", "Bearer key")
EVIL = ("Origin", "https://evil.example")

LOCAL_NAMES = [
    "127.0.0.1",
    "127.0.0.1:9999",
    "127.8.9.10",
    "localhost",
    "localhost:80",
    "LOCALHOST",
    "app.localhost",
    "[::1]",
    "[::1]:8080",
]
FOREIGN_NAMES = [
    "",
    "evil.example",
    "127.0.0.1.evil.com",
    "127.0.0.1.evil.com:8484",
    "localhost.evil.com",
    "evillocalhost",
    "localhost.",
    "127.0.0.1.",
    "127.1",
    "0x7f000001",
    "2130706433",
    "0.0.0.0",  # noqa: S104
    "[::]",
    "192.168.1.5",
    "10.0.0.1:8484",
    "[fe80::1]",
    "user@127.0.0.1",
    "127.0.0.1@evil.com",
    "evil.com#127.0.0.1",
    "evil.com/127.0.0.1",
    "127.0.0.1, evil.com",
    "127.0.0.1:port",
    "[::1",
    "localhost\\@evil.com",
    "metadata.google.internal",
    "api.openai.com",
]
FOREIGN_ORIGINS = [
    "null",
    "https://evil.example",
    "http://localhost:3000",
    "http://127.0.0.1.evil.com",
    "http://127.0.0.1:8484",
    "vscode-webview://x",
    "",
]
CONTENT_TYPES = [
    "application/json",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
]


def assert_says_nothing_to_pages(answer: Any) -> None:
    """No answer may permit a web page anything."""
    assert not [name for name, _ in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("host", LOCAL_NAMES)
async def test_answers_to_names_of_this_machine(proxied: Any, host: str) -> None:
    """Every way to say "this machine" gets through, whatever the port."""
    run = await proxied()
    assert (await run.ask("GET", "/v1/models", KEY, ("Host", host))).status == 200
    assert len(run.simulator.requests) == 1


@pytest.mark.parametrize("host", FOREIGN_NAMES)
@pytest.mark.parametrize("target", ["/v1/models", "/_packlight/turns", "/metrics"])
async def test_refuses_foreign_host_names(proxied: Any, host: str, target: str) -> None:
    """A rebound name reaches neither upstream nor the figures."""
    run = await proxied()
    answer = await run.ask("GET", target, KEY, ("Host", host))
    assert answer.status in {400, 403}
    assert_says_nothing_to_pages(answer)
    assert run.simulator.requests == []


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/1.1\r\nAuthorization: Bearer key\r\n\r\n",
        b"GET /v1/models HTTP/1.0\r\nAuthorization: Bearer key\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nhost: 127.0.0.1\r\n\r\n",
    ],
    ids=["none", "none over HTTP/1.0", "two", "the same twice"],
)
async def test_wants_exactly_one_host(proxied: Any, head: bytes) -> None:
    """A request without a Host, or with two, is refused."""
    run = await proxied()
    agent = await run.dial()
    await agent.send(head)
    assert (await agent.message()).status in {400, 403}
    assert run.simulator.requests == []


async def test_http_1_0_with_a_host_is_served(proxied: Any) -> None:
    """An old client that names its host is let in."""
    run = await proxied()
    agent = await run.dial()
    await agent.send(b"GET /v1/models HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer key\r\n\r\n")
    assert (await agent.message()).status == 200


@pytest.mark.parametrize(
    "request_line",
    [
        "GET http://evil.example/v1/models",
        "POST http://evil.example/v1/responses",
        "GET http://127.0.0.1/v1/models",
        "GET http://user:secret@127.0.0.1/v1/models",
        "GET https://evil.example/v1/models",
        "CONNECT evil.example:443",
        "CONNECT 127.0.0.1:80",
        "TRACE /v1/models",
        "OPTIONS *",
        "GET //evil.example/v1/models",
        "GET ///v1/models",
        "GET \\\\evil.example\\v1",
        "GET @evil.example/v1/models",
        "GET /v1@evil.example/models",
        "GET /v1.evil.example/models",
        "GET /v2/models",
        "GET /",
    ],
)
async def test_is_no_general_proxy(proxied: Any, request_line: str) -> None:
    """Absolute targets, CONNECT, TRACE, and whatever is not under /v1 reach nobody."""
    run = await proxied()
    agent = await run.dial()
    method, target = request_line.split(" ")
    await agent.begin(method, target, KEY)
    answer = await agent.message()
    assert answer.status in {400, 403, 404, 405}
    assert_says_nothing_to_pages(answer)
    assert run.simulator.requests == []


@pytest.mark.parametrize(
    ("origin", "content_type", "site"),
    [
        *itertools.product(FOREIGN_ORIGINS, CONTENT_TYPES, ["cross-site"]),
        *itertools.product(FOREIGN_ORIGINS, ["text/plain"], [None, "same-site", "same-origin", "none"]),
        *itertools.product([None], CONTENT_TYPES, ["cross-site", "same-site", "Cross-Site"]),
    ],
)
async def test_refuses_web_pages(proxied: Any, origin: str | None, content_type: str, site: str | None) -> None:
    """Whatever a page's request looks like, a browser's headers give it away."""
    run = await proxied()
    headers = [("Content-Type", content_type)]
    if origin is not None:
        headers.append(("Origin", origin))
    if site is not None:
        headers.append(("Sec-Fetch-Site", site))
    answer = await run.ask("POST", "/v1/responses", KEY, *headers, body=b'{"model":"m","input":"x"}')
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "refused"
    assert_says_nothing_to_pages(answer)
    assert run.simulator.requests == []


@pytest.mark.parametrize("site", [None, "none", "same-origin"])
async def test_lets_programs_in(proxied: Any, site: str | None) -> None:
    """Without an Origin, only a foreign page's Sec-Fetch-Site keeps a request out."""
    run = await proxied()
    headers = [] if site is None else [("Sec-Fetch-Site", site)]
    answer = await run.ask("GET", "/v1/models", KEY, *headers)
    assert answer.status == 200
    assert_says_nothing_to_pages(answer)


async def test_answers_no_preflight(proxied: Any) -> None:
    """A preflight, also one for private networks, gets a 403 and is not passed on."""
    run = await proxied()
    asks = (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Private-Network", "true"))
    answer = await run.ask("OPTIONS", "/v1/responses", EVIL, *asks)
    assert answer.status == 403
    assert_says_nothing_to_pages(answer)
    assert run.simulator.requests == []


async def test_a_page_opens_no_websocket(proxied: Any) -> None:
    """The guard also stands before upgrades."""
    run = await proxied()
    upgrade = (("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))
    answer = await run.ask("GET", "/v1/responses", EVIL, *upgrade, ("Sec-WebSocket-Key", "x" * 22 + "=="))
    assert answer.status == 403
    assert run.simulator.requests == []


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/chat/completions", "/v1/files", "/elsewhere"])
@pytest.mark.parametrize("framing", [("Content-Length", "1000000"), ("Transfer-Encoding", "chunked")])
async def test_refuses_before_the_body(proxied: Any, target: str, framing: tuple[str, str]) -> None:
    """The refusal answers the head alone, and the connection is of no further use."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", target, KEY, EVIL, framing)
    answer = await agent.message()
    assert (answer.status, answer.get("Connection")) == (403, "close")
    assert run.simulator.requests == []


@pytest.mark.parametrize("target", ["/v1/responses", "/v1/chat/completions", "/v1/files", "/elsewhere"])
async def test_refuses_before_asking_for_the_body(proxied: Any, target: str) -> None:
    """Expect: 100-continue from a page is answered with 403, and never with 100."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", target, KEY, EVIL, ("Content-Length", "10"), ("Expect", "100-continue"))
    assert (await agent.message()).status == 403
    assert run.simulator.requests == []


async def test_a_program_is_told_to_continue(proxied: Any) -> None:
    """Expect: 100-continue from an agent gets its 100, and then the answer."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", "/v1/echo", KEY, ("Content-Length", "5"), ("Expect", "100-continue"))
    assert (await agent.head()).status == 100
    await agent.send(b"hello")
    answer = await agent.message()
    assert (answer.status, answer.json()["body_size"]) == (200, 5)
    assert "expect" not in {name.lower() for name, _ in answer.json()["headers"]}


async def test_a_program_that_speaks_http_1_0_is_not_told_to_continue(proxied: Any) -> None:
    """It would take the 100 for its answer."""
    run = await proxied()
    agent = await run.dial()
    head = "Host: 127.0.0.1\r\nAuthorization: Bearer key\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
    await agent.send(f"POST /v1/echo HTTP/1.0\r\n{head}hello".encode())
    answer = await agent.message()
    assert (answer.status, answer.json()["body_size"]) == (200, 5)


async def test_only_chunks_are_taken_off_a_body(proxied: Any) -> None:
    """What is coded otherwise would go on without a word of it."""
    run = await proxied()
    agent = await run.dial()
    await agent.begin("POST", "/v1/echo", KEY, ("Transfer-Encoding", "gzip, chunked"))
    await agent.send(b"0\r\n\r\n")
    assert (await agent.message()).status in {400, 501}
    assert run.simulator.requests == []
    agent = await run.dial()
    await agent.begin("POST", "/v1/echo", KEY, ("Transfer-Encoding", "Chunked"))
    await agent.send(b"5\r\nhello\r\n0\r\n\r\n")
    assert (await agent.message()).json()["body_size"] == 5


async def test_configured_names_and_origins_are_let_in(proxied: Any) -> None:
    """What the user lists may call, and nothing that merely resembles it."""
    run = await proxied(allowed_hosts=("host.docker.internal",), allowed_origins=("vscode-webview://abc",))
    docker, webview = ("Host", "host.docker.internal:8484"), ("Origin", "vscode-webview://abc")
    assert (await run.ask("GET", "/v1/models", KEY, docker)).status == 200
    assert (await run.ask("GET", "/v1/models", KEY, webview, ("Sec-Fetch-Site", "cross-site"))).status == 200
    assert (await run.ask("GET", "/v1/models", KEY, ("Host", "x.host.docker.internal"))).status == 403
    assert (await run.ask("GET", "/v1/models", KEY, ("Origin", "vscode-webview://abcd"))).status == 403
    assert (await run.ask("GET", "/v1/models", KEY, webview, EVIL)).status == 403


async def test_pages_of_a_listed_origin_may_read_answers(proxied: Any) -> None:
    """A browser asks first, and hides from a page what does not name its origin: our answers, and upstream's."""
    run = await proxied(allowed_origins=("https://good.example",))
    good = ("Origin", "https://good.example")
    asked = [("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "authorization,x-a")]
    private = ("Access-Control-Request-Private-Network", "true")
    preflight = await run.ask("OPTIONS", "/v1/responses", good, *asked, private)
    assert preflight.status == 204
    assert preflight.get("Access-Control-Allow-Origin") == "https://good.example"
    assert preflight.get("Access-Control-Allow-Methods") == "POST"
    assert preflight.get("Access-Control-Allow-Headers") == "authorization,x-a"
    assert preflight.get("Access-Control-Allow-Private-Network") == "true"
    assert run.simulator.requests == []
    body = {"model": "m", "input": "hi", "stream": True}
    for answer in (
        await run.post(body, good),
        await run.ask("GET", "/v1/models", KEY, good),
        await run.ask("GET", "/nowhere", good),
    ):
        assert answer.all("Access-Control-Allow-Origin") == ["https://good.example"]
        assert "Origin" in answer.all("Vary")


@pytest.mark.parametrize("origins", [(), ("https://good.example",)])
async def test_nobody_else_is_told_so(proxied: Any, origins: tuple[str, ...]) -> None:
    """A page that is not listed learns nothing, a program sees no such header, and its OPTIONS are upstream's."""
    run = await proxied(allowed_origins=origins)
    asked = ("Access-Control-Request-Method", "POST")
    refused = await run.ask("OPTIONS", "/v1/responses", EVIL, asked)
    assert (refused.status, refused.get("Access-Control-Allow-Origin")) == (403, "")
    answer = await run.ask("GET", "/v1/models", KEY)
    assert (answer.status, answer.get("Access-Control-Allow-Origin"), answer.get("Vary")) == (200, "", "")
    await run.ask("OPTIONS", "/v1/echo", KEY, asked)
    assert [each.method for each in run.simulator.requests][-1] == "OPTIONS"


async def test_remote_addresses_only_by_permission(proxied: Any) -> None:
    """With allow_remote a machine is known by its addresses; names still have to be listed."""
    run = await proxied(allow_remote=True)
    assert (await run.ask("GET", "/v1/models", KEY, ("Host", "192.168.1.5:8484"))).status == 200
    assert (await run.ask("GET", "/v1/models", KEY, ("Host", "evil.example"))).status == 403
    assert (await run.ask("GET", "/v1/models", KEY, EVIL, ("Host", "192.168.1.5"))).status == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org"])  # noqa: S104
def test_a_reachable_address_needs_permission(tmp_path: Path, host: str) -> None:
    """Listening where others can reach us is refused until allow_remote says so."""
    file = tmp_path / "config.toml"
    file.touch()
    with pytest.raises(BadConfiguration, match="allow_remote"):
        load(file=file, environ={}, flags={"host": host})
    assert load(file=file, environ={}, flags={"host": host, "allow_remote": True}).config.host == host


async def test_listens_on_loopback_alone() -> None:
    """By default nothing but 127.0.0.1 leads to the proxy."""
    async with Server(Config(port=0, drain_seconds=0)) as server:
        assert server.url.startswith("http://127.0.0.1:")
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.2", int(server.url.rpartition(":")[2]))
