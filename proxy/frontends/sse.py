"""Server-sent events, as HTTP APIs stream them (WHATWG HTML, section 9.2)."""

CONTENT_TYPE = "text/event-stream; charset=utf-8"
PULSE = b": keepalive\n\n"
"""A comment: clients skip it, and their read timeout begins anew."""


def encode(event: str, data: bytes) -> bytes:
    """Write one event; *data* must stand on one line."""
    return b"event: %b\ndata: %b\n\n" % (event.encode(), data)
