"""A connection that is open before anybody asks, over real TLS, with a relay in front of upstream."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import trustme
from certificates import serving, trusting
from link import Link, Ways
from proxied import Peer
from way import Way

from proxy.config import Config
from proxy.server import Server
from proxy.simulator import Simulator, SimulatorSettings, echo_script
from proxy.upstream import secured
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.liveness import lag
from proxy.upstream.standby import Standby

KEY = ("Authorization", "Bearer key")
BODY = orjson.dumps({"model": "m", "store": False, "input": "hello"})


@dataclass
class Run:
    """A proxy, the relay behind it with the *first* connection's own ways, and upstream."""

    server: Server
    link: Link
    simulator: Simulator
    first: Ways

    async def ask(self) -> None:
        """Have an agent's turn answered over a WebSocket."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.server.url.rpartition(":")[2]))
        answer = await Peer(reader, writer).ask("POST", "/v1/responses", KEY, body=BODY)
        writer.close()
        assert answer.status == 200
        assert [turn.transport for turn in self.simulator.turns] == ["ws"]

    async def connected(self) -> None:
        """Wait until the first connection is through with TLS."""
        heard = asyncio.Event()
        self.first.down.tap = lambda _: heard.set()
        if not self.first.down.passed:
            await asyncio.wait_for(heard.wait(), 10)
        await asyncio.sleep(0.05)


Start = Callable[..., Awaitable[Run]]


@pytest.fixture
def start(stack: AsyncExitStack) -> Start:
    """Start all three, over TLS unless *secure* is false; *trusted* says whether upstream's certificate is.

    With *hangs* TCP opens on the first connection, and nothing comes on it.
    """

    async def run(*, secure: bool = True, trusted: bool = True, hangs: bool = False, **settings: Any) -> Run:
        first = Ways(down=Way(limit=0, ending="silence")) if hangs else Ways()
        authority = trustme.CA()
        tls = serving(authority.issue_cert("127.0.0.1"))
        simulator = await stack.enter_async_context(
            Simulator(SimulatorSettings(), script=echo_script, ssl=tls if secure else None)
        )
        link = await stack.enter_async_context(Link(("127.0.0.1", simulator.port)))
        link.planned.append(first)
        known = trusting(authority if trusted else trustme.CA())
        upstream = link.base_url.replace("http:", "https:") if secure else link.base_url
        config = Config(port=0, upstream=upstream, drain_seconds=0.2, **settings)
        return Run(await stack.enter_async_context(Server(config, tls=known)), link, simulator, first)

    return run


def is_begun() -> bool:
    """Whether a connection that stands by is being opened."""
    return any(task.get_name() == "stand by" for task in asyncio.all_tasks())


async def test_the_first_turn_finds_it_open(start: Start) -> None:
    """TLS is done before there is an agent, nothing was said, and the turn opens no connection of its own."""
    run = await start()
    assert is_begun()
    await run.connected()
    assert run.simulator.requests == []
    assert run.server.ledger.upstream.sent == 0
    await run.ask()
    assert run.link.connections_ever == 1
    assert run.server.ledger.upstream.sent == run.simulator.bytes_in


async def test_it_is_waited_for_while_it_opens(start: Start) -> None:
    """A turn that is there first does not begin another one."""
    run = await start()
    await run.ask()
    assert run.link.connections_ever == 1


async def test_it_serves_once(start: Start) -> None:
    """The next conversation opens its own, as ever."""
    run = await start()
    await run.ask()
    run.simulator.turns.clear()
    await run.ask()
    assert run.link.connections_ever == 2


@pytest.mark.parametrize("how", ["reset", "close"])
async def test_one_that_upstream_has_closed_is_not_used(start: Start, how: str) -> None:
    """As servers do where nothing comes."""
    run = await start()
    await run.connected()
    run.link.reset() if how == "reset" else run.link.close()
    await asyncio.sleep(0.05)
    await run.ask()
    assert run.link.connections_ever == 2


async def test_one_that_died_in_silence_costs_a_moment(start: Start) -> None:
    """A middlebox that forgot it swallows the upgrade: the turn goes on over a WebSocket that is new."""
    run = await start(probe_timeout=0.3)
    await run.connected()
    run.link.strand()
    await run.ask()
    assert run.link.connections_ever == 2


async def test_an_upgrade_may_take_as_long_as_the_link(start: Start) -> None:
    """A link whose round trips come near probe_timeout has swallowed nothing: a new one would cost three more."""
    run = await start(probe_timeout=0.5)
    run.first.up.latency = run.first.down.latency = 0.1
    await run.connected()
    await asyncio.sleep(0.2)
    run.first.up.latency = run.first.down.latency = 0.3
    await run.ask()
    assert run.link.connections_ever == 1


async def test_one_whose_tls_hangs_costs_a_moment(start: Start) -> None:
    """The first turn, which waits for it, is there before an agent without a proxy would be."""
    run = await start(hangs=True, probe_timeout=0.3)
    async with asyncio.timeout(5):
        await run.ask()
    assert run.link.connections_ever == 2


async def test_one_that_upstream_breaks_off_at_the_upgrade(start: Start) -> None:
    """It is made good by a new one."""
    run = await start()
    await run.connected()
    run.first.up.limit = run.first.up.passed + 100
    await run.ask()
    assert run.link.connections_ever == 2


async def test_one_that_was_silent_for_too_long_for_upstream(start: Start) -> None:
    """Its complaint crosses the upgrade: it is about the connection, and no word about WebSockets."""
    run = await start()
    await run.connected()
    run.simulator.settings.refuse_upgrade = 408

    def relent(_: bytes) -> None:
        run.simulator.settings.refuse_upgrade = None

    run.first.down.tap = relent
    await run.ask()
    assert run.link.connections_ever == 2


async def test_whoever_hangs_up_leaves_it_to_the_next() -> None:
    """A retry does not begin from nothing."""
    authority = trustme.CA()
    tls = serving(authority.issue_cert("127.0.0.1"))
    heard: list[asyncio.StreamWriter] = []  # a writer that nobody holds is closed
    upstream = await asyncio.start_server(lambda _, writer: heard.append(writer), "127.0.0.1", 0, ssl=tls)
    dialer = Standby(Endpoint(f"https://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1", trusting(authority)))
    dialer.open(5, 5)
    taking = asyncio.get_running_loop().create_task(dialer.take())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    held = await dialer.take()
    assert held is not None
    held.end()
    await dialer.close()
    upstream.close()
    for each in heard:
        each.close()


async def test_a_name_that_is_none_is_a_turns_to_tell() -> None:
    """Whatever a lookup says of it."""
    dialer = Standby(Endpoint("https://a..b/v1"))
    dialer.open(5, 5)
    assert await dialer.take() is None
    await dialer.close()


async def test_it_is_let_go_in_the_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before upstream does: a server that closes may have sent that into the dark."""
    monkeypatch.setattr(secured, "KEPT_SECONDS", 0.1)
    run = await start()
    await run.connected()
    await asyncio.sleep(0.3)
    assert not run.link.connections
    await run.ask()


async def test_one_that_slept_is_not_believed_in(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor one whose address is gone: who knows what became of it."""
    run = await start()
    await run.connected()
    monkeypatch.setattr(secured, "lag", lambda: lag() + 60)
    await run.ask()
    assert run.link.connections_ever == 2


@pytest.mark.parametrize(
    "settings",
    [{"secure": False}, {"open_ahead": False}, {"websocket": "off"}],
    ids=["without TLS", "not wanted", "no WebSockets"],
)
async def test_none_is_opened(start: Start, settings: dict[str, Any]) -> None:
    """Without TLS there is one round trip to save, on this machine or the next."""
    run = await start(**settings)
    assert not is_begun()
    assert run.link.connections_ever == 0


async def test_none_is_opened_through_an_outbound_proxy(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it thinks of tunnels in which nothing is said is not known."""
    monkeypatch.setattr(Endpoint, "outbound_proxy", "http://127.0.0.1:1")
    run = await start()
    assert not is_begun()
    assert run.link.connections_ever == 0


async def test_a_certificate_that_is_not_trusted_is_a_turns_to_tell(
    start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the start nobody has asked."""
    run = await start(trusted=False)
    await run.connected()
    assert run.server.link.trouble is None
    assert "error" not in "".join(capsys.readouterr())


async def test_what_upstream_says_unasked_is_not_heard(stack: AsyncExitStack) -> None:
    """It is no way to begin: the connection is given up."""
    authority = trustme.CA()
    tls = serving(authority.issue_cert("127.0.0.1"))

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        await reader.read()
        writer.close()

    upstream = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=tls)
    stack.callback(upstream.close)
    dialer = Standby(Endpoint(f"https://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1", trusting(authority)))
    dialer.open(5, 5)
    await asyncio.sleep(0.2)
    assert await dialer.take() is None
    assert await dialer.take() is None
    await dialer.close()


async def test_closing_ends_what_is_under_way(stack: AsyncExitStack) -> None:
    """Whether it is open by then or not."""
    closed = asyncio.Event()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        await reader.read()
        writer.close()
        closed.set()

    upstream = await asyncio.start_server(hear, "127.0.0.1", 0)  # which never answers to TLS
    stack.callback(upstream.close)
    dialer = Standby(Endpoint(f"https://127.0.0.1:{upstream.sockets[0].getsockname()[1]}/v1"))
    dialer.open(60, 60)
    await asyncio.sleep(0.1)
    await dialer.close()
    async with asyncio.timeout(5):
        await closed.wait()
