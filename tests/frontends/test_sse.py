"""Server-sent events, byte for byte."""

from proxy.frontends import sse


def test_an_event_is_two_lines_and_a_blank_one() -> None:
    """The data is written as it is."""
    assert sse.encode("response.created", b'{"type":"response.created"}') == (
        b'event: response.created\ndata: {"type":"response.created"}\n\n'
    )


def test_an_event_is_utf_8() -> None:
    """Names and data alike, and a percent sign is only that."""
    assert sse.encode("é%b", "{é%s}".encode()) == "event: é%b\ndata: {é%s}\n\n".encode()


def test_the_content_type_names_the_encoding() -> None:
    """SDKs look for it."""
    assert sse.CONTENT_TYPE == "text/event-stream; charset=utf-8"
