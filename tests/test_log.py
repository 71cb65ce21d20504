"""The log: one clean line for each event, whatever is in it."""

import asyncio
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
import structlog
from aiohttp import web

from proxy import log

KEY = "sk-proj-abcdefgh12345678"


class TerminalStream(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class BrokenStream(io.StringIO):
    """A stream whose reader has gone."""

    def write(self, _text: str) -> int:
        """Fail as a closed pipe does."""
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Leave structlog and the libraries' loggers as they were."""
    loggers = [logging.getLogger(name) for name in log.LIBRARIES]  # noqa: TID251
    former = [(each.handlers, each.level, each.propagate) for each in loggers]
    yield
    for each, (handlers, level, propagate) in zip(loggers, former, strict=True):
        each.handlers, each.level, each.propagate = handlers, level, propagate
    structlog.reset_defaults()


@pytest.fixture
def output() -> io.StringIO:
    """Return where the log goes."""
    return io.StringIO()


def fail(message: str) -> None:
    """Raise a ValueError."""
    raise ValueError(message)


def events(output: io.StringIO) -> list[dict[str, Any]]:
    """Return the JSON events that were logged."""
    return [orjson.loads(line) for line in output.getvalue().splitlines()]


def test_json_events_are_one_object_a_line(output: io.StringIO) -> None:
    """Each line has the event, its level, its logger, a UTC time and the figures."""
    log.configure("json", "info", stream=output)
    log.get("turns").info("turn", upload="delta", reason=None, bytes_to_upstream=812, ttft_ms=5.75501200)
    log.get().warning("other")
    first, second = events(output)
    assert datetime.fromisoformat(first.pop("timestamp")).utcoffset() == timedelta(0)
    assert first == {
        "event": "turn",
        "level": "info",
        "logger": "turns",
        "upload": "delta",
        "reason": None,
        "bytes_to_upstream": 812,
        "ttft_ms": 5.755,
    }
    assert second["level"] == "warning"
    assert "logger" not in second


def test_less_severe_events_are_left_out(output: io.StringIO) -> None:
    """Only what is at least as severe as the level is logged, by loggers made before, too."""
    logger = log.get()
    log.configure("json", "warning", stream=output)
    logger.info("no")
    logger.warning("yes")
    assert [event["event"] for event in events(output)] == ["yes"]


def test_the_console_is_plain_in_a_pipe(output: io.StringIO) -> None:
    """A line has no colours, and keeps the order of its figures."""
    log.configure("console", "debug", stream=output, environ={})
    log.get().debug("turn", upload="delta", attempts=1)
    assert "\x1b" not in output.getvalue()
    assert output.getvalue().rstrip().endswith("upload=delta attempts=1")


@pytest.mark.parametrize(
    ("environ", "colored"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_the_console_is_coloured_in_a_terminal_that_wants_it(environ: dict[str, str], colored: bool) -> None:  # noqa: FBT001
    """NO_COLOR and dumb terminals are honoured."""
    output = TerminalStream()
    log.configure("console", "info", stream=output, environ=environ)
    log.get().info("turn")
    assert ("\x1b[" in output.getvalue()) is colored


_ON_WINDOWS = """
import io, os, sys
import proxy.errors  # and with it what is no concern of this test
import asyncio, click, importlib.util, logging, orjson, platformdirs
linux, sys.platform, os.name = (sys.platform, os.name), "win32", "nt"
sys.modules["colorama"] = None
importlib.util.find_spec = lambda name: None
import structlog
from proxy import log
sys.platform, os.name = linux
stream = io.StringIO()
stream.isatty = lambda: True
log.configure("console", "info", stream=stream, environ={})
log.get().info("turn")
assert "turn" in stream.getvalue() and "\\x1b" not in stream.getvalue()
"""


def test_windows_without_colorama_gets_a_plain_console() -> None:
    """There structlog refuses to colour, and click, since 8.5, does not bring colorama along."""
    done = subprocess.run([sys.executable, "-c", _ON_WINDOWS], capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "text",
    [
        f"refused {KEY}",
        f"Authorization: Bearer {KEY}",
        "Bearer abc.def-ghi",
        "authorization=Basic dXNlcjpodW50ZXIy",
        "proxy said Basic dXNlcjpodW50ZXIy",
        "{'api-key': 'abcdef', 'x': 1}",
        "xai-0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "http://me:hunter2@proxy.example:3128",
    ],
)
def test_what_looks_like_a_credential_is_masked(output: io.StringIO, text: str) -> None:
    """Whatever its form, none of its characters are logged."""
    log.configure("json", "info", stream=output)
    log.get().info("upgrade", detail=text, deep={"list": [text]})
    log.get().info(text)
    assert "[masked]" in output.getvalue()
    for secret in (KEY, "abc.def-ghi", "dXNlcjp", "abcdef", "0123456789", "c2lnbmF0dXJl", "hunter2"):
        assert secret not in output.getvalue()


def test_values_of_secret_names_are_masked_whatever_they_are(output: io.StringIO) -> None:
    """A name such as authorization is enough."""
    log.configure("json", "info", stream=output)
    log.get().info("headers", headers={"Authorization": "x", "X-Api-Key": b"y"}, cookie=["z"])
    assert events(output)[0]["headers"] == {"Authorization": "[masked]", "X-Api-Key": "[masked]"}
    assert events(output)[0]["cookie"] == "[masked]"


def test_ordinary_words_are_not_masked(output: io.StringIO) -> None:
    """Ids, fingerprints and names with a hyphen stay readable."""
    text = "task-1 resp_68a2 ask-me risk-management basic sk-1 fafe5c94"
    log.configure("json", "info", stream=output)
    log.get().info("turn", text=text)
    assert events(output)[0]["text"] == text


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_control_characters_are_spelled_out(output: io.StringIO, log_format: Any) -> None:
    """Nothing that is logged can draw on the terminal, fake a line, or turn its direction round."""
    log.configure(log_format, "info", stream=output)
    log.get().info("a\x1b[31mb\nc", **{"d\u202ee": "f\r\x9bg\u2028"})
    text = output.getvalue().replace("\\\\", "\\")
    assert "a\\x1b[31mb\\nc" in text
    assert "d\\u202ee" in text
    assert "f\\r\\x9bg\\u2028" in text
    assert len(output.getvalue().splitlines()) == 1


def test_bytes_are_counted_and_not_shown(output: io.StringIO) -> None:
    """Raw bytes may hold anything."""
    log.configure("json", "info", stream=output)
    log.get().info("frame", data=b"hunter2", view=memoryview(b"12"))
    assert (events(output)[0]["data"], events(output)[0]["view"]) == ("<7 bytes>", "<2 bytes>")


def test_any_value_can_be_logged(output: io.StringIO) -> None:
    """Sets, huge numbers and objects don't break the line."""
    log.configure("json", "info", stream=output)
    log.get().info("odd", small=-1, huge=2**70, several={1}, thing=ValueError("x"), yes=True)
    event = events(output)[0]
    assert (event["small"], event["huge"], event["several"], event["thing"], event["yes"]) == (
        -1,
        str(2**70),
        [1],
        "x",
        True,
    )


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_exceptions_keep_their_lines_and_lose_their_secrets(output: io.StringIO, log_format: Any) -> None:
    """A traceback stays readable, indented so that it fakes no event, and masked."""
    log.configure(log_format, "info", stream=output)
    try:
        fail(f"{KEY}\n2026-01-01 faked\x1b[2J")
    except ValueError:
        log.get().exception("failed")
    text = output.getvalue()
    assert "ValueError: [masked]" in text
    assert KEY not in text
    assert "\x1b" not in text
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())


def test_a_log_that_nobody_reads_fails_nothing() -> None:
    """A broken pipe or a closed stream loses the line and raises nothing."""
    log.configure("json", "info", stream=BrokenStream())
    log.get().info("lost")
    closed = io.StringIO()
    log.configure("json", "info", stream=closed)
    closed.close()
    log.get().info("lost")


def test_a_program_without_standard_error_has_no_log() -> None:
    """Windows starts pythonw without one."""
    with log.Aside(None) as aside:
        log.configure("console", "info", stream=aside)
        log.get().info("turn")
        assert not aside.isatty()


def test_a_log_that_nobody_empties_holds_nobody_up() -> None:
    """While a pipe is full, lines wait for it up to a number, and are lost beyond that."""
    reading, writing = os.pipe()
    taken: list[bytes] = []
    with os.fdopen(reading, "rb") as far:
        with os.fdopen(writing, "w") as near, log.Aside(near) as aside:
            log.configure("json", "info", stream=aside)
            for number in range(5000):
                log.get().info("turn", number=number, model="\u00e9" * 50)
            reader = threading.Thread(target=lambda: taken.append(far.read()))
            reader.start()
        reader.join()
    numbers = [orjson.loads(line)["number"] for line in taken[0].splitlines()]
    assert numbers[:1000] == list(range(1000))
    assert len(numbers) < 3000


@pytest.mark.parametrize("name", ["aiohttp.server", "websockets.client", "asyncio"])
def test_libraries_are_heard_from_warnings_up(output: io.StringIO, name: str) -> None:
    """Debug logs of the libraries hold headers; only their warnings come through, and only once."""
    log.configure("json", "debug", stream=output)
    log.configure("json", "debug", stream=output)
    library = logging.getLogger(name)  # noqa: TID251
    library.info("> %s: %s", "Authorization", KEY)
    library.warning("lost %s", "content", extra={})
    (event,) = events(output)
    assert event["event"] == "library"
    assert event["library"] == name
    assert event["message"] == "lost %s"
    assert event["error"] is None
    assert "test_log.py:" in event["where"]
    assert "content" not in output.getvalue()


def test_a_librarys_exception_is_named_and_placed_but_not_quoted(output: io.StringIO) -> None:
    """Its message may quote what an agent sent; its type and its line are enough to find it."""
    log.configure("json", "info", stream=output)
    library = logging.getLogger("asyncio")  # noqa: TID251
    try:
        fail("hunter2")
    except ValueError:
        library.exception("Task exception was never retrieved\nfuture: hunter2")
    (event,) = events(output)
    assert event["message"] == "Task exception was never retrieved"
    assert event["error"] == "ValueError"
    assert "test_log.py:" in event["where"]
    assert "hunter2" not in output.getvalue()


@pytest.mark.parametrize(
    ("error", "is_told"), [(ConnectionResetError(10054, "by the remote host"), False), (ValueError(), True)]
)
def test_a_connection_that_is_reset_as_it_closes_is_no_error(
    output: io.StringIO, error: Exception, *, is_told: bool
) -> None:
    """Asyncio's loop on Windows has it for one, with each agent that hangs up so."""
    log.configure("json", "info", stream=output)
    message = "Exception in callback _ProactorBasePipeTransport._call_connection_lost(None)\nhandle: <Handle ...>"
    logging.getLogger("asyncio").error(message, exc_info=error)  # noqa: TID251
    assert bool(events(output)) is is_told


async def test_the_bytes_of_a_malformed_request_are_not_logged(output: io.StringIO) -> None:
    """Aiohttp's server logs what it can't parse; from us, only that it happened."""
    log.configure("json", "info", stream=output)
    runner = web.AppRunner(web.Application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        for head in (
            f"GET / HTTP/1.1\r\nAuthorization\x00: Bearer {KEY}\r\n\r\n",
            f"{KEY} / HTTP/1.1 {KEY}\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + head.encode())
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            assert b"400" in answer
    finally:
        await runner.cleanup()
    assert "abcdefgh" not in output.getvalue()
    assert {event["library"] for event in events(output)} == {"aiohttp.server"}
