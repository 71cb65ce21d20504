"""Logprobs: how sure the simulated model was of each token, which follows from the token's text alone."""

import zlib
from collections.abc import Iterable, Iterator

from proxy.simulator.model import Body

CHARACTERS_PER_TOKEN = 4


def logprobs(text: str, *, delta_size: int, top: int) -> list[Body]:
    """Return the tokens of *text* as they stand in a finished part, each with its *top* alternatives.

    No token is in two of the deltas of *delta_size* characters in which *text* is streamed.
    """
    return [
        {**_token(token), "top_logprobs": list(_alternatives(token, top))}
        for delta in _cut(text, max(1, delta_size))
        for token in _cut(delta, CHARACTERS_PER_TOKEN)
    ]


def in_event(tokens: Iterable[Body]) -> list[Body]:
    """Return *tokens* as the events of a stream carry them: without bytes."""
    return [
        {**_without_bytes(token), "top_logprobs": [_without_bytes(each) for each in token["top_logprobs"]]}
        for token in tokens
    ]


def _token(text: str, rank: int = 0) -> Body:
    logprob = -rank - zlib.crc32(text.encode()) % 1000 / 1000
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob}


def _alternatives(token: str, top: int) -> Iterator[Body]:
    yield from [_token(token)][:top]
    for rank in range(1, top):
        yield _token(f"{token[:-1]}{chr(ord('a') + rank)}", rank)


def _without_bytes(token: Body) -> Body:
    return {key: value for key, value in token.items() if key != "bytes"}


def _cut(text: str, size: int) -> Iterator[str]:
    return (text[start : start + size] for start in range(0, len(text), size))
