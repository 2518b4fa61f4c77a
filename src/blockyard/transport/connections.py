"""The connections of a store: one pool for each process, shared by its threads and event loops.

A signal handler, a weakref callback or a `__del__` may call the store in the middle of any
function here, and wait for another thread that is here too. So no lock is taken: see `Pool`.
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
"""Seconds after which one that waits for a slot looks for itself: nobody tells of a slot that is
free since an exception ended the call that had it."""


class Connections:
    """How a store's connections are made, and the pool of each process that uses it.

    Those that are `shared` by clients outlast each: who made them closes the pool.
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
        """A client closes, or is dropped: its calls that wait see that it has.

        The pool closes with it, unless others share it; whether idle connections were closed.
        """
        pool = self.here()
        if not self.shared:
            return pool.close()
        pool.wake_all()
        return False

    def abandon(self) -> None:
        """Close this process's sockets, but for what others share; nothing is sent."""
        if not self.shared:
            self.here().abandon()

    def warn_of_drop(self) -> None:
        """Say that what had them was dropped without `close`, where somebody was to close it."""
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
        """An idle connection, or a new one; waits while too many are taken.

        It is lent to `holder`, until it is released or `holder` is gone: see `Pool`.

        A call that is nested in another one of this thread does not wait for that one: it goes
        over the limit. Raises `TransportError`, and `StoreClosedError` once the store is closed.
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
        """A connection that was idle did not answer: those that were idle as long go as well."""
        for each in self._pool.drop_idle_since(origin, before):
            self._end(each)

    def has_room(self, origin: Origin) -> bool:
        """Whether `take` would not wait."""
        return self._pool.has_room(origin)

    def counts(self) -> tuple[int, int]:
        """How many connections are taken and how many idle, over all origins."""
        return self._pool.counts()

    def close(self) -> bool:
        """Keep no connection any more: close the idle ones, and say whether there were any.

        Those in use close when they are given back. Whoever waits for a slot looks again whether
        the store is open.
        """
        self._closed = True
        idle = self._pool.clear()
        self.wake_all()
        for each in idle:
            self._end(each)
        return bool(idle)

    def wake_all(self) -> None:
        """Have all who wait for a slot look again."""
        for origin, waiting in list(self._waiting.items()):
            for _ in range(len(waiting)):
                self._wake_one(origin)

    def abandon(self) -> None:
        """Close this process's copies of the sockets; nothing is sent."""
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
        """Close one that was idle."""
        connection.end()
        self._open.discard(ref(connection))

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(ref(connection))


def waits_for_itself(pool: ConnectionPool, itself: int = 0) -> bool:
    """Whether a call on this thread would wait for a slot that is held by what it interrupts.

    That is an exchange over `pool` further up this thread's stack (but for `itself`, where one is
    under way already), or what this thread does for an event loop, when a finalizer runs there.
    """
    # what `inspect.currentframe` calls; that module is slow to import
    calls, frame = 0, sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        if frame.f_code.co_qualname == "NetworkRuntime.exchange":
            calls += frame.f_locals.get("pool") is pool
        frame = frame.f_back
    return calls > itself or threading.get_ident() in list(pool.loop_threads.values())


def _removed(waiting: deque[Waker], waker: Waker) -> bool:
    """Whether it was among those that wait, where it is no more."""
    try:
        waiting.remove(waker)
    except ValueError:
        return False
    return True
