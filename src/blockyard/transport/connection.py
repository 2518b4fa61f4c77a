"""One HTTP/1.1 connection: sends a request, and receives its reply into the caller's buffer.

The socket is non-blocking, and all waits are made by a `Poller`. The timeout of each wait is
computed from the clock: kernel timeouts (SO_RCVTIMEO) start again after each signal. A wait counts
as a stall only if nothing came in it, so a stalled peer is given up after at most twice the idle
timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import sys

from blockyard import syscalls
from blockyard.context import Origin, Request, Response
from blockyard.errors import DeadlineExceededError, TransportError
from blockyard.model import KIB, MIB
from blockyard.transport.clock import monotonic
from blockyard.transport.connecting import Dialing, broken_error, connecting
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader, encode_head
from blockyard.transport.polling import Poller
from blockyard.transport.proxies import Proxy, check_passed_on
from blockyard.transport.timeouts import Timeouts
from blockyard.transport.tls import TlsSocket
from blockyard.user_code import pass_on_foreign

_LOW_WATER = 256 * KIB
_TAKEN_AT_ONCE = 1 * MIB
"""Bytes received by one call, so that the checksum is computed while more bytes arrive."""
_HAS_LOW_WATER_MARK = sys.platform == "linux"
"""Linux sizes the receive buffer for the low-water mark; other systems may not."""
_ORDERLY_CLOSE = struct.pack("ii", 0, 0)
_READABLE_OR_WRITABLE = select.POLLIN | select.POLLOUT


class Connection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `proxy` is an HTTP proxy that gets requests in absolute form. `arrivals` polls for readability.
    """

    def __init__(self, sock: socket.socket | TlsSocket, proxy: Proxy | None = None) -> None:
        self.used = False
        self.arrivals = select.poll()
        self.arrivals.register(sock, select.POLLIN)
        self.fileno = sock.fileno
        self.close = sock.close
        self._sock = sock
        self._tls = sock if isinstance(sock, TlsSocket) else None
        self._proxy = proxy
        self._low_water_mark = 1
        self._cut_short = False
        self._scratch = bytearray(SCRATCH_SIZE)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The TLS context of its handshake; None without TLS."""
        return None if self._tls is None else self._tls.context

    def usable(self) -> bool:
        """Whether an idle connection is still open, with no unexpected bytes."""
        return not self.arrivals.poll(0)

    async def send(
        self, request: Request, reply: ReplyReader, timeouts: Timeouts, poller: Poller
    ) -> None:
        """Send `request`, and receive what comes of `reply` meanwhile. Raises `TransportError`.

        An endpoint that refuses a request may answer before it has read the body, then close or
        stop reading. So the reply is looked for whenever the socket takes no more bytes (RFC 9112,
        section 9.5), and after the peer has closed.
        """
        reply.sent = monotonic()
        timeouts.check()
        parts: list[bytes | memoryview] = [encode_head(request, self._proxy)]
        if request.body:
            parts.append(request.body)  # the caller's own buffer, neither joined nor copied
        self._cut_short = False
        while not self._send_until_blocked(parts, reply, timeouts):
            seconds = timeouts.wait()
            events = await poller.ready(self, _READABLE_OR_WRITABLE, seconds)
            if not events:
                raise reply.broken(timeouts.expired("no byte moved", seconds))
            answered = events & ~select.POLLOUT and self.take(reply)
            if answered and (reply.complete or reply.status >= 300):
                self._cut_short = True
                return

    async def receive(self, reply: ReplyReader, timeouts: Timeouts, poller: Poller) -> Response:
        """Receive `reply` to its end. Raises `TransportError`."""
        tls = self._tls
        while not reply.complete:
            if reply.large:
                reply.large = False
                if response := await poller.receive_large(self, reply, timeouts):
                    return response
            if tls is not None and tls.surplus() and self.take(reply):
                continue  # a poller knows nothing of what the TLS layer holds
            try:
                seconds = timeouts.wait()
            except DeadlineExceededError as error:  # not all that had come reached the mark
                raise reply.broken(error) from None
            if reply.destination is not None:
                self._set_low_water_mark(
                    _LOW_WATER if len(reply.destination) >= 3 * _LOW_WATER else 1
                )
            ready = await poller.ready(self, select.POLLIN, seconds)
            if not self.take(reply) and not ready:  # what came may have been less than the mark
                raise reply.broken(timeouts.expired("no byte moved", seconds))
        if self._low_water_mark != 1:
            self._set_low_water_mark(1)
        if self._cut_short or (tls is not None and tls.surplus()):
            reply.keep_alive = False
        self.used = True
        if self._proxy is not None:
            check_passed_on(reply.status, self._proxy)
        return reply.response()

    def end(self) -> None:
        """Close an idle connection gracefully; `close` resets it."""
        try:
            with syscalls.errors_ignored():
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY_CLOSE)
        finally:
            self.close()

    def shutdown(self) -> None:
        """End all waits for the peer, on any thread."""
        with syscalls.errors_ignored():
            self._sock.shutdown(socket.SHUT_RDWR)

    def take(self, reply: ReplyReader) -> bool:
        """Receive what has come of `reply`; whether that was anything. Raises `TransportError`."""
        view = reply.destination
        try:
            size = self._sock.recv_into(self._scratch if view is None else view[:_TAKEN_AT_ONCE])
            if size == 0:
                reply.end_of_stream()
            elif view is None:
                if not reply.first_byte:
                    reply.first_byte = monotonic()
                reply.feed(self._scratch, size)
            else:
                reply.filled(size)
        except ssl.SSLWantReadError:  # a part of a TLS record
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            raise _typed_error(error, reply) from None
        return True

    def _send_until_blocked(
        self, parts: list[bytes | memoryview], reply: ReplyReader, timeouts: Timeouts
    ) -> bool:
        """Send until the socket would block; True when everything is sent, or the peer has closed.

        After the peer has closed there may still be a reply to receive.
        """
        try:
            while True:
                if not self._send_some(parts):
                    return True
                timeouts.check()
        except BlockingIOError:
            return False
        except OSError as error:
            pass_on_foreign(error)
            if isinstance(error, TransportError):  # some are OSErrors as well
                raise _typed_error(error, reply) from None
            self._cut_short = True
        return True

    def _send_some(self, parts: list[bytes | memoryview]) -> bool:
        """Send some of `parts` by one system call, and remove it; whether any is left.

        Raises what `socket.send` does: `BlockingIOError` when it would block.
        """
        sock = self._sock
        tls = isinstance(sock, TlsSocket)
        if not parts:
            return tls and not sock.flush()
        size = sock.send(parts[0]) if tls or len(parts) == 1 else sock.sendmsg(parts)
        while size and size >= len(parts[0]):
            size -= len(parts.pop(0))
        if size:
            parts[0] = memoryview(parts[0])[size:]
        return tls or bool(parts)

    def _set_low_water_mark(self, mark: int) -> None:
        """Set SO_RCVLOWAT (socket(7)): wake up only for `mark` bytes.

        A large body arrives in pieces of some 64 KiB, and waking up for each takes longer than
        receiving it. With the mark a 4 MiB read wakes up a few times instead of 40.
        """
        if mark != self._low_water_mark and _HAS_LOW_WATER_MARK:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._low_water_mark = mark


async def connect(
    origin: Origin, dialing: Dialing, timeouts: Timeouts, poller: Poller
) -> Connection:
    """A new connection to `origin`, through the proxy if there is one. Raises `TransportError`."""
    with dialing.way_to(origin, timeouts) as way:
        if not await poller.done(way.look_up, way.ends - monotonic()):
            raise TimeoutError
        sock = await connecting(way, dialing, poller)
    try:
        return Connection(sock, way.passes_on)
    except BaseException:
        sock.close()
        raise


def _typed_error(error: OSError, reply: ReplyReader) -> TransportError:
    pass_on_foreign(error)
    if isinstance(error, TransportError):  # some are OSErrors as well
        return error
    return reply.broken(broken_error(error))
