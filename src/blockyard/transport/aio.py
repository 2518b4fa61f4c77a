"""The asyncio runtime: I/O on the running event loop.

Each event loop that uses the runtime has connections of its own, so a store outlives one
`asyncio.run` and works in the next, and in a forked child.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import (
    Hedge,
    Request,
    Response,
    UserCode,
    UserItems,
    UserTask,
    check_concurrency,
)
from blockyard.errors import StoreClosedError, TransportConnectionError
from blockyard.process import PerProcess, warn_of_drop
from blockyard.transport.aio_hedging import NewReply, hedged
from blockyard.transport.aio_pool import LoopConnections, Pools
from blockyard.transport.calling_thread import calling_thread
from blockyard.transport.clock import monotonic, wall_time
from blockyard.transport.dialing import Dialing
from blockyard.transport.gathering import InTurn, gather, gather_drawn
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.inline import Inline
from blockyard.transport.patience import Patience
from blockyard.transport.pool import Take
from blockyard.transport.stepping import InTask, OnCallingThread, OnOwnThread
from blockyard.transport.tasks import finished, in_time, told_when_done, until_done
from blockyard.transport.threads import Threads, deadline_passed, outcome_of
from blockyard.user_code import UserIterator

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.config import HttpConfig, TimeoutConfig

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = min(32, (os.cpu_count() or 1) + 4)
"""Threads for disk calls and large hashes, whose number nothing else bounds."""


class AsyncioRuntime:
    """I/O on the running event loop. See `Runtime` for what each method does."""

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self._timeouts = timeouts
        self._endless = Patience(timeouts.no_progress, None)
        self._threads = Threads()
        self._workers = Threads(_MOST_WORKERS)
        self._closed = False
        self._dialing = Dialing(http, timeouts)
        self._pools = PerProcess(partial(Pools, http, self._dialing), Pools.abandon)

    def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: Hedge | None = None,
    ) -> Coroutine[Any, Any, Response]:
        patience = self._endless
        if deadline is not None:
            patience = Patience(self._timeouts.no_progress, deadline)
        if hedge is None:
            new_reply = partial(
                ReplyReader, request.method, into, limit, request.sum_body, request.until_close
            )
            return self._exchange(request, patience, new_reply)
        in_room = Hedge(hedge.after, lambda: self._has_room(request) and hedge.allowed())
        return hedged(partial(self._exchange, request, patience), in_room, request, limit)

    async def _exchange(
        self, request: Request, patience: Patience, new_reply: NewReply
    ) -> Response:
        lines = self._here()
        while True:
            connection = lines.take(request)
            if isinstance(connection, Take):
                connection = await lines.open(request, connection, patience)
            reused = connection.used
            reply = new_reply()
            try:
                lines.watchdog.watch(connection, patience.ends())
                await connection.begin(request, reply, patience)
                return reply.response()
            except TransportConnectionError as error:
                stale = reused and not reply.begun  # closed by the other side while it was idle
                if not stale and not self._dialing.trust_renewed(error, connection.tls_context):
                    raise
                request.resent = stale
                request = replace(request, fresh=True)
            finally:
                lines.release(request.origin, connection, reply.complete and reply.keep_alive)
                unanswered = reused and not reply.begun
                if unanswered and (request.fresh or patience.looks_dead(reply.sent)):
                    lines.drop_idle_since(request.origin, reply.sent)

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Await an operation that changes much, and may have to tidy up: see `close`."""
        try:
            calls = self._here().calls
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

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        return self._threads.start(call)

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        seconds = None if deadline is None else deadline - self.now()
        if not await in_time(told_when_done(future), seconds):
            raise deadline_passed()
        try:
            return outcome_of(future)
        finally:
            del future  # which holds the error, whose traceback refers to this frame

    async def gather(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        items: Iterable[Item] | UserItems[Item],
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
        return await gather(operation, items, concurrency)

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await finished(operation, seconds)

    now = staticmethod(monotonic)
    wall_time = staticmethod(wall_time)
    jitter = staticmethod(random.SystemRandom().random)

    def nonce(self) -> str:
        return os.urandom(12).hex()

    async def close(self) -> None:
        """End what `run` awaits, then close every connection.

        What `run` awaits is cancelled, has `CLOSING_SECONDS` to tidy up, and raises
        `StoreClosedError`; other requests under way, and later ones, raise that too. Those of
        another loop that is running are ended there, and not waited for.
        """
        self._closed = True
        try:
            await self._pools.here().close(asyncio.get_running_loop())
        finally:
            self._threads.close()
            self._workers.close()

    def abandon(self) -> None:
        """Close every socket, where no loop will run any more."""
        self._closed = True
        self._pools.here().abandon()

    def __del__(self) -> None:
        """Dropped without `close`: no call is under way, since one would hold this."""
        if self._closed or sys.is_finalizing():
            return
        self._closed = True
        self._threads.close()
        self._workers.close()
        if self._pools.here().drop():
            warn_of_drop()

    def _user_thread(
        self, deadline: float | None, close: Callable[[], object] | None
    ) -> OnCallingThread:
        caller = calling_thread.get()
        if caller is not None:
            return OnCallingThread(caller, deadline, close)
        return OnOwnThread(self._threads, deadline, close)

    def _has_room(self, request: Request) -> bool:
        return self._here().has_room(request.origin)

    def _here(self) -> LoopConnections:
        return self._pools.here().of(asyncio.get_running_loop())
