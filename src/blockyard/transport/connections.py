"""The connection pool of a store: one for each process, shared by its threads and event loops.

A signal handler, a weakref callback or a `__del__` may call the store in the middle of any function
here, and wait for another thread that is in here too. So no lock is taken: see `Pool`.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from blockyard.context import Origin, Request
from blockyard.process import PerProcess, warn_of_drop
from blockyard.transport.clock import monotonic
from blockyard.transport.connecting import Dialing
from blockyard.transport.connection import Connection, connect
from blockyard.transport.polling import Poller, Waker
from blockyard.transport.pool import Pool, Take
from blockyard.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

_LOOK_AGAIN = 0.5
"""Seconds after which a call that waits for a slot checks again: no wake-up is sent for a slot that
became free by garbage collection, after an exception in the call that held it."""


class Connections:
    """How a store's connections are made, and the pool of each process.

    A pool that is `shared` by clients outlives each of them: its maker closes it.
    """

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig, *, shared: bool = False) -> None:
        self.http = http
        self.timeouts = timeouts
        self.shared = shared
        self.dropped_quietly = shared
        """Whether nobody was to close the client, so that dropping it is no fault of theirs."""
        self.dialing = Dialing(http, timeouts)
        self._pools = PerProcess(
            partial(ConnectionPool, http, self.dialing), ConnectionPool.abandon
        )
        self.here = self._pools.here
        """This process's pool."""

    def close(self) -> bool:
        """Close the pool for a client that closes or is dropped, unless others share it.

        Waiting calls are woken, to find their client closed. Returns whether idle connections were
        closed.
        """
        pool = self.here()
        if not self.shared:
            return pool.close()
        pool.wake_all()
        return False

    def abandon(self) -> None:
        """Close this process's sockets, unless others share them; nothing is sent to peers."""
        if not self.shared:
            self.here().abandon()

    def warn_of_drop(self) -> None:
        """Warn that a client was dropped without `close`, if it was to be closed."""
        if not self.dropped_quietly:
            warn_of_drop()


class ConnectionPool:
    """Connections that exchanges take, and give back with `release`."""

    def __init__(self, http: HttpConfig, dialing: Dialing) -> None:
        self.loop_threads: dict[object, int] = {}
        """Those of event loops that use this pool, and those that receive for them, by user."""
        self._dialing = dialing
        self._closed = False
        self._pool: Pool[Connection] = Pool(http.max_connections, http.max_idle, http.keep_alive)
        self._open: set[ref[Connection]] = set()
        self._waiting: dict[Origin, deque[Waker]] = {}

    async def take(
        self, request: Request, holder: object, timeouts: Timeouts, poller: Poller
    ) -> Connection:
        """Take an idle connection, or make one; waits while the limit is reached.

        The connection is held by `holder` until it is released or `holder` is freed: see `Pool`.

        A call nested in another call of the same thread would wait for that call, so it exceeds the
        limit instead. Raises `TransportError`, and `StoreClosedError` once the store is closed.
        """
        origin, over_limit = request.origin, False
        while True:
            taken: Connection | Take = Take.WAIT
            try:
                poller.check_open()
                taken = self._pool.take(origin, holder, monotonic(), request.fresh, over_limit)
                if taken is Take.WAIT:
                    over_limit = not poller.may_wait()
                    if not over_limit:
                        await self._wait_for_slot(origin, timeouts, poller)
                    continue
                if taken is Take.OPEN:
                    taken = await connect(origin, self._dialing, timeouts, poller)
                    self._open.add(ref(taken, self._open.discard))
                    poller.check_open()
                elif not taken.usable():
                    self.release(origin, holder, taken, keep=False)
                    continue
            except BaseException:
                self._give_up(origin, holder, taken)
                raise
            return taken

    def release(self, origin: Origin, holder: object, connection: Connection, keep: bool) -> None:
        """Give back a connection, or close it: `keep` says whether it can be used again."""
        if keep and not self._closed:
            surplus = self._pool.give_back(origin, holder, connection, monotonic())
            if self._closed:  # meanwhile
                surplus += self._pool.clear()
        else:
            self._pool.drop(origin, holder)
            surplus = ()
            self._close(connection)
        if self._waiting:
            self._wake_one(origin)
        for each in surplus:
            self._end(each)

    def drop_idle_since(self, origin: Origin, before: float) -> None:
        """Close the connections that have been idle as long as one that turned out to be dead."""
        for each in self._pool.drop_idle_since(origin, before):
            self._end(each)

    def has_room(self, origin: Origin) -> bool:
        """Whether `take` would not wait."""
        return self._pool.has_room(origin)

    def counts(self) -> tuple[int, int]:
        """How many connections are taken and how many idle, over all origins."""
        return self._pool.counts()

    def close(self) -> bool:
        """Close idle connections, and keep none from now on; whether there were any.

        Those in use are closed when they are given back. Calls that wait for a slot are woken, to
        find the store closed.
        """
        self._closed = True
        idle = self._pool.clear()
        self.wake_all()
        for each in idle:
            self._end(each)
        return bool(idle)

    def wake_all(self) -> None:
        """Wake all calls that wait for a slot, to check again."""
        for origin, waiting in list(self._waiting.items()):
            for _ in range(len(waiting)):
                self._wake_one(origin)

    def abandon(self) -> None:
        """Close this process's copies of the sockets; nothing is sent to peers."""
        for each in list(self._open):
            connection = each()
            if connection is not None:
                self._close(connection)

    async def _wait_for_slot(self, origin: Origin, timeouts: Timeouts, poller: Poller) -> None:
        """Wait until a connection to `origin` may have been given back."""
        waiting = self._waiting.setdefault(origin, deque())
        waker = poller.waker()
        waiting.append(waker)
        try:
            await self._woken(waker, origin, timeouts)
        except BaseException:
            if not _removed(waiting, waker):  # a slot was ours for a moment: it is the next one's
                self._wake_one(origin)
            raise
        _ = _removed(waiting, waker)

    async def _woken(self, waker: Waker, origin: Origin, timeouts: Timeouts) -> None:
        woken = False
        while not woken and not self._pool.has_room(origin):  # since it began to wait
            left = timeouts.remaining()
            woken = await waker.wait(_LOOK_AGAIN if left is None else min(left, _LOOK_AGAIN))
            _ = timeouts.wait()

    def _wake_one(self, origin: Origin) -> None:
        """Wake the one that has waited longest for `origin`."""
        waiting = self._waiting.get(origin)
        while waiting:
            try:
                waker = waiting.popleft()
            except IndexError:  # another call was quicker
                return
            if waker.wake():
                return

    def _give_up(self, origin: Origin, holder: object, taken: Connection | Take) -> None:
        if isinstance(taken, Connection):
            self.release(origin, holder, taken, keep=False)
        elif taken is Take.OPEN:
            self._pool.drop(origin, holder)
            self._wake_one(origin)

    def _end(self, connection: Connection) -> None:
        """Close an idle connection."""
        connection.end()
        self._open.discard(ref(connection))

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(ref(connection))


def would_deadlock(pool: ConnectionPool, itself: int = 0) -> bool:
    """Whether a call on this thread would wait for a slot that is held further up its stack.

    That is an exchange over `pool` that it interrupts (beside `itself`, the number of exchanges
    that are its own), or an event loop of this thread, when a finalizer runs there.
    """
    # what `inspect.currentframe` calls; that module is slow to import
    calls, frame = 0, sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_qualname == "NetworkRuntime.exchange":
            calls += frame.f_locals.get("pool") is pool
        frame = frame.f_back
    return calls > itself or threading.get_ident() in list(pool.loop_threads.values())


def _removed(waiting: deque[Waker], waker: Waker) -> bool:
    """Remove a waker; whether it was among those waiting."""
    try:
        waiting.remove(waker)
    except ValueError:
        return False
    return True
