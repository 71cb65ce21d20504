"""How long to wait before trying again what failed: pauses as a pure generator."""

from collections.abc import Callable, Iterator


def pauses(
    jitter: Callable[[], float] = lambda: 0.0, *, first: float, most: float, growth: float = 2.0
) -> Iterator[float]:
    """Yield pauses in seconds without end: from *first* up to *most*, each *growth* times as long as the last.

    *jitter* returns numbers from 0 to 1; each shortens a pause by up to its half, so that many who failed at
    once do not come back at once. Without it pauses are exact.
    """
    pause = min(first, most)
    while True:
        yield pause * (1 - jitter() / 2)
        pause = min(growth * pause, most)
