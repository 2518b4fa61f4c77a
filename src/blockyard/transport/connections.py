"""The connection pool of a store: one for each process, shared by its threads and event loops.

A signal handler, a weakref callback or a `__del__` may call the store in the middle of any function
here, and wait for another thread that is in here too. So no lock is taken: see `Pool`.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from contextlib import suppress
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
_MANY_WAITING = 100
"""Where more than so many wait they check less often: it is enough that one does."""
_LEAST_OFTEN = 10
"""In so many times `_LOOK_AGAIN`, however many wait."""


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
        self._waiting: dict[Origin, _Queue] = {}

    async def take(
        self, request: Request, holder: object, timeouts: Timeouts, poller: Poller
    ) -> Connection:
        """Take an idle connection, or make one; waits while the limit is reached.

        Who comes first to a free slot gets it, even while others wait: that saves a thread switch.
        But a waiter that was woken and found the slot taken goes before all others then.

        The connection is held by `holder` until it is released or `holder` is freed: see `Pool`.

        A call nested in another call of the same thread would wait for that call, so it exceeds the
        limit instead. Raises `TransportError`, and `StoreClosedError` once the store is closed.
        """
        origin, over_limit, waited = request.origin, False, False
        while True:
            taken: Connection | Take = Take.WAIT
            try:
                poller.check_open()
                if over_limit or not self._waiting or self._may_take(origin, holder):
                    taken = self._pool.take(origin, holder, monotonic(), request.fresh, over_limit)
                if taken is Take.WAIT:
                    over_limit = not poller.may_wait()
                    if not over_limit:
                        await self._wait_for_slot(origin, holder, waited, timeouts, poller)
                        waited = True
                    continue
                if self._waiting:
                    self._served(origin, holder)
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
        for origin, queue in list(self._waiting.items()):
            for _ in range(len(queue)):
                self._wake_one(origin)

    def abandon(self) -> None:
        """Close this process's copies of the sockets; nothing is sent to peers."""
        for each in list(self._open):
            connection = each()
            if connection is not None:
                self._close(connection)

    def _queue_of(self, origin: Origin) -> _Queue:
        return self._waiting.get(origin) or self._waiting.setdefault(origin, _Queue())

    def _may_take(self, origin: Origin, holder: object) -> bool:
        """Whether nobody else goes before."""
        queue = self._waiting.get(origin)
        return queue is None or not queue.passed_over or ref(holder) in queue.passed_over

    def _served(self, origin: Origin, holder: object) -> None:
        """It has its slot, or gave up: who let it go before looks whether there is another one."""
        queue = self._waiting.get(origin)
        if queue is not None:
            queue.passed_over.discard(ref(holder))
            if queue.waiting and self._pool.has_room(origin):
                self._wake_one(origin)

    async def _wait_for_slot(
        self, origin: Origin, holder: object, again: bool, timeouts: Timeouts, poller: Poller
    ) -> None:
        """Wait until a connection to `origin` may have been given back, `again` before others."""
        queue = self._queue_of(origin)
        waker = poller.waker()
        queue.add(waker, holder, first=again)
        try:
            await self._woken(waker, origin, holder, queue, timeouts)
        except BaseException:
            if not queue.remove(waker):  # a slot was ours for a moment: it is the next one's
                self._wake_one(origin)
            raise
        _ = queue.remove(waker)

    async def _woken(
        self, waker: Waker, origin: Origin, holder: object, queue: _Queue, timeouts: Timeouts
    ) -> None:
        woken, gives_way = False, not self._may_take(origin, holder)
        while not woken and (gives_way or not self._pool.has_room(origin)):  # since it began to
            seconds = _LOOK_AGAIN * max(1.0, min(len(queue) / _MANY_WAITING, _LEAST_OFTEN))
            left = timeouts.remaining()
            woken = await waker.wait(seconds if left is None else min(left, seconds))
            gives_way = False  # for long enough: who is to go before may be gone
            _ = timeouts.wait()

    def _wake_one(self, origin: Origin) -> None:
        """Wake the one that is next for `origin`."""
        queue = self._waiting.get(origin)
        while queue is not None and queue.waiting:
            try:
                waker, _ = queue.waiting.popitem(last=False)
            except KeyError:  # another call was quicker
                return
            if waker.wake():
                return

    def _give_up(self, origin: Origin, holder: object, taken: Connection | Take) -> None:
        if isinstance(taken, Connection):
            self.release(origin, holder, taken, keep=False)
        elif taken is Take.OPEN:
            self._pool.drop(origin, holder)
            self._wake_one(origin)
        self._served(origin, holder)

    def _end(self, connection: Connection) -> None:
        """Close an idle connection."""
        connection.end()
        self._open.discard(ref(connection))

    def _close(self, connection: Connection) -> None:
        connection.close()
        self._open.discard(ref(connection))


class _Queue:
    """The calls that wait for a slot of one origin, the next first. Each change is atomic."""

    def __init__(self) -> None:
        self.waiting: OrderedDict[Waker, None] = OrderedDict()
        self.passed_over: set[ref[object]] = set()
        """Holders that were woken and found the slot taken: newcomers give way to them."""

    def __len__(self) -> int:
        return len(self.waiting)

    def add(self, waker: Waker, holder: object, *, first: bool) -> None:
        self.waiting[waker] = None
        if first:
            self.passed_over.add(ref(holder, self.passed_over.discard))
            with suppress(KeyError):  # woken meanwhile
                self.waiting.move_to_end(waker, last=False)

    def remove(self, waker: Waker) -> bool:
        """Remove a waker; whether it was among those waiting."""
        try:
            del self.waiting[waker]
        except KeyError:
            return False
        return True


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
