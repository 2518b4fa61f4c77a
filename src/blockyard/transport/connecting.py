"""Making a connection: addresses raced, a tunnel through a proxy, the TLS handshake.

What keeps a connection from being made is raised as a typed error.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
from collections import deque
from collections.abc import Generator, Sequence
from itertools import chain, zip_longest
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from blockyard.context import Origin
from blockyard.errors import TLSError, TransportConnectionError, TransportError
from blockyard.managing import contextmanager
from blockyard.transport.clock import monotonic
from blockyard.transport.http1 import SCRATCH_SIZE, ReplyReader
from blockyard.transport.polling import Poller
from blockyard.transport.proxies import (
    Proxy,
    check_connect,
    connect_head,
    environment_proxy,
    parse_proxy,
)
from blockyard.transport.resolving import Address, LookUp, forget, look_up
from blockyard.transport.timeouts import Timeouts
from blockyard.transport.tls import RECEIVED_AT_ONCE, TlsSocket
from blockyard.transport.trust import Trust, names_another_host, refused_certificate
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

_HEAD_START = 0.25
"""Seconds that each address has before the next is tried as well: RFC 8305, section 5."""
_IDLE_BEFORE_PROBE = 10
_BETWEEN_PROBES = 5
_MOST_PROBES = 127
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Way(NamedTuple):
    """How a connection to `origin` is made: by when, on the monotonic clock, and where to."""

    origin: Origin
    proxy: Proxy | None
    look_up: LookUp
    port: int
    ends: float

    @property
    def passes_on(self) -> Proxy | None:
        """A proxy that gets the requests themselves; for https it is one to tunnel through."""
        return self.proxy if self.origin.scheme == "http" else None


class Dialing:
    """What both runtimes need to reach an origin."""

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self._http = http
        self.timeouts = timeouts
        self.trust = Trust(http)

    def trust_renewed(
        self, error: TransportConnectionError, context: ssl.SSLContext | None
    ) -> bool:
        """Whether a request that ended with `error` may fare better: see `Trust.renew`."""
        return isinstance(error, TLSError) and context is not None and self.trust.renew(context)

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The configured proxy; else, for https, HTTPS_PROXY's unless NO_PROXY names the host."""
        if self._http.proxy:
            return parse_proxy(self._http.proxy.reveal())
        return environment_proxy(origin)

    def set_options(self, sock: socket.socket) -> None:
        """Send small pieces at once, and keep a connection known, or find out that it is not.

        A NAT, a firewall or a load balancer forgets a flow that was idle, in silence. Keep-alive
        probes (RFC 9293, section 3.8.4) are an idle connection's sign of life to all of them. So
        many may go unanswered that they end no exchange before the no-progress timeout does.

        Closing resets the connection, for killed processes too (SO_LINGER of no time): else the
        system would go on to send a request that was given up, and the service might apply it
        minutes later, over what came after it. See `Connection.end`.
        """
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        unanswered = int(self.timeouts.no_progress / _BETWEEN_PROBES) + 1
        for name, value in (
            ("TCP_KEEPIDLE", _IDLE_BEFORE_PROBE),
            ("TCP_KEEPINTVL", _BETWEEN_PROBES),
            ("TCP_KEEPCNT", min(max(unanswered, 3), _MOST_PROBES)),
        ):
            if hasattr(socket, name):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        limit = self.timeouts.unacknowledged
        if limit is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, ceil(limit * 1000))

    @contextmanager
    def way_to(self, origin: Origin, timeouts: Timeouts) -> Generator[Way]:
        """The way to a new connection; what keeps it from being made is raised as ours.

        Raises `TransportError`; `ConfigError` for a proxy or certificates that can't be used.
        """
        proxy = self.proxy_for(origin)
        host, port = (proxy.host, proxy.port) if proxy else (origin.host, origin.port)
        where = f"connecting to {origin.host}:{origin.port}"
        where += f" by the proxy {host}:{port}" if proxy else ""
        wait = min(self.timeouts.connect, timeouts.wait())
        try:
            yield Way(origin, proxy, look_up(host), port, monotonic() + wait)
        except TimeoutError as late:
            pass_on_foreign(late)
            if isinstance(late, TransportError):
                raise
            forget(host)
            raise timeouts.expired(f"{where} was not done", wait, established=False) from None
        except (OSError, UnicodeError) as cause:
            if isinstance(cause, OSError):
                pass_on_foreign(cause)
            forget(host)
            raise self._connect_error(cause, where, proxy) from cause

    def _connect_error(
        self, cause: OSError | UnicodeError, where: str, proxy: Proxy | None
    ) -> TransportConnectionError:
        """A certificate or protocol that was not accepted stays so, and is a `TLSError`.

        A handshake that broke off may come right next time.
        """
        if isinstance(cause, (socket.gaierror, UnicodeError)):
            name = "the proxy's name" if proxy else "the host name"
            error = TransportConnectionError(
                f"{where}: {name} was not resolved: {cause}", established=False
            )
            error.of_name = proxy is None
            return error
        if isinstance(cause, ssl.SSLError):
            if _broke_off(cause):
                return TransportConnectionError(f"{where}: {cause}", established=False)
            error = TLSError(f"{where}: TLS: {self.trust.explain(cause)}", established=False)
            error.of_name = names_another_host(cause)
            return error
        said = str(cause) if cause.errno is None else os.strerror(cause.errno)
        return TransportConnectionError(f"{where}: {said}", established=False)


def broken_error(cause: OSError) -> TransportConnectionError:
    """The typed error for a connection that broke in use.

    With TLS 1.3 it is only then that a server says what it thinks of the client's certificate.
    """
    if isinstance(cause, ssl.SSLError) and refused_certificate(cause):
        return TLSError(f"TLS: the endpoint refused the client's certificate: {cause}")
    return TransportConnectionError(f"the connection broke: {cause}")


def _broke_off(cause: ssl.SSLError) -> bool:
    return isinstance(cause, (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError))


async def connecting(way: Way, dialing: Dialing, poller: Poller) -> socket.socket | TlsSocket:
    """A new connection, at one of the addresses that were looked up.

    Raises `OSError`, and `TimeoutError` when the time is over.
    """
    origin, proxy, look_up, port, ends = way
    addresses = in_turns(look_up.addresses())
    while True:
        sock = await _first_to_connect(addresses, port, dialing, ends, poller)
        try:
            if origin.scheme == "http":
                return sock
            if proxy is not None:
                await _open_tunnel(sock, origin, proxy, ends, poller)
            context = dialing.trust.context
            try:
                return await _shake_hands(sock, context, origin.host, ends, poller)
            except ssl.SSLError:
                if not dialing.trust.renew(context):
                    raise
        except BaseException:
            sock.close()
            raise
        sock.close()


def in_turns(found: Sequence[Address]) -> list[Address]:
    """Families in turns, that of the first address first: RFC 8305, section 4."""
    first = [each for each in found if each.family == found[0].family]
    others = [each for each in found if each.family != found[0].family]
    both = chain.from_iterable(zip_longest(first, others))
    return list(dict.fromkeys(each for each in both if each is not None))


async def _first_to_connect(
    addresses: Sequence[Address], port: int, dialing: Dialing, ends: float, poller: Poller
) -> socket.socket:
    """Try one address after the other, each with a head start, until one is connected."""
    if not addresses:
        raise OSError("the host has no address")
    left = deque(addresses)
    under_way: dict[int, socket.socket] = {}
    head_start = min(_HEAD_START, (ends - monotonic()) / (2 * len(addresses)))
    due = 0.0
    error = OSError()
    try:
        while True:
            if not left and not under_way:
                raise error
            now = monotonic()
            if now >= ends:
                raise TimeoutError
            if left and (now >= due or not under_way):
                due = now + head_start
                try:
                    sock = _begin(left.popleft(), port, dialing)
                except OSError as cause:
                    pass_on_foreign(cause)
                    error, due = cause, now
                    continue
                under_way[sock.fileno()] = sock
            seconds = max((min(due, ends) if left else ends) - monotonic(), 0.0)
            socks = under_way.values()
            for descriptor in await poller.any_ready(socks, select.POLLOUT, seconds):
                sock = under_way[descriptor]
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return under_way.pop(descriptor)
                under_way.pop(descriptor).close()
                error, due = OSError(code, os.strerror(code)), now
    finally:
        del error  # which its traceback refers to
        for sock in under_way.values():
            sock.close()


def _begin(address: Address, port: int, dialing: Dialing) -> socket.socket:
    sock = socket.socket(address.family, address.kind, address.protocol)
    try:
        sock.setblocking(False)
        dialing.set_options(sock)
        sock.connect(address.at(port))
    except BlockingIOError:
        pass
    except BaseException:
        sock.close()
        raise
    return sock


async def _open_tunnel(
    sock: socket.socket, origin: Origin, proxy: Proxy, ends: float, poller: Poller
) -> None:
    await _send(sock, connect_head(origin, proxy), ends, poller)
    reply = ReplyReader("CONNECT", None, 0)
    while not reply.status:
        received = bytearray(await _receive(sock, SCRATCH_SIZE, ends, poller))
        if not received:
            reply.end_of_stream()
        reply.feed(received, len(received))
    check_connect(reply.status, proxy)


async def _shake_hands(
    sock: socket.socket, context: ssl.SSLContext, host: str, ends: float, poller: Poller
) -> TlsSocket:
    """The name goes without the dot that may end it: RFC 6066, section 3."""
    tls = TlsSocket(sock, context, host.removesuffix("."))
    to_send, done = tls.shake_hands(None)
    while not done:
        await _send(sock, to_send, ends, poller)
        received = await _receive(sock, RECEIVED_AT_ONCE, ends, poller)
        to_send, done = tls.shake_hands(received)
    await _send(sock, to_send, ends, poller)
    return tls


async def _send(sock: socket.socket, data: bytes, ends: float, poller: Poller) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[sock.send(view) :]
        except BlockingIOError:
            await _ready(sock, select.POLLOUT, ends, poller)


async def _receive(sock: socket.socket, size: int, ends: float, poller: Poller) -> bytes:
    while True:
        await _ready(sock, select.POLLIN, ends, poller)
        try:
            return sock.recv(size)
        except BlockingIOError:
            continue


async def _ready(sock: socket.socket, event: int, ends: float, poller: Poller) -> None:
    """Wait until `sock` is ready, at `ends` no more. Raises `TimeoutError`."""
    seconds = ends - monotonic()
    if seconds <= 0 or not await poller.any_ready((sock,), event, seconds):
        raise TimeoutError
