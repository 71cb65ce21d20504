"""Names and where they lead, as the system tells it."""

import socket

import pytest

from proxy.upstream.lookup import Resolver, look_up


async def test_it_finds_what_the_system_finds() -> None:
    """In the same form."""
    assert await look_up("localhost", 80) == socket.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)


@pytest.mark.parametrize(("host", "raised"), [("no number", socket.gaierror), ("a..b", UnicodeError)])
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
