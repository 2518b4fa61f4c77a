"""The asyncio runtime: I/O on the running event loop.

Each event loop that uses the runtime has connections of its own, so a store outlives one
`asyncio.run` and works in the next, and in a forked child.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Hedge, Request, Response, UserItems, check_concurrency
from blockyard.errors import StoreClosedError, TransportConnectionError
from blockyard.process import PerProcess, warn_of_drop
from blockyard.transport.aio_hedging import NewReply, hedged
from blockyard.transport.aio_pool import LoopConnections, Pools
from blockyard.transport.calling_thread import calling_thread
from blockyard.transport.clock import monotonic, wall_time
from blockyard.transport.dialing import Dialing
from blockyard.transport.gathering import InTurn, gather, gather_drawn
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.pool import Take
from blockyard.transport.tasks import (
    finished,
    told_when_done,
    until_done,
    until_done_or,
)
from blockyard.transport.threads import Threads, deadline_passed, outcome_of
from blockyard.user_code import UserCodeError, run_user_code

if TYPE_CHECKING:
    from concurrent.futures import Future

    from blockyard.config import HttpConfig, TimeoutConfig

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_WORKERS = min(32, (os.cpu_count() or 1) + 4)
"""Threads for disk calls and large hashes, whose number nothing else bounds."""
_LET_GO_AFTER = 0.5
"""Seconds that the caller's own code has to end, on a thread of its own, when its call is over."""


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
        return outcome_of(future)

    async def user(
        self, call: Callable[[], Result], *, deadline: float | None = None, quick: bool = False
    ) -> Result:
        caller = calling_thread.get()
        if caller is not None:
            return await caller.run(call, deadline)
        if quick:
            return run_user_code(call)
        return await self._wait(self.start(partial(run_user_code, call)), deadline, _LET_GO_AFTER)

    async def user_async(
        self, call: Callable[[], Awaitable[Result]], *, deadline: float | None = None
    ) -> Result:
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self.now()):
                return await _awaited(call)
        except TimeoutError:
            raise deadline_passed() from None

    @property
    def awaits(self) -> bool:
        return calling_thread.get() is None

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        return self._threads.start(call)

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        return await self._wait(future, deadline, 0)

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
            run = partial(self.user, deadline=items.deadline)
            caller = calling_thread.get()
            tell = caller.tell if caller else asyncio.get_running_loop().call_soon_threadsafe
            return await gather_drawn(operation, items, concurrency, run, tell)
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

    async def _wait(
        self, future: Future[Result], deadline: float | None, let_go_after: float
    ) -> Result:
        """See `wait`. When this is to end first, the call has some seconds more to end as well.

        What the caller's own code raises within them goes before the deadline.
        """
        try:
            async with asyncio.timeout(None if deadline is None else deadline - self.now()):
                await told_when_done(future)
        except (TimeoutError, asyncio.CancelledError) as ended:
            users = None
            if let_go_after:
                await until_done_or(future, let_go_after)
                users = future.exception() if future.done() else None
            if isinstance(ended, TimeoutError):
                raise users or deadline_passed() from None
            raise ended from users
        return outcome_of(future)

    def _has_room(self, request: Request) -> bool:
        return self._here().has_room(request.origin)

    def _here(self) -> LoopConnections:
        return self._pools.here().of(asyncio.get_running_loop())


async def _awaited(call: Callable[[], Awaitable[Result]]) -> Result:
    """What the caller's own coroutine returns; what it raises is carried by `UserCodeError`.

    A cancellation of this task is not theirs: it passes.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - a coroutine that asyncio runs
    before = task.cancelling()
    try:
        return await call()
    except BaseException as error:
        if isinstance(error, asyncio.CancelledError) and task.cancelling() > before:
            raise
        raise UserCodeError(error) from None
