"""What both runtimes need to reach an origin: the TLS context, and the proxy if there is one.

TLS verifies certificates and host names, speaks 1.2 at least and offers only HTTP/1.1 (ALPN).
A proxy is asked for a tunnel with CONNECT (RFC 9110, section 9.3.6).
"""

from __future__ import annotations

import os
import socket
import ssl
from base64 import b64encode
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from blockyard.context import Origin
from blockyard.errors import ConfigError, TLSError, TransportConnectionError

if TYPE_CHECKING:
    from blockyard.config import HttpConfig

_CERTIFICATE_ALERTS = frozenset(
    {
        "SSLV3_ALERT_BAD_CERTIFICATE",
        "SSLV3_ALERT_CERTIFICATE_EXPIRED",
        "SSLV3_ALERT_CERTIFICATE_REVOKED",
        "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
        "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
        "TLSV13_ALERT_CERTIFICATE_REQUIRED",
        "TLSV1_ALERT_ACCESS_DENIED",
        "TLSV1_ALERT_UNKNOWN_CA",
    }
)
"""OpenSSL's names for the alerts about a certificate: RFC 8446, section 6.2."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy to tunnel through; `authorization` is the value of Proxy-Authorization, or ""."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


class Dialing:
    """How the connections of one store are made."""

    def __init__(self, http: HttpConfig) -> None:
        self._http = http

    @cached_property
    def tls_context(self) -> ssl.SSLContext:
        """The one TLS context, made when first needed: it loads all trusted certificates."""
        http = self._http
        try:
            context = ssl.create_default_context(cafile=http.ca_bundle or None)
            if http.client_cert:
                context.load_cert_chain(http.client_cert, http.client_key or None)
        except OSError as error:
            raise ConfigError(f"http.ca_bundle, client_cert, client_key: {error}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        return context

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """The configured proxy; else, for https, HTTPS_PROXY's unless NO_PROXY names the host."""
        if self._http.proxy:
            return _parse_proxy(self._http.proxy.get_secret_value())
        if origin.scheme != "https" or not _proxy_variables():
            return None
        import urllib.request as system  # noqa: PLC0415 - slow to import, seldom needed

        proxies = system.getproxies_environment()
        url = proxies.get("https")
        if url is None or system.proxy_bypass(origin.host):
            return None
        return _parse_proxy(url)


def connect_head(origin: Origin, proxy: Proxy) -> bytes:
    """The CONNECT request for a tunnel to `origin`."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    lines = [f"CONNECT {host}:{origin.port} HTTP/1.1", f"host: {host}:{origin.port}"]
    if proxy.authorization:
        lines.append(f"proxy-authorization: {proxy.authorization}")
    return "\r\n".join([*lines, "\r\n"]).encode("latin-1")


def check_connect(status: int, proxy: Proxy) -> None:
    """Raise unless the proxy opened the tunnel."""
    if not 200 <= status < 300:
        raise TransportConnectionError(
            f"the proxy {proxy.host}:{proxy.port} answered CONNECT with status {status}",
            established=False,
        )


def connect_error(cause: OSError | UnicodeError, host: str, port: int) -> TransportConnectionError:
    """The typed error for a connection that did not come about.

    A certificate or protocol that was not accepted stays so, and is a `TLSError`; a handshake
    that broke off may come right next time.
    """
    where = f"connecting to {host}:{port}"
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return TransportConnectionError(
            f"{where}: the host name was not resolved: {cause}", established=False
        )
    if _refused_tls(cause):
        return TLSError(f"{where}: TLS: {cause}", established=False)
    said = str(cause)
    if cause.errno is not None and not isinstance(cause, ssl.SSLError):
        said = os.strerror(cause.errno)  # which asyncio leaves out
    return TransportConnectionError(f"{where}: {said}", established=False)


def broken_error(cause: OSError) -> TransportConnectionError:
    """The typed error for a connection that broke in use.

    With TLS 1.3 it is only then that a server says what it thinks of the client's certificate.
    """
    if isinstance(cause, ssl.SSLError) and cause.reason in _CERTIFICATE_ALERTS:
        return TLSError(f"TLS: the endpoint refused the client's certificate: {cause}")
    return TransportConnectionError(f"the connection broke: {cause}")


def _refused_tls(cause: OSError) -> bool:
    broken_off = (ssl.SSLEOFError, ssl.SSLSyscallError, ssl.SSLZeroReturnError)
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, broken_off)


def _proxy_variables() -> bool:
    return "HTTPS_PROXY" in os.environ or "https_proxy" in os.environ


def _parse_proxy(url: str) -> Proxy:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or 80
    except ValueError:
        raise _bad_proxy() from None
    if parts.scheme != "http" or not host:
        raise _bad_proxy()
    authorization = ""
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + b64encode(user.encode()).decode()
    return Proxy(host, port, authorization)


def _bad_proxy() -> ConfigError:
    return ConfigError("http.proxy (or HTTPS_PROXY): expected http://[user:password@]host:port")
