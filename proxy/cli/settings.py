"""Settings on the command line: the flags that set them, and ``packlight config``, which shows them."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import click
import orjson

from proxy.cli.terminal import Terminal, encodable
from proxy.config import DEFAULTS, DOCS, Loaded, default_file, example, load, toml
from proxy.errors import BadConfiguration

Command = TypeVar("Command", bound=Callable[..., Any])


class Refused(click.ClickException):
    """The configuration is wrong: exit 2, as for any other usage error."""

    exit_code = 2


def load_settings(file: Path | None, **flags: Any) -> Loaded:
    """Return the effective settings, or end the command with a message that says what to mend."""
    try:
        return load(file=file, environ=os.environ, flags=flags)
    except BadConfiguration as exc:
        raise Refused(str(exc)) from exc


def setting_option(name: str, **attributes: Any) -> Callable[[Command], Command]:
    """Return a flag for the setting *name*; without it, file, environment and default decide."""
    text = f"{DOCS[name]} [default: {toml(DEFAULTS[name])}]"
    return click.option(f"--{name.replace('_', '-')}", name, default=None, help=text, **attributes)


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="Read this TOML file instead of the one in the platform's configuration directory.",
)


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--example", "as_example", is_flag=True, help="Print a configuration file with all defaults.")
def config(config_file: Path | None, *, as_json: bool, as_example: bool) -> None:
    """Print every effective setting, where it came from, and what it means."""
    if as_example:
        click.echo(example(), nl=False)
        return
    loaded = load_settings(config_file)
    settings = {
        name: {
            "value": getattr(loaded.config, name),
            "default": DEFAULTS[name],
            "source": loaded.sources[name],
            "doc": doc,
        }
        for name, doc in DOCS.items()
    }
    if as_json:
        path = config_file or default_file()
        for setting in settings.values():
            setting["source"] = _in_unicode(setting["source"])
        file = None if path is None else _in_unicode(str(path))
        click.echo(orjson.dumps({"file": file, "settings": settings}, option=orjson.OPT_INDENT_2))
        return
    terminal = Terminal.here()
    click.echo(encodable(_about_file(config_file), sys.stdout))
    for name, setting in settings.items():
        click.echo()
        value = terminal.style(f"{name} = {toml(setting['value'])}", bold=setting["source"] != "default")
        click.echo(encodable(f"{value}  ({setting['source']})", sys.stdout))
        for line in wrap(DOCS[name], min(terminal.width, 100) - 4):
            click.echo(terminal.style(f"    {line}", dim=True))


def _about_file(file: Path | None) -> str:
    path = file or default_file()
    if path is None:
        return "configuration file: none, as this user has no home directory (--config names one)"
    state = "" if path.exists() else " (not there; `packlight config --example` prints what could be in it)"
    return f"configuration file: {path}{state}"


def _in_unicode(text: str) -> str:
    """Return *text* with the bytes of a path that are no text, as file systems allow them, spelled out."""
    return text.encode("utf-8", "backslashreplace").decode()
