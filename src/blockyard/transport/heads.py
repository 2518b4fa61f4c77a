"""The heads of HTTP/1.1 messages, from and to bytes. RFC 9112, sections 2 to 5."""

from __future__ import annotations

from collections.abc import Callable

import httptools

from blockyard.context import Request
from blockyard.errors import ProtocolError
from blockyard.transport.proxies import Proxy

_REMEMBERED = 1024


def encode_head(request: Request, proxy: Proxy | None = None) -> bytes:
    """The request line and headers, up to and with the empty line. RFC 9112, section 3.

    A request to a `proxy` that is to pass it on has its target in absolute form (3.2.2).
    """
    lines = [f"{request.method} {request.target} HTTP/1.1"]
    if proxy is not None:
        where = f"http://{request.headers['host']}"
        lines = [f"{request.method} {where}{request.target} HTTP/1.1"]
        if proxy.authorization:
            lines.append(f"proxy-authorization: {proxy.authorization}")
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.body or request.method in {"PUT", "POST"}:
        lines.append(f"content-length: {len(request.body)}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


def parse_head(head: memoryview) -> tuple[int, dict[str, str], bool]:
    """Status, headers (lower-case names) and whether the connection may be kept alive."""
    raw: dict[bytes, bytes] = {}
    collected = _Collected()
    collected.on_header = raw.__setitem__
    parser = httptools.HttpResponseParser(collected)
    try:
        parser.feed_data(head)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        raise ProtocolError(f"the reply's head is not valid HTTP/1.1: {error}") from None
    headers = {_names[name]: value.decode("latin-1").rstrip() for name, value in raw.items()}
    text = bytes(head)
    if len(headers) != text.count(b"\n") - 2:
        headers = _joined_headers(text)
    status = parser.get_status_code()
    if status < 100 or status == 101:
        raise ProtocolError(f"the reply has status {status}, which nothing asked for")
    connection = headers.get("connection", "").lower()
    if text.startswith(b"HTTP/1.1"):
        return status, headers, "close" not in connection
    return status, headers, "keep-alive" in connection


def _joined_headers(head: bytes) -> dict[str, str]:
    """The headers of a valid head in which some are repeated. RFC 9110, section 5.3."""
    headers: dict[str, str] = {}
    for line in head.strip().decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


class _Collected:
    """What httptools reports a head to: `on_header(name, value)`."""

    __slots__ = ("on_header",)

    on_header: Callable[[bytes, bytes], None]


class _Names(dict[bytes, str]):
    """Names as servers spell them, and in lower case: the same few in every reply."""

    def __missing__(self, name: bytes) -> str:
        lower = name.decode("latin-1").lower()
        if len(self) < _REMEMBERED:
            self[name] = lower
        return lower


_names = _Names()
