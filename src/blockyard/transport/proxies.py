"""Proxies: which one an origin is reached through, and what is said to it."""

from __future__ import annotations

import os
from base64 import b64encode
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote_to_bytes, urlsplit

from blockyard.context import Origin
from blockyard.errors import ConfigError, TransportConnectionError


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization, or ""."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def environment_proxy(origin: Origin) -> Proxy | None:
    """HTTPS_PROXY's for an https origin, unless NO_PROXY names it."""
    url = _variable("https_proxy")
    if origin.scheme != "https" or not url:
        return None
    if names_host(_variable("no_proxy"), origin.host, origin.port):
        return None
    return parse_proxy(url)


def parse_proxy(url: str) -> Proxy:
    """The proxy of a URL. Raises `ConfigError`, without the URL: it may hold a password."""
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:
        raise _bad_proxy() from None
    beyond = parts.path + parts.query + parts.fragment
    if (
        parts.scheme != "http" or not host or not port or "@" in beyond
    ):  # which a password cut short leaves
        raise _bad_proxy()
    authorization = ""
    if parts.username is not None:
        authorization = _basic(parts.username, parts.password or "")
    return Proxy(host, port, authorization)


def names_host(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY, as curl and requests read it, names `host`.

    `*` names all; `example.com`, `.example.com` and `*.example.com` a host and all below it;
    `10.0.0.0/8` the addresses of a network; each may end with the `:port` that it is limited to.
    """
    host = host.rstrip(".").lower()
    entries = no_proxy.replace(",", " ").lower().split()
    return any(entry == "*" or _entry_names(entry, host, port) for entry in entries)


def connect_head(origin: Origin, proxy: Proxy) -> bytes:
    """The CONNECT request for a tunnel to `origin`. RFC 9110, section 9.3.6."""
    where = authority(origin)
    lines = [f"CONNECT {where} HTTP/1.1", f"host: {where}"]
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


def check_passed_on(status: int, proxy: Proxy) -> None:
    """Raise when the reply to a request is the proxy's own, which wants to know who asks."""
    if status == 407:
        raise TransportConnectionError(
            f"the proxy {proxy.host}:{proxy.port} answered with status 407", established=False
        )


def authority(origin: Origin) -> str:
    """`host:port`, an IPv6 address in brackets."""
    host = f"[{origin.host}]" if ":" in origin.host else origin.host
    return f"{host}:{origin.port}"


def _variable(name: str) -> str:
    """An environment variable, in lower case if it is set so, as curl reads them."""
    return os.environ.get(name, os.environ.get(name.upper(), ""))


def _entry_names(entry: str, host: str, port: int) -> bool:
    entry, limited_to = _split_port(entry)
    if limited_to not in {"", str(port)}:
        return False
    try:
        return ip_address(host) in ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass  # one of them is a name
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _split_port(entry: str) -> tuple[str, str]:
    name, colon, port = entry.rpartition(":")
    bare_ipv6 = ":" in name and not name.endswith("]")
    return (name, port) if colon and port.isdigit() and not bare_ipv6 else (entry, "")


def _basic(user: str, password: str) -> str:
    """RFC 7617. The bytes are those that stand there, whether they are UTF-8 or not."""
    try:
        both = [each.encode(errors="surrogateescape") for each in (user, password)]
    except UnicodeEncodeError:
        raise _bad_proxy() from None
    return "Basic " + b64encode(b":".join(map(unquote_to_bytes, both))).decode()


def _bad_proxy() -> ConfigError:
    return ConfigError("http.proxy (or HTTPS_PROXY): expected http://[user:password@]host:port")
