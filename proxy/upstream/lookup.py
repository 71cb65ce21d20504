"""Where a name leads: lookups that nobody has to wait for.

Nothing ends a lookup, which on a dark link lasts for long, and a program waits at its end for the threads that
asyncio has for them. These are threads of our own, for which it does not. A lookup keeps to the name servers that
it began with, so that one that falls into the dark is followed by another.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import Any, TypeAlias

from aiohttp.abc import AbstractResolver, ResolveResult

Address: TypeAlias = tuple[int, int, int, str, tuple[Any, ...]]
"""As `getaddrinfo` returns it."""


_AGAIN_AFTER, _MOST = 5.0, 6
"""Seconds after which another lookup begins beside the last, and how many there are in all."""


def look_up(host: str, port: int, *, family: int = 0, flags: int = 0) -> "asyncio.Future[Sequence[Address]]":
    """Find the addresses of *host*, as `getaddrinfo` does. Raises what it raises, and EAI_AGAIN after 30 s."""
    loop = asyncio.get_running_loop()
    found: asyncio.Future[Sequence[Address]] = loop.create_future()

    def tell(answer: Callable[[], None]) -> None:
        if not found.done():
            answer()

    def ask() -> None:
        try:
            addresses = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM, flags=flags)
            answer = partial(found.set_result, addresses)
        except OSError as exc:
            answer = partial(found.set_exception, exc)
        except UnicodeError:
            answer = partial(found.set_exception, socket.gaierror(socket.EAI_NONAME, "not a host's name"))
        with suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(tell, answer)

    def begin(left: int) -> None:
        if found.done():
            return
        if not left:
            found.set_exception(socket.gaierror(socket.EAI_AGAIN, "no name server answers"))
            return
        Thread(target=ask, name=f"lookup {host}", daemon=True).start()
        again = loop.call_later(_AGAIN_AFTER, begin, left - 1)
        found.add_done_callback(lambda _: again.cancel())

    begin(_MOST)
    return found


class Resolver(AbstractResolver):
    """What the HTTP library asks for the addresses of a host."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host* that this machine has a use for."""
        flags = 0 if host.rstrip(".").lower() == "localhost" else socket.AI_ADDRCONFIG  # which Windows needs
        return [
            ResolveResult(
                hostname=host,
                host=f"{address[0]}%{address[3]}" if len(address) > 3 and address[3] else address[0],
                port=address[1],
                family=each,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for each, _, proto, _, address in await look_up(host, port, family=family, flags=flags)
        ]

    async def close(self) -> None:
        """Leave the lookups that go on to themselves."""
