"""The address is listened on for as long as the server runs, whatever the system's loop makes of a failure."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import ClientSession, web

from proxy.server.listening import Listening

RESET = OSError(22, "The specified network name is no longer available")


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[Listening, str]]:
    """Start a server that says yes; yield what listens for it, and where."""

    async def say_yes(_request: web.Request) -> web.Response:
        return web.Response(text="yes")

    application = web.Application()
    application.router.add_get("/", say_yes)
    runner = web.AppRunner(application)
    await runner.setup()
    listens = Listening(runner, "127.0.0.1", 0)
    await listens.start()
    try:
        yield listens, f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await listens.stop()
        await runner.cleanup()


async def asked(url: str) -> str:
    """Return what *url* says to a new connection."""
    async with ClientSession() as session, session.get(url) as response:
        return await response.text()


async def fail_to_accept(listens: Listening) -> None:
    """Do what the loop of Windows does where an agent hangs up before it was accepted."""
    server: Any = listens._site._server
    loop = asyncio.get_running_loop()
    loop.call_exception_handler({"message": "Accept failed on a socket", "exception": RESET})
    server.close()


async def test_a_closed_address_is_opened_again() -> None:
    """On the same port, and as often as it happens; nobody has to start packlight anew."""
    async with listening() as (listens, url):
        for _ in range(2):
            await fail_to_accept(listens)
            async with asyncio.timeout(10):
                await listens._reopening  # type: ignore[misc]
            assert await asked(url) == "yes"


async def test_an_address_that_is_taken_meanwhile_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it can be had."""
    monkeypatch.setattr("proxy.server.listening._AGAIN_AFTER", 0.01)
    async with listening() as (listens, url):
        await fail_to_accept(listens)
        port = int(url.strip("/").rpartition(":")[2])
        taken = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        await asyncio.sleep(0.05)
        taken.close()
        async with asyncio.timeout(10):
            await listens._reopening  # type: ignore[misc]
        assert await asked(url) == "yes"


async def test_it_can_be_stopped_meanwhile() -> None:
    """Then it stays closed."""
    async with listening() as (listens, url):
        await fail_to_accept(listens)
        await listens.stop()
        with pytest.raises(OSError, match="Cannot connect"):
            await asked(url)


async def test_other_trouble_is_for_who_heard_of_it_before() -> None:
    """The loop's own handler, or one that was set."""
    loop = asyncio.get_running_loop()
    told: list[str] = []
    loop.set_exception_handler(lambda _loop, context: told.append(context["message"]))
    async with listening():
        loop.call_exception_handler({"message": "something else"})
    loop.call_exception_handler({"message": "later"})
    assert told == ["something else", "later"]
