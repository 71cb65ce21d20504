"""packlight: a transparent proxy that sends upstream only what is new.

A codemap, from the edge inwards; nothing imports from a line above its own:

- ``cli``        the command: serve, demo, bench, simulate, status, config
- ``server``     the aiohttp application: routes, the local guard, replies, ``/_packlight``
- ``exchange``   the one loop: a turn, a connection, the events to the agent
- ``restoring``  conversations whose connection was lost, uploaded again before their next turn
- ``rewriting``  which requests go upstream otherwise than the agents wrote them, and the probe for it
- ``upstream``   the far side: WebSocket connections, their pool, plain HTTP
- ``frontends``  HTTP APIs to core and back, without I/O
- ``ledger``     what a turn cost: counters, one log line, what ``status`` shows
- ``core``       conversations as data, without I/O: items, baselines, the diff, the turn
- ``config``     every setting, its default and its meaning
- ``log``        what is written to standard error
- ``errors``     whose fault it is

``simulator`` is an upstream that speaks the protocol, for the demo, the tests and the benchmarks. It shares
no code with the rest, because the rest is judged against it.
"""

__version__ = "0.1.0"
