"""Events: a response as the sequence of events in which a server streams it."""

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from proxy.simulator.items import Names
from proxy.simulator.logprobs import in_event
from proxy.simulator.model import Body, Event, Item


class ItemEvents:
    """Streams items; *names* gives the obfuscation (None: there is none), *size* is a delta's length."""

    def __init__(self, size: int, names: Names | None) -> None:
        self._size = max(1, size)
        self._names = names

    def stream(self, index: int, item: Item) -> Iterator[Event]:
        """Yield the events of *item*, the output's number *index*."""
        where = {"item_id": item.get("id"), "output_index": index}
        match item.get("type"):
            case "message":
                started = {**item, "status": "in_progress", "content": []}
                body = self._message(where, item)
            case "reasoning":
                started = {**item, "summary": []}
                started.pop("encrypted_content", None)
                body = self._reasoning(where, item)
            case "function_call":
                started = {**item, "status": "in_progress", "arguments": ""}
                body = self._written("function_call_arguments", "arguments", where, item)
            case "custom_tool_call":
                started = {**item, "status": "in_progress", "input": ""}
                body = self._written("custom_tool_call_input", "input", where, item)
            case "web_search_call":
                started = {**item, "status": "in_progress"}
                body = iter(
                    {"type": f"response.web_search_call.{state}", **where}
                    for state in ("in_progress", "searching", "completed")
                )
            case "compaction":
                started = {**item, "encrypted_content": ""}
                body = iter([{"type": "response.compaction.compacting", **where}])
            case _:
                started = item
                body = iter(())
        yield {"type": "response.output_item.added", "output_index": index, "item": started}
        yield from body
        yield {"type": "response.output_item.done", "output_index": index, "item": item}

    def _message(self, where: Event, item: Item) -> Iterator[Event]:
        for content_index, part in enumerate(item["content"]):
            place = {**where, "content_index": content_index}
            is_text = part["type"] == "output_text"
            key = "text" if is_text else "refusal"
            kind = "response.output_text" if is_text else "response.refusal"
            tokens = part.get("logprobs") or [] if is_text else []
            started: dict[str, Any] = {"logprobs": []} if is_text else {}
            yield {"type": "response.content_part.added", **place, "part": {**part, key: "", **started}}
            start = 0
            for delta in self._cut(part[key]):
                told = _within(tokens, start, start + len(delta))
                extra = {"logprobs": in_event(told)} if is_text else {}
                yield self._padded({"type": f"{kind}.delta", **place, "delta": delta, **extra})
                start += len(delta)
            extra = {"logprobs": in_event(tokens)} if is_text else {}
            yield {"type": f"{kind}.done", **place, key: part[key], **extra}
            yield {"type": "response.content_part.done", **place, "part": part}

    def _reasoning(self, where: Event, item: Item) -> Iterator[Event]:
        for summary_index, part in enumerate(item["summary"]):
            place = {**where, "summary_index": summary_index}
            yield {"type": "response.reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
            for delta in self._cut(part["text"]):
                yield self._padded({"type": "response.reasoning_summary_text.delta", **place, "delta": delta})
            yield {"type": "response.reasoning_summary_text.done", **place, "text": part["text"]}
            yield {"type": "response.reasoning_summary_part.done", **place, "part": part}

    def _written(self, kind: str, key: str, where: Event, item: Item) -> Iterator[Event]:
        for delta in self._cut(item[key]):
            yield self._padded({"type": f"response.{kind}.delta", **where, "delta": delta})
        yield {"type": f"response.{kind}.done", **where, key: item[key]}

    def _cut(self, text: str) -> Iterator[str]:
        return (text[start : start + self._size] for start in range(0, len(text), self._size))

    def _padded(self, event: Event) -> Event:
        if self._names is not None:
            event["obfuscation"] = self._names.obfuscation(len(event["delta"]))
        return event


def _within(tokens: list[Body], start: int, end: int) -> list[Body]:
    """Return those of *tokens* that begin in the characters from *start* to *end*."""
    places = accumulate((len(token["token"]) for token in tokens), initial=0)
    return [token for place, token in zip(places, tokens, strict=False) if start <= place < end]
