"""Log events: one line each on standard error, without control characters, and without credentials.

What is logged is chosen where it is logged: sizes, counts and ids, never content. What this module masks is
the last line of defence, not a licence.
"""

import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from queue import Full, Queue
from threading import Thread
from typing import Any, Literal, Self, TextIO, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
LIBRARIES = ("aiohttp", "asyncio", "websockets")
MASK = "[masked]"

_MOST_WAITING = 1000
"""Lines that may wait to be written."""

_PATIENCE = 1.0
"""Seconds that are waited at the end for room among them, and then for all to be written."""

_CLOSING = "ProactorBasePipeTransport._call_connection_lost("
"""What closes a connection in asyncio on Windows, and fails where the other end has reset it: no defect."""

HAS_COLORS = os.name != "nt" or find_spec("colorama") is not None
"""On Windows structlog raises SystemError where it is asked for colours and colorama is not there."""

SECRET_KEYS = re.compile(r"authorization|api[-_]?key|cookie|password|secret|credential", re.IGNORECASE)
SECRETS = (
    (
        re.compile(r"\b(authorization|api[-_]key|cookie)(['\"]?\s*[:=]\s*)[^\r\n]+", re.IGNORECASE),
        rf"\1\2{MASK}",
    ),
    (re.compile(r"\b(bearer)\s+[\w.~+/=-]+", re.IGNORECASE), rf"\1 {MASK}"),
    (re.compile(r"\b(Basic)\s+[\w+/=-]{8,}"), rf"\1 {MASK}"),
    (re.compile(r"\b(?:sk|pk|rk|xai|gsk)-[\w-]{6,}"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), MASK),  # a JSON web token, such as a ChatGPT login's
    (re.compile(r"://[^\s/@]+@"), f"://{MASK}@"),
)


def configure(
    log_format: Literal["console", "json"],
    log_level: Literal["debug", "info", "warning", "error"],
    *,
    stream: "TextIO | Aside | None" = None,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Send all further events of at least *log_level* to *stream* (standard error), in *log_format*.

    The console format is coloured in a terminal and plain elsewhere, or where NO_COLOR is set or no colours can be
    had. What libraries log goes the same way from warnings up, reduced to where it happened. May be called again.
    """
    output = stream or sys.stderr
    colors = HAS_COLORS and output.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            add_name,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            clean,
            _json() if log_format == "json" else _console(colors=colors),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[log_level]),
        logger_factory=lambda name=None: Lines(output, name),
        cache_logger_on_first_use=False,
    )
    for name in LIBRARIES:
        library = logging.getLogger(name)  # noqa: TID251  the libraries log there
        library.handlers = [LibraryEvents()]
        library.setLevel(logging.WARNING)
        library.propagate = False


def get(name: str | None = None) -> FilteringBoundLogger:
    """Return a logger, whose events carry *name*; it follows *configure* even when it was made before."""
    return cast("FilteringBoundLogger", structlog.get_logger(*([name] if name else [])))


def add_name(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say which of our loggers an event is from."""
    if logger.name is not None:
        event["logger"] = logger.name
    return event


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Mask what looks like a credential and escape what a terminal would act on, at any depth."""
    return {escape(str(key)): _cleaned(str(key), value) for key, value in event.items()}


def mask(text: str) -> str:
    """Return *text* with everything that looks like a credential replaced."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def escape(text: str) -> str:
    """Return *text* with control, bidirectional and other invisible characters spelled out."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class Lines:
    """A structlog logger that writes lines; that nobody reads them any more fails no turn."""

    def __init__(self, stream: "TextIO | Aside", name: str | None = None) -> None:
        self.name = name
        self._stream = stream

    def msg(self, line: str) -> None:
        """Write *line* and its end in one go, so that lines don't mix."""
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):
            return

    debug = info = warning = error = critical = msg


class Aside:
    """A stream whose writers never wait: a thread writes to *stream*, and what that does not take in time is lost.

    A pipe that nobody empties takes nothing, and neither does a console on Windows while text is selected in it. A
    context manager; leaving it gives what is still to be written a second or two. A *stream* of None takes all.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._waiting: Queue[bytes | None] = Queue(_MOST_WAITING)
        self._thread: Thread | None = None

    def __enter__(self) -> Self:
        if self._stream is not None:
            self._thread = Thread(target=self._write_all, args=(_unlocked(self._stream),), name="log", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._thread is not None:
            with suppress(Full):
                self._waiting.put(None, timeout=_PATIENCE)
            self._thread.join(_PATIENCE)

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def write(self, text: str) -> None:
        """Leave *text* to the thread."""
        if self._stream is not None:
            with suppress(Full):
                self._waiting.put_nowait(text.encode(self._stream.encoding, "backslashreplace"))

    def flush(self) -> None:
        """Wait for nothing."""

    def _write_all(self, raw: io.RawIOBase) -> None:
        while (data := self._waiting.get()) is not None:
            with suppress(OSError, ValueError):
                while data:
                    data = data[raw.write(data) or len(data) :]  # None says that it would have to wait


def _unlocked(stream: TextIO) -> Any:
    """Return what *stream* writes to in the end: those above have a lock, which a thread must not die with."""
    return getattr(stream.buffer, "raw", stream.buffer)


class LibraryEvents(logging.Handler):
    """Turns a library's log record into an event that tells what and where, and none of the data it is about.

    aiohttp logs the bytes of a request it can't parse, and those may hold a key; so arguments, exception
    messages and all but the first line of a text stay out.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Log *record* as a ``library`` event."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OSError) and _CLOSING in str(record.msg):
            return
        get().log(
            record.levelno,
            "library",
            library=record.name,
            message=str(record.msg).partition("\n")[0][:120],
            error=error and type(error).__name__,
            where=_where(record, error),
        )


def _where(record: logging.LogRecord, error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__) if error else None
    if frames:
        return f"{frames[-1].filename}:{frames[-1].lineno}"
    return f"{record.pathname}:{record.lineno}"


def _cleaned(key: str, value: Any) -> Any:
    if SECRET_KEYS.search(key):
        return MASK
    match value:
        case None | bool():
            return value
        case float():
            return round(value, 3)
        case int():
            return value if abs(value) < 2**63 else str(value)  # orjson's limit
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping():
            return {escape(str(name)): _cleaned(str(name), each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_cleaned("", each) for each in value]
        case _:
            text = mask(str(value))
            return "\n    ".join(map(escape, text.splitlines())) if key == "exception" else escape(text)


def _json() -> Processor:
    return structlog.processors.JSONRenderer(lambda event, **_options: orjson.dumps(event).decode())


def _console(*, colors: bool) -> Processor:
    return structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
