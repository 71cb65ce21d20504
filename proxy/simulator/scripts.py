"""Scripts: what the simulated model says when a test, not an agent, asks."""

from collections.abc import Callable, Iterable

from proxy.simulator.model import ModelCall, Output, Script, says
from proxy.simulator.rendering import digest


class ScriptEnded(Exception):
    """More was asked than the script has outputs."""


def scripted(outputs: Iterable[Output | str | Callable[[ModelCall], Output]]) -> Script:
    """Return a script that gives *outputs* in order; a string is a text, a function is asked.

    An output is used up once its response begins, even if it is cut off.
    """
    remaining = iter(outputs)

    def script(call: ModelCall) -> Output:
        try:
            output = next(remaining)
        except StopIteration:
            message = f"no output is left for request {call.number}"
            raise ScriptEnded(message) from None
        if isinstance(output, str):
            return says(output)
        return output if isinstance(output, Output) else output(call)

    return script


def echo_script(call: ModelCall) -> Output:
    """Answer with the context's length and digest, so that a wrong context shows in the text."""
    return says(f"{len(call.context)} items, digest {digest(call.context)}")
