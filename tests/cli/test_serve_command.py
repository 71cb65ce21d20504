"""``packlight serve``: its ready line, its end, and what it says when it can't run."""

import errno
import os
import pty
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy import __version__
from proxy.cli.serve import cannot_listen

BODY = {"model": "gpt-5.5", "input": "hi", "stream": True}
AGENT = {"Content-Type": "application/json", "Authorization": "Bearer none"}


@contextmanager
def post(port: int, body: dict[str, Any], headers: dict[str, str] = AGENT) -> Iterator[HTTPResponse]:
    """Send *body* to the Responses API on *port*."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/responses", orjson.dumps(body), headers)
        yield connection.getresponse()


def figures(port: int, page: str) -> Any:
    """Return what ``/_packlight/`` shows on *page*."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", f"/_packlight/{page}")
        return orjson.loads(connection.getresponse().read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_when_asked(packlight: Any, number: int) -> None:
    """One line on standard output says that it is ready; a signal ends it with status 0."""
    process = packlight.start("serve", "--port", "0", "--log-format", "json")
    assert process.ready == (
        f"packlight {__version__} listening on http://127.0.0.1:{process.port}/v1 -> https://api.openai.com/v1"
    )
    assert figures(process.port, "health")["status"] == "ok"
    code, output, errors = process.end(number)
    assert (code, output) == (0, "")
    assert [orjson.loads(line)["event"] for line in errors.splitlines()] == ["draining"]


def test_an_ipv6_address_is_in_brackets(packlight: Any) -> None:
    """The ready line has a URL that works as it is."""
    process = packlight.start("serve", "--host", "::1", "--port", "0")
    if not process.ready:
        pytest.skip("this machine has no IPv6")
    assert f"listening on http://[::1]:{process.port}/v1" in process.ready


def test_the_simulated_upstream_needs_no_key(packlight: Any) -> None:
    """With --upstream simulated, an agent gets an answer at once, and one with parameters of its own as well."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    assert process.ready.endswith("-> simulated")
    with post(process.port, BODY | {"stream": False, "own": 1}, {"Content-Type": "application/json"}) as response:
        assert response.status == 200
        assert orjson.loads(response.read())["status"] == "completed"
    assert figures(process.port, "health")["upstream"] == "simulated"


def test_a_turn_in_flight_is_finished_before_it_stops(packlight: Any) -> None:
    """On SIGTERM the answer that has begun is given to its end, and then the status is 0."""
    upstream = packlight.start("simulate", "--port", "0", "--event-seconds", "0.05")
    process = packlight.start("serve", "--port", "0", "--upstream", f"{upstream.url}/v1")
    with post(process.port, BODY) as response:
        beginning = response.readline()
        process.popen.send_signal(signal.SIGTERM)
        rest = response.read()
    assert beginning.startswith(b"event: response.created")
    assert b"event: response.completed" in rest
    assert process.popen.wait(20) == 0


def test_turns_go_on_where_nobody_empties_standard_error(packlight: Any) -> None:
    """Whoever starts it with a pipe and does not read that gets answers all the same, and its end."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    for number in range(300):  # 64 KiB are full after 180
        with post(process.port, {"model": "m", "input": f"question {number}"}) as answer:
            assert answer.status == 200
            answer.read()
    assert process.end(signal.SIGTERM)[0] == 0


@pytest.mark.parametrize("closed", [False, True])
def test_it_serves_where_its_ready_line_cannot_be_written(packlight: Any, *, closed: bool) -> None:
    """A pipe without a reader, as behind `| true`, or no standard output at all, ends nothing."""
    process = packlight.unread("serve", "--port", "0", "--upstream", "http://127.0.0.1:9", closed=closed)
    assert "upstream_without_path" in process.stderr.readline()  # which comes next
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=20)[1]
    assert (process.returncode, len(errors.splitlines())) == (0, 1)
    assert "draining" in errors


def test_it_serves_where_its_ready_line_cannot_be_encoded(packlight: Any) -> None:
    """On Windows a pipe has an alphabet or two, and the name of an upstream may be from another."""
    upstream = {"PACKLIGHT_UPSTREAM": "https://例え.example/v1", "PYTHONIOENCODING": "cp1252"}
    process = packlight.start("serve", "--port", "0", environ=upstream)
    assert process.ready.endswith("-> https://\\u4f8b\\u3048.example/v1")
    assert figures(process.port, "health")["status"] == "ok"


def test_a_second_signal_does_not_wait_for_turns(packlight: Any) -> None:
    """Whoever asks twice gets an end at once, still with status 0."""
    upstream = packlight.start("simulate", "--port", "0", "--event-seconds", "3600")
    process = packlight.start("serve", "--port", "0", "--upstream", f"{upstream.url}/v1")
    with post(process.port, BODY) as response:
        response.readline()
        process.popen.send_signal(signal.SIGTERM)
        assert "draining" in process.popen.stderr.readline()
        process.popen.send_signal(signal.SIGINT)
        assert process.popen.wait(8) == 0


def test_and_tells_agents_for_which_nothing_has_begun(packlight: Any) -> None:
    """They get a status on which they ask again, and not a closed connection."""
    upstream = packlight.start("simulate", "--port", "0", "--first-event-seconds", "3600")
    process = packlight.start("serve", "--port", "0", "--upstream", f"{upstream.url}/v1")
    with closing(HTTPConnection("127.0.0.1", process.port, timeout=20)) as agent:
        agent.request("POST", "/v1/responses", orjson.dumps(BODY), AGENT)
        while not figures(process.port, "stats")["connections"]["opened"]:
            pass
        process.popen.send_signal(signal.SIGTERM)
        assert "draining" in process.popen.stderr.readline()
        process.popen.send_signal(signal.SIGINT)
        answer = agent.getresponse()
        assert answer.status == 503
        assert orjson.loads(answer.read())["error"]["message"] == "packlight: it is stopping"
        assert process.popen.wait(8) == 0


def test_a_turn_is_finished_when_the_terminal_is_closed(packlight: Any) -> None:
    """Nobody reads what is printed any more; the agent, in another terminal, gets its answer to the end."""
    upstream = packlight.start("simulate", "--port", "0", "--event-seconds", "0.05")
    terminal, its_end = pty.openpty()
    process = packlight.start("serve", "--port", "0", "--upstream", f"{upstream.url}/v1", stderr=its_end)
    os.close(its_end)
    with post(process.port, BODY) as response:
        beginning = response.readline()
        os.close(terminal)
        process.popen.send_signal(signal.SIGHUP)
        rest = response.read()
    assert beginning.startswith(b"event: response.created")
    assert b"event: response.completed" in rest
    assert process.popen.wait(20) == 0


def test_an_upstream_without_a_path_is_remarked_on(packlight: Any) -> None:
    """It may be right, and mostly is a slip that shows as a 404 with each request."""
    process = packlight.start("serve", "--port", "0", "--upstream", "http://127.0.0.1:9", "--log-format", "json")
    said = orjson.loads(process.popen.stderr.readline())
    assert (said["event"], said["upstream"]) == ("upstream_without_path", "http://127.0.0.1:9")
    assert "/v1" in said["hint"]


def test_a_taken_port_is_named_with_the_fix(packlight: Any) -> None:
    """A second proxy on the same port says so and exits 1."""
    first = packlight.start("serve", "--port", "0")
    second = packlight.run("serve", "--port", str(first.port))
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.startswith(f"Error: port {first.port} on 127.0.0.1 is taken: ")
    assert "--port" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EACCES, "x"), "no permission to listen on port 80: choose one above 1023 with --port."),
        (OSError(errno.EADDRNOTAVAIL, "x"), "cannot listen on ::1, port 80: Cannot assign requested address. "),
        (OSError(-2, "Name or service not known"), "cannot listen on ::1, port 80: Name or service not known. "),
        (
            OSError(10049, "error while attempting to bind on address ('::1', 80): der Kontext"),
            "cannot listen on ::1, port 80: der Kontext. Is ::1 ",
        ),
        (
            socket.gaierror(8, "nodename nor servname provided"),
            "cannot listen on ::1, port 80: nodename nor servname ",
        ),
        (
            OSError("could not bind on any address"),
            "cannot listen on ::1, port 80: Cannot assign requested address. ",
        ),
    ],
)
def test_other_addresses_that_cannot_be_had_are_explained(error: OSError, message: str) -> None:
    """The message has the system's words and what to change."""
    assert cannot_listen("::1", 80, error).message.startswith(message)


def test_a_port_that_windows_keeps_is_not_one_for_administrators() -> None:
    """Hyper-V and WSL reserve ranges of ports above 1023, which nobody gets."""
    message = cannot_listen("127.0.0.1", 8484, OSError(errno.EACCES, "x")).message
    assert message.startswith(
        "no permission to listen on port 8484: the system keeps it for itself: choose another "
    )


@pytest.mark.parametrize(
    ("arguments", "environ", "message"),
    [
        (
            ["--port", "99999"],
            {},
            "Error: port (flag --port) must be a whole number of at least 0 and at most 65535",
        ),
        (
            ["--log-level", "loud"],
            {},
            "Error: log_level (flag --log-level) must be debug or info or warning or error",
        ),
        (["--host", "0.0.0.0"], {}, "Error: host (flag --host) is '0.0.0.0', which other machines can reach"),  # noqa: S104
        (["--config", "missing.toml"], {}, "Error: config: there is no file missing.toml"),
        ([], {"PACKLIGHT_PROT": "1"}, "Error: environment PACKLIGHT_PROT is not a setting; did you mean port?"),
        ([], {"PACKLIGHT_UPSTREAM": "x"}, "Error: upstream (environment PACKLIGHT_UPSTREAM) must be"),
    ],
)
def test_a_bad_configuration_is_exit_2(
    packlight: Any, arguments: list[str], environ: dict[str, str], message: str
) -> None:
    """The key, its place and the fix go to standard error, without a traceback."""
    done = packlight.run("serve", *arguments, environ=environ)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1


def test_settings_come_from_file_and_environment(packlight: Any, tmp_path: Path) -> None:
    """The file that --config names counts, and the environment beats it."""
    file = tmp_path / "mine.toml"
    file.write_text('upstream = "http://127.0.0.1:1/v1"\nport = 99\n', encoding="utf-8")
    process = packlight.start("serve", "--config", str(file), environ={"PACKLIGHT_PORT": "0"})
    assert process.ready.endswith("-> http://127.0.0.1:1/v1")


def test_the_version_is_told(packlight: Any) -> None:
    """--version prints the name and the version."""
    assert packlight.run("--version").stdout == f"packlight {__version__}\n"


@pytest.mark.parametrize("command", [(), ("serve",), ("demo",), ("simulate",), ("status",), ("config",)])
def test_every_command_explains_itself(packlight: Any, command: tuple[str, ...]) -> None:
    """-h tells what it is for."""
    result = packlight.call(*command, "-h")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: packlight {' '.join(command)}".rstrip())


def test_a_socks_proxy_in_the_environment_is_refused(packlight: Any) -> None:
    """What cannot work is said at the start, with status 2 and what to do."""
    environ = {"https_proxy": "socks5://127.0.0.1:1080", "no_proxy": "", "NO_PROXY": ""}
    process = packlight.start("serve", "--port", "0", environ=environ)
    _, errors = process.popen.communicate(timeout=20)
    assert process.popen.returncode == 2
    assert "HTTPS_PROXY names a socks5 proxy" in errors
