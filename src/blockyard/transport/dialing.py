"""How the connections of one store are made, and the typed errors for those that are not."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Generator
from contextlib import contextmanager
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from blockyard.context import Origin
from blockyard.errors import TLSError, TransportConnectionError, TransportError
from blockyard.transport.clock import monotonic
from blockyard.transport.proxies import Proxy, environment_proxy, parse_proxy
from blockyard.transport.resolving import LookUp, forget, look_up
from blockyard.transport.timeouts import Timeouts
from blockyard.transport.trust import Trust, refused_certificate
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

_IDLE_BEFORE_PROBE = 10
_BETWEEN_PROBES = 5
_MOST_PROBES = 127


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
        """
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
        wait = min(self.timeouts.connect, timeouts.wait())
        try:
            yield Way(origin, proxy, look_up(host), port, monotonic() + wait)
        except TimeoutError as late:
            pass_on_foreign(late)
            if isinstance(late, TransportError):
                raise
            forget(host)
            what = f"connecting to {host}:{port} was not done"
            raise timeouts.expired(what, wait, established=False) from None
        except (OSError, UnicodeError) as cause:
            if isinstance(cause, OSError):
                pass_on_foreign(cause)
            forget(host)
            raise self._connect_error(cause, host, port) from cause

    def _connect_error(
        self, cause: OSError | UnicodeError, host: str, port: int
    ) -> TransportConnectionError:
        """A certificate or protocol that was not accepted stays so, and is a `TLSError`.

        A handshake that broke off may come right next time.
        """
        where = f"connecting to {host}:{port}"
        if isinstance(cause, (socket.gaierror, UnicodeError)):
            return TransportConnectionError(
                f"{where}: the host name was not resolved: {cause}", established=False
            )
        if isinstance(cause, ssl.SSLError):
            if _broke_off(cause):
                return TransportConnectionError(f"{where}: {cause}", established=False)
            return TLSError(f"{where}: TLS: {self.trust.explain(cause)}", established=False)
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
