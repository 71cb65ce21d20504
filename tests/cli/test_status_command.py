"""``packlight status``: a running proxy's figures, and what is said when there is none."""

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from typing import Any

import orjson
import pytest

from proxy.cli.status import summary
from proxy.cli.terminal import Terminal

FIGURES: dict[str, Any] = {
    "url": "http://127.0.0.1:8484",
    "health": {"status": "ok", "version": "0.1.0", "upstream": "https://api.openai.com/v1"},
    "stats": {
        "turns": {"total": 20, "delta": 17, "full": 2, "http": 1, "failed": 1},
        "full_reasons": {"history_changed": 1, "first_turn": 2, "brand_new": 1},
        "bytes": {"from_agents": 1_000_000, "to_upstream": 50_000, "from_upstream": 1500, "to_agents": 2500},
        "connections": {"open": 1, "opened": 2, "lost": 0},
        "since": "2026-11-21T04:48:19+00:00",
    },
    "turns": [
        {
            "started_at": "2026-11-21T04:48:20.566+00:00",
            "model": None,
            "upload": "http",
            "reason": "no_websocket",
            "bytes_from_agent": 87,
            "bytes_to_upstream": 333,
            "duration_ms": 8.9,
            "status": "failed",
        },
        {
            "started_at": "2026-11-21T04:48:19.566+00:00",
            "model": "gpt-5.5",
            "upload": "delta",
            "reason": None,
            "bytes_from_agent": 45_000,
            "bytes_to_upstream": 300,
            "duration_ms": 1234.5,
            "status": "completed",
        },
    ],
}


@pytest.fixture
def stranger() -> Iterator[Callable[[bytes | dict[str, bytes]], str]]:
    """Return what starts a server that gives the same bytes to everybody, or those of each page, and its URL."""
    with ExitStack() as stack:

        def start(answer: bytes | dict[str, bytes]) -> str:
            class Handler(socketserver.StreamRequestHandler):
                def handle(self) -> None:
                    asked = self.rfile.readline().decode()
                    while self.rfile.readline().strip():
                        pass
                    pages = answer if isinstance(answer, dict) else {"": answer}
                    self.wfile.write(next(each for name, each in pages.items() if name in asked))

            server = stack.enter_context(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler))
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_address[1]}"

        yield start


def page(body: bytes, status: str = "200 OK") -> bytes:
    """Return an HTTP answer."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (status.encode(), len(body), body)


def ask(port: int, model: str) -> None:
    """Have *model* answer once."""
    body = orjson.dumps({"model": model, "input": "hi"})
    with closing(HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/responses", body, {"Content-Type": "application/json"})
        connection.getresponse().read()


def test_a_running_proxy_is_summed_up(packlight: Any) -> None:
    """Turns, bytes, connections, reasons and recent turns are shown, whatever proxy the environment names."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    ask(process.port, "gpt-5.5")
    nowhere = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"}
    done = packlight.run("status", "--port", str(process.port), environ=nowhere)
    assert done.returncode == 0
    assert done.stdout.startswith("packlight ")
    assert "turns        1: 0 deltas (0 %), 1 in full, 0 over HTTP; 0 failed" in done.stdout
    assert "first_turn" in done.stdout
    shown = orjson.loads(packlight.call("status", "--url", f"{process.url}/v1", "--json").stdout)
    assert shown["url"] == process.url
    assert shown["health"]["status"] == "ok"
    assert shown["stats"]["turns"]["total"] == 1
    assert [turn["reason"] for turn in shown["turns"]] == ["first_turn"]


def test_what_never_left_was_not_saved() -> None:
    """Upstream that cannot be reached is no saving."""
    stats = FIGURES["stats"] | {"bytes": FIGURES["stats"]["bytes"] | {"from_agents": 32, "to_upstream": 0}}
    assert "32 B from agents, 0 B to upstream (saved: -)" in "\n".join(
        summary(FIGURES | {"stats": stats}, Terminal())
    )


def test_the_summary_is_readable() -> None:
    """Figures have units, reasons a sentence, and failed turns a mark."""
    text = "\n".join(summary(FIGURES, Terminal()))
    assert "packlight 0.1.0 at http://127.0.0.1:8484/v1 -> https://api.openai.com/v1" in text
    assert "turns        20: 17 deltas (85 %), 2 in full, 1 over HTTP; 1 failed" in text
    assert "uploads      1.00 MB from agents, 50.0 kB to upstream (saved: 95 %)" in text
    assert "downloads    1.50 kB from upstream, 2.50 kB to agents" in text
    assert "connections  1 open, 2 opened, 0 lost" in text
    assert "     2  first_turn           A conversation that upstream has not seen yet" in text
    assert "A reason that this version of packlight does not know." in text
    assert (
        "04:48:20.566  -                           87 B        333 B        9  http: no_websocket (failed)" in text
    )
    assert text.endswith("delta")


def test_reasons_stand_in_a_column_and_times_have_a_zone() -> None:
    """The longest reason included."""
    reasons = {"translation_refused": 1, "busy": 1}
    lines = summary(FIGURES | {"stats": FIGURES["stats"] | {"full_reasons": reasons}}, Terminal())
    sentences = [line.index(word) for line in lines for word in ("Upstream takes", "Another turn") if word in line]
    assert sentences == [29, 29]
    assert any(line.startswith("started, UTC  ") for line in lines)


def test_a_collapsed_chain_is_a_warning() -> None:
    """Whoever looks is told that answers may have missed their history, and what to do."""
    for count, often in ((1, "once"), (2, "2 times")):
        stats = FIGURES["stats"] | {"chains": {"collapsed": count}}
        text = "\n".join(summary(FIGURES | {"stats": stats}, Terminal()))
        assert f"warning      upstream confirmed {often} that it continued a conversation, and had lost it" in text
    assert 'websocket = "off"' in text
    assert "warning" not in "\n".join(summary(FIGURES, Terminal()))


def test_settings_told_once_are_counted() -> None:
    """How often, and for how many models it was found that they may be; nothing where nobody asked."""
    hoists = {"turns": 3, "proven": 1, "disproven": 2}
    text = "\n".join(summary(FIGURES | {"stats": FIGURES["stats"] | {"hoists": hoists}}, Terminal()))
    verdicts = "verdicts that both forms are read alike: 1, that they are not: 2"
    assert f"settings     told once per chain in 3 turns; {verdicts}" in text
    assert "told once" not in "\n".join(summary(FIGURES, Terminal()))


def test_what_compression_was_negotiated_is_shown() -> None:
    """Each way, and how often; nothing before there was a connection."""
    opened = {"permessage-deflate": 3, "none": 1}
    text = "\n".join(summary(FIGURES | {"stats": FIGURES["stats"] | {"compression": opened}}, Terminal()))
    assert "compression  permessage-deflate (3), none (1)" in text
    nothings: tuple[dict[str, Any], ...] = ({}, {"compression": {}})
    for nothing in nothings:
        figures = FIGURES | {"stats": FIGURES["stats"] | nothing}
        assert "compression" not in "\n".join(summary(figures, Terminal()))


def test_what_stands_in_the_way_is_shown() -> None:
    """Since when, and what to do; nothing where the way is open."""
    link = {"state": "captive_portal", "since": "2026-11-21T04:50:00+00:00", "detail": "open a browser"}
    text = "\n".join(summary(FIGURES | {"stats": FIGURES["stats"] | {"link": link}}, Terminal()))
    assert "link         captive_portal since 2026-11-21T04:50:00+00:00: open a browser" in text
    ok = {"state": "ok", "since": "2026-11-21T04:50:00+00:00", "detail": ""}
    text = "\n".join(summary(FIGURES | {"stats": FIGURES["stats"] | {"link": ok}}, Terminal()))
    assert "link" not in text


def hostile(figures: Any) -> Any:
    """Return *figures* with something for the terminal in each text, and in each name that is no field's."""
    match figures:
        case str():
            return f"{figures}T\x1b]0;owned\x07\x1b[2J\u009b2J\u202e\U000e0001\n"
        case list():
            return [hostile(each) for each in figures]
        case {"first_turn": count}:
            return {hostile("odd"): count}
        case dict():
            return {name: hostile(each) for name, each in figures.items()}
        case _:
            return figures


def test_what_is_shown_does_nothing_to_the_terminal() -> None:
    """An agent gives its model's name, and another user of the machine may be who answers on the port."""
    link = {"state": "offline", "since": "2026-11-21T04:50:00+00:00", "detail": "open"}
    stats = FIGURES["stats"] | {"compression": {"x\x1b[2J": 1}, "link": link}
    lines = summary(hostile({**FIGURES, "stats": stats}), Terminal())
    assert all(line.isprintable() for line in lines)
    assert "\n".join(lines).count("owned") > 10


def test_json_does_nothing_to_the_terminal(packlight: Any) -> None:
    """Programs read the same in it."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    ask(process.port, "\x1b[2J\u009b2J\u202e\U000e0001\x7fm\u00e9")
    shown = packlight.run("status", "--json", "--port", str(process.port)).stdout
    assert all(line.isprintable() for line in shown.split("\n"))
    assert orjson.loads(shown)["turns"][0]["model"] == "\x1b[2J\u009b2J\u202e\U000e0001\x7fm\u00e9"


def test_a_models_name_is_shown_where_it_cannot_be_encoded(packlight: Any) -> None:
    """Standard output in a pipe has the few characters of a code page on Windows."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    ask(process.port, "模型")
    done = packlight.run("status", "--port", str(process.port), environ={"PYTHONIOENCODING": "cp1252"})
    assert done.returncode == 0
    assert "\\u6a21\\u578b" in done.stdout


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_is_the_same_in_each_encoding(packlight: Any, encoding: str) -> None:
    """Programs read UTF-8, whatever standard output is thought to have."""
    process = packlight.start("serve", "--port", "0", "--upstream", "simulated")
    ask(process.port, "\u6a21\u578b \u00e9 \U0001f600")
    environ = {"PYTHONIOENCODING": encoding}
    done = packlight.run("status", "--json", "--port", str(process.port), environ=environ)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert orjson.loads(done.stdout)["turns"][0]["model"] == "\u6a21\u578b \u00e9 \U0001f600"


def test_a_fresh_proxy_has_nothing_to_list() -> None:
    """Without turns there are neither reasons nor recent turns."""
    stats = FIGURES["stats"] | {
        "turns": dict.fromkeys(FIGURES["stats"]["turns"], 0),
        "bytes": dict.fromkeys(FIGURES["stats"]["bytes"], 0),
        "full_reasons": {},
    }
    lines = summary(FIGURES | {"stats": stats, "turns": []}, Terminal())
    assert lines[-1].startswith("connections")
    assert lines[3] == "turns        0: 0 deltas, 0 in full, 0 over HTTP; 0 failed"
    assert "(saved: -)" in lines[4]


def test_nobody_there_is_exit_1(packlight: Any) -> None:
    """When nothing answers, the message says where it looked and what to do."""
    result = packlight.call("status", "--port", "1")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: no packlight answers at http://127.0.0.1:1. Start it with")


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "json"])
@pytest.mark.parametrize(
    "answer",
    [
        page(b"not here", "404 Not Found"),
        page(b"<html>"),
        page(b"[]"),
        page(b'{"turns": 1}'),
        page(b'{"turns": [], "version": "0", "upstream": "x"}'),
        b"SSH-2.0-OpenSSH\r\n",
    ],
)
def test_a_stranger_on_the_port_is_exit_1(
    packlight: Any, stranger: Callable[[bytes], str], answer: bytes, options: list[str]
) -> None:
    """Something else that answers there is told from a proxy, also where it answers everything in JSON."""
    result = packlight.call("status", "--url", stranger(answer), *options)
    assert result.exit_code == 1
    assert "but it is not this version of packlight" in result.stderr


@pytest.mark.parametrize(
    "wrong",
    [{"stats": {"link": "?"}}, {"turns": {"turns": [{**FIGURES["turns"][0], "duration_ms": "?"}]}}],
    ids=["object", "number"],
)
def test_figures_that_are_none_are_a_strangers(
    packlight: Any, stranger: Callable[[dict[str, bytes]], str], wrong: dict[str, Any]
) -> None:
    """A text for a number, or for an object, ends in the same words."""
    right = {"health": FIGURES["health"], "stats": FIGURES["stats"], "turns": {"turns": []}}
    answers = {name: page(orjson.dumps({**each, **wrong.get(name, {})})) for name, each in right.items()}
    result = packlight.call("status", "--url", stranger(answers))
    assert result.exit_code == 1
    assert "but it is not this version of packlight" in result.stderr


def test_the_address_comes_from_the_settings(packlight: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --url or --port it is looked for where it would listen; a wildcard is asked on loopback."""
    monkeypatch.setenv("PACKLIGHT_PORT", "2")
    assert "at http://127.0.0.1:2." in packlight.call("status").stderr
    monkeypatch.setenv("PACKLIGHT_HOST", "::")
    monkeypatch.setenv("PACKLIGHT_ALLOW_REMOTE", "true")
    assert "at http://[::1]:2." in packlight.call("status").stderr


def test_a_url_is_a_url(packlight: Any) -> None:
    """A bare host is a usage error."""
    result = packlight.call("status", "--url", "127.0.0.1:8484")
    assert result.exit_code == 2
    assert "--url must begin with http://" in result.stderr
