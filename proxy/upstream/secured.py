"""One connection to upstream with TCP and TLS done, and nothing said on it.

A handshake whose flow was dropped half-way (a new address, a middlebox that forgot it) hangs for as long as it is
waited for, and agents that connect by themselves try again after 5 to 10 s. So does another attempt here, beside
the first: on a slow link that one may only be slow.
"""

import asyncio
import socket
from typing import cast

from proxy.errors import UpstreamUnavailable
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.liveness import has_moved, lag
from proxy.upstream.race import Race
from proxy.upstream.sendqueue import last_acknowledged

KEPT_SECONDS = 50.0
"""Common servers and load balancers give a client a minute to say something."""

_LOOK_SECONDS = 0.25
"""How soon a handshake of which something was heard is looked at again, at the least."""

_NAP = 1.0
"""Seconds of sleep of this machine after which the connection is not believed in."""


class Silent(asyncio.Protocol):
    """The connection while nothing is said on it. *handshake_seconds* is what TLS took: a round trip at least."""

    handshake_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep it for so long and no longer."""
        self.transport = cast("asyncio.Transport", transport)
        self.timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.end)
        self._lag = lag()

    def data_received(self, _data: bytes) -> None:
        """Take none of what was not asked for."""
        self.end()

    def end(self) -> None:
        """Let go of it."""
        self.timer.cancel()
        self.transport.abort()

    def take(self) -> asyncio.Transport:
        """Return its transport, which is the caller's from now on."""
        self.timer.cancel()
        return self.transport

    @property
    def may_be_used(self) -> bool:
        """Whether it is open, and nothing speaks for its being dead."""
        if self.transport.is_closing():
            return False
        if has_moved(self.transport.get_extra_info("socket")) or lag() - self._lag > _NAP:
            self.end()
            return False
        return True


async def secured(
    endpoint: Endpoint, dialer: Dialer, *, link_timeout: float, open_timeout: float, patience: float
) -> Silent:
    """Return the first that is through. Another begins where nothing is heard of the latest for *patience* s.

    TCP has *link_timeout*, as in `Dialer.dial`, and TLS *open_timeout* after that. Raises what `dial` does,
    TimeoutError, and OSError where TLS fails.
    """
    sock = await dialer.dial(link_timeout)
    with Race[Silent, OSError | UpstreamUnavailable]("TLS", Silent.end) as race:
        async with asyncio.timeout(open_timeout):
            latest = _Handshake(endpoint, dialer, open_timeout, sock)
            race.start(latest.run())
            while True:
                over = await race.next(max(patience - latest.quiet, _LOOK_SECONDS))
                if isinstance(over, Silent):
                    return over
                if over is not None and not race.goes_on:
                    raise over
                if latest.quiet >= patience:
                    latest = _Handshake(endpoint, dialer, open_timeout)
                    race.start(latest.run())


class _Handshake:
    """TLS on *sock*, or on a connection that is dialled for it within *limit* seconds."""

    def __init__(
        self, endpoint: Endpoint, dialer: Dialer, limit: float, sock: socket.socket | None = None
    ) -> None:
        self._endpoint = endpoint
        self._dialer = dialer
        self._limit = limit
        self._sock = sock
        self._began_at: float | None = None

    async def run(self) -> Silent | OSError | UpstreamUnavailable:
        """Return the connection, or why there is none."""
        loop, endpoint = asyncio.get_running_loop(), self._endpoint
        try:
            self._sock = self._sock or await self._dialer.dial(self._limit)
            self._began_at = loop.time()
            _, silent = await loop.create_connection(
                Silent, sock=self._sock, ssl=endpoint.ssl_context, server_hostname=endpoint.host
            )
        except (OSError, UpstreamUnavailable) as exc:
            return exc
        silent.handshake_seconds = loop.time() - self._began_at
        return silent

    @property
    def quiet(self) -> float:
        """For how many seconds nothing was heard: a handshake that goes on is slow, and does not hang."""
        if self._sock is None or self._began_at is None:
            return 0.0
        elapsed = asyncio.get_running_loop().time() - self._began_at
        heard = last_acknowledged(self._sock)
        return elapsed if heard is None else min(elapsed, heard)
