"""The blocking runtime: I/O on the calling thread, over plain sockets, shared by threads."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import AsyncIterable, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Never, TypeVar

from blockyard.context import Hedge, Request, Response, UserCode, UserItems, check_concurrency
from blockyard.errors import StoreClosedError, TransportConnectionError, TransportError
from blockyard.process import PerProcess, warn_of_drop
from blockyard.transport.blocking_hedging import Try, first_to_begin
from blockyard.transport.blocking_pool import BlockingPool
from blockyard.transport.clock import monotonic, wall_time
from blockyard.transport.dialing import Dialing
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.inline import Inline
from blockyard.transport.patience import Patience
from blockyard.transport.threads import Threads, deadline_passed, outcome_of, wait_until_done
from blockyard.user_code import UserCodeError

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
        self._timeouts = timeouts
        self._endless = Patience(timeouts.no_progress, None)
        self._threads = Threads()
        self._closed = False
        self._dialing = Dialing(http, timeouts)
        self._pools = PerProcess(partial(BlockingPool, http, self._dialing), BlockingPool.abandon)

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: Hedge | None = None,
    ) -> Response:
        patience = self._endless
        if deadline is not None:
            patience = Patience(self._timeouts.no_progress, deadline)
        pool = self._pool()
        if hedge is not None:
            response = _hedged(pool, request, limit, patience, hedge)
            if response is not None:
                return response
            request = replace(request, fresh=True)
        while True:
            reply = ReplyReader(request.method, into, limit, request.sum_body, request.until_close)
            connection = pool.take(request, patience)
            reused = connection.used
            try:
                connection.send(request, reply, patience)
                return connection.receive(reply, patience)
            except TransportConnectionError as error:
                stale = reused and not reply.begun  # closed by the other side while it was idle
                if not stale and not self._dialing.trust_renewed(error, connection.tls_context):
                    raise
                request.resent = stale
                request = replace(request, fresh=True)
            finally:
                pool.release(request.origin, connection, reply.complete and reply.keep_alive)
                unanswered = reused and not reply.begun
                if unanswered and (request.fresh or patience.looks_dead(reply.sent)):
                    pool.drop_idle_since(request.origin, reply.sent)

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
        """On the calling thread, where this is."""
        return Inline(deadline, close)

    def user_task(self, items: AsyncIterable[Item], deadline: float | None = None) -> Never:
        raise NotImplementedError("a blocking store awaits no coroutine of the caller's")

    awaits = False

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        return self._threads.start(call)

    async def wait(self, future: Future[Result], deadline: float | None) -> Result:
        patience = Patience(self._timeouts.no_progress, deadline)
        if not wait_until_done(future, patience.remaining()):
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
        """One after the other: what gains from more at once goes to the background loop."""
        check_concurrency(concurrency)
        if isinstance(items, UserItems):
            raise NotImplementedError("the caller's own items are drawn on the background loop")
        return [await operation(item) for item in items]

    async def finish(self, operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
        return await operation

    now = staticmethod(monotonic)
    wall_time = staticmethod(wall_time)
    jitter = staticmethod(random.SystemRandom().random)

    def nonce(self) -> str:
        return os.urandom(12).hex()

    def close(self) -> None:
        """Close the idle connections; those in use close when their request is done.

        No other request begins: what waits for a connection raises `StoreClosedError`.
        """
        self._threads.close()
        self._closed = True
        _ = self._pools.here().close()

    def __del__(self) -> None:
        """Dropped without `close`: no call is under way, since one would hold this."""
        if self._closed or sys.is_finalizing():
            return
        self._closed = True
        self._threads.close()
        if self._pools.here().close():
            warn_of_drop()

    def _pool(self) -> BlockingPool:
        """This process's connections."""
        if self._closed:
            raise StoreClosedError("the store is closed")
        return self._pools.here()


def _hedged(
    pool: BlockingPool, request: Request, limit: int, patience: Patience, hedge: Hedge
) -> Response | None:
    """The reply; None when no connection that was idle turned out to be open still."""
    tries = [_begin(pool, request, limit, patience, patience)]
    won = None
    try:
        won = first_to_begin(tries, hedge.after)
        late = won is None and tries[0].error is None
        if late and pool.has_room(request.origin) and hedge.allowed():
            with suppress(TransportError):  # the first one may be answered yet
                tries.append(_begin(pool, request, limit, patience, _haste(hedge, patience)))
        won = won or first_to_begin(tries, patience.wait())
        if won is not None:
            response = won.read(patience)
            response.waited += won.reply.sent - tries[0].reply.sent
            return response
        if any(each.stale for each in tries):
            return None
        raise tries[0].error or patience.expired("no byte moved", patience.no_progress)
    finally:
        for each in tries:
            pool.release(request.origin, each.connection, each is won and each.read_whole)
            if each.stale or (each.unanswered and patience.looks_dead(each.reply.sent)):
                pool.drop_idle_since(request.origin, each.reply.sent)


def _begin(
    pool: BlockingPool, request: Request, limit: int, patience: Patience, to_connect: Patience
) -> Try:
    """Send `request`, and leave its reply to be read."""
    reply = ReplyReader(request.method, None, limit, request.sum_body, request.until_close)
    connection = pool.take(request, to_connect)
    try:
        connection.send(request, reply, patience)
        return Try(connection, reply)
    except BaseException:
        pool.release(request.origin, connection, keep=False)
        raise


def _haste(hedge: Hedge, patience: Patience) -> Patience:
    """How long a second request may wait for a connection: nobody reads the first one meanwhile."""
    ends = monotonic() + max(2 * hedge.after, _LEAST_HASTE)
    deadline = ends if patience.deadline is None else min(ends, patience.deadline)
    return Patience(patience.no_progress, deadline)
