"""`LoopPoller`: the `Poller` of an event loop, for sockets, calls on threads and pool slots.

Sockets are watched by an epoll set of our own, which the loop watches as one descriptor: a wait
costs one system call, and all ready sockets are handled in one turn of the loop. A connection
belongs to no loop: it is watched only during a wait.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from blockyard.context import Descriptor
from blockyard.errors import StoreClosedError
from blockyard.transport.blocking import BlockingPoller, run_to_end
from blockyard.transport.calling_thread import calling_thread
from blockyard.transport.clock import monotonic
from blockyard.transport.connections import Connections
from blockyard.transport.descriptor_watchers import EpollWatcher, LoopWatcher
from blockyard.transport.polling import PolledSocket
from blockyard.transport.posting import Post
from blockyard.transport.tasks import (
    CallsUnderWay,
    in_time,
    set_done,
    told_when_done,
    until_done,
)
from blockyard.transport.threads import Threads, outcome_of

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.context import Response
    from blockyard.transport.connection import Connection
    from blockyard.transport.http1 import ReplyReader
    from blockyard.transport.timeouts import Timeouts

CLOSING_SECONDS = 10.0
"""How long calls that `close` cancels may take to tidy up."""
_CLOSED = "the store was closed"

Ready = tuple[int, int]
"""A descriptor and the events that it is ready for, 0 after a timeout."""


class LoopPollers:
    """The pollers of one process, one for each event loop."""

    def __init__(self, connections: Connections, receivers: Threads) -> None:
        self._connections = connections
        self._receivers = receivers
        self._closed = False
        self._last: LoopPoller | None = None
        self._by_loop: dict[asyncio.AbstractEventLoop, LoopPoller] = {}

    def of(self, loop: asyncio.AbstractEventLoop) -> LoopPoller:
        """The poller of `loop`; drops those of loops that have ended.

        Raises `StoreClosedError` on a loop that had none when the store was closed.
        """
        poller = self._last
        if poller is not None and poller.loop is loop:
            return poller
        for other in list(self._by_loop):
            if other.is_closed() and (ended := self._by_loop.pop(other, None)) is not None:
                ended.abandon()
        poller = self._by_loop.get(loop)
        if poller is None:
            if self._closed:
                raise StoreClosedError(_CLOSED)
            poller = self._by_loop[loop] = LoopPoller(loop, self._connections, self._receivers)
        self._last = poller
        return poller

    async def close(self, here: asyncio.AbstractEventLoop) -> None:
        """See `AsyncioRuntime.close`; `here` is the running loop."""
        self._closed = True
        for loop, poller in list(self._by_loop.items()):
            if loop is not here:
                _call_on(loop, poller, poller.begin_to_close)
        poller = self._by_loop.get(here)
        if poller is not None:
            poller.begin_to_close()
            await poller.closed()

    def drop(self) -> None:
        """Close all pollers. For when no call is under way."""
        for loop, poller in list(self._by_loop.items()):
            _call_on(loop, poller, poller.close)

    def abandon(self) -> None:
        """Release all pollers in a forked child, or when no loop runs any more."""
        for poller in self._by_loop.values():
            poller.abandon()


class LoopPoller:
    """The `Poller` of the tasks of one event loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connections: Connections, receivers: Threads
    ) -> None:
        self.loop = loop
        self.pool = pool = connections.here()
        self._receivers = receivers
        self._on_receivers = BlockingPoller(connections)
        self._received_elsewhere: set[Connection] = set()
        self.calls = CallsUnderWay()
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._closed = False
        self._closing: asyncio.Task[None] | None = None
        self._waiting: dict[int, tuple[asyncio.Future[Ready], float]] = {}
        self._wakers: set[_FutureWaker] = set()
        self._post: Post | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf
        """When the timer is due, on the loop's clock, which may stand still while ours goes on."""
        watch = EpollWatcher if hasattr(select, "epoll") else LoopWatcher
        self._watched = watch(loop, self._deliver)
        self._user = object()
        pool.loop_threads[self._user] = self._thread

    def check_open(self) -> None:
        if self._closed:
            raise StoreClosedError(_CLOSED)

    async def ready(self, sock: PolledSocket, events: int, seconds: float) -> int:
        descriptor = sock.fileno()
        ready = self._start_wait((descriptor,), events, seconds)
        try:
            _, found = await ready
        finally:
            if descriptor in self._waiting:
                self._end_wait(descriptor)
        return found or self._nothing_ready()

    async def any_ready(
        self, socks: Collection[Descriptor], event: int, seconds: float
    ) -> Collection[int]:
        descriptors = [sock.fileno() for sock in socks]
        try:
            descriptor, found = await self._start_wait(descriptors, event, seconds)
        finally:
            for each in descriptors:
                self._end_wait(each)
        return (descriptor,) if found or self._nothing_ready() else ()

    async def receive_large(
        self, connection: Connection, reply: ReplyReader, timeouts: Timeouts
    ) -> Response | None:
        """See `Poller`. Waits for the other thread to release the reply, also when cancelled."""

        def receive() -> Response:
            user = object()
            self.pool.loop_threads[user] = threading.get_ident()
            try:
                return run_to_end(connection.receive(reply, timeouts, self._on_receivers))
            finally:
                del self.pool.loop_threads[user]

        self.check_open()
        call = None
        self._received_elsewhere.add(connection)
        try:
            call = self._receivers.start_at_once(receive)
            if call is None:
                return None
            await told_when_done(call)
        except BaseException as error:
            if os.getpid() == self._process:  # in a forked child it is the parent's connection
                connection.shutdown()
                if call is not None and isinstance(error, asyncio.CancelledError):
                    await until_done([told_when_done(call)])
            raise
        finally:
            self._received_elsewhere.discard(connection)
        try:
            self.check_open()
            return outcome_of(call)
        finally:
            del call  # which holds the error, whose traceback refers to this frame

    async def done(self, call: Future[Any], seconds: float) -> bool:
        return call.done() or await in_time(told_when_done(call), seconds)

    def waker(self) -> _FutureWaker:
        self.open_post()
        return _FutureWaker(self)

    def may_wait(self) -> bool:
        caller = calling_thread.get()
        return caller is None or not caller.nested

    def begin_to_close(self) -> None:
        """Close the poller once the calls under way have ended."""
        if not self.calls.any:
            self.close()
        elif self._closing is None:
            self._closing = self.loop.create_task(self._end_calls_and_close())

    async def closed(self) -> None:
        """Wait until the poller is closed, unless the call under way here would wait for itself.

        Cancelling this wait does not stop the closing.
        """
        if self._closing is not None and not self.calls.is_one(asyncio.current_task()):
            await asyncio.shield(self._closing)

    def close(self) -> None:
        """Fail all waits, and refuse new requests."""
        self._closed = True
        for descriptor, (ready, _) in self._waiting.items():
            if not ready.done():
                ready.set_result((descriptor, 0))
        for waker in self._wakers:
            set_done(waker.woken)
        for connection in self._received_elsewhere:
            connection.shutdown()
        self.abandon()

    def abandon(self) -> None:
        """Release what the loop held: it has ended, or is the parent process's."""
        self._waiting.clear()
        _ = self.pool.loop_threads.pop(self._user, None)
        if self._timer is not None:
            self._timer.cancel()
        if self._post is not None:
            self._post.abandon()
        self._watched.close()

    def open_post(self) -> None:
        """Make `post` usable by other threads. Called on the loop; may raise `OSError`."""
        if self._post is None:
            self._post = Post(self.loop)

    def post(self, callback: Callable[[], object]) -> bool:
        """Run `callback` on the loop, from any thread; False when the loop has ended."""
        if threading.get_ident() == self._thread:
            _ = callback()
            return True
        return self._post is not None and self._post.put(callback)

    def add_waker(self, waker: _FutureWaker) -> None:
        """Register a waker, to be woken when the poller is closed."""
        self._wakers.add(waker)

    def remove_waker(self, waker: _FutureWaker) -> None:
        """Unregister a waker."""
        self._wakers.discard(waker)

    def _start_wait(
        self, descriptors: Collection[int], events: int, seconds: float
    ) -> asyncio.Future[Ready]:
        if self._closed:
            raise StoreClosedError(_CLOSED)
        ready: asyncio.Future[Ready] = self.loop.create_future()
        ends, due = monotonic() + seconds, self.loop.time() + seconds
        if due < self._timer_due:
            self._set_timer(due)
        for descriptor in descriptors:
            self._waiting[descriptor] = ready, ends
            self._watched.add(descriptor, events)
        return ready

    def _end_wait(self, descriptor: int) -> None:
        if self._waiting.pop(descriptor, None) is not None:
            self._watched.remove(descriptor)

    def _deliver(self, descriptor: int, events: int) -> None:
        waiting = self._waiting.pop(descriptor, None)
        if waiting is not None and not waiting[0].done():
            waiting[0].set_result((descriptor, events))

    def _expire_waits(self) -> None:
        """Time out the waits that are over.

        One timer, set to the earliest timeout, serves all waits: a timer for each would cost more
        than the rest of its wait, and almost all waits end long before.
        """
        self._timer, self._timer_due = None, math.inf
        now, next_end = monotonic(), math.inf
        for descriptor, (ready, ends) in self._waiting.items():
            if ends > now:
                next_end = min(next_end, ends)
            elif not ready.done():
                ready.set_result((descriptor, 0))
        if next_end < math.inf:
            self._set_timer(self.loop.time() + next_end - now)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = self.loop.call_at(due, self._expire_waits)

    async def _end_calls_and_close(self) -> None:
        try:
            await self.calls.end(CLOSING_SECONDS)
        finally:
            self.close()

    def _nothing_ready(self) -> int:
        """0, for a wait that timed out; raises if `close` ended it."""
        if self._closed:
            raise StoreClosedError("the store was closed while the call was under way")
        return 0


class _FutureWaker:
    """A `Waker` that is woken by a future of the loop."""

    def __init__(self, poller: LoopPoller) -> None:
        self.woken: asyncio.Future[None] = poller.loop.create_future()
        self._poller = poller

    def wake(self) -> bool:
        return self._poller.post(lambda: set_done(self.woken))

    async def wait(self, seconds: float) -> bool:
        self._poller.add_waker(self)
        try:
            woken, _ = await asyncio.wait((self.woken,), timeout=seconds)
            return bool(woken)
        finally:
            self._poller.remove_waker(self)


def _call_on(loop: asyncio.AbstractEventLoop, poller: LoopPoller, call: Callable[[], None]) -> None:
    """Run `call` on a loop, in its next turn; abandon the poller of a loop that has ended."""
    try:
        _ = loop.call_soon_threadsafe(call)
    except RuntimeError:
        poller.abandon()
