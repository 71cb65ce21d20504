"""`scripts/bench peers` with nobody to install; packlight is the real command in a process of its own."""

from dataclasses import replace
from pathlib import Path

import aiohttp
import pointing
from aiohttp import web
from aiohttp.test_utils import TestServer
from link import Link
from peer import Place, running
from peerage import OURS, PEERS
from peers import DIRECT, Lane, Measured, figures_of, lines, measure
from shapes import SHAPES

from proxy.simulator import Simulator

SHAPE = replace(SHAPES["pi"], turns=4)


def _from_the_tree(place: Place) -> tuple[tuple[str, ...], dict[str, str]]:
    arguments, _ = pointing.packlight(place)
    return arguments, {"PYTHONPATH": str(pointing.ROOT), "PYTHONSAFEPATH": "1"}


HERE = replace(OURS, source=pointing.ROOT / "proxy/__main__.py", configure=_from_the_tree)
"""packlight without an installation of its own."""


async def test_packlight_is_measured_beside_no_proxy(tmp_path: Path) -> None:
    """The round that does not count is not counted, and what went upstream is told by kind."""
    measured = await measure(SHAPE, 2, (HERE,), tmp_path)
    rows = [figures_of(each, measured[0]) for each in measured]
    assert [row["name"] for row in rows] == [DIRECT, "packlight"]
    assert [row["failure"] for row in rows] == [None, None]
    assert rows[0]["transports"] == {"http": 8}
    assert rows[1]["transports"] == {"delta": 6, "ws": 2}
    assert rows[1]["up_of_direct"] < 0.5
    assert "6 delta, 2 ws" in lines({"rows": rows})[-1]


async def test_a_peer_that_does_not_start_is_told_with_the_reason(tmp_path: Path) -> None:
    """The others are measured all the same."""
    broken = replace(HERE, name="broken", configure=lambda _place: (("serve", "--port", "none"), {}))
    measured = await measure(SHAPE, 1, (broken, HERE), tmp_path)
    assert measured[1].failure is not None
    assert measured[1].failure.startswith("did not start: ")
    assert len(measured[2].up) == 1
    assert "did not start" in lines({"rows": [figures_of(each, measured[0]) for each in measured]})[3]


async def test_every_peer_is_pointed_at_the_link(tmp_path: Path) -> None:
    """By its arguments, its environment, its configuration file, its own API or its agents' headers."""
    asked: list[str] = []

    async def listen(request: web.Request) -> web.Response:
        asked.append(await request.text())
        return web.json_response(
            {
                "node": {"id": "node_1"},
                "secret": {"secret_id": "secret_1"},
                "model_definition": {"model_definition_id": "model_1"},
            }
        )

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", listen)
    async with TestServer(app) as server:
        assert server.port is not None
        for number, peer in enumerate(PEERS):
            place = Place(tmp_path / str(number), server.port, "http://127.0.0.1:4321")
            place.home.mkdir()
            asked.clear()
            arguments, environ = peer.configure(place)
            if peer.enrol is not None:
                await peer.enrol(place)
            written = [file.read_text() for file in place.home.rglob("*") if file.is_file()]
            told = " ".join((*arguments, *environ.values(), *written, *asked, *peer.headers(place).values()))
            assert "127.0.0.1:4321" in told, peer.name
            assert str(server.port) in told, peer.name


async def test_what_a_peer_takes_from_the_model_is_told(tmp_path: Path) -> None:
    """Tokens that the model reads are counted: 100 % for a proxy that changes nothing."""
    measured = await measure(SHAPE, 1, (HERE,), tmp_path)
    assert figures_of(measured[1], measured[0])["read_of_direct"] == 1
    measured[1].read = [read // 2 for read in measured[1].read]
    assert " 50.0% | " in lines({"rows": [figures_of(measured[1], measured[0])]})[-1]


async def test_a_long_reason_is_cut_in_the_table(tmp_path: Path) -> None:
    """And does not end its cell."""
    row = {"name": "broken", "version": "1", "failure": "one | " + "word " * 100}
    line = lines({"rows": [row]})[-1]
    assert len(line) < 200
    assert "one \\| word" in line
    assert line.count("|") - line.count("\\|") == 10


async def test_a_peer_whose_own_api_says_no_is_told_with_the_reason(tmp_path: Path) -> None:
    """The others are measured all the same."""

    async def enrol(place: Place) -> None:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{place.port}/none") as answer:
            answer.raise_for_status()

    broken = replace(HERE, name="broken", enrol=enrol)
    measured = await measure(SHAPE, 1, (broken, HERE), tmp_path)
    assert measured[1].failure is not None
    assert measured[1].failure.startswith("could not be set up: ")
    assert len(measured[2].up) == 1


async def test_a_peer_is_asked_for_the_model_under_its_own_name_for_it(tmp_path: Path) -> None:
    """Some gateways name the provider with the model."""
    async with Simulator() as simulator, Link(("127.0.0.1", simulator.port)) as link:
        named = replace(HERE, model="benchmark/{}")
        async with running(named, f"http://127.0.0.1:{link.port}", cache=tmp_path, home=tmp_path) as peer:
            await Lane(Measured("named"), simulator, link, peer).play(SHAPE, 1, counts=True)
        assert {turn.request["model"] for turn in simulator.turns} == {f"benchmark/{SHAPE.model}"}
