"""Handshake: whether an upgrade is accepted, and with what compression."""

from aiohttp.web import BaseRequest
from websockets.datastructures import Headers
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request, Response
from websockets.server import ServerProtocol

from proxy.simulator.apierror import ApiError
from proxy.simulator.settings import SimulatorSettings

REFUSALS = {
    404: "Not found.",
    405: "Method not allowed.",
    426: "WebSocket is not supported here; use HTTP.",
    501: "Not implemented.",
}


def wants_websocket(request: BaseRequest) -> bool:
    """Return whether *request* asks for an upgrade."""
    return request.headers.get("Upgrade", "").lower() == "websocket"


def check_upgrade(request: BaseRequest, settings: SimulatorSettings) -> None:
    """Raise ApiError if the settings refuse the upgrade."""
    if settings.refuse_upgrade is not None:
        status = settings.refuse_upgrade
        raise ApiError(status, REFUSALS.get(status, "The upgrade was refused."))
    beta = settings.required_beta
    if beta and beta not in request.headers.get("OpenAI-Beta", ""):
        message = f"The WebSocket mode needs the header OpenAI-Beta: {beta}."
        raise ApiError(400, message, code="missing_beta_header")


def negotiate(request: BaseRequest, settings: SimulatorSettings) -> tuple[ServerProtocol, Response]:
    """Return the WebSocket and the answer to the upgrade; the answer is no 101 if *request* is malformed."""
    protocol = ServerProtocol(extensions=_extensions(settings), max_size=settings.max_message_bytes)
    headers = Headers([(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.raw_headers])
    # aiohttp has read the head already; the WebSocket's parser has to see it to move on to frames.
    protocol.receive_data(Request(request.raw_path, headers).serialize())
    (event,) = protocol.events_received()
    assert isinstance(event, Request)  # noqa: S101  it parses what it serialised
    response = protocol.accept(event)
    for name, value in settings.handshake_headers.items():
        response.headers[name] = value
    return protocol, response


def _extensions(settings: SimulatorSettings) -> list[ServerPerMessageDeflateFactory]:
    match settings.deflate:
        case "off":
            return []
        case "15":
            return [ServerPerMessageDeflateFactory()]
        case "12":
            # As websockets' own server does by default; a client that doesn't offer client_max_window_bits
            # keeps its 15 bits.
            return [ServerPerMessageDeflateFactory(server_max_window_bits=12, client_max_window_bits=12)]
        case "no_takeover":
            return [
                ServerPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
            ]
