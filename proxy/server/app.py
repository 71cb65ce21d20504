"""The server: it listens on this machine, lets requests in, and answers or forwards them."""

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Any, Self, TypeAlias

import structlog
from aiohttp import HttpVersion11, web

from proxy.config import Config
from proxy.core.delta import Mismatch
from proxy.frontends.base import FrontEnd
from proxy.frontends.chat import Chat
from proxy.frontends.responses import Responses
from proxy.ledger import Ledger, TurnRecord
from proxy.restoring import Restoring
from proxy.rewriting import Rewriting
from proxy.server.connection import Runner
from proxy.server.figures import Figures
from proxy.server.guard import Guard
from proxy.server.listening import Listening
from proxy.server.reply import Reply, prepare
from proxy.server.services import Services
from proxy.server.turns import AgentRequest
from proxy.upstream.congestion import AUTO, is_granted
from proxy.upstream.encoding import KNOWN, Encoding
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.http import Http
from proxy.upstream.link import Link
from proxy.upstream.pool import Limits, Pool
from proxy.upstream.provider import Provider, provider
from proxy.upstream.upgrade import Timing

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = structlog.get_logger("server")

_CLOSING_SECONDS = 1.0
"""How long the library may take to close connections once the requests on them have ended."""

_LINE_LIMIT = 64 * 1024
"""Longest request line and header: agents put routing tokens and metadata there."""

_MOST_HEADERS = 1000
"""The library's own limit is 128; the API has another one, if any."""

_ANYTHING = r"{path:[\s\S]*}"
"""The rest of any path: routes see it decoded, and `%0A` is a line break by then."""


class Server:
    """The proxy, listening. An async context manager; *tls* verifies an upstream with its own authority.

    *shown* is what the figures call upstream, if not by its address. Entering it raises OSError where the address
    cannot be had. Leaving it drains.
    """

    def __init__(
        self,
        config: Config,
        *,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
        shown: str | None = None,
    ) -> None:
        self.url = ""
        self._shown = config.upstream if shown is None else shown
        self._config = config
        self._clock = clock
        self._endpoint = Endpoint(config.upstream, tls, config.ca_bundle)
        self.link = Link(clock=clock)
        self.ledger = Ledger(since=_now(), observe=_log_turn, kept=config.turns_kept)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.drain()

    async def _start(self) -> None:
        """Start what requests need, and listen last.

        The stack undoes it in reverse: stop listening, drain, close the agents' connections, then upstream's.
        """
        config, ledger = self._config, self.ledger
        endpoint = self._endpoint
        _ = endpoint.outbound_proxy, endpoint.ssl_context  # what is wrong with them is said at the start
        if config.congestion != AUTO and not is_granted(config.congestion):
            log.warning("congestion_not_granted", congestion=config.congestion)
        http = await self._stack.enter_async_context(
            Http(
                endpoint,
                connect_timeout=config.connect_timeout,
                traffic=ledger.upstream,
                link=self.link,
                encodings=_encodings(config, endpoint),
                congestion=config.congestion,
                ping_interval=config.ping_interval,
            )
        )
        rules = provider(config.provider, endpoint.host)
        pool = await self._stack.enter_async_context(
            Pool(
                endpoint,
                _limits(config, rules),
                _timing(config),
                traffic=ledger.upstream,
                connections=ledger.connections,
                clock=self._clock,
                link=self.link,
            )
        )
        http.make_room = pool.make_room
        rewriting = Rewriting(
            pool,
            ledger,
            hoist=config.hoist,
            quiet=config.obfuscation == "off",
            keeps_instructions=rules.keeps_instructions,
            timeout=config.event_timeout,
            retry_seconds=config.websocket_retry_seconds,
            clock=self._clock,
        )
        self._stack.push_async_callback(rewriting.close)
        in_flight: set[asyncio.Task[Any]] = set()
        restoring = Restoring(
            pool,
            ledger,
            mode=config.warm_up,
            dropped=config.dropped_output,
            max_message_bytes=config.max_message_bytes,
            retry_seconds=config.websocket_retry_seconds,
            clock=self._clock,
            is_busy=lambda: bool(in_flight),
        )
        self._stack.push_async_callback(restoring.close)
        services = Services(
            config=config,
            pool=pool,
            rewriting=rewriting,
            restoring=restoring,
            http=http,
            ledger=ledger,
            clock=self._clock,
            now=_now,
            in_flight=in_flight,
        )
        application = _application(config, services, self.link, self._shown)
        runner = Runner(
            application,
            access_log=None,
            # A departed agent's turn must end; the library's default lets it run on.
            handler_cancellation=True,
            # What the agent sent is forwarded and counted as it came; decoding is ours, with limits.
            auto_decompress=False,
            max_line_size=_LINE_LIMIT,
            max_field_size=_LINE_LIMIT,
            max_headers=_MOST_HEADERS,
            shutdown_timeout=_CLOSING_SECONDS,
        )
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listening = Listening(runner, config.host, config.port)
        await listening.start()
        self._stack.push_async_callback(services.drain)
        self._stack.push_async_callback(listening.stop)
        if config.websocket == "auto":
            pool.stand_by()
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def drain(self) -> None:
        """Stop accepting, let turns in flight finish for at most drain_seconds, and close everything."""
        await self._stack.aclose()


def _limits(config: Config, rules: Provider) -> Limits:
    return Limits(
        max_connections=config.max_connections,
        max_age_seconds=min(config.max_age_seconds, rules.max_age_seconds),
        idle_seconds=config.idle_seconds,
        websocket_retry_seconds=config.websocket_retry_seconds,
        dropped_output=config.dropped_output,
        open_ahead=config.open_ahead,
        repeats_ids=rules.repeats_ids,
        begins_anew=rules.begins_anew,
    )


def _timing(config: Config) -> Timing:
    return Timing(
        link_timeout=config.link_timeout,
        open_timeout=config.open_timeout,
        send_timeout=config.send_timeout,
        upload_lead=config.upload_lead,
        close_timeout=config.close_timeout,
        ping_interval=config.ping_interval,
        probe_timeout=config.probe_timeout,
        stuck_timeout=config.stuck_timeout,
        max_event_bytes=config.max_event_bytes,
        max_unread_bytes=config.max_unread_bytes,
        congestion=config.congestion,
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _log_turn(record: TurnRecord) -> None:
    log.info("turn", **{name: value for name, value in record.as_json().items() if name != "started_at"})


def _application(config: Config, services: Services, link: Link, shown: str) -> web.Application:
    guard = Guard(config.allowed_hosts, config.allowed_origins, config.allow_remote)

    def answering(front_end: FrontEnd, *, enabled: bool = True) -> Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            turn = AgentRequest(request, services, front_end=front_end.name)
            return await (turn.answer(front_end) if enabled else turn.pass_through(Mismatch.DISABLED))

        return answer

    async def pass_through(request: web.Request) -> web.StreamResponse:
        if "websocket" in request.headers.get("Upgrade", "").lower():
            return _no_upgrade(request)
        return await AgentRequest(request, services).pass_through()

    async def expect(request: web.Request) -> web.StreamResponse | None:
        refused = _refused(guard, services, request)
        waits = request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11
        if refused is None and waits:  # HTTP/1.0 knows of no answer before the answer (RFC 9110, section 10.1.1)
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        return refused

    @web.middleware
    async def guarded(request: web.Request, handler: Callable) -> web.StreamResponse:  # type: ignore[type-arg]
        answer = _refused(guard, services, request)
        if answer is None:
            answer = guard.preflight(request)
        return await handler(request) if answer is None else answer

    application = web.Application(middlewares=[guarded])
    application.on_response_prepare.extend((prepare, guard.prepare))
    router = application.router
    for page in Figures(services.ledger, shown, link).routes():
        page.register(router)
        router.add_route("*", page.path, _read_only, expect_handler=expect)
    chat = answering(Chat(), enabled=config.chat_completions == "translate")
    router.add_route("POST", "/v1/responses", answering(Responses()), expect_handler=expect)
    router.add_route("POST", "/v1/chat/completions", chat, expect_handler=expect)
    router.add_route("*", f"/v1/{_ANYTHING}", pass_through, expect_handler=expect)
    router.add_route("*", "/v1", pass_through, expect_handler=expect)
    router.add_route("*", f"/{_ANYTHING}", _not_found, expect_handler=expect)
    return application


async def _not_found(request: web.Request) -> web.StreamResponse:
    return Reply(request).error(
        404,
        "the API is under /v1, the figures at /metrics and under /_packlight: /health, /stats and /turns",
        "not_found",
    )


async def _read_only(request: web.Request) -> web.StreamResponse:
    return Reply(request).error(
        405,
        f"{request.path} is read with GET: {request.method} does nothing there",
        "method_not_allowed",
        headers={"Allow": "GET, HEAD"},
    )


def _refused(guard: Guard, services: Services, request: web.Request) -> web.Response | None:
    refusal = guard.refusal(request)
    if refusal is not None:
        status, message = refusal
        response = Reply(request).error(status, message, "refused")
    elif services.draining.is_set():
        response = Reply(request).error(503, "it is stopping", "stopping")
    else:
        return None
    response.force_close()  # the body was not read, and will not be
    return response


def _no_upgrade(request: web.Request) -> web.Response:
    """Refuse a WebSocket from the agent. Codex goes on over HTTP at once on 426, and only on 426."""
    if request.path == "/v1/responses":
        return Reply(request).error(426, "use HTTP: packlight keeps the WebSocket itself", "use_http")
    return Reply(request).error(501, "it does not carry WebSockets from agents", "not_implemented")


def _encodings(config: Config, endpoint: Endpoint) -> dict[str, Encoding]:
    """Return, by path, the encoding that turns over plain HTTP are to be tried in."""
    if config.http_compression in ("gzip", "zstd"):
        return dict.fromkeys(("/responses", "/chat/completions"), config.http_compression)
    if config.http_compression == "off":
        return {}
    return {path: name for (host, path), name in KNOWN.items() if host == endpoint.host}
