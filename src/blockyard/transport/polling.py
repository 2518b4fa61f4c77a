"""`Poller`: how coroutines of the transport wait, the one difference between the two runtimes.

Connections, their pool, hedging and the exchange itself are written once, as coroutines that await
a `Poller`. That of the blocking runtime waits on the calling thread and never suspends; that of an
event loop suspends the task.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

from blockyard.context import Descriptor

if TYPE_CHECKING:
    import select
    from concurrent.futures import Future

    from blockyard.context import Response
    from blockyard.transport.connection import Connection
    from blockyard.transport.connections import ConnectionPool
    from blockyard.transport.http1 import ReplyReader
    from blockyard.transport.timeouts import Timeouts


class PolledSocket(Descriptor, Protocol):
    """A socket that is polled for POLLIN often: it keeps the `poll` object for that."""

    arrivals: select.poll


class Waker(Protocol):
    """One wait for a slot of the pool."""

    def wake(self) -> bool:
        """End the wait, from any thread; False when nobody waits any more."""
        ...

    async def wait(self, seconds: float) -> bool:
        """Wait until woken, or for so many `seconds`; whether it was woken."""
        ...


class Poller(Protocol):
    """How coroutines of the transport wait."""

    @property
    def pool(self) -> ConnectionPool:
        """The connections of this process."""
        ...

    def check_open(self) -> None:
        """Raise `StoreClosedError` once no further request may begin."""
        ...

    async def ready(self, sock: PolledSocket, events: int, seconds: float) -> int:
        """Wait until `sock` is ready for any of `events` (POLLIN, POLLOUT); 0 after `seconds`.

        Other bits in the result mean that the connection broke.
        """
        ...

    async def any_ready(
        self, socks: Collection[Descriptor], event: int, seconds: float
    ) -> Collection[int]:
        """Wait until any descriptor is ready for `event`; returns those; none after `seconds`."""
        ...

    async def receive_large(
        self, connection: Connection, reply: ReplyReader, timeouts: Timeouts
    ) -> Response | None:
        """`connection.receive` on another thread; None where it is to be done here.

        For large bodies, whose system calls run outside of the interpreter lock.
        """
        ...

    async def done(self, call: Future[Any], seconds: float) -> bool:
        """Wait for a call on another thread; False after `seconds`."""
        ...

    def waker(self) -> Waker:
        """A `Waker` for one wait for a pool slot."""
        ...

    def may_wait(self) -> bool:
        """Whether this call may wait for a slot: False if its own thread would have to free it."""
        ...
