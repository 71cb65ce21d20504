"""How long to wait before trying again what failed: pauses as a pure generator."""

from collections.abc import Callable, Iterator


def pauses(jitter: Callable[[], float], *, first: float, most: float) -> Iterator[float]:
    """Yield pauses in seconds without end: they double from *first* up to *most*.

    *jitter* returns numbers from 0 to 1; each shortens a pause by up to its half, so that many who failed at
    once do not come back at once.
    """
    pause = min(first, most)
    while True:
        yield pause * (1 - jitter() / 2)
        pause = min(2 * pause, most)
