"""Far: the simulated provider at the far end of a link, as a process of its own, with TLS."""

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path

import click
from session import Session

from proxy.simulator import FunctionCall, ModelCall, Output, Script, Simulator, SimulatorSettings, Text

THINK_SECONDS = 0.4
EVENTS_PER_SECOND = 400
TOKEN = 5
"""Characters of a delta event."""


@click.command()
@click.option("--host", required=True)
@click.option("--port", type=int, required=True)
@click.option("--certificate", type=click.Path(path_type=Path), required=True)
@click.option("--turns", type=int, required=True)
@click.option("--settings", type=int, required=True)
@click.option("--words", type=int, required=True, help="Characters that the model writes in a turn, on average.")
@click.option("--seed", type=int, required=True)
def main(*, host: str, port: int, certificate: Path, turns: int, settings: int, words: int, seed: int) -> None:
    """Serve one session's model until the process is ended."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    session = Session(turns=turns, settings=settings, seed=seed)
    script = paced(session, words)
    asyncio.run(_serve(Simulator(SimulatorSettings(seed=seed), script=script, host=host, port=port, ssl=tls)))


def paced(session: Session, words: int) -> Script:
    """Return *session*'s model, that thinks first and has a pace.

    It writes *words* characters a turn on average, or as many as its calls have: what those leave is said in
    equal shares. Sessions of as many turns then take the same time for model and tools.
    """
    script = session.script()
    outputs = [script(ModelCall({}, (), number)) for number in range(session.turns)]
    share = max(0, words - sum(map(_length, outputs)) // session.turns)

    def answer(call: ModelCall) -> Output:
        number: int = sum(item["type"] == "function_call_output" for item in call.context)  # also if asked again
        output = outputs[number]
        said = (Text(session.outputs[number % len(session.outputs)][:share], "commentary"),) if share else ()
        return replace(
            output,
            parts=(output.parts[0], *said, *output.parts[1:]),
            first_event_seconds=THINK_SECONDS,
            event_seconds=1 / EVENTS_PER_SECOND,
            delta_size=TOKEN,
        )

    return answer


def _length(output: Output) -> int:
    """Return the characters of *output* that are streamed: reasoning arrives as one event."""
    return sum(len(part.arguments) for part in output.parts if isinstance(part, FunctionCall)) + sum(
        len(part.text) for part in output.parts if isinstance(part, Text)
    )


async def _serve(simulator: Simulator) -> None:
    async with simulator:
        click.echo("ready")
        await asyncio.Event().wait()


if __name__ == "__main__":
    main()
