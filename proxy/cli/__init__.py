"""The command line: ``packlight serve``, ``demo``, ``bench``, ``simulate``, ``status`` and ``config``."""

import click

from proxy import __version__
from proxy.cli.bench import bench
from proxy.cli.demo import demo
from proxy.cli.serve import serve
from proxy.cli.settings import config
from proxy.cli.simulate import simulate
from proxy.cli.status import status


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="packlight %(version)s")
def main() -> None:
    """Send upstream only what is new: a local proxy between a coding agent and its provider."""


for command in (serve, demo, bench, simulate, status, config):
    main.add_command(command)
