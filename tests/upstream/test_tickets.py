"""TLS that resumes: over real TLS, with servers that are what they say, or are not."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trustme
from certificates import serving, trusting
from link import Link
from pooling import KEY, TIMING

from proxy.ledger import Traffic
from proxy.simulator import Simulator, SimulatorSettings
from proxy.upstream.connection import Connection
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.meter import Meter
from proxy.upstream.tickets import remember_tickets


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a certificate authority."""
    return trustme.CA()


def remembering(authority: trustme.CA) -> ssl.SSLContext:
    """Return a client's side of TLS that remembers tickets."""
    context = trusting(authority)
    remember_tickets(context)
    return context


@asynccontextmanager
async def server(context: ssl.SSLContext, port: int = 0) -> AsyncIterator[int]:
    """Answer with one byte to each connection, and give the port."""

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"!")
        writer.close()

    listening = await asyncio.start_server(answer, "127.0.0.1", port, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def resumes(port: int, context: ssl.SSLContext, name: str = "127.0.0.1", *, reads: bool = True) -> bool:
    """Connect to *name*; return whether that resumed an earlier connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    try:
        if reads:
            assert await reader.read() == b"!"
        resumed: bool = writer.get_extra_info("ssl_object").session_reused
        return resumed
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_each_connection_resumes_the_one_before(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    """A ticket is shown once, and the connection that showed it gets the next."""
    far = serving(authority.issue_cert("127.0.0.1"))
    far.maximum_version = version
    async with server(far) as port:
        near = remembering(authority)
        assert [await resumes(port, near) for _ in range(4)] == [False, True, True, True]


async def test_a_ticket_is_shown_once(authority: trustme.CA) -> None:
    """A connection that ends before its first data takes the ticket along: the next one is whole again."""
    async with server(serving(authority.issue_cert("127.0.0.1"))) as port:
        near = remembering(authority)
        assert not await resumes(port, near)
        assert await resumes(port, near, reads=False)
        assert not await resumes(port, near)


async def test_no_ticket_for_another_name_or_context(authority: trustme.CA) -> None:
    """What one name or one context has proven says nothing of another."""
    async with server(serving(authority.issue_cert("127.0.0.1", "localhost"))) as port:
        near = remembering(authority)
        assert not await resumes(port, near)
        assert not await resumes(port, near, "localhost")
        assert not await resumes(port, remembering(authority))
        assert await resumes(port, near)
        assert await resumes(port, near, "localhost")


async def test_a_ticket_that_is_refused_is_no_failure(authority: trustme.CA) -> None:
    """A server that has lost its keys gets a whole handshake, and gives a new ticket."""
    certificate = authority.issue_cert("127.0.0.1")
    near = remembering(authority)
    async with server(serving(certificate)) as port:
        assert not await resumes(port, near)
    async with server(serving(certificate), port):
        assert not await resumes(port, near)
        assert await resumes(port, near)


async def test_an_impostor_is_refused_despite_a_ticket(authority: trustme.CA) -> None:
    """Whoever cannot read the ticket has to show a certificate, and that is verified."""
    near = remembering(authority)
    async with server(serving(authority.issue_cert("127.0.0.1"))) as port:
        assert not await resumes(port, near)
    async with server(serving(trustme.CA().issue_cert("127.0.0.1")), port):
        with pytest.raises(ssl.SSLCertVerificationError):
            await resumes(port, near)


async def test_a_web_socket_and_plain_http_resume_each_other(authority: trustme.CA) -> None:
    """No certificate comes down again, over either transport."""
    certificate = authority.create_child_ca().issue_cert("127.0.0.1")
    shown = sum(len(ssl.PEM_cert_to_DER_cert(each.bytes().decode())) for each in certificate.cert_chain_pems)
    tls = ssl.create_default_context()
    authority.configure_trust(tls)
    async with (
        Simulator(SimulatorSettings(), ssl=serving(certificate)) as simulator,
        Link(("127.0.0.1", simulator.port)) as link,
    ):
        endpoint = Endpoint(f"https://{link.host}:{link.port}/v1", tls)
        brought, resumed = [], []
        for _ in range(2):
            before = link.down.passed
            connection = await opened(endpoint)
            brought.append(link.down.passed - before)
            resumed.append(connection._socket.transport.get_extra_info("ssl_object").session_reused)
            connection.abort()
        assert resumed == [False, True]
        assert brought[1] < brought[0] - shown
        async with Http(endpoint, connect_timeout=5, traffic=Traffic()) as http:
            before = link.down.passed
            async with http.request("GET", "/models", KEY, None, Traffic()) as answer:
                size = len(await answer.read())
            # Heads differ by less than half a chain; OpenSSL 3.5's key exchange is as large as one (ML-KEM).
            assert link.down.passed - before - size < brought[0] - shown // 2
        resumed_again = await opened(endpoint)
        assert resumed_again._socket.transport.get_extra_info("ssl_object").session_reused
        resumed_again.abort()


async def opened(endpoint: Endpoint) -> Connection:
    """Open a WebSocket to *endpoint*."""
    clock = asyncio.get_running_loop().time
    return await Connection.open(endpoint, KEY, Meter(Traffic()), TIMING, clock=clock)
