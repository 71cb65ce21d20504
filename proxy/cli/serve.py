"""``packlight serve``: the proxy itself, from its ready line to its last turn."""

import asyncio
import errno
import os
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from proxy import __version__, log
from proxy.cli.descriptors import allow_many
from proxy.cli.settings import Refused, config_option, load_settings, setting_option
from proxy.cli.stop import Stop
from proxy.cli.terminal import encodable
from proxy.config import SIMULATED, Config
from proxy.errors import BadConfiguration
from proxy.server import Server

_NO_WORDS = "Unknown error"
"""What `os.strerror` says of numbers that it does not know, such as those of Windows' sockets."""


@click.command()
@setting_option("host")
@setting_option("port", type=int)
@setting_option("upstream", metavar="URL")
@config_option
@setting_option("log_format", metavar="console|json")
@setting_option("log_level", metavar="LEVEL")
@setting_option("allow_remote", is_flag=True)
def serve(config_file: Path | None, **flags: Any) -> None:
    """Run the proxy until SIGTERM or SIGINT (Ctrl-C), or until its terminal is closed.

    Point an agent at it with OPENAI_BASE_URL, or with whatever the agent calls its base URL. A first signal
    lets turns in flight finish, a second one doesn't wait for them.
    """
    config = load_settings(config_file, **flags).config
    allow_many()
    with log.Aside(sys.stderr) as stream:
        log.configure(config.log_format, config.log_level, stream=stream)
        asyncio.run(_serve(config))


async def _serve(config: Config) -> None:
    shown = config.upstream
    with Stop() as stop:
        async with AsyncExitStack() as stack:
            if config.upstream == SIMULATED:
                rules = "openai" if config.provider == "auto" else config.provider
                config = replace(config, upstream=await _simulated(stack), provider=rules)
            try:
                server = await stack.enter_async_context(Server(config, shown=shown))
            except OSError as exc:
                raise cannot_listen(config.host, config.port, exc) from exc
            except BadConfiguration as exc:
                raise Refused(str(exc)) from exc
            _announce(f"packlight {__version__} listening on {server.url}/v1 -> {shown}")
            if not urlsplit(config.upstream).path:
                log.get("serve").warning("upstream_without_path", upstream=shown, hint="most APIs are under /v1")
            await stop.wait()
            log.get("serve").info("draining", drain_seconds=config.drain_seconds)
            await stop.patiently(server.drain())


async def _simulated(stack: AsyncExitStack) -> str:
    """Run a simulated upstream until *stack* closes; return its base URL."""
    from proxy.simulator import Simulator, SimulatorSettings, agent_script  # noqa: PLC0415  (few need it in memory)

    lenient = SimulatorSettings(require_key=False, strict_fields=False, keep_records=100)
    simulator = await stack.enter_async_context(Simulator(lenient, script=agent_script()))
    return simulator.base_url


def _announce(line: str) -> None:
    """Print *line*; a full disk, or a pipe without a reader, is no reason not to serve."""
    try:
        click.echo(encodable(line, sys.stdout))
    except OSError:
        sys.stdout = None  # Python would try again as it ends, and fail


def cannot_listen(host: str, port: int, error: OSError) -> click.ClickException:
    """Return the message for an address that could not be had: what is wrong with it, and what to do."""
    if error.errno == errno.EADDRINUSE:
        return click.ClickException(
            f"port {port} on {host} is taken: is packlight running already? "
            "Stop what uses it, or choose another port with --port (0 takes a free one)."
        )
    if error.errno == errno.EACCES:
        why = "choose one above 1023" if port < 1024 else "the system keeps it for itself: choose another one"
        return click.ClickException(f"no permission to listen on port {port}: {why} with --port.")
    return click.ClickException(
        f"cannot listen on {host}, port {port}: {_said(error)}. Is {host} an address of this machine? See --host."
    )


def _said(error: OSError) -> str:
    """Return the system's words; asyncio puts its own around them, or says only that no address could be had."""
    if isinstance(error, socket.gaierror):  # with numbers of its own, which on macOS look like any
        return str(error.strerror)
    if error.strerror is None:
        return "Cannot assign requested address"
    words = os.strerror(error.errno) if error.errno and error.errno > 0 else _NO_WORDS
    return error.strerror.rpartition("): ")[2] if words.startswith(_NO_WORDS) else words
