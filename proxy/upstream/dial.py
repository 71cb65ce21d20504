"""One TCP connection to upstream: attempt after attempt, side by side, for as long as the link is dark.

A connection request that is lost is sent again after 1, 3, 7, 15 seconds; a new one gets through as soon as the
link is back. Earlier ones go on beside it: on a saturated link the answer may take longer than the next one waits.
Where upstream was found once it is looked for again when its name cannot be had.
"""

import asyncio
import errno
import socket
from collections.abc import Sequence

import structlog
from aiohappyeyeballs import start_connection
from yarl import URL

from proxy.errors import Unreachable
from proxy.upstream.backoff import pauses
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.lookup import Address, look_up
from proxy.upstream.race import Race
from proxy.upstream.trouble import errors_of

log = structlog.get_logger("link")

_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 2.0, 4.0, 1.5
"""Seconds from one attempt to the next: at first, at most, and the factor by which they grow."""

_PAUSE_AFTER_FAILURE = 1.0
"""The same, at most, where an attempt has failed."""

_LONGEST_ATTEMPT = 20.0
"""Seconds in which an attempt may still succeed: a queue of 8 s, and a request that had to be sent again."""

_OTHER_FAMILY_AFTER = 0.25
"""Seconds after which the other IP version is tried as well (RFC 8305, section 5)."""

_DARK = frozenset(
    {
        errno.ENETUNREACH,
        errno.EHOSTUNREACH,
        errno.EHOSTDOWN,  # on macOS, of a neighbour that does not answer
        errno.ENETDOWN,
        errno.ETIMEDOUT,
        errno.EADDRNOTAVAIL,
        errno.ENETRESET,
    }
)
"""Errors that say no packet came back, or none could leave."""


def is_dark(exc: OSError, *, known: bool) -> bool:
    """Whether *exc*, of an attempt to connect, says that nothing was heard from anybody.

    A name that cannot be resolved says so where the address is *known* from before, or nobody answered.
    """
    if isinstance(exc, socket.gaierror):
        return known or exc.errno == socket.EAI_AGAIN
    return isinstance(exc, TimeoutError) or errors_of(exc) <= _DARK


class Dialer:
    """Connects to *endpoint*, and remembers where it was found."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
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
        with Race[socket.socket, OSError]("connect", socket.socket.close) as race:
            for pause in pauses(first=_FIRST_PAUSE, most=_LONGEST_PAUSE, growth=_GROWTH):
                started = loop.time()
                race.start(self._attempt(min(_LONGEST_ATTEMPT, max(began + limit - started, 0.001))))
                until = started + pause
                while (over := await race.next(min(until, began + limit) - loop.time())) is not None:
                    if isinstance(over, socket.socket):
                        if dark:
                            log.info("link_back", dark_seconds=round(loop.time() - began, 1))
                        return over
                    if not is_dark(over, known=bool(self._known)):
                        raise over
                    until = min(until, started + _PAUSE_AFTER_FAILURE)
                if loop.time() >= began + limit:
                    raise Unreachable(f"nothing answered where upstream is for {limit:g} s (link_timeout)")
                if not dark:
                    dark = True
                    log.warning("link_dark")
        raise AssertionError("pauses never end")

    async def _attempt(self, limit: float) -> socket.socket | OSError:
        try:
            async with asyncio.timeout(limit):
                return await start_connection(await self._addresses(), happy_eyeballs_delay=_OTHER_FAMILY_AFTER)
        except OSError as exc:
            return exc

    async def _addresses(self) -> Sequence[Address]:
        """Look the host up, one lookup at a time: on a dark link each holds a thread for long.

        An address from before is good enough where a certificate proves that it is still upstream's.
        """
        if self._lookup is None or self._lookup.done():
            self._lookup = look_up(self._host, self._port)
            self._lookup.add_done_callback(self._found)
        if not (self._known and self._endpoint.secure):
            return await asyncio.shield(self._lookup)
        await asyncio.wait([self._lookup], timeout=_OTHER_FAMILY_AFTER)
        return self._known

    def _found(self, lookup: "asyncio.Future[Sequence[Address]]") -> None:
        if not lookup.cancelled() and lookup.exception() is None:
            self._known = lookup.result()
