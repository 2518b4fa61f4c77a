"""The blocking runtime: I/O on the calling thread, over plain sockets, shared by threads."""

from __future__ import annotations

import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Hedge, Origin, Request, Response, check_concurrency
from blockyard.errors import StoreClosedError, TransportConnectionError, TransportError
from blockyard.transport.blocking_connection import BlockingConnection, connect
from blockyard.transport.blocking_hedging import Try, first_to_begin
from blockyard.transport.dialing import Dialing
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.pool import Pool, Take
from blockyard.transport.threads import Threads, deadline_passed, outcome_of, wait_until_done
from blockyard.user_code import UserCodeError, run_user_code

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.config import HttpConfig, TimeoutConfig

Item = TypeVar("Item")
Result = TypeVar("Result")

_LEAST_HASTE = 0.05
"""Seconds that a connection for a second request is waited for at least."""


def run_to_end(operation: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine that never suspends, as all do over the blocking runtime."""
    try:
        operation.send(None)
    except StopIteration as done:
        return done.value
    except UserCodeError as carried:
        error = carried.error
    else:
        operation.close()
        error = RuntimeError("an operation suspended under the blocking runtime")
    try:  # out here, so that it gets no context that it did not have
        raise error
    finally:
        del error  # which its traceback refers to


class BlockingRuntime:
    """I/O on the calling thread. See `Runtime` for what each method does."""

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self._http = http
        self._timeouts = timeouts
        self._dialing = Dialing(http)
        self._threads = Threads()
        self._closed = False
        self._start()
        _runtimes.add(self)

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: Hedge | None = None,
    ) -> Response:
        patience = Patience(self._timeouts.no_progress, deadline)
        if hedge is not None:
            response = self._hedged(request, limit, patience, hedge)
            if response is not None:
                return response
        while True:
            reply = ReplyReader(request.method, into, limit, request.sum_body)
            connection = self._take(request, patience)
            reused = connection.used
            try:
                connection.send(request, reply, patience)
                return connection.receive(reply, patience)
            except TransportConnectionError:
                if not reused or reply.begun:
                    raise
                # closed by the other side while it was idle: a fresh one, at once
            finally:
                self._release(request.origin, connection, reply.complete and reply.keep_alive)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what this runtime is for

    async def blocking(self, call: Callable[[], Result]) -> Result:
        return call()

    async def user(
        self, call: Callable[[], Result], *, deadline: float | None = None, quick: bool = False
    ) -> Result:
        """On the calling thread, where this is."""
        result = run_user_code(call)
        _ = Patience(self._timeouts.no_progress, deadline).wait()
        return result

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        return self._threads.start(call)

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        patience = Patience(self._timeouts.no_progress, deadline)
        if not wait_until_done(future, patience.remaining()):
            raise deadline_passed()
        return outcome_of(future)

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item],
        concurrency: int,
    ) -> list[Result]:
        """One after the other: what gains from more at once goes to the background loop."""
        check_concurrency(concurrency)
        return [await operation(item) for item in items]

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await operation

    now = staticmethod(time.monotonic)
    wall_time = staticmethod(time.time)
    jitter = staticmethod(random.random)

    def nonce(self) -> str:
        return os.urandom(12).hex()

    def close(self) -> None:
        """Close the idle connections; those in use close when their request is done.

        No other request begins: what waits for a connection raises `StoreClosedError`.
        """
        self._threads.close()
        with self._lock:
            self._closed = True
            self._free.notify_all()
            for connection in self._pool.clear():
                self._close(connection)

    def start_afresh(self) -> None:
        """In a forked child: let go of the parent's connections, without a word to the peer."""
        for connection in self._open:
            connection.close()
        self._start()

    def _start(self) -> None:
        http = self._http
        self._pool: Pool[BlockingConnection] = Pool(
            http.max_connections, http.max_idle, http.keep_alive
        )
        self._open: set[BlockingConnection] = set()
        # Taken by itself, not through the condition, whose Python code an interrupt can end
        # between the taking and the `with` that gives back.
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)

    def _hedged(
        self, request: Request, limit: int, patience: Patience, hedge: Hedge
    ) -> Response | None:
        """The reply; None when no connection that was idle turned out to be open still."""
        tries = [self._begin(request, limit, patience, patience)]
        won = None
        try:
            won = first_to_begin(tries, patience, hedge.after)
            late = won is None and tries[0].error is None
            if late and self._has_room(request.origin) and hedge.allowed():
                with suppress(TransportError):  # the first one may be answered yet
                    tries.append(self._begin(request, limit, patience, _haste(hedge, patience)))
            won = won or first_to_begin(tries, patience, patience.wait())
            if won is not None:
                response = won.read(patience)
                response.waited += won.reply.sent - tries[0].reply.sent
                return response
            if any(each.stale for each in tries):
                return None
            raise tries[0].error or patience.expired("no byte moved", patience.no_progress)
        finally:
            for each in tries:
                self._release(request.origin, each.connection, each is won and each.read_whole)

    def _begin(self, request: Request, limit: int, patience: Patience, to_connect: Patience) -> Try:
        """Send `request`, and leave its reply to be read."""
        reply = ReplyReader(request.method, None, limit, request.sum_body)
        connection = self._take(request, to_connect)
        try:
            connection.send(request, reply, patience)
            return Try(connection, reply)
        except BaseException:
            self._release(request.origin, connection, keep=False)
            raise

    def _take(self, request: Request, patience: Patience) -> BlockingConnection:
        origin = request.origin
        while True:
            taken: BlockingConnection | Take = Take.WAIT
            try:
                with self._lock:
                    taken = self._place(request, patience)
                if isinstance(taken, Take):
                    taken = connect(origin, self._dialing, patience, self._timeouts.connect)
                    self._open.add(taken)
                    return taken
                if taken.usable():
                    return taken
            except BaseException:
                self._give_up(origin, taken)
                raise
            self._release(origin, taken, keep=False)

    def _has_room(self, origin: Origin) -> bool:
        with self._lock:
            return self._pool.has_room(origin)

    def _place(self, request: Request, patience: Patience) -> BlockingConnection | Take:
        """What the pool says once there is a place. The caller holds the lock."""
        while not self._closed:
            taken = self._pool.take(request.origin, time.monotonic(), fresh=request.fresh)
            if taken is not Take.WAIT:
                return taken
            self._wait_for_release(patience)
        raise StoreClosedError("the store is closed")

    def _wait_for_release(self, patience: Patience) -> None:
        try:
            _ = self._free.wait(patience.remaining())
            _ = patience.wait()
        except BaseException:
            self._free.notify()  # a place may have been ours for a moment: it is the next one's
            raise

    def _give_up(self, origin: Origin, taken: BlockingConnection | Take) -> None:
        if isinstance(taken, BlockingConnection):
            self._release(origin, taken, keep=False)
        elif taken is Take.OPEN:
            with self._lock:
                self._pool.drop(origin)
                self._free.notify()

    def _release(self, origin: Origin, connection: BlockingConnection, keep: bool) -> None:
        with self._lock:
            surplus = [connection]
            if keep and not self._closed:
                surplus = self._pool.give_back(origin, connection, time.monotonic())
            else:
                self._pool.drop(origin)
            self._free.notify()
        for each in surplus:
            self._close(each)

    def _close(self, connection: BlockingConnection) -> None:
        connection.close()
        self._open.discard(connection)


def _haste(hedge: Hedge, patience: Patience) -> Patience:
    """How long a second request may wait for a connection: nobody reads the first one meanwhile."""
    ends = time.monotonic() + max(2 * hedge.after, _LEAST_HASTE)
    deadline = ends if patience.deadline is None else min(ends, patience.deadline)
    return Patience(patience.no_progress, deadline)


_runtimes: weakref.WeakSet[BlockingRuntime] = weakref.WeakSet()


def _after_fork() -> None:
    for runtime in list(_runtimes):
        runtime.start_afresh()


os.register_at_fork(after_in_child=_after_fork)
