"""One TCP connection to upstream: short attempts, again and again, for as long as the link is dark.

A connection request that is lost is sent again after 1, 3, 7, 15 seconds; a new one gets through as soon as the
link is back. Where upstream was found once it is looked for again when its name cannot be had.
"""

import asyncio
import errno
import socket
from collections.abc import Iterator, Sequence

import structlog
from aiohappyeyeballs import start_connection
from yarl import URL

from proxy.errors import Unreachable
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.lookup import Address, look_up

_FIRST_ATTEMPT, _LONGEST_ATTEMPT, _GROWTH = 2.0, 4.0, 1.5
_BETWEEN_ATTEMPTS = 1.0
_OTHER_FAMILY_AFTER = 0.25
"""Seconds after which the other IP version is tried as well (RFC 8305, section 5)."""

_DARK = frozenset(
    {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ETIMEDOUT, errno.EADDRNOTAVAIL, errno.ENETRESET}
)
"""Errors that say no packet came back, or none could leave."""


def attempts() -> Iterator[float]:
    """Yield how long each attempt may take, in seconds: a link may have a round trip longer than the first."""
    length = _FIRST_ATTEMPT
    while True:
        yield length
        length = min(length * _GROWTH, _LONGEST_ATTEMPT)


def is_dark(exc: OSError, *, known: bool) -> bool:
    """Whether *exc*, of an attempt to connect, says that nothing was heard from anybody.

    A name that cannot be resolved says so where the address is *known* from before, or nobody answered.
    """
    if isinstance(exc, socket.gaierror):
        return known or exc.errno == socket.EAI_AGAIN
    return isinstance(exc, TimeoutError) or exc.errno in _DARK


class Dialer:
    """Connects to *endpoint*, and remembers where it was found."""

    def __init__(self, endpoint: Endpoint) -> None:
        url = URL(endpoint.base)
        self._host, self._port = url.host or "", url.port or 443
        self._known: Sequence[Address] = ()
        self._lookup: asyncio.Future[Sequence[Address]] | None = None

    async def dial(self, limit: float) -> socket.socket:
        """Return a socket that is connected, within *limit* seconds of attempts.

        Raises Unreachable where nobody answered in that time, and OSError as soon as somebody refused.
        """
        loop = asyncio.get_running_loop()
        began, dark = loop.time(), False
        for patience in attempts():
            started = loop.time()
            try:
                async with asyncio.timeout(min(patience, max(began + limit - started, 0.001))):
                    sock = await self._connect()
            except OSError as exc:
                if not is_dark(exc, known=bool(self._known)):
                    raise
                if loop.time() >= began + limit:
                    raise Unreachable(
                        f"nothing answered where upstream is for {limit:g} s (link_timeout)"
                    ) from exc
            else:
                if dark:
                    structlog.get_logger("link").info("link_back", dark_seconds=round(loop.time() - began, 1))
                return sock
            if not dark:
                dark = True
                structlog.get_logger("link").warning("link_dark")
            await asyncio.sleep(max(started + _BETWEEN_ATTEMPTS - loop.time(), 0))
        raise AssertionError("attempts never end")

    async def _connect(self) -> socket.socket:
        return await start_connection(await self._addresses(), happy_eyeballs_delay=_OTHER_FAMILY_AFTER)

    async def _addresses(self) -> Sequence[Address]:
        """Look the host up, one lookup at a time: on a dark link each holds a thread for long."""
        if self._lookup is None or self._lookup.done():
            self._lookup = look_up(self._host, self._port)
            self._lookup.add_done_callback(self._found)
        if not self._known:
            return await asyncio.shield(self._lookup)
        await asyncio.wait([self._lookup], timeout=_OTHER_FAMILY_AFTER)
        return self._known

    def _found(self, lookup: "asyncio.Future[Sequence[Address]]") -> None:
        if not lookup.cancelled() and lookup.exception() is None:
            self._known = lookup.result()
