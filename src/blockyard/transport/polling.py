"""What the two runtimes do differently below an exchange: they wait.

Connections, their pool, hedging and the exchange itself are written once, as coroutines that await
a `Poller`. The blocking one waits on the calling thread and never suspends; that of an event loop
suspends the task.
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
    """A socket whose arrivals are asked for often: it keeps the `poll` object for POLLIN."""

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
        """Raise `StoreClosedError` once no other request is to begin here."""
        ...

    async def ready(self, sock: PolledSocket, events: int, seconds: float) -> int:
        """Which of `events` (POLLIN, POLLOUT) `sock` is ready for; 0 after so many `seconds`.

        Any other bit says that it broke.
        """
        ...

    async def any_ready(
        self, socks: Collection[Descriptor], event: int, seconds: float
    ) -> Collection[int]:
        """The descriptors of those that are ready for `event`; none after so many `seconds`."""
        ...

    async def receive_large(
        self, connection: Connection, reply: ReplyReader, timeouts: Timeouts
    ) -> Response | None:
        """What `connection.receive` gives on another thread; None where it is to go on here.

        For large bodies: the time of receiving one is spent outside of the interpreter.
        """
        ...

    async def done(self, call: Future[Any], seconds: float) -> bool:
        """Wait for a call on another thread; whether it is done within so many `seconds`."""
        ...

    def waker(self) -> Waker:
        """A wait for a slot, to be woken."""
        ...

    def may_wait(self) -> bool:
        """Whether waiting for a slot can end: not for one that this thread is to give back."""
        ...
