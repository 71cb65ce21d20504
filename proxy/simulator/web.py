"""Web: every HTTP request that reaches the simulated upstream, and what answers it."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Literal

import orjson
from aiohttp.web import BaseRequest, Response, StreamResponse

from proxy.simulator.apierror import ApiError
from proxy.simulator.bodies import decoded, parsed, raw_body
from proxy.simulator.chat import ChatDialect
from proxy.simulator.delivery import LIMIT_HEADERS, Delivery, LinkGone
from proxy.simulator.faults import Fault
from proxy.simulator.handshake import wants_websocket
from proxy.simulator.httplink import Dialect, HttpLink, ResponsesDialect, wire_of
from proxy.simulator.model import Body
from proxy.simulator.passthrough import PASS_THROUGH
from proxy.simulator.records import Identity, RequestRecord, SimulatedTurn
from proxy.simulator.resources import RESOURCES, find_resource
from proxy.simulator.service import Service

BASE_PATHS = ("/v1/", "/openai/v1/", "/backend-api/codex/", "/backend-api/")
Upgrade = Callable[[BaseRequest, RequestRecord], Awaitable[StreamResponse]]
NewTurn = Callable[..., SimulatedTurn]


class Web:
    """Routes requests; *upgrade* takes those that become WebSockets."""

    def __init__(self, service: Service, upgrade: Upgrade, new_turn: NewTurn) -> None:
        self._service = service
        self._upgrade = upgrade
        self._new_turn = new_turn
        self._count = 0

    async def handle(self, request: BaseRequest) -> StreamResponse:
        """Answer *request*, and record it."""
        wire = wire_of(request)
        record = RequestRecord(
            method=request.method,
            path=request.raw_path,
            headers=[(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers],
            tcp_id=wire.number,
        )
        self._service.journal.add_request(record)
        self._count += 1
        try:
            answer = await self._route(request, record)
        except ApiError as error:
            answer = self.refusal(error)
        except LinkGone:
            answer = Response()
            answer.force_close()
        record.status = answer.status
        self._service.journal.note()
        return answer

    def refusal(self, error: ApiError) -> Response:
        """Return *error* as an HTTP answer."""
        headers = {**self._headers(), **error.headers}
        body = orjson.dumps(error.body())
        return Response(body=body, status=error.status, headers=headers, content_type="application/json")

    async def _route(self, request: BaseRequest, record: RequestRecord) -> StreamResponse:
        path = self._path(request)
        if path == "responses" and wants_websocket(request):
            return await self._upgrade(request, record)
        body = await raw_body(request, self._service.settings)
        record.body_size, record.body_sha256 = len(body), hashlib.sha256(body).hexdigest()
        if (answer := PASS_THROUGH.get(path)) is not None:
            return await answer(request, body)
        identity = authenticated(request, self._service)
        if (request.method, path) == ("POST", "responses"):
            return await self._turn(request, body, identity, "responses")
        if (request.method, path) == ("POST", "chat/completions"):
            return await self._turn(request, body, identity, "chat")
        encoding = request.headers.get("Content-Encoding", "")
        resource, arguments = find_resource(request.method, path, RESOURCES)
        data = parsed(decoded(body, encoding, self._service.settings)) if body else {}
        answered = resource(self._service, identity, data, *arguments)
        return Response(body=orjson.dumps(answered), headers=self._headers(), content_type="application/json")

    def _path(self, request: BaseRequest) -> str:
        for base in BASE_PATHS:
            if request.path.startswith(base):
                return request.path.removeprefix(base)
        raise ApiError(404, f"Invalid URL ({request.method} {request.path})")

    async def _turn(
        self, request: BaseRequest, body: bytes, identity: Identity, endpoint: Literal["responses", "chat"]
    ) -> StreamResponse:
        service = self._service
        encoding = request.headers.get("Content-Encoding", "")
        data: Body = parsed(decoded(body, encoding, service.settings))
        number = wire_of(request).number
        turn = self._new_turn("http", endpoint, number, identity, data, len(body))
        dialect: Dialect = ChatDialect(data) if endpoint == "chat" else ResponsesDialect()
        limits = LIMIT_HEADERS if "rate_limits_before_created" in service.settings.extra_events else {}
        link = HttpLink(
            request,
            dialect,
            {**self._headers(), **limits},
            stream=bool(data.get("stream")),
            compress=service.settings.compressed_answers,
        )
        fault = None
        try:
            prompt = service.read(turn, None)
            fault = service.faults.take_for_turn("http", data)
            delivery = Delivery(service, prompt, link, None, fault)
            await delivery.run()
            await delivery.trail()
        except ApiError as error:
            service.reject(turn, error, None)
            link.refusal = error
        except LinkGone:
            pass
        finally:
            turn.cancel()
            service.journal.note()
        if link.refusal is not None and not link.begun:
            return self._refused(link.refusal, fault)
        if fault is not None and fault.when == "idle":
            asyncio.get_running_loop().call_later(fault.seconds, wire_of(request).reset)
        return await link.finish()

    def _refused(self, error: ApiError, fault: Fault | None) -> Response:
        if fault is None or fault.body is None or fault.what != "error":
            return self.refusal(error)
        headers = {"Content-Type": fault.content_type, **error.headers}
        return Response(body=fault.body, status=error.status, headers=headers)

    def _headers(self) -> dict[str, str]:
        return {
            "x-request-id": f"req_{self._count:08x}",
            "openai-version": "2020-10-01",
            "openai-organization": "simulated",
            "openai-processing-ms": "7",
            "x-ratelimit-limit-requests": "10000",
            "x-ratelimit-remaining-requests": "9999",
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-limit-tokens": "2000000",
            "x-ratelimit-remaining-tokens": "1999000",
            "x-ratelimit-reset-tokens": "30ms",
        }


def authenticated(request: BaseRequest, service: Service) -> Identity:
    """Return whose request it is; raise ApiError 401 without an acceptable key."""
    headers, settings = request.headers, service.settings
    authorization = headers.get("Authorization", "")
    key = authorization.removeprefix("Bearer ")
    if settings.require_key and (not authorization.startswith("Bearer ") or not key):
        message = (
            "You didn't provide an API key. You need to provide your API key in an Authorization header using "
            "Bearer auth (i.e. Authorization: Bearer YOUR_KEY)."
        )
        raise ApiError(401, message, type="invalid_request_error", code="invalid_api_key")
    if settings.api_keys and key not in settings.api_keys:
        message = "Incorrect API key provided."
        raise ApiError(401, message, type="invalid_request_error", code="invalid_api_key")
    return Identity(authorization, headers.get("OpenAI-Organization", ""), headers.get("OpenAI-Project", ""))
