"""The event loop that the proxy runs on."""

import asyncio
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's loops where it is installed (`packlight[fast]`); None is for asyncio's own."""
    try:
        from uvloop import new_event_loop  # noqa: PLC0415  (an extra, and not there on Windows)
    except ImportError:
        return None
    return new_event_loop  # type: ignore[no-any-return,unused-ignore]
