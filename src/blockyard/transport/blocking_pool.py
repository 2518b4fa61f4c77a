"""The connections of one process, shared by the threads that make blocking calls.

A signal handler, a weakref callback or a `__del__` may call the store in the middle of any
function here, on the thread that is in it: the lock can be taken again by that thread, is never
held while waiting, and `Pool` keeps its counts right when another call comes between two of its
steps.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from typing import TYPE_CHECKING

from blockyard.context import Origin, Request
from blockyard.errors import StoreClosedError
from blockyard.transport.blocking_connection import BlockingConnection, connect
from blockyard.transport.clock import monotonic
from blockyard.transport.patience import Patience
from blockyard.transport.pool import Pool, Take

if TYPE_CHECKING:
    from blockyard.config import HttpConfig
    from blockyard.transport.dialing import Dialing


class BlockingPool:
    """Connections that threads take, and give back with `release`."""

    def __init__(self, http: HttpConfig, dialing: Dialing) -> None:
        self._dialing = dialing
        self._closed = False
        self._pool: Pool[BlockingConnection] = Pool(
            http.max_connections, http.max_idle, http.keep_alive
        )
        self._open: set[BlockingConnection] = set()
        # Always taken by `with`, which no interrupt can end with the lock taken.
        self._lock = threading.RLock()
        self._waiting: deque[tuple[Origin, threading.Lock]] = deque()

    def take(self, request: Request, patience: Patience) -> BlockingConnection:
        """An idle connection, or a new one; waits while too many are taken.

        A call that is nested in another one of this thread does not wait for that one: it goes
        over the limit. Raises `TransportError`, and `StoreClosedError` once the store is closed.
        """
        origin, over_limit = request.origin, False
        while True:
            taken: BlockingConnection | Take = Take.WAIT
            try:
                with self._lock:
                    taken = self._place(request, over_limit)
                if taken is Take.WAIT:
                    over_limit = self._is_nested()
                    if not over_limit:
                        self._wait_for_place(origin, patience)
                    continue
                if taken is Take.OPEN:
                    taken = connect(origin, self._dialing, patience)
                    self._open.add(taken)
                elif not taken.usable():
                    self.release(origin, taken, keep=False)
                    continue
            except BaseException:
                self._give_up(origin, taken)
                raise
            return taken

    def release(self, origin: Origin, connection: BlockingConnection, keep: bool) -> None:
        """Give back a connection, or close it: `keep` says whether it can be used again."""
        with self._lock:
            surplus = [connection]
            if keep and not self._closed:
                surplus = self._pool.give_back(origin, connection, monotonic())
            else:
                self._pool.drop(origin)
            self._wake_one(origin)
        for each in surplus:
            self._close(each)

    def drop_idle_since(self, origin: Origin, before: float) -> None:
        """A connection that was idle did not answer: those that were idle as long go as well."""
        with self._lock:
            older = self._pool.drop_idle_since(origin, before)
        for each in older:
            self._close(each)

    def has_room(self, origin: Origin) -> bool:
        """Whether `take` would not wait."""
        with self._lock:
            return self._pool.has_room(origin)

    def close(self) -> bool:
        """Close the idle connections, and say whether there were any.

        Those in use close when they are given back.
        """
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.popleft()[1].release()
            idle = self._pool.clear()
            for connection in idle:
                self._close(connection)
        return bool(idle)

    def abandon(self) -> None:
        """Close this process's copies of the sockets; nothing is sent, and no lock is taken."""
        for connection in list(self._open):
            self._close(connection)

    def _place(self, request: Request, over_limit: bool) -> BlockingConnection | Take:
        """What the pool says. The caller holds the lock."""
        if self._closed:
            raise StoreClosedError("the store is closed")
        return self._pool.take(
            request.origin, monotonic(), fresh=request.fresh, over_limit=over_limit
        )

    def _is_nested(self) -> bool:
        """Whether another call further up this thread's stack uses the pool.

        It may hold what this one would wait for, and goes on only when this one has ended.
        """
        # what `inspect.currentframe` calls; that module is slow to import
        calls, frame = 0, sys._getframe()  # pyright: ignore[reportPrivateUsage]
        while frame is not None:
            if frame.f_code.co_qualname == "BlockingRuntime.exchange":
                calls += frame.f_locals.get("pool") is self
            frame = frame.f_back
        return calls > 1

    def _wait_for_place(self, origin: Origin, patience: Patience) -> None:
        """Wait until a connection to `origin` may have been given back."""
        woken = threading.Lock()
        _ = woken.acquire()
        waiter = (origin, woken)
        try:
            with self._lock:
                if self._closed or self._pool.has_room(origin):
                    return
                self._waiting.append(waiter)
            remaining = patience.remaining()
            _ = woken.acquire(timeout=-1 if remaining is None else remaining)
            _ = patience.wait()
        except BaseException:
            with self._lock:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                else:  # a place was ours for a moment: it is the next one's
                    self._wake_one(origin)
            raise

    def _wake_one(self, origin: Origin) -> None:
        """Wake the one that has waited longest for `origin`. The caller holds the lock."""
        for waiter in list(self._waiting):
            if waiter[0] == origin:
                self._waiting.remove(waiter)
                waiter[1].release()
                return

    def _give_up(self, origin: Origin, taken: BlockingConnection | Take) -> None:
        if isinstance(taken, BlockingConnection):
            self.release(origin, taken, keep=False)
        elif taken is Take.OPEN:
            with self._lock:
                self._pool.drop(origin)
                self._wake_one(origin)

    def _close(self, connection: BlockingConnection) -> None:
        connection.close()
        self._open.discard(connection)
