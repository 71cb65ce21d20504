"""The command line: ``packlight serve``, ``demo``, ``bench``, ``simulate``, ``status`` and ``config``."""

import errno
import sys
from importlib import import_module
from typing import Any

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


_UNWRITTEN = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
"""Where output goes, no more of it can be kept."""


class _Commands(click.Group):
    """Commands that are imported when they are asked for: none waits for the others, or keeps them in memory."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that was asked for; a full disk is told in a line."""
        try:
            return super().main(*args, **kwargs)
        except OSError as exc:
            if exc.errno not in _UNWRITTEN:
                raise
            click.echo(f"Error: not all of it could be written: {exc.strerror}", err=True)
            sys.exit(1)

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
