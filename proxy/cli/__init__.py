"""The command line: ``packlight serve``, ``demo``, ``bench``, ``simulate``, ``status`` and ``config``."""

from importlib import import_module

import click

from proxy import __version__

_COMMANDS = {
    "serve": "proxy.cli.serve",
    "demo": "proxy.cli.demo",
    "bench": "proxy.cli.bench",
    "simulate": "proxy.cli.simulate",
    "status": "proxy.cli.status",
    "config": "proxy.cli.settings",
}
"""The module of each command, where it has the command's own name."""


class _Commands(click.Group):
    """Commands that are imported when they are asked for: none waits for the others, or keeps them in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's)
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (click's)
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = getattr(import_module(_COMMANDS[cmd_name]), cmd_name)
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="packlight %(version)s")
def main() -> None:
    """Send upstream only what is new: a local proxy between a coding agent and its provider."""
