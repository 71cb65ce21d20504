"""Opens WebSockets to one upstream, and tells the link and the partition's trust what came of it."""

from collections.abc import Callable

from proxy.errors import NoWebSocket, UpstreamError, UpstreamTimeout, UpstreamUnavailable
from proxy.ledger import Traffic
from proxy.upstream.connection import Connection
from proxy.upstream.dial import Dialer
from proxy.upstream.endpoint import Endpoint
from proxy.upstream.link import Link
from proxy.upstream.meter import Meter
from proxy.upstream.partition import Partition
from proxy.upstream.standby import Standby
from proxy.upstream.upgrade import Timing


class Opener:
    """The way from a partition to a new connection. Close it in the end."""

    def __init__(
        self, endpoint: Endpoint, timing: Timing, *, link: Link, traffic: Traffic, clock: Callable[[], float]
    ) -> None:
        self._endpoint = endpoint
        self._timing = timing
        self._link = link
        self._traffic = traffic
        self._clock = clock
        self._dialer = Standby(endpoint)

    async def close(self) -> None:
        """Let go of what stands by."""
        await self._dialer.close()

    def stand_by(self) -> None:
        """Have a connection ready for the first turn, but for its upgrade, where that takes round trips."""
        if self._endpoint.secure and self._endpoint.outbound_proxy is None:
            self._dialer.open(self._timing.open_timeout, self._timing.probe_timeout)

    async def answers(self) -> bool:
        """Whether somebody answers at the next hop."""
        via = self._endpoint.outbound_proxy
        dialer = self._dialer if via is None else Dialer(Endpoint(via))
        try:
            (await dialer.dial(self._timing.link_timeout)).close()
        except (OSError, UpstreamUnavailable):
            return False
        return True

    async def open(
        self, partition: Partition, gone: Callable[[], None], *, beside: bool = False, behind: bool = False
    ) -> Connection:
        """Open a connection for *partition*; *gone* is called when it closes.

        One that is opened *beside* a turn of which nothing is heard, and has no answer either, says nothing of
        WebSockets: the link may be dark, or upstream too busy to answer anybody. Right *behind* one that was cut
        off, it may be refused as one too many, since upstream counts that one still.
        Raises UpstreamError where upstream refuses the agent, and UpstreamUnavailable where there is no WebSocket.
        """
        await self._link.look_for_upgrade()
        trust, began = partition.trust, self._clock()
        try:
            connection = await Connection.open(
                self._endpoint,
                partition.headers,
                Meter(self._traffic),
                self._timing,
                query=partition.query,
                dialer=self._dialer if self._endpoint.outbound_proxy is None else None,
                gone=gone,
                heard=self._link.clear,
                clock=self._clock,
            )
        except UpstreamError:
            self._link.clear()
            raise
        except NoWebSocket as exc:
            if not self._link.is_captive:  # else it may be the sign-in page's
                if exc.definite:
                    trust.refused(self._clock())
                elif not behind:
                    trust.not_now(self._clock(), began=began)
            raise
        except UpstreamUnavailable as exc:
            if not (beside or self._link.is_captive):
                trust.broke_off(self._clock(), began=began, silent=isinstance(exc, UpstreamTimeout))
            raise
        trust.opened()
        self._link.clear()
        return connection
