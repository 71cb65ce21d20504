"""``packlight simulate``: the simulated upstream as a program."""

import signal
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import orjson
import pytest


def answer(port: int, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    """Ask the simulated upstream on *port*, and return its status and JSON."""
    body = orjson.dumps({"model": "gpt-5.5", "input": "hi"})
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/responses", body, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, orjson.loads(response.read())


def test_it_answers_until_it_is_stopped(packlight: Any) -> None:
    """The ready line says where; a signal ends it with status 0."""
    process = packlight.start("simulate", "--port", "0")
    assert "simulated upstream (openai) listening on http://127.0.0.1:" in process.ready
    assert answer(process.port)[0] == 401
    assert answer(process.port, {"Authorization": "Bearer x"})[0] == 200
    assert process.end(signal.SIGTERM)[0] == 0


def test_an_ipv6_address_is_in_brackets(packlight: Any) -> None:
    """The ready line has a URL that works as it is."""
    process = packlight.start("simulate", "--host", "::1", "--port", "0")
    if not process.ready:
        pytest.skip("this machine has no IPv6")
    assert f"listening on http://[::1]:{process.port}/v1" in process.ready


def test_its_knobs_reach_the_simulator(packlight: Any) -> None:
    """Without a key, and with the echo script, the answer tells what the model read."""
    process = packlight.start("simulate", "--port", "0", "--no-require-key", "--echo", "--citizen", "xai")
    assert "simulated upstream (xai)" in process.ready
    status, response = answer(process.port)
    assert status == 200
    assert response["output"][0]["content"][0]["text"].startswith("1 items, digest ")


def test_a_taken_port_is_named(packlight: Any) -> None:
    """The same message as that of serve."""
    first = packlight.start("simulate", "--port", "0")
    second = packlight.run("simulate", "--port", str(first.port))
    assert second.returncode == 1
    assert second.stderr.startswith(f"Error: port {first.port} on 127.0.0.1 is taken")
