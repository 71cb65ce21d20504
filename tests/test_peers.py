"""`scripts/bench peers` with nobody to install; packlight is the real command in a process of its own."""

from dataclasses import replace
from pathlib import Path

from peer import Place
from peerage import OURS, PEERS
from peers import DIRECT, figures_of, lines, measure
from shapes import SHAPES

SHAPE = replace(SHAPES["pi"], turns=4)


async def test_packlight_is_measured_beside_no_proxy(tmp_path: Path) -> None:
    """The round that does not count is not counted, and what went upstream is told by kind."""
    measured = await measure(SHAPE, 2, (OURS,), tmp_path)
    rows = [figures_of(each, measured[0]) for each in measured]
    assert [row["name"] for row in rows] == [DIRECT, "packlight"]
    assert [row["failure"] for row in rows] == [None, None]
    assert rows[0]["transports"] == {"http": 8}
    assert rows[1]["transports"] == {"delta": 6, "ws": 2}
    assert rows[1]["up_of_direct"] < 0.5
    assert "6 delta, 2 ws" in lines({"rows": rows})[-1]


async def test_a_peer_that_does_not_start_is_told_with_the_reason(tmp_path: Path) -> None:
    """The others are measured all the same."""
    broken = replace(OURS, name="broken", configure=lambda _place: (("serve", "--port", "none"), {}))
    measured = await measure(SHAPE, 1, (broken, OURS), tmp_path)
    assert measured[1].failure is not None
    assert measured[1].failure.startswith("did not start: ")
    assert len(measured[2].up) == 1
    assert "did not start" in lines({"rows": [figures_of(each, measured[0]) for each in measured]})[3]


def test_every_peer_is_pointed_at_the_link(tmp_path: Path) -> None:
    """By its arguments, its environment, its configuration file or its agents' headers."""
    place = Place(tmp_path, 1234, "http://127.0.0.1:4321")
    for peer in PEERS:
        arguments, environ = peer.configure(place)
        written = [file.read_text() for file in tmp_path.iterdir()]
        told = " ".join((*arguments, *environ.values(), *written, *peer.headers(place).values()))
        assert "127.0.0.1:4321" in told
        assert "1234" in told
