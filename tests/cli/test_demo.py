"""``packlight demo``: a session that really happens, and figures that are checked."""

import os
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import aiohttp
import click
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from proxy.cli.demo import finish, record_of
from proxy.cli.demo.agent import Agent
from proxy.cli.demo.report import Report, Row, Summary
from proxy.cli.demo.story import STORY, story
from proxy.cli.demo.workspace import Workspace
from proxy.cli.terminal import Terminal
from proxy.simulator import FunctionCall, Simulator

ROW = Row(
    number=1,
    new="prompt",
    items_total=1,
    items_sent=1,
    bytes_from_agent=1000,
    bytes_to_upstream=500,
    upload="full",
    reason="first_turn",
    context_equal=True,
)
STATS: dict[str, Any] = {
    "turns": {"total": 1, "delta": 0, "full": 1, "http": 0, "failed": 0},
    "bytes": {"from_agents": 1000, "to_upstream": 500, "from_upstream": 1, "to_agents": 2},
}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Return the demo's project in a directory of its own."""
    workspace = Workspace(tmp_path / "project")
    workspace.root.mkdir()
    workspace.unpack()
    return workspace


def test_it_runs_in_a_pipe_without_key_or_network(packlight: Any) -> None:
    """The whole story takes a moment, saves most of the upload, and is plain text."""
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy"), "http://127.0.0.1:9")
    done = packlight.run("demo", environ={"OPENAI_API_KEY": "", **nowhere})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    rows = [line for line in done.stdout.splitlines() if line[:4].strip().isdecimal()]
    assert len(rows) == len(STORY)
    assert rows[0].endswith("full (first_turn)")
    assert next(row for row in rows if "edited prompt" in row).endswith("full (history_changed)")
    assert sum(row.endswith("delta") for row in rows) == len(STORY) - 2
    total = len(STORY)
    assert (
        f"check ok: upstream put together exactly the agent's history in {total} of {total} turns" in done.stdout
    )
    assert done.stdout.endswith("OPENAI_BASE_URL=http://127.0.0.1:8484/v1\n")


def test_json_is_all_that_is_printed_when_asked_for(packlight: Any) -> None:
    """Programs get every turn, the totals and the verdict; more turns than the story has go on with reviews."""
    turns = len(STORY) + 4
    result = packlight.call("demo", "--json", "--turns", str(turns))
    assert result.exit_code == 0
    shown = orjson.loads(result.stdout)
    assert shown["verified"] is True
    assert len(shown["turns"]) == turns
    assert shown["totals"]["delta"] == turns - 2
    assert shown["totals"]["from_agents"] == sum(turn["bytes_from_agent"] for turn in shown["turns"])
    assert shown["totals"]["saved_percent"] > 80
    assert all(turn["context_equal"] for turn in shown["turns"])


def test_the_agent_really_mends_the_project(workspace: Workspace) -> None:
    """The tests fail before the story, and pass after each part of it."""
    assert "FAILED (failures=4)" in workspace.run_tests()
    calls = [part for step in STORY for part in step.output.parts if isinstance(part, FunctionCall)]
    results = [workspace.call(call.name, orjson.loads(call.arguments)) for call in calls]
    assert not [result for result in results if result.startswith("error")]
    runs = [result for result in results if "Ran " in result]
    assert [("exit status 0" in run) for run in runs] == [False, False, True, False, True, True]
    assert "Ran 21 tests" in runs[-1]


def test_reviews_go_on_for_as_long_as_wanted(workspace: Workspace) -> None:
    """After the story there is always another round."""
    extra = list(islice(story(), len(STORY), len(STORY) + 7))
    assert [step.prompt is not None for step in extra] == [True, False, False, True, False, False, True]


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("fly", {}, "error: there is no tool fly"),
        ("read_file", {"path": "nowhere.py"}, "error: nowhere.py cannot be read: "),
        ("read_file", {"path": "../secret"}, "error: ../secret is outside the working directory"),
        (
            "edit_file",
            {"path": "README.md", "old": "nothing of it", "new": ""},
            "error: the old text occurs 0 times in README.md, not once",
        ),
        ("search_text", {"pattern": "no such words", "path": "."}, "nothing matches"),
    ],
)
def test_tools_say_what_they_cannot_do(
    workspace: Workspace, tool: str, arguments: dict[str, Any], message: str
) -> None:
    """A failure is an answer to the model, not an end of the session."""
    assert workspace.call(tool, arguments).startswith(message)


def test_tools_do_what_their_descriptions_say(workspace: Workspace) -> None:
    """Lists, ranges, searches and test patterns are what the model was promised."""
    assert workspace.list_files(".", 1) == f"README.md  {(workspace.root / 'README.md').stat().st_size}"
    assert "shop/pricing.py" in workspace.list_files("shop")
    assert workspace.read_file("README.md", 1, 1) == "# shop\n"
    assert workspace.search_text("^# SHOP", "README.md", ignore_case=True) == "README.md:1: # shop"
    assert workspace.write_file("new/file.txt", "ä") == "wrote 2 bytes to new/file.txt"
    assert "Ran 1 test" in workspace.run_tests("half_a_cent")


def test_a_wrong_context_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """If upstream ever understood something else, the check line says so and the status is 1."""
    summary = Summary([ROW, replace(ROW, context_equal=False)], STATS)
    text = "\n".join(Report(Terminal()).ending(summary))
    assert "check FAILED: upstream put together exactly the agent's history in 1 of 2 turns" in text
    with pytest.raises(SystemExit) as ended:
        finish(summary, as_json=True)
    assert ended.value.code == 1
    assert orjson.loads(capsys.readouterr().out)["verified"] is False


async def test_an_upstream_that_does_not_answer_ends_the_demo(workspace: Workspace) -> None:
    """What it said instead is shown."""
    async with Simulator() as simulator, aiohttp.ClientSession() as http:
        agent = Agent(f"{simulator.base_url}/nowhere", workspace, http)
        with pytest.raises(click.ClickException, match=r"the demo's agent got no answer \(HTTP 404\)"):
            await agent.turn(STORY[0])


async def test_figures_are_waited_for() -> None:
    """A turn's figures may appear a moment after its last byte."""
    answers = iter([b'{"turns": []}', b'{"turns": [{"upload": "full"}]}'])

    async def turns(_request: web.Request) -> web.Response:
        return web.Response(body=next(answers))

    application = web.Application()
    application.add_routes([web.get("/_packlight/turns", turns)])
    async with TestServer(application) as server, aiohttp.ClientSession(server.make_url("/")) as http:
        assert await record_of(1, http) == {"upload": "full"}


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_it_fits_the_terminal(width: int) -> None:
    """From 80 columns on no line is wider than the terminal, and wide ones get a bar."""
    report = Report(Terminal(width=width, styled=False, drawn=True))
    lines = [*report.heading(), report.line(ROW), *report.ending(Summary([ROW], STATS))]
    assert max(map(len, lines)) <= max(width, 80)
    assert ("█" in report.line(ROW)) is (width >= 110)
    assert any("✓ check ok" in line for line in lines)


@pytest.mark.parametrize(
    ("called", "is_installed", "told"),
    [
        ("{here}/.venv/bin/packlight", False, "run `.venv/bin/packlight serve`"),
        ("/a folder/bin/packlight", False, "run `'/a folder/bin/packlight' serve`"),
        ("{here}/.venv/bin/packlight", True, "run `packlight serve`"),
        ("{here}/proxy/__main__.py", False, "run `packlight serve`"),
    ],
)
def test_it_ends_with_a_command_that_the_shell_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str, told: str, *, is_installed: bool
) -> None:
    """Also where packlight is in a folder of its own, as scripts/demo has it."""
    installed = tmp_path / "bin" / ("packlight.exe" if os.name == "nt" else "packlight")
    installed.parent.mkdir()
    if is_installed:
        installed.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(installed.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [called.format(here=Path.cwd())])
    text = "\n".join(Report(Terminal()).ending(Summary([ROW], STATS)))
    assert told in text
