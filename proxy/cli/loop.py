"""The event loop that the proxy runs on."""

import asyncio
from collections.abc import Callable


def loop_factory(upstream: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's loops where it is installed (`packlight[fast]`); None is for asyncio's own.

    Over TLS uvloop does not tell what it has not written yet, without which an upload cannot be paced: it serves
    for an *upstream* on plain HTTP alone, such as a gateway on this machine.
    """
    if upstream.startswith("https://"):
        return None
    try:
        from uvloop import new_event_loop  # noqa: PLC0415  (an extra, and not there on Windows)
    except ImportError:
        return None
    return new_event_loop  # type: ignore[no-any-return,unused-ignore]
