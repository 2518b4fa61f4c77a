"""One connection of the blocking runtime: a non-blocking socket, and `poll` for every wait.

How long a wait may last is computed from the clock before each one, and `poll` takes up a wait
that a signal interrupted with the time that is left (PEP 475). The time limits of the kernel
(SO_RCVTIMEO) begin anew with each signal, so they are not used. A wait counts as a stall only
when nothing at all came in it, so a stalled peer is given up after at most twice the
no-progress timeout.
"""

from __future__ import annotations

import select
import socket
import ssl
import sys
from typing import TypeVar

from blockyard.context import Origin, Request, Response
from blockyard.errors import TransportError
from blockyard.model import KIB, MIB
from blockyard.transport.clock import monotonic
from blockyard.transport.connecting import Steps, connecting
from blockyard.transport.dialing import Dialing, broken_error
from blockyard.transport.heads import encode_head
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.patience import Patience
from blockyard.transport.proxies import Proxy, check_passed_on
from blockyard.transport.sending import Outgoing
from blockyard.transport.threads import wait_until_done
from blockyard.transport.tls import TlsSocket
from blockyard.user_code import pass_on_foreign

Result = TypeVar("Result")

_LOW_WATER = 256 * KIB
_TAKEN_AT_ONCE = 1 * MIB
"""Bytes of a body to a call, so that what has come is summed while more does."""
_MARKS = sys.platform == "linux"
"""Linux makes room for what a mark asks for; of others that is not known."""


class BlockingConnection:
    """A connection to one origin. `used` is whether it has answered a request before.

    `proxy` is one that passes requests on, and needs to be told where to.
    """

    def __init__(self, sock: socket.socket | TlsSocket, proxy: Proxy | None = None) -> None:
        self.used = False
        self._sock = sock
        self._proxy = proxy
        self._mark = 1
        self._cut_short = False
        self._scratch = bytearray(SCRATCH_SIZE)
        self._to_read = select.poll()
        self._to_read.register(sock, select.POLLIN)
        self._to_send = select.poll()
        self._to_send.register(sock, select.POLLIN | select.POLLOUT)

    @property
    def tls_context(self) -> ssl.SSLContext | None:
        """The one of its handshake; None without TLS."""
        return self._sock.context if isinstance(self._sock, TlsSocket) else None

    def usable(self) -> bool:
        """Whether an idle connection is still open and, as it should be, silent."""
        return not self._to_read.poll(0)

    def fileno(self) -> int:
        """The socket's descriptor, to wait for several connections at once."""
        return self._sock.fileno()

    def send(self, request: Request, reply: ReplyReader, patience: Patience) -> None:
        """Send `request`, and take what comes of `reply` meanwhile. Raises `TransportError`."""
        reply.sent = monotonic()
        _ = patience.wait()
        outgoing = Outgoing(self._sock, encode_head(request, self._proxy), request.body)
        try:
            self._cut_short = not self._send(outgoing, reply, patience)
        except OSError as error:
            raise _typed(error, reply) from None

    def receive(self, reply: ReplyReader, patience: Patience) -> Response:
        """Read `reply` to its end. Raises `TransportError`."""
        while not reply.complete:
            self._wait_and_take(reply, patience)
        self._mark_at(1)
        surplus = isinstance(self._sock, TlsSocket) and self._sock.surplus()
        if self._cut_short or surplus:
            reply.keep_alive = False
        self.used = True
        if self._proxy is not None:
            check_passed_on(reply.status, self._proxy)
        return reply.response()

    def take(self, reply: ReplyReader) -> bool:
        """Take what has come of `reply`; whether that was anything. Raises `TransportError`."""
        try:
            self._receive(reply)
        except BlockingIOError:
            return False
        except OSError as error:
            raise _typed(error, reply) from None
        return True

    def close(self) -> None:
        """Close the socket; nothing is said to the other side beyond that."""
        self._sock.close()

    def _send(self, outgoing: Outgoing, reply: ReplyReader, patience: Patience) -> bool:
        """Send it all, or return False when the other side would not take it all.

        An endpoint that refuses a request may answer before it has read the body, and close or
        read no more of it, so its answer is looked for whenever the socket takes no more
        (RFC 9112, section 9.5), and after it has closed.
        """
        while True:
            try:
                while outgoing.send():
                    _ = patience.wait()
            except BlockingIOError:
                pass
            except TransportError:
                raise
            except OSError as error:
                pass_on_foreign(error)
                return False
            else:
                return True
            seconds = patience.wait()
            ready = self._to_send.poll(seconds * 1000)
            if not ready:
                raise reply.broken(patience.expired("no byte moved", seconds))
            answered = ready[0][1] & ~select.POLLOUT and self.take(reply)
            if answered and (reply.complete or reply.status >= 300):
                return False

    def _wait_and_take(self, reply: ReplyReader, patience: Patience) -> None:
        if isinstance(self._sock, TlsSocket) and self._sock.surplus() and self.take(reply):
            return  # `poll` knows nothing of what the TLS layer holds
        seconds = patience.wait()
        if reply.destination is not None:
            self._mark_at(_LOW_WATER if len(reply.destination) >= 3 * _LOW_WATER else 1)
        ready = self._to_read.poll(seconds * 1000)
        if not self.take(reply) and not ready:  # what came may have been less than the mark
            raise reply.broken(patience.expired("no byte moved", seconds))

    def _mark_at(self, mark: int) -> None:
        """Be woken for no less than `mark` bytes: as much as is worth it, while more is to come.

        A large body comes in pieces of some 64 KiB, and to be woken for each would take longer
        than to take it. With a low-water mark (SO_RCVLOWAT, socket(7)) a 4 MiB read is woken a
        few times instead of 40.
        """
        if mark != self._mark and _MARKS:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, mark)
            self._mark = mark

    def _receive(self, reply: ReplyReader) -> None:
        view = reply.destination
        try:
            size = self._sock.recv_into(self._scratch if view is None else view[:_TAKEN_AT_ONCE])
        except ssl.SSLWantReadError:  # a part of a TLS record
            return
        if size == 0:
            reply.end_of_stream()
        elif view is None:
            if not reply.first_byte:
                reply.first_byte = monotonic()
            reply.feed(self._scratch, size)
        else:
            reply.filled(size)


def connect(origin: Origin, dialing: Dialing, patience: Patience) -> BlockingConnection:
    """A new connection to `origin`, through the proxy if there is one. Raises `TransportError`."""
    with dialing.way_to(origin, patience) as way:
        if not wait_until_done(way.look_up, way.ends - monotonic()):
            raise TimeoutError
        sock = _run(connecting(way, dialing))
    try:
        return BlockingConnection(sock, way.passes_on)
    except BaseException:
        sock.close()
        raise


def _run(steps: Steps[Result]) -> Result:
    try:
        wait = next(steps)
        while True:
            poll = select.poll()
            for sock in wait.sockets:
                poll.register(sock, wait.event)
            left = max(wait.ends - monotonic(), 0.0)
            wait = steps.send([descriptor for descriptor, _ in poll.poll(left * 1000)])
    except StopIteration as done:
        return done.value
    finally:
        steps.close()


def _typed(error: OSError, reply: ReplyReader) -> TransportError:
    pass_on_foreign(error)
    if isinstance(error, TransportError):  # some are OSErrors as well
        return error
    return reply.broken(broken_error(error))
