"""The asyncio runtime: I/O on the running event loop.

Its connections belong to no loop, so a store outlives one `asyncio.run` and works in the next.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Hashable,
    Iterable,
    MutableMapping,
)
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import UserCode, UserItems, UserTask, check_concurrency
from blockyard.errors import StoreClosedError, TransportError
from blockyard.process import PerProcess
from blockyard.transport.blocking import Inline
from blockyard.transport.calling_thread import calling_thread
from blockyard.transport.connections import Connections
from blockyard.transport.exchanging import NetworkRuntime
from blockyard.transport.gathering import InTurn, gather, gather_awaited, gather_drawn
from blockyard.transport.loop_poller import LoopPoller, LoopPollers
from blockyard.transport.shared_calls import SharedCall, shared
from blockyard.transport.stepping import InTask, OnCallingThread, OnOwnThread
from blockyard.transport.task_queue import TaskQueue
from blockyard.transport.tasks import finished, in_time, told_when_done, until_done
from blockyard.transport.threads import Threads, deadline_passed, outcome_of
from blockyard.user_code import UserIterator

if TYPE_CHECKING:
    from concurrent.futures import Future

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = min(32, (os.cpu_count() or 1) + 4)
"""Threads for disk calls and large hashes, whose number nothing else bounds."""
_MOST_RECEIVERS = 8
"""Threads that receive large bodies; while all are at work, the loop's own receives more."""


class AsyncioRuntime(NetworkRuntime):
    """I/O on the running event loop. See `Runtime` for what each method does."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self._workers = Threads(_MOST_WORKERS)
        self._closed = False
        self._receivers = receivers = Threads(_MOST_RECEIVERS)
        self._pollers = PerProcess(lambda: LoopPollers(connections, receivers), LoopPollers.abandon)

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Await an operation that changes much, and may have to tidy up: see `close`."""
        try:
            calls = self._poller().calls
        except StoreClosedError:
            operation.close()
            raise
        return await calls.run(operation)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def blocking(self, call: Callable[[], Result]) -> Result:
        """A call that has begun is waited for when it is cancelled: it may be changing a file."""
        abandoned = False

        def begin() -> Result:
            if abandoned:
                raise RuntimeError("cancelled before it began: nobody sees this")
            return call()

        future = self._workers.start(begin)
        try:
            await told_when_done(future)
        except asyncio.CancelledError:
            abandoned = True
            await until_done([told_when_done(future)])
            raise
        try:
            return outcome_of(future)
        finally:
            del future  # which holds the error, whose traceback refers to this frame

    def user_code(
        self,
        deadline: float | None = None,
        *,
        quick: bool = False,
        close: Callable[[], object] | None = None,
    ) -> UserCode:
        if quick and calling_thread.get() is None:
            return Inline(deadline, close)
        return self._user_thread(deadline, close)

    def user_task(
        self, items: AsyncIterable[Item], deadline: float | None = None
    ) -> UserTask[Item]:
        return InTask(items, deadline)

    @property
    def awaits(self) -> bool:
        return calling_thread.get() is None

    suspends = True

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        seconds = None if deadline is None else deadline - self.now()
        if not await in_time(told_when_done(future), seconds):
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
        loop = asyncio.get_running_loop()

        async def wait(call: SharedCall) -> bool:
            caller = calling_thread.get()
            if caller is not None and (caller.nested or caller.thread in (call.thread, None)):
                return False
            if call.loop is not loop and call.thread == threading.get_ident():
                return False
            await self.wait(call, deadline)
            return True

        return await shared(under_way, key, operation, loop, wait)

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | AsyncIterator[Item] | UserItems[Item],
        concurrency: int,
        in_turn: Callable[[Item], str] | None = None,
    ) -> list[Result]:
        check_concurrency(concurrency)
        if in_turn is not None:
            operation = InTurn(operation, in_turn)
        if isinstance(items, UserItems):
            drawn = UserIterator(items.items)
            async with self._user_thread(items.deadline, drawn.close) as thread:
                return await gather_drawn(operation, items, drawn, concurrency, thread)
        if isinstance(items, AsyncIterator):
            return await gather_awaited(operation, items, concurrency)
        return await gather(operation, items, concurrency)

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await finished(operation, seconds)

    def task_queue(self, places: int) -> TaskQueue[Any]:
        poller = self._poller()
        try:
            poller.open_post()
        except OSError as error:
            raise TransportError(f"no way to reach the event loop: {error}") from error
        return TaskQueue(self.run, poller.post, places)

    async def close(self, then: Callable[[], None] | None = None) -> None:
        """End what `run` awaits, call `then` on a thread, and close every connection.

        What `run` awaits is cancelled, has `CLOSING_SECONDS` to tidy up, and raises
        `StoreClosedError`; other requests under way, and later ones, raise that too. Those of
        another loop that is running are ended there, and not waited for.
        """
        self._closed = True
        try:
            await self._pollers.here().close(asyncio.get_running_loop())
            if then is not None:
                await self.blocking(then)
        finally:
            self._threads.close()
            self._workers.close()
            self._receivers.close()
            _ = self.connections.close()

    def abandon(self) -> None:
        """Close every socket, where no loop will run any more."""
        self._closed = True
        self._pollers.here().abandon()
        self.connections.abandon()

    def drop(self) -> bool:
        """Close everything, where no call is under way; whether there were connections."""
        if self._closed or sys.is_finalizing():
            return False
        self._closed = True
        self._threads.close()
        self._workers.close()
        self._receivers.close()
        self._pollers.here().drop()
        return self.connections.close()

    def __del__(self) -> None:
        """Dropped without `close`: no call is under way, since one would hold this."""
        if self.drop():
            self.connections.warn_of_drop()

    def _user_thread(
        self, deadline: float | None, close: Callable[[], object] | None
    ) -> OnCallingThread:
        caller = calling_thread.get()
        if caller is not None:
            return OnCallingThread(caller, deadline, close)
        return OnOwnThread(self._threads, deadline, close)

    def _poller(self) -> LoopPoller:
        try:
            return self._pollers.here().of(asyncio.get_running_loop())
        except OSError as error:
            raise TransportError(f"no event poll could be made: {error}") from error
