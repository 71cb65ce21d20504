"""Run real coding agents through packlight, each in a home of its own, and show what was saved.

The agents are installed from npm and PyPI and get a simulated upstream that lets them call their own tools; no
key is needed. The exit status is 1 if an agent failed, or if less than 95 % of the turns after the first of its
session were deltas, unless it is known to rewrite its history.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson
import report
from catalog import AGENTS, Agent, Api
from hardship import Hardship
from install import NotInstalled, default_cache
from packlight import DidNotStart
from trial import Trial, attempt


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="scripts/try-agents", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=AGENTS, help=f"of {', '.join(AGENTS)}")
    parser.add_argument("--turns", type=int, default=10, metavar="N", help="tool calls of each agent (10)")
    parser.add_argument("--chat", action="store_true", help="let agents speak Chat Completions")
    parser.add_argument("--hardship", type=float, metavar="SECONDS", help="of silence and of darkness, 4 times")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--cache", type=Path, default=default_cache(), metavar="FOLDER", help="for the agents")
    given = parser.parse_args()
    api: Api = "chat" if given.chat else "responses"
    agents = [AGENTS[name] for name in given.only or AGENTS if api in AGENTS[name].apis]
    if not agents or given.turns < 1:
        parser.error("nothing to do")
    hardship = Hardship(given.hardship) if given.hardship else None
    try:
        trials = asyncio.run(_try(agents, api, given.turns, given.cache.absolute(), hardship))
    except DidNotStart as exc:
        print(f"scripts/try-agents: {exc}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if given.json:
        given.json.write_bytes(orjson.dumps(report.as_json(trials), option=orjson.OPT_INDENT_2))
    print(report.table(trials))
    return 1 if len(trials) < len(agents) or any(trial.problems for trial in trials) else 0


async def _try(
    agents: Sequence[Agent], api: Api, turns: int, cache: Path, hardship: Hardship | None
) -> list[Trial]:
    trials = []
    for agent in agents:
        print(f"{agent} ...", file=sys.stderr)
        try:
            trial = await attempt(agent, api=api, turns=turns, cache=cache, hardship=hardship)
        except NotInstalled as exc:
            print(f"{agent}: {exc}", file=sys.stderr)
            continue
        if trial.problems:
            print(f"{agent} failed: {'; '.join(trial.problems)}\n{trial.log}:\n{trial.log_tail}", file=sys.stderr)
        trials.append(trial)
    return trials


if __name__ == "__main__":
    sys.exit(main())
