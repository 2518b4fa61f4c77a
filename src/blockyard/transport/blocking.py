"""The blocking runtime: I/O on the calling thread, over plain sockets, shared by threads."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Iterable,
    MutableMapping,
)
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar

from blockyard.context import Descriptor, UserCode, UserItems, check_concurrency
from blockyard.errors import StoreClosedError
from blockyard.transport.clock import monotonic
from blockyard.transport.connections import ConnectionPool, Connections, would_deadlock
from blockyard.transport.exchanging import NetworkRuntime
from blockyard.transport.polling import PolledSocket
from blockyard.transport.shared_calls import SharedCall, shared
from blockyard.transport.threads import deadline_passed, outcome_of, wait_until_done
from blockyard.user_code import UserCodeError, leave, run_user_code

if TYPE_CHECKING:
    from concurrent.futures import Future
    from types import TracebackType

    from blockyard.transport.connection import Connection
    from blockyard.transport.http1 import ReplyReader
    from blockyard.transport.timeouts import Timeouts

Item = TypeVar("Item")
Result = TypeVar("Result")


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


def _is_nested() -> bool:
    """Whether this call was made in the middle of another one of its thread's: see `once`."""
    calls, frame = 0, sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        calls += frame.f_code.co_qualname in _RUNS_A_CALL
        frame = frame.f_back
    return calls > 1


_RUNS_A_CALL = ("run_to_end", "BackgroundLoop.run")


class BlockingPoller:
    """Waits on the calling thread: see `Poller`. `closed` once the store is."""

    def __init__(self, connections: Connections) -> None:
        self.closed = False
        self._connections = connections

    @property
    def pool(self) -> ConnectionPool:
        return self._connections.here()

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosedError("the store is closed")

    async def ready(self, sock: PolledSocket, events: int, seconds: float) -> int:
        polled = sock.arrivals
        if events != select.POLLIN:
            polled = select.poll()
            polled.register(sock, events)
        ready = polled.poll(seconds * 1000)
        return ready[0][1] if ready else 0

    async def any_ready(
        self, socks: Collection[Descriptor], event: int, seconds: float
    ) -> Collection[int]:
        polled = select.poll()
        for sock in socks:
            polled.register(sock, event)
        return [descriptor for descriptor, _ in polled.poll(seconds * 1000)]

    async def receive_large(
        self, connection: Connection, reply: ReplyReader, timeouts: Timeouts
    ) -> None:
        """This thread has nothing else to do."""

    async def done(self, call: Future[Any], seconds: float) -> bool:
        return wait_until_done(call, seconds)

    def waker(self) -> _LockWaker:
        return _LockWaker()

    def may_wait(self) -> bool:
        return not would_deadlock(self.pool, itself=1)


class _LockWaker:
    """Woken by the release of a lock: a wait in C, which a signal ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _ = self._lock.acquire()

    def wake(self) -> bool:
        self._lock.release()
        return True

    async def wait(self, seconds: float) -> bool:
        return self._lock.acquire(timeout=seconds)


class BlockingRuntime(NetworkRuntime):
    """I/O on the calling thread. See `Runtime` for what each method does."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self._polling = BlockingPoller(connections)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what this runtime is for

    async def blocking(self, call: Callable[[], Result]) -> Result:
        return call()

    def user_code(
        self,
        deadline: float | None = None,
        *,
        quick: bool = False,
        close: Callable[[], object] | None = None,
    ) -> UserCode:
        """Run it on the calling thread, which is this one."""
        return Inline(deadline, close)

    def user_task(self, items: AsyncIterable[Item], deadline: float | None = None) -> Never:
        raise NotImplementedError("a blocking store awaits no coroutine of the caller's")

    awaits = False
    suspends = False

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        seconds = None if deadline is None else deadline - monotonic()
        if not wait_until_done(future, seconds):
            raise deadline_passed()
        try:
            return outcome_of(future)
        finally:
            del future  # which holds the error, whose traceback refers to this frame

    async def once(
        self,
        under_way: MutableMapping[Hashable, SharedCall],
        key: Hashable,
        operation: Callable[[], Coroutine[Any, Any, Result]],
        deadline: float | None = None,
    ) -> tuple[Result, bool]:
        async def wait(call: SharedCall) -> bool:
            if call.thread == threading.get_ident() or _is_nested():
                return False
            await self.wait(call, deadline)
            return True

        return await shared(under_way, key, operation, None, wait)

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | AsyncIterator[Item] | UserItems[Item],
        concurrency: int,
        in_turn: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        """One after the other: what gains from more at once goes to the background loop."""
        check_concurrency(concurrency)
        if isinstance(items, UserItems):
            raise NotImplementedError("the caller's own items are drawn on the background loop")
        if isinstance(items, AsyncIterator):
            return [await operation(item) async for item in items]
        return [await operation(item) for item in items]

    def task_queue(self, places: int) -> Never:
        raise NotImplementedError("what goes on between calls needs the background loop")

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await operation

    def close(self) -> None:
        """Close the idle connections; those in use close when their request is done.

        No other request begins: what waits for a connection raises `StoreClosedError`.
        """
        self._threads.close()
        self._polling.closed = True
        _ = self.connections.close()

    def __del__(self) -> None:
        """Dropped without `close`: no call is under way, since one would hold this."""
        if self._polling.closed or sys.is_finalizing():
            return
        self._polling.closed = True
        self._threads.close()
        if self.connections.close():
            self.connections.warn_of_drop()

    def _poller(self) -> BlockingPoller:
        return self._polling


class Inline:
    """The caller's own code on the thread that awaits it, in one copy of the caller's context.

    See `UserCode`. It need not be entered where there is nothing to close.
    """

    def __init__(self, deadline: float | None, close: Callable[[], object] | None) -> None:
        self._deadline = deadline
        self._close = close
        self._context = copy_context()
        self._entered = False

    async def run(self, call: Callable[[], Result]) -> Result:
        if self._entered:  # by a call that runs the loop itself, as `nest_asyncio` lets it
            return self._context.copy().run(run_user_code, call)
        self._entered = True
        try:
            result = self._context.run(run_user_code, call)
        finally:
            self._entered = False
        if self._deadline is not None and monotonic() >= self._deadline:
            raise deadline_passed()
        return result

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: object, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._close is not None:
            leave(error, partial(self._context.run, self._close))
