"""A network that answers in upstream's place: recognised, told, waited for, and never passed off as an answer."""

import asyncio
import gzip
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import openai
import orjson
import pytest
import structlog
import trustme
from certificates import serving, trusting
from conversation import Clock
from proxied import Message, Peer, Proxied, RawUpstream
from structlog.testing import capture_logs
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from proxy.errors import Trouble
from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream import link as link_module

Start = Callable[..., Awaitable[Proxied]]
RawUpstreams = Callable[..., Awaitable[RawUpstream]]

PAGE = b"<html>Welcome on board! Accept the terms.</html>"
TURN = orjson.dumps({"model": "m", "store": False, "input": "words of the agent"})
TURN_AFTER = orjson.dumps(
    {
        "model": "m",
        "store": False,
        "input": [{"role": "user", "content": each} for each in ("words of the agent", "x")],
    }
)
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
    "a page without a type": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE,
    "a page as text": answer("200 OK", b"\xef\xbb\xbf\r\n <!DOCTYPE html>" + PAGE, "text/plain"),
    "a page in gzip": answer("200 OK", gzip.compress(PAGE), "Text/Plain", "Content-Encoding: gzip\r\n"),
    "a status of its own": answer("511 Network Authentication Required"),
}


@dataclass
class Network:
    """What stands where upstream should be: *says* to every request, or upstream's own words once it is *open*.

    An upstream that is *open_to_turns* says that to all that has no key or is no turn.
    """

    says: bytes
    open: bool = False
    open_to_turns: bool = False
    asked: list[Message] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            asked = await peer.message()
            self.asked.append(asked)
            is_turn = bool(asked.get("Upgrade") or asked.body)
            if not (self.open or (self.open_to_turns and is_turn)):
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


@pytest.mark.parametrize("portal", ["a page", "a page in other words", "a redirect", "another redirect"])
@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/models"), ("GET", "/v1"), ("POST", "/v1/embeddings")])
async def test_a_page_in_answer_to_anything_but_a_turn_says_nothing(
    proxied: Start, raw_upstream: RawUpstreams, method: str, path: str, portal: str
) -> None:
    """Some upstreams have a page there, or a redirect to it: the agent gets it as it is, and turns go on."""
    network = Network(PORTALS[portal], open_to_turns=True)
    run = await proxied(upstream=(await raw_upstream(network)).base_url)
    for _ in range(2):
        got = await run.ask(method, path, ("Authorization", "Bearer key"))
        head, _, page = PORTALS[portal].partition(b"\r\n\r\n")
        assert (got.start.encode(), got.body) == (head.partition(b"\r\n")[0], page)
        assert got.get("Location") == ("http://portal.invalid/login" if b"Location" in head else "")
        assert (await run.figures())["link"]["state"] == "ok"
        assert (await run.post(TURN)).status == 200


@pytest.mark.parametrize("path", ["/v1/models", "/v1/files/file-1/content"])
async def test_the_status_of_a_portal_is_no_answer_to_anything(
    proxied: Start, raw_upstream: RawUpstreams, path: str
) -> None:
    """Network Authentication Required is nothing that an API says."""
    run = await proxied(upstream=(await raw_upstream(Network(PORTALS["a status of its own"]))).base_url)
    got = await run.ask("GET", path)
    assert (got.status, b"Welcome" in got.body) == (502, False)
    assert (await run.figures())["link"]["state"] == "captive_portal"


ANSWERS = {
    "no type": (COMPLETED, ""),
    "text": (COMPLETED, "Content-Type: text/plain; charset=utf-8\r\n"),
    "text after blanks": (b"\r\n\r\n  " + COMPLETED, "Content-Type: text/json\r\n"),
    "nothing but blanks": (b" " * 6000, ""),
    "nothing": (b"", ""),
    "gzip": (gzip.compress(COMPLETED), "Content-Encoding: gzip\r\nContent-Type: text/plain\r\n"),
    "no gzip": (COMPLETED, "Content-Encoding: gzip\r\nContent-Type: text/plain\r\n"),
    "another encoding": (b"<" + COMPLETED, "Content-Encoding: br\r\n"),
    "events that begin so": (b"<" + COMPLETED, "Content-Type: text/event-stream\r\n"),
    "JSON that begins so": (b"<" + COMPLETED, "Content-Type: application/json\r\n"),
}


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize("kind", ANSWERS)
async def test_an_answer_that_was_looked_at_is_relayed_to_the_byte(
    proxied: Start, raw_upstream: RawUpstreams, kind: str, size: int
) -> None:
    """However it is cut: what is read of it to know that it is no page is part of it."""
    body, headers = ANSWERS[kind]

    async def serve(peer: Peer) -> None:
        while True:
            await peer.message()
            await peer.send(f"HTTP/1.1 200 OK\r\n{headers}Transfer-Encoding: chunked\r\n\r\n".encode())
            for at in range(0, len(body), size):
                piece = body[at : at + size]
                await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            await peer.send(b"0\r\n\r\n")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    for _ in range(2):
        got = await run.post(TURN, target="/v1/messages")
        assert (got.status, got.body) == (200, body)
    assert (await run.figures())["link"]["state"] == "ok"


async def test_a_page_that_breaks_off_before_it_begins_is_no_answer(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """Nothing was shown of it, so there is a status to say so."""

    async def serve(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n  ")

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    assert (await run.post(TURN)).status == 502


async def test_an_agent_may_hang_up_before_a_page_begins(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """Then upstream's connection is closed too."""
    waiting, closed = asyncio.Event(), asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.message()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n  ")
        waiting.set()
        try:
            await peer.message()
        finally:
            closed.set()

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    agent = await run.dial()
    await agent.begin("POST", "/v1/messages", ("Content-Length", str(len(TURN))))
    await agent.send(TURN)
    await waiting.wait()
    agent.close()
    await closed.wait()


async def test_a_page_that_follows_on_signs_of_life_is_no_answer(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """The agent has a status by then; it gets an error in the stream, and none of the page."""

    async def serve(peer: Peer) -> None:
        while True:
            if (await peer.message()).get("Upgrade"):
                await peer.send(answer("404 No", b"{}", "application/json"))
                continue
            await peer.send(PORTALS["a page as text"][: -len(PAGE) - 15])
            await alive.wait()
            await peer.send(PORTALS["a page as text"][-len(PAGE) - 15 :])

    alive = asyncio.Event()
    upstream = await raw_upstream(serve)
    run = await proxied(upstream=upstream.base_url, keepalive_after=0.01, keepalive_interval=0.01)
    agent = await run.dial()
    body = orjson.dumps({**orjson.loads(TURN), "stream": True})
    length = ("Content-Length", str(len(body)))
    await agent.begin("POST", "/v1/responses", ("Authorization", "Bearer key"), length)
    await agent.send(body)
    head = await agent.head()
    assert head.status == 200
    alive.set()
    shown = b"".join([piece async for piece in agent.pieces(head)])
    assert b"open a browser" in shown
    assert b"Welcome" not in shown
    assert (await run.figures())["link"]["state"] == "captive_portal"


async def test_a_probe_is_not_deceived_by_a_page_as_text(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """It would let every turn through that comes after it."""
    clock, network = Clock(), Network(PORTALS["a page as text"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    await run.post(TURN)
    network.asked.clear()
    clock.advance(5)
    await run.post(TURN)
    assert network.heard == ["GET /v1/models HTTP/1.1"]


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
    look = "GET /v1/models HTTP/1.1"
    assert network.heard == ["GET /v1/responses HTTP/1.1", "POST /v1/responses HTTP/1.1", look]
    for _ in range(3):
        assert (await run.post(TURN)).status == 502
    assert len(network.asked) == 3
    clock.advance(5)
    for _ in range(3):
        assert (await run.post(TURN)).status == 502
    probe = network.asked[-1]
    assert network.heard[3:] == [look]
    assert {name.lower() for name, _ in probe.headers} <= {"host", "connection"}
    assert probe.body == b""


async def test_turns_that_meet_a_page_together_look_once(proxied: Start, raw_upstream: RawUpstreams) -> None:
    """A probe may take seconds, and they do not wait for one another's."""
    network = Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, websocket="off")
    refused = await asyncio.gather(*(run.post(TURN) for _ in range(4)))
    assert [answer.status for answer in refused] == [502] * 4
    assert network.heard.count("GET /v1/models HTTP/1.1") == 1


@pytest.mark.parametrize("page", ["a page", "a redirect"])
async def test_upstreams_own_page_keeps_nobody_else_out(
    proxied: Start, raw_upstream: RawUpstreams, page: str
) -> None:
    """It answers the probe, so it is there: whoever asked for that page is told so, and others are served."""

    async def serve(peer: Peer) -> None:
        while True:
            asked = await peer.message()
            if asked.start.startswith("POST /v1/responses"):
                await peer.send(PORTALS[page])
                return
            await peer.send(
                b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
            )

    run = await proxied(upstream=(await raw_upstream(serve)).base_url)
    for _ in range(2):
        refused = await run.post(TURN)
        assert refused.status == 502
        assert "API base" in refused.json()["error"]["message"]
        assert (await run.ask("GET", "/v1/files", ("Authorization", "Bearer key"))).status == 404
    assert (await run.figures())["link"]["state"] == "ok"


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


@pytest.mark.parametrize("portal", ["a page", "a redirect"])
async def test_an_upstream_that_answers_the_probe_with_a_page_is_found_again(
    proxied: Start, raw_upstream: RawUpstreams, portal: str
) -> None:
    """No probe can tell it from the portal. A turn can, and after some seconds one is let through."""
    clock, network = Clock(), Network(PORTALS[portal])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    assert (await run.post(TURN)).status == 502
    network.open_to_turns = True
    clock.advance(7)
    assert (await run.post(TURN)).status == 502
    assert (await run.ask("GET", "/v1/models", ("Authorization", "Bearer key"))).status == 502
    clock.advance(8)
    for _ in range(3):
        assert (await run.post(TURN)).status == 200
    assert (await run.figures())["link"]["state"] == "ok"
    clock.advance(60)
    assert (await run.post(TURN)).status == 200


async def test_a_turn_at_a_time_is_let_through_and_ever_more_rarely(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """While the portal is there, each gets its page and its agent a 502; the others are not sent."""
    clock, network = Clock(), Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    assert (await run.post(TURN)).status == 502
    for pause in (15, 30, 60, 60):
        network.asked.clear()
        for seconds, sent in ((pause / 2 - 1, 0), (pause / 2 + 1, 1)):
            clock.advance(seconds)
            for got in [await run.post(TURN) for _ in range(3)]:
                assert (got.status, b"Welcome" in got.body, got.get("retry-after")) == (502, False, "10")
            assert [message.start[:4] for message in network.asked].count("POST") == sent
            assert all(
                message.get("Authorization") == "" for message in network.asked if "/models" in message.start
            )
            assert (await run.figures())["link"]["state"] == "captive_portal"


async def test_a_turn_let_through_that_gets_no_answer_finds_nothing_out(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """A portal may as well hang up: the verdict stands, and the next turn is not sent."""
    clock, asked = Clock(), []

    async def serve(peer: Peer) -> None:
        while True:
            asked.append((await peer.message()).start)
            if len(asked) > 2:
                return
            await peer.send(PORTALS["a page"])

    run = await proxied(upstream=(await raw_upstream(serve)).base_url, clock=clock)
    assert (await run.post(TURN)).status == 502
    clock.advance(15)
    assert (await run.post(TURN)).status == 502
    assert asked[2] == "GET /v1/models HTTP/1.1"
    assert asked[-1] == "POST /v1/responses HTTP/1.1"
    assert (await run.figures())["link"]["state"] == "captive_portal"
    asked_then = len(asked)
    assert (await run.post(TURN)).status == 502
    assert len(asked) == asked_then


async def test_what_a_portal_says_to_an_upgrade_is_forgotten_with_it(
    proxied: Start, raw_upstream: RawUpstreams
) -> None:
    """However long it was there: WebSockets are asked for again at once."""
    clock, network = Clock(), Network(PORTALS["a page"])
    run = await proxied(upstream=(await raw_upstream(network)).base_url, clock=clock)
    for _ in range(4):
        assert (await run.post(TURN)).status == 502
        clock.advance(60)
    network.open_to_turns = True
    assert (await run.post(TURN)).status == 200
    network.asked.clear()
    clock.advance(1)
    assert (await run.post(TURN)).status == 200
    assert network.heard == ["GET /v1/responses HTTP/1.1", "POST /v1/responses HTTP/1.1"]


EVENTS = (
    {"type": "response.created", "response": {"id": "resp_1"}},
    {"type": "response.completed", "response": {"id": "resp_1", "status": "completed", "output": []}},
)


def page_of_its_own(connection: ServerConnection, request: Request) -> Response | None:
    """Answer what asks for no WebSocket with a page."""
    if request.headers.get("Upgrade"):
        return None
    page = connection.respond(HTTPStatus.OK, PAGE.decode())
    del page.headers["Content-Type"]
    page.headers["Content-Type"] = "text/html"
    return page


async def test_an_event_on_a_websocket_ends_a_portal(proxied: Start, speaking: Callable[..., Any]) -> None:
    """A connection that was open before goes on, and shows that the way is open for the others."""
    run = await proxied(upstream=await speaking(*EVENTS, process_request=page_of_its_own), clock=Clock())
    assert (await run.post(TURN)).status == 200
    run.server.link.block(Trouble.CAPTIVE_PORTAL, "sign in")
    assert (await run.post({**orjson.loads(TURN), "input": "something else"})).status == 502
    assert (await run.post(TURN_AFTER)).status == 200
    assert (await run.figures())["link"]["state"] == "ok"
    assert (await run.post({**orjson.loads(TURN), "input": "something else"})).status == 200


async def test_a_websocket_that_opens_ends_a_portal(proxied: Start, speaking: Callable[..., Any]) -> None:
    """The turn that is let through asks for one first, as any turn does."""
    clock = Clock()
    run = await proxied(upstream=await speaking(*EVENTS, process_request=page_of_its_own), clock=clock)
    run.server.link.block(Trouble.CAPTIVE_PORTAL, "sign in")
    clock.advance(7)
    assert (await run.post(TURN)).status == 502
    clock.advance(8)
    assert (await run.post(TURN)).status == 200
    assert (await run.figures())["link"]["state"] == "ok"


async def _finds_nothing() -> bool:
    return False


async def test_a_refused_key_ends_a_portal(proxied: Start) -> None:
    """The words of the API are upstream's, whatever they are in answer to."""
    clock = Clock()
    run = await proxied(clock=clock, simulated={"api_keys": ("sk-right",)})
    run.server.link.block(Trouble.CAPTIVE_PORTAL, "sign in")
    run.server.link.probe_with(_finds_nothing)
    clock.advance(20)
    assert (await run.post(TURN)).status == 401
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
    served = serving(authority.issue_cert("portal.example"))
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=served))
    run = await proxied(upstream=simulator.base_url, clock=clock, tls=trusting(authority))
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
    served = serving(trustme.CA().issue_cert("127.0.0.1"))
    served.num_tickets = 0  # one server plays all of them, and nobody in between could read upstream's tickets
    simulator = await stack.enter_async_context(Simulator(SimulatorSettings(), script=echo_script, ssl=served))
    run = await proxied(upstream=simulator.base_url, clock=clock, tls=trusting(authority))
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
    assert (link["state"], "looked up" in link["detail"]) == ("offline", True)


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
