"""Names and where they lead, as the system tells it."""

import socket
from threading import Event
from typing import Any

import pytest

from proxy.upstream import lookup
from proxy.upstream.lookup import Resolver, look_up


async def test_it_finds_what_the_system_finds() -> None:
    """In the same form."""
    assert await look_up("localhost", 80) == socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


@pytest.mark.parametrize(("host", "raised"), [("no number", socket.gaierror), ("a..b", socket.gaierror)])
async def test_it_raises_what_the_system_raises(host: str, raised: type[Exception]) -> None:
    """A name that leads nowhere, and one that is none."""
    with pytest.raises(raised):
        await look_up(host, 80, flags=socket.AI_NUMERICHOST)


async def test_a_lookup_that_nobody_waits_for_any_more_is_left_to_itself() -> None:
    """It ends in silence."""
    look_up("localhost", 80).cancel()
    assert await look_up("localhost", 80)


async def test_the_library_gets_addresses_that_it_need_not_look_up_again() -> None:
    """With the port that it asked for."""
    found = await Resolver().resolve("localhost", 80, socket.AF_UNSPEC)
    assert {each["host"] for each in found} <= {"127.0.0.1", "::1"}
    assert {(each["hostname"], each["port"]) for each in found} == {("localhost", 80)}


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> "list[int]":
    """Have the first lookups hang, as many as the list says; they are let go in the end."""
    left, over, real = [1], Event(), socket.getaddrinfo

    def asked(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            over.wait(10)
        return real(*args, **kwargs)

    monkeypatch.setattr(lookup, "_AGAIN_AFTER", 0.05)
    monkeypatch.setattr(socket, "getaddrinfo", asked)
    return left


async def test_another_lookup_overtakes_one_that_hangs(hanging: list[int]) -> None:
    """It asked a name server of a network that is gone, and keeps asking it."""
    assert await look_up("localhost", 80)
    assert hanging == [-1]


async def test_lookups_that_all_hang_come_to_an_end(hanging: list[int]) -> None:
    """As one that no name server answered."""
    hanging[0] = 100
    with pytest.raises(socket.gaierror) as caught:
        await look_up("localhost", 80)
    assert caught.value.errno == socket.EAI_AGAIN
    assert hanging == [100 - lookup._MOST]
