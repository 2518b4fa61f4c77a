"""One connection of the asyncio runtime: a non-blocking socket watched by the event loop.

The loop calls back when the socket is ready, and the bytes go from there straight to where
`ReplyReader` wants them, and from the caller's buffer straight to the socket: no transport, no
stream, no copy in between, plain and TLS alike.
"""

from __future__ import annotations

import asyncio
import math
import os
import select
import socket
import ssl
from contextlib import suppress
from typing import TypeVar

from blockyard.context import Origin, Request
from blockyard.errors import StoreClosedError, TransportError
from blockyard.transport.clock import monotonic
from blockyard.transport.connecting import Steps, Wait, connecting
from blockyard.transport.dialing import Dialing, broken_error
from blockyard.transport.heads import encode_head
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.proxies import Proxy, check_passed_on
from blockyard.transport.sending import Outgoing
from blockyard.transport.tasks import in_time, told_when_done
from blockyard.transport.tls import TlsSocket

Result = TypeVar("Result")


class AsyncioConnection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `moved` is when a byte last moved, on the monotonic clock; `proxy` is one that passes requests
    on, and needs to be told where to.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket | TlsSocket,
        proxy: Proxy | None = None,
    ) -> None:
        self.used = False
        self.closed = False
        self.moved = 0.0
        self.patience: Patience
        self._loop = loop
        self._process = os.getpid()
        self._sock = sock
        self._proxy = proxy
        self._scratch = bytearray(SCRATCH_SIZE)
        self._reply: ReplyReader | None = None
        self._done: asyncio.Future[None] | None = None
        self._outgoing: Outgoing
        self._cut_short = False
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The one of its handshake; None without TLS."""
        return self._sock.context if isinstance(self._sock, TlsSocket) else None

    def usable(self) -> bool:
        """Whether an idle connection is still open and, as it should be, silent.

        What came since the loop last looked is not known otherwise.
        """
        return not self.closed and not self._arrived.poll(0)

    def begin(
        self, request: Request, reply: ReplyReader, patience: Patience
    ) -> asyncio.Future[None]:
        """Send `request` and read `reply`. The future ends with it, or with a `TransportError`.

        The caller closes the connection unless the reply is complete and may be kept alive.
        """
        self.patience = patience
        self.moved = reply.sent = monotonic()
        self._reply = reply
        done = self._done = self._loop.create_future()
        self._cut_short = False
        self._outgoing = Outgoing(self._sock, encode_head(request, self._proxy), request.body)
        if not self._send_on():
            self._loop.add_writer(self._sock.fileno(), self._writable)
        return done

    def expire(self, now: float) -> float:
        """End the exchange if it has waited too long; else say when it will have."""
        if self._reply is None:
            return math.inf
        ends = self.moved + self.patience.no_progress
        if self.patience.deadline is not None:
            ends = min(ends, self.patience.deadline)
        if now < ends:
            return ends
        expired = self.patience.expired("no byte moved", self.patience.no_progress)
        self._end(self._reply.broken(expired))
        return math.inf

    def fail(self, error: BaseException) -> None:
        """End the exchange with what nobody foresaw, such as a lack of memory.

        The loop would only log what a callback raises, and ends itself with what is no `Exception`.
        """
        self._end(error)
        if not isinstance(error, Exception):
            raise error

    def close(self) -> None:
        """Close the socket, and fail the exchange that is under way."""
        if self.closed:
            return
        if self._process != os.getpid():
            self.abandon()
            return
        self.closed = True
        _ = self._loop.remove_reader(self._sock.fileno())
        _ = self._loop.remove_writer(self._sock.fileno())
        self._sock.close()
        if self._reply is not None:
            self._end(StoreClosedError("the store was closed while the call was under way"))

    def abandon(self) -> None:
        """Close the socket: its loop has ended, or was the parent process's before a fork.

        The descriptor is closed first: the epoll set that a forked child shares with its parent
        can then not be changed by what follows, which is for a child that goes on with the loop.
        """
        self.closed = True
        descriptor = self._sock.fileno()
        self._sock.close()
        if descriptor >= 0 and not self._loop.is_closed():
            for remove in (self._loop.remove_writer, self._loop.remove_reader):
                with suppress(OSError):
                    _ = remove(descriptor)

    def _writable(self) -> None:
        if self._reply is None or self._send_on():
            _ = self._loop.remove_writer(self._sock.fileno())

    def _send_on(self) -> bool:
        """Send what the socket takes; whether that ends the sending.

        A socket that takes no more, its other side gone, may still hold an answer to read.
        """
        try:
            while self._outgoing.send():
                self.moved = monotonic()
        except BlockingIOError:
            return False
        except OSError:
            self._cut_short = True
        except BaseException as error:  # noqa: BLE001 - the exchange raises it
            self.fail(error)
        return True

    def _readable(self) -> None:
        """Receive while there is more. What comes between exchanges ends the connection."""
        reply = self._reply
        if reply is None:
            self.close()
            return
        try:
            while not reply.complete and self._receive(reply):
                pass
            if reply.complete:
                self._complete(reply)
        except BlockingIOError:
            return
        except ssl.SSLWantReadError:  # a part of a TLS record
            self.moved = monotonic()
        except TransportError as error:
            self._end(error)
        except OSError as error:
            self._end(reply.broken(broken_error(error)))
        except BaseException as error:  # noqa: BLE001 - the exchange raises it
            self.fail(error)

    def _complete(self, reply: ReplyReader) -> None:
        self._reply = None
        self.used = True
        surplus = isinstance(self._sock, TlsSocket) and self._sock.surplus()
        if self._cut_short or self._outgoing.left or surplus:
            reply.keep_alive = False
        if self._proxy is not None:
            check_passed_on(reply.status, self._proxy)
        done, self._done = self._done, None
        if done is not None and not done.done():
            done.set_result(None)

    def _receive(self, reply: ReplyReader) -> bool:
        """One `recv`; says whether another may find more at once."""
        view = reply.destination
        if view is None:
            room = SCRATCH_SIZE
            size = self._sock.recv_into(self._scratch)
        else:
            room = len(view)
            size = self._sock.recv_into(view)
        if size == 0:
            reply.end_of_stream()
            return True
        self.moved = monotonic()
        if view is None:
            if not reply.first_byte:
                reply.first_byte = self.moved
            reply.feed(self._scratch, size)
        else:
            reply.filled(size)
        return size == room or isinstance(self._sock, TlsSocket)

    def _end(self, error: BaseException) -> None:
        self._reply = None
        done, self._done = self._done, None  # the error would be held by it
        if done is not None and not done.done():
            done.set_exception(error)


async def connect(
    loop: asyncio.AbstractEventLoop, origin: Origin, dialing: Dialing, patience: Patience
) -> AsyncioConnection:
    """A new connection to `origin`, through the proxy if there is one. Raises `TransportError`."""
    with dialing.way_to(origin, patience) as way:
        if not way.look_up.done() and not await in_time(
            told_when_done(way.look_up), way.ends - monotonic()
        ):
            raise TimeoutError
        sock = await _run(loop, connecting(way, dialing))
        try:
            return AsyncioConnection(loop, sock, way.passes_on)
        except BaseException:
            sock.close()
            raise


async def _run(loop: asyncio.AbstractEventLoop, steps: Steps[Result]) -> Result:
    try:
        wait = next(steps)
        while True:
            wait = steps.send(await _ready(loop, wait))
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


async def _ready(loop: asyncio.AbstractEventLoop, wait: Wait) -> list[int]:
    """The descriptors that are ready; none once the time is over."""
    ready: list[int] = []
    woken: asyncio.Future[None] = loop.create_future()

    def wake(*descriptor: int) -> None:
        ready.extend(descriptor)
        if not woken.done():
            woken.set_result(None)

    reading = wait.event == select.POLLIN
    watch, unwatch = (
        (loop.add_reader, loop.remove_reader) if reading else (loop.add_writer, loop.remove_writer)
    )
    descriptors = [sock.fileno() for sock in wait.sockets]
    timer = loop.call_later(max(wait.ends - monotonic(), 0.0), wake)
    try:
        for descriptor in descriptors:
            watch(descriptor, wake, descriptor)
        await woken
    finally:
        timer.cancel()
        for descriptor in descriptors:
            _ = unwatch(descriptor)
    return list(dict.fromkeys(ready))
