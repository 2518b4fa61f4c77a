"""One HTTP/1.1 connection: a request goes out, its reply is received where its caller wants it.

The socket does not block, and every wait is the poller's. How long a wait may last is computed
from the clock before each one: the time limits of the kernel (SO_RCVTIMEO) begin anew with each
signal. A wait counts as a stall only when nothing at all came in it, so a stalled peer is given up
after at most twice the idle timeout.
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
"""Bytes of a body to a call, so that what has come is summed while more does."""
_MARKS = sys.platform == "linux"
"""Linux makes room for what a mark asks for; of others that is not known."""
_ORDERLY_CLOSE = struct.pack("ii", 0, 0)
_READABLE_OR_WRITABLE = select.POLLIN | select.POLLOUT


class Connection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `proxy` is one that passes requests on, and needs to be told where to. `arrivals` polls for
    what comes.
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
        self._mark = 1
        self._cut_short = False
        self._scratch = bytearray(SCRATCH_SIZE)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The one of its handshake; None without TLS."""
        return None if self._tls is None else self._tls.context

    def usable(self) -> bool:
        """Whether an idle connection is still open and, as it should be, silent."""
        return not self.arrivals.poll(0)

    async def send(
        self, request: Request, reply: ReplyReader, timeouts: Timeouts, poller: Poller
    ) -> None:
        """Send `request`, and take what comes of `reply` meanwhile. Raises `TransportError`.

        An endpoint that refuses a request may answer before it has read the body, and close or
        read no more of it, so its answer is looked for whenever the socket takes no more
        (RFC 9112, section 9.5), and after it has closed.
        """
        reply.sent = monotonic()
        timeouts.check()
        parts: list[bytes | memoryview] = [encode_head(request, self._proxy)]
        if request.body:
            parts.append(request.body)  # the caller's own buffer, neither joined nor copied
        self._cut_short = False
        while not self._send_on(parts, reply, timeouts):
            seconds = timeouts.wait()
            events = await poller.ready(self, _READABLE_OR_WRITABLE, seconds)
            if not events:
                raise reply.broken(timeouts.expired("no byte moved", seconds))
            answered = events & ~select.POLLOUT and self.take(reply)
            if answered and (reply.complete or reply.status >= 300):
                self._cut_short = True
                return

    async def receive(self, reply: ReplyReader, timeouts: Timeouts, poller: Poller) -> Response:
        """Read `reply` to its end. Raises `TransportError`."""
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
                self._mark_at(_LOW_WATER if len(reply.destination) >= 3 * _LOW_WATER else 1)
            ready = await poller.ready(self, select.POLLIN, seconds)
            if not self.take(reply) and not ready:  # what came may have been less than the mark
                raise reply.broken(timeouts.expired("no byte moved", seconds))
        if self._mark != 1:
            self._mark_at(1)
        if self._cut_short or (tls is not None and tls.surplus()):
            reply.keep_alive = False
        self.used = True
        if self._proxy is not None:
            check_passed_on(reply.status, self._proxy)
        return reply.response()

    def end(self) -> None:
        """Close it in an orderly way, with no request under way; `close` resets it."""
        try:
            with syscalls.errors_ignored():
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY_CLOSE)
        finally:
            self.close()

    def shutdown(self) -> None:
        """End every wait for what comes, on whichever thread that is: nothing comes any more."""
        with syscalls.errors_ignored():
            self._sock.shutdown(socket.SHUT_RDWR)

    def take(self, reply: ReplyReader) -> bool:
        """Take what has come of `reply`; whether that was anything. Raises `TransportError`."""
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
            raise _typed(error, reply) from None
        return True

    def _send_on(
        self, parts: list[bytes | memoryview], reply: ReplyReader, timeouts: Timeouts
    ) -> bool:
        """Send what the socket takes; whether that ends the sending.

        A socket that takes no more, its other side gone, may still hold an answer to read.
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
                raise _typed(error, reply) from None
            self._cut_short = True
        return True

    def _send_some(self, parts: list[bytes | memoryview]) -> bool:
        """Send some of `parts` by one system call, and take it off; whether more is to be sent.

        Raises what `socket.send` does: `BlockingIOError` when the socket takes nothing now.
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

    def _mark_at(self, mark: int) -> None:
        """Be woken for no less than `mark` bytes: as much as is worth it, while more is to come.

        A large body comes in pieces of some 64 KiB, and to be woken for each would take longer
        than to take it. With a low-water mark (SO_RCVLOWAT, socket(7)) a 4 MiB read is woken a
        few times instead of 40.
        """
        if mark != self._mark and _MARKS:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark


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


def _typed(error: OSError, reply: ReplyReader) -> TransportError:
    pass_on_foreign(error)
    if isinstance(error, TransportError):  # some are OSErrors as well
        return error
    return reply.broken(broken_error(error))
