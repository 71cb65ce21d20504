"""A network that answers in upstream's place: recognised, told, waited for, and never passed off as an answer."""

import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import openai
import orjson
import pytest
import structlog
import trustme
from conversation import Clock
from proxied import Message, Peer, Proxied, RawUpstream
from structlog.testing import capture_logs

from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream import link as link_module

Start = Callable[..., Awaitable[Proxied]]
RawUpstreams = Callable[..., Awaitable[RawUpstream]]

PAGE = b"<html>Welcome on board! Accept the terms.</html>"
TURN = orjson.dumps({"model": "m", "store": False, "input": "words of the agent"})
COMPLETED = orjson.dumps({"id": "resp_1", "status": "completed", "output": []})


def answer(
    status: str, body: bytes = PAGE, content_type: str = "text/html; charset=utf-8", more: str = ""
) -> bytes:
    """Return an HTTP answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


PORTALS = {
    "a page": answer("200 OK"),
    "a page in other words": answer("203 Other", content_type="application/xhtml+xml"),
    "a redirect": answer("302 Found", b"", more="Location: http://portal.invalid/login\r\n"),
    "another redirect": answer("307 Go", PAGE, more="Location: http://portal.invalid/login\r\n"),
    "a status of its own": answer("511 Network Authentication Required"),
}


@dataclass
class Network:
    """What stands where upstream should be: *says* to every request, or upstream's own words once it is *open*."""

    says: bytes
    open: bool = False
    asked: list[Message] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            asked = await peer.message()
            self.asked.append(asked)
            if not self.open:
                await peer.send(self.says)
            elif asked.get("Upgrade"):
                await peer.send(answer("404 No", b"{}", "application/json"))
            else:
                await peer.send(answer("200 OK", COMPLETED, "application/json"))

    @property
    def heard(self) -> list[str]:
        """The start lines of what was asked."""
        return [message.start for message in self.asked]


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("portal", PORTALS)
async def test_a_portal_is_no_answer_to_a_turn(
    proxied: Start, raw_upstream: RawUpstreams, path: str, portal: str
) -> None:
    """The agent gets an error of the API that says what to do and when to try again, and none of the page."""
    network = Network(PORTALS[portal])
    run = await proxied(upstream=(await raw_upstream(network)).base_url)
    got = await run.ask("POST", path, ("Authorization", "Bearer key"), body=TURN)
    assert got.status == 502
    error = got.json()["error"]
    assert (error["type"], error["code"]) == ("server_error", "upstream_unavailable")
    assert "open a browser and sign in to the network" in error["message"]
    assert (got.get("retry-after"), got.get("x-should-retry")) == ("10", "true")
    assert b"Welcome" not in got.body
    assert (await run.figures())["link"]["state"] == "captive_portal"


async def test_a_page_is_no_answer_to_anything_the_api_says_in_json(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """A list of models is never a web page."""
    run = await proxied(upstream=(await raw_upstream(Network(PORTALS["a page"]))).base_url)
    assert (await run.ask("GET", "/v1/models")).status == 502


@pytest.mark.parametrize("status", ["403 Forbidden", "404 Not Found", "500 Error", "502 Bad Gateway", "503 Busy"])
async def test_error_pages_of_a_gateway_keep_their_status(
    proxied: Start, raw_upstream: RawUpstreams, status: str
) -> None:
    """They are written in HTML and mean what they say: the agent gets them as they are."""
    network = Network(answer(status))
    run = await proxied(upstream=(await raw_upstream(network)).base_url)
    got = await run.ask("POST", "/v1/responses", body=TURN)
    assert (got.status, got.body) == (int(status[:3]), PAGE)
    assert (await run.figures())["link"]["state"] == "ok"


async def test_a_file_may_be_a_web_page(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """What was uploaded comes back as it is."""
    run = await proxied(upstream=(await raw_upstream(Network(PORTALS["a page"]))).base_url)
    got = await run.ask("GET", "/v1/files/file-1/content?x=1")
    assert (got.status, got.body) == (200, PAGE)


async def test_behind_a_portal_nothing_of_the_agents_is_sent(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """After the first request neither words nor keys go there, only probes without either, seconds apart."""
    clock, network = Clock(), Network(PORTALS["a redirect"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    await run.post(TURN)
    assert network.heard == ["GET /v1/responses HTTP/1.1", "POST /v1/responses HTTP/1.1"]
    for _ in range(3):
        assert (await run.post(TURN)).status == 502
    assert len(network.asked) == 2
    clock.advance(5)
    for _ in range(3):
        assert (await run.post(TURN)).status == 502
    probe = network.asked[-1]
    assert network.heard[2:] == ["GET /v1/models HTTP/1.1"]
    assert {name.lower() for name, _ in probe.headers} <= {"host", "connection"}
    assert probe.body == b""


async def test_the_turn_after_the_portal_goes_through(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """The probe finds upstream itself, and the same request goes on."""
    clock, network = Clock(), Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    for _ in range(3):
        await run.post(TURN)
    network.open = True
    clock.advance(5)
    got = await run.post(TURN)
    assert (got.status, got.json()["id"]) == (200, "resp_1")
    assert (await run.figures())["link"]["state"] == "ok"


async def test_each_change_is_logged_once(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """Ten requests behind a portal make one line, and its end another."""
    structlog.reset_defaults()  # another test may have silenced what is of less than a warning
    clock, network = Clock(), Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    with capture_logs() as logged:
        for _ in range(10):
            await run.post(TURN)
            clock.advance(3)
        network.open = True
        clock.advance(5)
        await run.post(TURN)
    told = [(event["log_level"], event["state"]) for event in logged if event["event"] == "link"]
    assert told == [("warning", "captive_portal"), ("info", "ok")]
    assert [event["event"] for event in logged if event["log_level"] == "warning"] == ["link"]


async def test_recovery_is_noticed_without_another_request(
    proxied: Start, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while after an agent asked, the way is looked at by itself."""
    monkeypatch.setattr(link_module, "PROBE_SECONDS", 0.01)
    network = Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url)
    await run.post(TURN)
    await run.post(TURN)
    network.open = True
    watching = run.server.link._watching
    assert watching is not None
    await watching
    assert (await run.figures())["link"]["state"] == "ok"


async def test_nobody_asks_nobody_looks(
    proxied: Start, raw_upstream: RawUpstreams, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the agents are silent the probes end, and the next request looks first."""
    monkeypatch.setattr(link_module, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(link_module, "ASKED_SECONDS", 0.0)
    network = Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url)
    await run.post(TURN)
    await run.post(TURN)
    watching = run.server.link._watching
    assert watching is not None
    await watching
    assert (await run.figures())["link"]["state"] == "captive_portal"


async def test_an_sdk_keeps_trying_calmly(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """The SDK takes it for a fault of the server, with what to do in its message."""
    run = await proxied(upstream=(await raw_upstream(Network(PORTALS["a page"]))).base_url)
    async with openai.AsyncOpenAI(base_url=f"{run.server.url}/v1", api_key="key", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError, match="open a browser"):
            await client.responses.create(model="m", input="x")


async def test_a_portal_with_another_name_gets_no_byte(proxied: Start, stack: AsyncExitStack) -> None:
    """Over TLS it is known by its certificate; the turns say so, and where upstream answers again they go on."""
    authority, clock = trustme.CA(), Clock()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("portal.example").configure_cert(served)
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=served))
    run = await proxied(upstream=simulator.base_url, clock=clock, tls=trusting)
    for _ in range(2):
        got = await run.post(TURN)
        assert (got.status, got.get("retry-after")) == (502, "10")
        assert "open a browser" in got.json()["error"]["message"]
    assert simulator.requests == []
    authority.issue_cert("127.0.0.1").configure_cert(served)
    clock.advance(5)
    assert (await run.post(TURN)).status == 200
    assert (await run.figures())["link"]["state"] == "ok"


async def test_an_unknown_authority_where_upstream_was_before_is_a_portal(
    proxied: Start, stack: AsyncExitStack
) -> None:
    """At first sight it is an authority to be named; later it is a network that has come in between."""
    authority, clock = trustme.CA(), Clock()
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.num_tickets = 0  # one server plays all of them, and nobody in between could read upstream's tickets
    trustme.CA().issue_cert("127.0.0.1").configure_cert(served)
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=served))
    run = await proxied(upstream=simulator.base_url, clock=clock, tls=trusting)
    states: list[str] = []
    for theirs in (None, authority, trustme.CA(), authority):
        if theirs is not None:
            theirs.issue_cert("127.0.0.1").configure_cert(served)
        clock.advance(400)
        simulator.abort_connections()
        await simulator.until(lambda: not simulator.open_connections)
        await run.ask("GET", "/v1/models", ("Authorization", "Bearer key"))
        states.append((await run.figures())["link"]["state"])
    assert states == ["untrusted_certificate", "ok", "captive_portal", "ok"]


async def test_a_machine_without_a_network_is_offline(proxied: Start) -> None:
    """A name that cannot be looked up is told apart from an upstream that is down."""
    run = await proxied(upstream="http://upstream.invalid/v1")
    got = await run.post(TURN)
    assert (got.status, got.get("retry-after")) == (502, "10")
    assert "offline" in got.json()["error"]["message"]
    link: Any = (await run.figures())["link"]
    assert (link["state"], "name server" in link["detail"]) == ("offline", True)


async def test_an_upstream_that_is_down_is_unreachable(proxied: Start, stack: AsyncExitStack) -> None:
    """And ok again with the first thing that is heard of it."""
    simulator = Simulator(SimulatorSettings(), script=echo_script)
    async with simulator:
        run = await proxied(upstream=simulator.base_url)
        assert (await run.post(TURN)).status == 200
    got = await run.post(TURN)
    assert (got.status, got.get("retry-after")) == (502, "")
    assert (await run.figures())["link"]["state"] == "unreachable"
    async with Simulator(SimulatorSettings(), script=echo_script, port=simulator.port):
        assert (await run.ask("GET", "/v1/models", ("Authorization", "Bearer key"))).status == 200
        assert (await run.figures())["link"]["state"] == "ok"
