"""One connection of the asyncio runtime: a non-blocking socket watched by the event loop.

The loop calls back when the socket is ready, and the bytes go from there straight to where
`ReplyReader` wants them, and from the caller's buffer straight to the socket: no transport, no
stream, no copy in between, plain and TLS alike.
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
import ssl
import time
from contextlib import suppress

from blockyard.context import Origin, Request
from blockyard.errors import BlockStoreError, StoreClosedError, TransportError
from blockyard.transport.dialing import (
    Dialing,
    broken_error,
    check_connect,
    connect_error,
    connect_head,
)
from blockyard.transport.heads import encode_head
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.tls import RECEIVED_AT_ONCE, TlsSocket

_NOT_YET = (BlockingIOError, InterruptedError)


class AsyncioConnection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `moved` is when a byte last moved, on the monotonic clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket | TlsSocket) -> None:
        self.used = False
        self.closed = False
        self.moved = 0.0
        self.patience: Patience
        self._loop = loop
        self._sock = sock
        self._scratch = bytearray(SCRATCH_SIZE)
        self._reply: ReplyReader | None = None
        self._done: asyncio.Future[None]
        self._outgoing: list[bytes | memoryview] = []
        self._cut_short = False
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        loop.add_reader(sock.fileno(), self._readable)

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
        self.moved = reply.sent = time.monotonic()
        self._reply = reply
        self._done = self._loop.create_future()
        self._cut_short = False
        self._send(encode_head(request), request.body)
        return self._done

    def expire(self, now: float) -> float:
        """End the exchange if it has waited too long; else say when it will have."""
        ends = self.moved + self.patience.no_progress
        if self.patience.deadline is not None:
            ends = min(ends, self.patience.deadline)
        if now < ends:
            return ends
        self._fail(self.patience.expired("no byte moved", self.patience.no_progress))
        return math.inf

    def close(self) -> None:
        """Close the socket, and fail the exchange that is under way."""
        if self.closed:
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

    def _send(self, head: bytes, body: bytes | memoryview) -> None:
        self._outgoing = [head, body] if body else [head]
        if not self._send_on():
            self._loop.add_writer(self._sock.fileno(), self._writable)

    def _writable(self) -> None:
        if self._send_on():
            _ = self._loop.remove_writer(self._sock.fileno())

    def _send_on(self) -> bool:
        """Send what the socket takes; whether that ends the sending.

        A socket that takes no more, its other side gone, may still hold an answer to read.
        """
        try:
            if isinstance(self._sock, TlsSocket):
                while self._outgoing:
                    self._sent(self._sock.send(self._outgoing[0]))
                while not self._sock.flush():
                    self._sent(0)
            else:
                while self._outgoing:
                    self._sent(self._sock.sendmsg(self._outgoing))
        except _NOT_YET:
            return False
        except OSError:
            self._cut_short = True
        return True

    def _sent(self, size: int) -> None:
        self.moved = time.monotonic()
        while size and size >= len(self._outgoing[0]):
            size -= len(self._outgoing.pop(0))
        if size:
            self._outgoing[0] = memoryview(self._outgoing[0])[size:]

    def _readable(self) -> None:
        """Receive while there is more. What comes between exchanges ends the connection."""
        reply = self._reply
        if reply is None:
            self.close()
            return
        try:
            while not reply.complete and self._receive(reply):
                pass
        except _NOT_YET:
            return
        except ssl.SSLWantReadError:  # a part of a TLS record
            self.moved = time.monotonic()
            return
        except TransportError as error:
            self._end(error)
        except OSError as error:
            self._fail(broken_error(error))
        if reply.complete and not self._done.done():
            self._complete(reply)

    def _complete(self, reply: ReplyReader) -> None:
        self._reply = None
        self.used = True
        surplus = isinstance(self._sock, TlsSocket) and self._sock.surplus()
        if self._cut_short or self._outgoing or surplus:
            reply.keep_alive = False
        self._done.set_result(None)

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
        self.moved = time.monotonic()
        if view is None:
            if not reply.first_byte:
                reply.first_byte = self.moved
            reply.feed(self._scratch, size)
        else:
            reply.filled(size)
        return size == room or isinstance(self._sock, TlsSocket)

    def _fail(self, cause: TransportError) -> None:
        """The connection broke under the exchange."""
        if self._reply is not None:
            self._end(self._reply.broken(cause))

    def _end(self, error: BlockStoreError) -> None:
        self._reply = None
        if not self._done.done():
            self._done.set_exception(error)


async def connect(
    loop: asyncio.AbstractEventLoop,
    origin: Origin,
    dialing: Dialing,
    patience: Patience,
    limit: float,
) -> AsyncioConnection:
    """A new connection to `origin`, through the proxy if there is one, made in `limit` seconds."""
    proxy = dialing.proxy_for(origin)
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    wait = min(limit, patience.wait())
    try:
        async with asyncio.timeout(wait):
            sock = await _connect_any(loop, host, port, loop.time() + wait)
            try:
                if proxy is not None:
                    await loop.sock_sendall(sock, connect_head(origin, proxy))
                    check_connect(await _read_status(loop, sock), proxy)
                if origin.scheme == "https":
                    tls = await _start_tls(loop, sock, dialing.tls_context, origin.host)
                    return AsyncioConnection(loop, tls)
                return AsyncioConnection(loop, sock)
            except BaseException:
                sock.close()
                raise
    except TimeoutError:
        what = f"connecting to {host}:{port} was not done"
        raise patience.expired(what, wait, established=False) from None
    except (OSError, UnicodeError) as cause:
        raise connect_error(cause, host, port) from cause


async def _connect_any(
    loop: asyncio.AbstractEventLoop, host: str, port: int, ends: float
) -> socket.socket:
    """Try the addresses of `host` in their order, each for its share of the time left."""
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error = OSError(f"{host} has no address")
    for left, (family, kind, protocol, _, address) in zip(
        range(len(found), 0, -1), found, strict=True
    ):
        sock = socket.socket(family, kind, protocol)
        sock.setblocking(False)
        try:
            async with asyncio.timeout((ends - loop.time()) / left):
                await loop.sock_connect(sock, address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as cause:
            sock.close()
            error = cause
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise error


async def _read_status(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> int:
    reply = ReplyReader("CONNECT", None, 0)
    while not reply.status:
        scratch = bytearray(await loop.sock_recv(sock, SCRATCH_SIZE))
        if not scratch:
            reply.end_of_stream()
        reply.feed(scratch, len(scratch))
    return reply.status


async def _start_tls(
    loop: asyncio.AbstractEventLoop, sock: socket.socket, context: ssl.SSLContext, host: str
) -> TlsSocket:
    tls = TlsSocket(sock, context, host)
    to_send, done = tls.shake_hands(None)
    while not done:
        await loop.sock_sendall(sock, to_send)
        to_send, done = tls.shake_hands(await loop.sock_recv(sock, RECEIVED_AT_ONCE))
    await loop.sock_sendall(sock, to_send)
    return tls
