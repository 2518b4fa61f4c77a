"""One connection of the blocking runtime: a plain or TLS socket whose every wait is bounded.

The socket stays in the kernel's blocking mode, with its time limits set there (SO_RCVTIMEO,
SO_SNDTIMEO), so that one `recv` with MSG_WAITALL takes a whole body that comes plain. A kernel
limit counts the whole of such a wait: one that ends with some bytes made progress and goes on,
so a stalled peer is given up after at most twice the no-progress timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys
import time

from blockyard.context import Origin, Request, Response
from blockyard.errors import TransportError
from blockyard.model import KIB, MIB
from blockyard.transport.dialing import (
    Dialing,
    Proxy,
    broken_error,
    check_connect,
    connect_error,
    connect_head,
)
from blockyard.transport.heads import encode_head
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.tls import RECEIVED_AT_ONCE, TlsSocket

_TIMEVAL = struct.Struct("@ll")
_LOW_WATER = 256 * KIB
_TAKEN_AT_ONCE = 1 * MIB
"""Bytes of a body to a call, so that what has come is summed while more does."""
_MARKS = sys.platform == "linux"
"""Linux makes room for what a mark asks for; of others that is not known."""


class BlockingConnection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `thread` is the identifier of the one that has taken it, 0 while it is idle.
    """

    def __init__(self, sock: socket.socket | TlsSocket) -> None:
        self.used = False
        self.thread = 0
        self._sock = sock
        self._wait = -1.0
        self._mark = 1
        self._cut_short = False
        self._scratch = bytearray(SCRATCH_SIZE)
        self._arrived = select.poll()
        self._arrived.register(sock, select.POLLIN)
        sock.settimeout(None)

    def usable(self) -> bool:
        """Whether an idle connection is still open and, as it should be, silent."""
        return not self._arrived.poll(0)

    def fileno(self) -> int:
        """The socket's descriptor, to wait for several connections at once."""
        return self._sock.fileno()

    def send(self, request: Request, reply: ReplyReader, patience: Patience) -> None:
        """Send `request`. Raises `TransportError`."""
        reply.sent = time.monotonic()
        try:
            self._bound(patience)
            self._cut_short = self._send(encode_head(request), request.body, patience)
        except OSError as error:
            raise self._typed(error, reply, patience) from None

    def receive(self, reply: ReplyReader, patience: Patience) -> Response:
        """Read `reply` to its end. Raises `TransportError`."""
        while not reply.complete:
            self.receive_some(reply, patience)
        surplus = isinstance(self._sock, TlsSocket) and self._sock.surplus()
        if self._cut_short or surplus:
            reply.keep_alive = False
        self.used = True
        return reply.response()

    def receive_some(self, reply: ReplyReader, patience: Patience) -> None:
        """Wait for more of `reply`, and take what comes. Raises `TransportError`."""
        try:
            self._bound(patience)
            self._receive(reply)
        except OSError as error:
            raise self._typed(error, reply, patience) from None

    def close(self) -> None:
        """Close the socket; nothing is said to the other side beyond that."""
        self._sock.close()

    def _send(self, head: bytes, body: bytes | memoryview, patience: Patience) -> bool:
        """Send it all, or return True when the other side would not take it all.

        An endpoint that refuses a request may answer and close before it has read the body, so
        its answer is read all the same.
        """
        try:
            if isinstance(self._sock, TlsSocket):
                self._send_tls(self._sock, head, body, patience)
            else:
                self._send_plain(self._sock, head, body, patience)
        except (BlockingIOError, TimeoutError):
            raise
        except OSError:
            return True
        return False

    def _send_plain(
        self, sock: socket.socket, head: bytes, body: bytes | memoryview, patience: Patience
    ) -> None:
        sent = sock.sendmsg((head, body))
        while sent < len(head):
            self._bound(patience)
            sent += sock.send(memoryview(head)[sent:])
        sent -= len(head)
        while sent < len(body):
            self._bound(patience)
            sent += sock.send(memoryview(body)[sent:])

    def _send_tls(
        self, sock: TlsSocket, head: bytes, body: bytes | memoryview, patience: Patience
    ) -> None:
        for part in (head, body):
            view = memoryview(part)
            while view:
                self._bound(patience)
                view = view[sock.send(view) :]
        self._bound(patience)
        while not sock.flush():
            self._bound(patience)

    def _receive(self, reply: ReplyReader) -> None:
        view = reply.destination
        try:
            size = self._receive_body(view) if view else self._sock.recv_into(self._scratch)
        except ssl.SSLWantReadError:  # a part of a TLS record: the next wait has its own limit
            return
        if size == 0:
            reply.end_of_stream()
        elif view is None:
            if not reply.first_byte:
                reply.first_byte = time.monotonic()
            reply.feed(self._scratch, size)
        else:
            reply.filled(size)

    def _receive_body(self, view: memoryview) -> int:
        """Take what `view` has room for, up to `_TAKEN_AT_ONCE`.

        A large body comes in pieces of some 64 KiB, and to be woken for each would take longer
        than to take it. With a low-water mark (SO_RCVLOWAT, socket(7)) a 4 MiB read is woken a
        few times instead of 40. A `recv` waits for as many bytes *more* as the mark says,
        whatever it has taken, so one that has a mark ends well before the body does.
        """
        mark = _LOW_WATER if len(view) >= 3 * _LOW_WATER else 1
        if mark != self._mark and _MARKS:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark
        if isinstance(self._sock, TlsSocket):
            return self._sock.recv_into(view)
        size = min(len(view), _TAKEN_AT_ONCE) - mark + 1
        return self._sock.recv_into(view, size, socket.MSG_WAITALL)

    def _typed(self, error: OSError, reply: ReplyReader, patience: Patience) -> TransportError:
        if isinstance(error, TransportError):  # some are OSErrors as well
            return error
        if isinstance(error, (BlockingIOError, TimeoutError)):
            return reply.broken(patience.expired("no byte moved", self._wait))
        return reply.broken(broken_error(error))

    def _bound(self, patience: Patience) -> None:
        """Limit the next wait; the system calls are made only when the limit changes."""
        wait = patience.wait()
        if wait == self._wait:
            return
        self._wait = wait
        whole = int(wait)
        limit = _TIMEVAL.pack(whole, max(int((wait - whole) * 1e6), 1))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)


def connect(
    origin: Origin, dialing: Dialing, patience: Patience, limit: float
) -> BlockingConnection:
    """A new connection to `origin`, through the proxy if there is one, made in `limit` seconds."""
    proxy = dialing.proxy_for(origin)
    host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
    wait = min(limit, patience.wait())
    ends = time.monotonic() + wait
    try:
        sock = _connect_any(host, port, ends)
        try:
            if proxy is not None:
                _tunnel(sock, origin, proxy, ends)
            if origin.scheme == "https":
                return BlockingConnection(_start_tls(sock, dialing.tls_context, origin.host, ends))
            return BlockingConnection(sock)
        except BaseException:
            sock.close()
            raise
    except TimeoutError:
        what = f"connecting to {host}:{port} was not done"
        raise patience.expired(what, wait, established=False) from None
    except (OSError, UnicodeError) as cause:
        raise connect_error(cause, host, port) from cause


def _connect_any(host: str, port: int, ends: float) -> socket.socket:
    """Try the addresses of `host` in their order, each for its share of the time left."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    error = OSError(f"{host} has no address")
    for left, (family, kind, protocol, _, address) in zip(
        range(len(found), 0, -1), found, strict=True
    ):
        sock = socket.socket(family, kind, protocol)
        try:
            _limited(sock, ends, left).connect(address)
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


def _limited(sock: socket.socket, ends: float, parts: int = 1) -> socket.socket:
    """`sock`, whose next call may take one of `parts` of the time that is left."""
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    sock.settimeout(left / parts)
    return sock


def _tunnel(sock: socket.socket, origin: Origin, proxy: Proxy, ends: float) -> None:
    _limited(sock, ends).sendall(connect_head(origin, proxy))
    reply = ReplyReader("CONNECT", None, 0)
    scratch = bytearray(SCRATCH_SIZE)
    while not reply.status:
        size = _limited(sock, ends).recv_into(scratch)
        if size == 0:
            reply.end_of_stream()
        reply.feed(scratch, size)
    check_connect(reply.status, proxy)


def _start_tls(sock: socket.socket, context: ssl.SSLContext, host: str, ends: float) -> TlsSocket:
    tls = TlsSocket(sock, context, host)
    to_send, done = tls.shake_hands(None)
    while not done:
        _limited(sock, ends).sendall(to_send)
        received = _limited(sock, ends).recv(RECEIVED_AT_ONCE)
        to_send, done = tls.shake_hands(received)
    _limited(sock, ends).sendall(to_send)
    return tls
