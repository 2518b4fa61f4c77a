"""The connections of the asyncio runtime: those of each event loop, and how they are closed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from blockyard.context import Origin, Request
from blockyard.errors import DeadlineExceededError, StoreClosedError
from blockyard.transport.aio_connection import AsyncioConnection, connect
from blockyard.transport.clock import monotonic
from blockyard.transport.dialing import Dialing
from blockyard.transport.patience import Patience
from blockyard.transport.pool import Pool, Take
from blockyard.transport.tasks import in_time
from blockyard.transport.under_way import CallsUnderWay
from blockyard.transport.watchdog import Watchdog

if TYPE_CHECKING:
    from blockyard.config import HttpConfig

CLOSING_SECONDS = 10.0
"""How long calls that were cut off may take to leave things in order before `close` goes on."""
_CLOSED = "the store was closed"


class Pools:
    """The connections of one process, by event loop."""

    def __init__(self, http: HttpConfig, dialing: Dialing) -> None:
        self._http = http
        self._dialing = dialing
        self._closed = False
        self._last: LoopConnections | None = None
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopConnections] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> LoopConnections:
        """Those of `loop`; what loops that have ended left open is closed meanwhile.

        Raises `StoreClosedError` on a loop that had none when the store was closed.
        """
        lines = self._last
        if lines is not None and lines.loop is loop:
            return lines
        for other in list(self._by_loop):
            if other.is_closed() and (ended := self._by_loop.pop(other, None)) is not None:
                ended.abandon()
        lines = self._by_loop.get(loop)
        if lines is None:
            if self._closed:
                raise StoreClosedError(_CLOSED)
            lines = LoopConnections(loop, self._http, self._dialing)
            self._by_loop[loop] = lines
        self._last = lines
        return lines

    async def close(self, here: asyncio.AbstractEventLoop) -> None:
        """See `AsyncioRuntime.close`; `here` is the running loop."""
        self._closed = True
        for loop, lines in list(self._by_loop.items()):
            if loop is not here:
                _call_on(loop, lines, lines.begin_to_close)
        lines = self._by_loop.get(here)
        if lines is not None:
            lines.begin_to_close()
            await lines.closed()

    def drop(self) -> bool:
        """Close all connections, where no call is under way, and say whether there were any."""
        any_open = False
        for loop, lines in list(self._by_loop.items()):
            any_open = any_open or lines.is_open()
            _call_on(loop, lines, lines.close)
        return any_open

    def abandon(self) -> None:
        """In a forked child: close the copies of the parent's sockets."""
        for lines in self._by_loop.values():
            lines.abandon()


class LoopConnections:
    """The connections of one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        http: HttpConfig,
        dialing: Dialing,
    ) -> None:
        self.loop = loop
        self.watchdog = Watchdog(loop)
        self.calls = CallsUnderWay()
        self._closing: asyncio.Task[None] | None = None
        self._dialing = dialing
        self._pool: Pool[AsyncioConnection] = Pool(
            http.max_connections, http.max_idle, http.keep_alive
        )
        self._closed = False
        self._open: set[AsyncioConnection] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take(self, request: Request) -> AsyncioConnection | Take:
        """A connection that is open and idle; else what `Pool.take` says is to be done."""
        while True:
            if self._closed:
                raise StoreClosedError(_CLOSED)
            taken = self._pool.take(request.origin, monotonic(), fresh=request.fresh)
            if isinstance(taken, Take) or taken.usable():
                return taken
            taken.close()
            self._open.discard(taken)
            self._pool.drop(request.origin)

    async def open(self, request: Request, missed: Take, patience: Patience) -> AsyncioConnection:
        """A connection for a request that found none idle: `missed` is what `take` said."""
        taken: AsyncioConnection | Take = missed
        while taken is Take.WAIT:
            await self._wait_for_place(patience)
            taken = self.take(request)
        return await self._connect(request.origin, patience) if taken is Take.OPEN else taken

    def has_room(self, origin: Origin) -> bool:
        return self._pool.has_room(origin)

    def is_open(self) -> bool:
        """Whether there is a connection."""
        return bool(self._open)

    def release(self, origin: Origin, connection: AsyncioConnection, keep: bool) -> None:
        self.watchdog.unwatch(connection)
        surplus = [connection]
        if keep and not connection.closed:
            surplus = self._pool.give_back(origin, connection, monotonic())
        else:
            self._pool.drop(origin)
        self._wake_one()
        for each in surplus:
            each.close()
            self._open.discard(each)

    def drop_idle_since(self, origin: Origin, before: float) -> None:
        """A connection that was idle did not answer: those that were idle as long go as well."""
        for each in self._pool.drop_idle_since(origin, before):
            each.close()
            self._open.discard(each)

    def begin_to_close(self) -> None:
        """Close the connections once the calls under way have ended."""
        if not self.calls.any:
            self.close()
        elif self._closing is None:
            self._closing = self.loop.create_task(self._end_calls_and_close())

    async def closed(self) -> None:
        """Wait until they are closed, unless the call that is under way here would wait for itself.

        Whoever gives up this wait leaves the closing to go on.
        """
        if self._closing is not None and not self.calls.is_one(asyncio.current_task()):
            await asyncio.shield(self._closing)

    async def _end_calls_and_close(self) -> None:
        try:
            await self.calls.end(CLOSING_SECONDS)
        finally:
            self.close()

    def close(self) -> None:
        self._closed = True
        self.watchdog.stop()
        for connection in list(self._open):
            connection.close()
        self.abandon()
        while self._waiting:
            self._wake_one()

    def abandon(self) -> None:
        """Close what a loop that has ended, or a parent process, left open."""
        for connection in self._open:
            connection.abandon()
        self._open.clear()
        _ = self._pool.clear()

    async def _connect(self, origin: Origin, patience: Patience) -> AsyncioConnection:
        try:
            connection = await connect(self.loop, origin, self._dialing, patience)
        except BaseException:
            self._pool.drop(origin)
            self._wake_one()
            raise
        self._open.add(connection)
        if self._closed:  # meanwhile
            self.release(origin, connection, keep=False)
            raise StoreClosedError(_CLOSED)
        return connection

    async def _wait_for_place(self, patience: Patience) -> None:
        place: asyncio.Future[None] = self.loop.create_future()
        self._waiting.append(place)
        got_it = False
        try:
            got_it = await in_time(place, patience.remaining())
        finally:
            if not got_it and place.done() and not place.cancelled():
                self._wake_one()  # the place was ours for a moment: it is the next one's
        if not got_it:
            raise DeadlineExceededError(
                "the deadline of this call passed while all connections were taken"
            )

    def _wake_one(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return


def _call_on(
    loop: asyncio.AbstractEventLoop, lines: LoopConnections, call: Callable[[], None]
) -> None:
    """Have a loop call `call` in its next turn; abandon the connections of one that has ended."""
    try:
        _ = loop.call_soon_threadsafe(call)
    except RuntimeError:
        lines.abandon()
