"""HTTP exchanges over pooled connections, written once for both runtimes.

A connection that the peer closed while it was idle is replaced silently and at once. With a hedge,
a request that is not answered in time is sent again over another connection, and the reply that
begins first is read.
"""

from __future__ import annotations

import logging
import os
import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from blockyard.context import Descriptor, Hedge, Request, Response
from blockyard.errors import TransportConnectionError, TransportError
from blockyard.transport.clock import monotonic, wall_time
from blockyard.transport.connection import Connection
from blockyard.transport.connections import Connections
from blockyard.transport.http1 import ReplyReader
from blockyard.transport.polling import Poller
from blockyard.transport.threads import SIGNALS_SEEN_WITHIN, Threads, deadline_passed
from blockyard.transport.timeouts import Timeouts

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")

_log = logging.getLogger("blockyard.transport")

_LEAST_CONNECT_SECONDS = 0.05
"""Least seconds to wait for the connection of a second request."""


class NetworkRuntime(ABC):
    """The part of `Runtime` that both runtimes share."""

    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self._endless = Timeouts(connections.timeouts.no_progress, None)
        self._threads = Threads()

    @abstractmethod
    def _poller(self) -> Poller:
        """The poller of this call. Raises `StoreClosedError` once the store is closed."""

    async def exchange(
        self,
        request: Request,
        *,
        into: memoryview | None = None,
        limit: int,
        deadline: float | None = None,
        hedge: Hedge | None = None,
    ) -> Response:
        timeouts = self._endless
        if deadline is not None:
            timeouts = Timeouts(timeouts.idle, deadline)
        poller = self._poller()
        pool = poller.pool
        if hedge is not None:
            response = await _hedged(request, limit, timeouts, hedge, poller)
            if response is not None:
                return response
            request = replace(request, fresh=True)
        while True:
            reply = ReplyReader(request.method, into, limit, request.sum_body, request.until_close)
            connection = await pool.take(request, reply, timeouts, poller)
            reused = connection.used
            try:
                await connection.send(request, reply, timeouts, poller)
                return await connection.receive(reply, timeouts, poller)
            except TransportConnectionError as error:
                if request.once:
                    raise
                stale = reused and not reply.begun  # closed by the other side while it was idle
                dialing = self.connections.dialing
                if not stale and not dialing.trust_renewed(error, connection.tls_context):
                    raise
                request.resent = stale
                if stale:
                    _log.debug("%s:%d closed an idle connection: replaced", *request.origin[1:])
                request = replace(request, fresh=True)
            finally:
                pool.release(request.origin, reply, connection, reply.complete and reply.keep_alive)
                unanswered = reused and not (reply.complete or reply.begun)
                if unanswered and (request.fresh or timeouts.looks_dead(reply.sent)):
                    pool.drop_idle_since(request.origin, reply.sent)

    async def readable(self, file: Descriptor, deadline: float | None) -> None:
        poller = self._poller()
        seconds = SIGNALS_SEEN_WITHIN
        while True:
            if deadline is not None:
                seconds = min(seconds, deadline - monotonic())
                if seconds <= 0:
                    raise deadline_passed()
            try:
                if await poller.any_ready((file,), select.POLLIN, seconds):
                    return
            except PermissionError:  # epoll takes no regular file, nor some devices
                return

    def start(self, call: Callable[[], Result]) -> Future[Result]:
        return self._threads.start(call)

    now = staticmethod(monotonic)
    wall_time = staticmethod(wall_time)

    def jitter(self) -> float:
        """`random.SystemRandom().random()`, without importing that module, which is slow."""
        return (int.from_bytes(os.urandom(7), "big") >> 3) * 2.0**-53

    def nonce(self) -> str:
        return os.urandom(12).hex()


class _Attempt:
    """A request sent over `connection`; `error` is its failure before a reply began."""

    def __init__(self, connection: Connection, reply: ReplyReader) -> None:
        self.connection = connection
        self.reply = reply
        self.error: TransportError | None = None
        self._reused = connection.used

    @property
    def unanswered(self) -> bool:
        """Whether nothing has come over a connection that had been idle."""
        return self._reused and not self.reply.begun

    @property
    def stale(self) -> bool:
        """Whether the connection turned out to have been closed while it was idle."""
        return isinstance(self.error, TransportConnectionError) and self.unanswered

    @property
    def read_whole(self) -> bool:
        """Whether the connection can be used for another request."""
        return self.reply.complete and self.reply.keep_alive

    def poll(self) -> bool:
        """Receive what has come; whether the reply has begun. A TLS record may be incomplete."""
        try:
            _ = self.connection.take(self.reply)
        except TransportError as error:
            self.error = error
        return self.error is None and self.reply.begun


async def _hedged(
    request: Request, limit: int, timeouts: Timeouts, hedge: Hedge, poller: Poller
) -> Response | None:
    """The first reply of up to two requests; None when every idle connection had been closed."""
    pool = poller.pool
    attempts = [await _send(request, limit, timeouts, timeouts, poller)]
    won = None
    try:
        won = await _first_to_begin(attempts, hedge.after, poller)
        late = won is None and attempts[0].error is None
        if late and pool.has_room(request.origin) and hedge.allowed():
            with suppress(TransportError):  # the first one may be answered yet
                connect_timeouts = _hedge_timeouts(hedge, timeouts)
                attempts.append(await _send(request, limit, timeouts, connect_timeouts, poller))
        won = won or await _first_to_begin(attempts, timeouts.wait(), poller)
        if won is not None:
            if won is not attempts[0]:
                _ = hedge.won()
            response = await won.connection.receive(won.reply, timeouts, poller)
            response.waited += won.reply.sent - attempts[0].reply.sent
            return response
        if _any_stale(attempts):
            return None
        failure = attempts[0].error or timeouts.expired("no byte moved", timeouts.idle)
        try:
            raise failure
        finally:
            del failure  # which its traceback refers to
    finally:
        for each in attempts:
            keep = each is won and each.read_whole
            pool.release(request.origin, each.reply, each.connection, keep)
            if each.stale or (each.unanswered and timeouts.looks_dead(each.reply.sent)):
                pool.drop_idle_since(request.origin, each.reply.sent)
            each.error = None  # whose traceback refers to this frame


def _any_stale(attempts: Sequence[_Attempt]) -> bool:
    return any(each.stale for each in attempts)


async def _send(
    request: Request, limit: int, timeouts: Timeouts, to_connect: Timeouts, poller: Poller
) -> _Attempt:
    """Send `request`, and leave its reply to be received."""
    reply = ReplyReader(request.method, None, limit, request.sum_body, request.until_close)
    connection = await poller.pool.take(request, reply, to_connect, poller)
    try:
        await connection.send(request, reply, timeouts, poller)
        return _Attempt(connection, reply)
    except BaseException:
        poller.pool.release(request.origin, reply, connection, keep=False)
        raise


async def _first_to_begin(
    attempts: Sequence[_Attempt], seconds: float, poller: Poller
) -> _Attempt | None:
    """The attempt whose reply begins first; None when all failed, or none did in `seconds`."""
    ends = monotonic() + seconds
    for each in attempts:
        if each.reply.begun:  # while the request was still being sent
            return each
    while open_ones := {each.connection.fileno(): each for each in attempts if each.error is None}:
        left = max(ends - monotonic(), 0.0)
        connections = [each.connection for each in open_ones.values()]
        ready = await poller.any_ready(connections, select.POLLIN, left)
        if not ready:
            return None
        for descriptor in ready:
            if open_ones[descriptor].poll():
                return open_ones[descriptor]
    return None


def _hedge_timeouts(hedge: Hedge, timeouts: Timeouts) -> Timeouts:
    """Timeouts to connect for a second request: nobody receives the first reply meanwhile."""
    ends = monotonic() + max(2 * hedge.after, _LEAST_CONNECT_SECONDS)
    deadline = ends if timeouts.deadline is None else min(ends, timeouts.deadline)
    return Timeouts(timeouts.idle, deadline)
