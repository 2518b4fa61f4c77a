"""HTTP/1.1 request heads to bytes, replies from bytes (RFC 9112). No I/O happens here.

`ReplyReader` takes a reply as it comes, in pieces of any size, and says where the next bytes
should go, so that a body is received straight into the memory its caller gets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import httptools

from blockyard.context import Request, Response
from blockyard.crc32c import crc32c
from blockyard.errors import (
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    TransportConnectionError,
    TransportError,
)
from blockyard.model import KIB, MIB
from blockyard.transport.memory import receivable
from blockyard.transport.proxies import Proxy

HEAD_LIMIT = 64 * KIB
"""The longest reply head that is accepted, in bytes."""
ERROR_BODY_LIMIT = 1 * MIB
"""The longest body of an error reply that is accepted, in bytes."""
_FRAME = 16
"""Bytes on the wire to each byte of a chunked body, beyond which its chunks lead nowhere."""
_SUMMED_AT_ONCE = 256 * KIB
"""Bytes of a body that are summed together: still in the processor's cache, and worth a call."""
SCRATCH_SIZE = 64 * KIB
"""What a connection receives heads and small bodies into, in bytes."""
_LARGE = 1 * MIB
"""Bodies from so many bytes on may be received on another thread."""
_REMEMBERED = 1024
_LONGEST_REMEMBERED = 64
_SINGLE = ("etag", "content-range", "last-modified")
_SINGLE_BEGIN = "x-amz-checksum-"
"""Headers that say which object a reply is about: not lists, so none is made of them."""


def encode_head(request: Request, proxy: Proxy | None = None) -> bytes:
    """The request line and headers, up to and with the empty line. RFC 9112, section 3.

    A request to a `proxy` that is to pass it on has its target in absolute form (3.2.2).
    """
    method, target, headers = request.method, request.target, request.headers
    first, last = "", "\r\n\r\n"
    if proxy is not None:
        target = f"http://{headers['host']}{target}"
        if proxy.authorization:
            first = f"proxy-authorization: {proxy.authorization}\r\n"
    if request.body or method in {"PUT", "POST"}:
        last = f"\r\ncontent-length: {len(request.body)}\r\n\r\n"
    lines = "\r\n".join(map(": ".join, headers.items()))
    return f"{method} {target} HTTP/1.1\r\n{first}{lines}{last}".encode("latin-1")


def parse_head(head: bytes) -> tuple[int, dict[str, str], bool]:
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
    if len(headers) != head.count(b"\n") - 2:
        headers = _joined_headers(head)
    status = parser.get_status_code()
    if status < 100 or status == 101:
        raise ProtocolError(f"the reply has status {status}, which nothing asked for")
    connection = headers.get("connection", "").lower()
    if head.startswith(b"HTTP/1.1"):
        return status, headers, "close" not in connection
    # with a transfer coding its frame is in doubt: RFC 9112, section 6.1
    return status, headers, "keep-alive" in connection and "transfer-encoding" not in headers


def _joined_headers(head: bytes) -> dict[str, str]:
    """The headers of a valid head in which some are repeated: RFC 9110, section 5.3.

    One that can't be a list is taken once where it says the same each time. Where it does not,
    which object the reply is about is not known. Raises `ProtocolError`.
    """
    headers: dict[str, str] = {}
    for line in head.strip().decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip()
        if name not in headers:
            headers[name] = value
        elif not (name in _SINGLE or name.startswith(_SINGLE_BEGIN)):
            headers[name] += f", {value}"
        elif headers[name] != value:
            raise ProtocolError(f"the reply has {name} twice, and not the same")
    return headers


class _Collected:
    """What httptools reports a head to: `on_header(name, value)`."""

    __slots__ = ("on_header",)

    on_header: Callable[[bytes, bytes], None]


class _Names(dict[bytes, str]):
    """Names as servers spell them, and in lower case: the same few in every reply."""

    def __missing__(self, name: bytes) -> str:
        lower = name.decode("latin-1").lower()
        if len(self) < _REMEMBERED and len(name) <= _LONGEST_REMEMBERED:
            self[name] = lower
        return lower


_names = _Names()


class ReplyReader:
    """One reply being read. See `Runtime.exchange` for `into` and `limit`, `Request` for the rest.

    While `destination` is a view, the next bytes of the body belong there and `filled` says how
    many came. While it is None, the next bytes go into any buffer and then to `feed`. The end of
    the stream goes to `end_of_stream`. All is read when `complete` is True. `sent` and
    `first_byte` are for the connection to note when the request went out and when that came.
    `large` is set when the rest of a body is worth another thread, which the connection looks for.
    """

    __slots__ = (
        "__weakref__",
        "_body",
        "_chunked",
        "_crc32c",
        "_early",
        "_expected",
        "_into",
        "_limit",
        "_may_end_with_connection",
        "_method",
        "_room",
        "_summed",
        "_to_stream_end",
        "_unsummed",
        "complete",
        "destination",
        "first_byte",
        "headers",
        "keep_alive",
        "large",
        "received",
        "sent",
        "status",
    )

    def __init__(
        self,
        method: str,
        into: memoryview | None,
        limit: int,
        summed: bool = False,
        until_close: bool = False,
    ) -> None:
        self._method = method
        self._may_end_with_connection = until_close or method != "GET"
        self._into = into
        self._limit = limit if into is None else min(limit, len(into))
        self._early = b""
        self._room = HEAD_LIMIT
        self._body: bytes | bytearray = b""
        self._chunked: _ChunkedBody | None = None
        self._to_stream_end: bytearray | None = None
        self._expected = 0
        self._summed = summed
        self._unsummed: memoryview | None = None
        self._crc32c = 0
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.keep_alive = False
        self.received = 0
        self.sent = 0.0
        self.first_byte = 0.0
        self.destination: memoryview | None = None
        self.complete = False
        self.large = False

    @property
    def begun(self) -> bool:
        """Whether any byte of the reply has come."""
        return self.status != 0 or self._early != b"" or self._room < HEAD_LIMIT

    def feed(self, buffer: bytearray, size: int) -> None:
        """Take the first `size` bytes of `buffer`. Raises `ProtocolError`."""
        if self.status == 0:
            self._feed_head(buffer, size)
        elif self._chunked is not None:
            self._feed_chunked(self._chunked, bytes(memoryview(buffer)[:size]))
        elif self._to_stream_end is not None:
            self._to_stream_end += memoryview(buffer)[:size]
            self._check_size(len(self._to_stream_end))

    def filled(self, size: int) -> None:
        """`size` more bytes were received into `destination`."""
        self.received += size
        if self._unsummed is not None:
            self._sum(self._unsummed)
        if self.received == self._expected:
            self.destination = None
            self.complete = True
        elif self.destination is not None:
            self.destination = self.destination[size:]

    def end_of_stream(self) -> None:
        """The peer sent its last byte. Raises unless that is how this body ends."""
        if self._to_stream_end is None:
            raise self.broken(TransportConnectionError("the endpoint closed the connection"))
        self._take_whole(self._to_stream_end)
        self.complete = True

    def response(self) -> Response:
        """The reply; call it when `complete`."""
        waited = self.first_byte - self.sent
        summed = None if self._unsummed is None else self._crc32c
        return Response(self.status, self.headers, bytes(self._body), self.received, waited, summed)

    def broken(self, cause: TransportError) -> TransportError:
        """What to raise when `cause` ends the reply here."""
        unsized = self._chunked is not None or self._to_stream_end is not None
        if self.status not in {200, 206} or unsized:
            return cause
        in_place = self._into is not None
        partial = None if in_place else bytes(memoryview(self._body)[: self.received])
        return IncompleteBodyError(
            f"the body broke off after {self.received} of {self._expected} bytes: {cause}",
            headers=self.headers,
            status=self.status,
            received=self.received,
            expected=self._expected,
            partial=partial,
            cause=cause,
        )

    def _feed_head(self, buffer: bytearray, size: int) -> None:
        """Interim replies precede the real one: RFC 9110, section 15.2."""
        if self._early:
            buffer = bytearray(self._early + memoryview(buffer)[:size])
            size = len(buffer)
        view = memoryview(buffer)[:size]
        begin = 0
        while (end := buffer.find(b"\r\n\r\n", begin, size) + 4) > 3:
            if end - begin > self._room:
                raise _head_too_long()
            head = bytes(view[begin:end])
            status, self.headers, self.keep_alive = parse_head(head)
            if status >= 200:
                self.status = status
                self._begin_body(head, view[end:])
                return
            self._room -= len(head)
            begin = end
        if size - begin > self._room:
            raise _head_too_long()
        self._early = bytes(view[begin:])

    def _begin_body(self, head: bytes, rest: memoryview) -> None:
        if self._method in {"HEAD", "CONNECT"} or self.status in {204, 304}:
            self._begin_sized(0, rest)
            if self.status == 204 and _announces_body(self.headers):
                self.keep_alive = False  # which would be taken for the next reply
        elif (coding := self.headers.get("transfer-encoding")) is not None:
            if coding.lower() != "chunked":
                raise ProtocolError("the reply has a transfer coding that nothing asked for")
            self._chunked = _ChunkedBody(head)
            self._feed_chunked(self._chunked, bytes(rest))
        elif (length := self.headers.get("content-length")) is not None:
            self._begin_sized(int(length), rest)
        elif self.status >= 300 or self._may_end_with_connection:  # RFC 9112, section 6.3
            self.keep_alive = False
            self._to_stream_end = bytearray(rest)
            self._check_size(len(rest))
        else:
            raise ProtocolError(
                "the reply has neither Content-Length nor chunked encoding: "
                "that its body broke off could not be told"
            )

    def _begin_sized(self, length: int, rest: memoryview) -> None:
        if length > self._limit:
            self._check_size(length)
        self._expected = length
        if len(rest) > length:
            self.keep_alive = False  # bytes that nobody asked for: never reuse the connection
            rest = rest[:length]
        in_place = self._into is not None and self.status in {200, 206}
        if in_place or len(rest) < length:
            self.large = length >= _LARGE and len(rest) < length
            self._begin_receiving(rest)
        else:
            self._body = bytes(rest)
            self.received = length
            self.complete = True

    def _begin_receiving(self, rest: memoryview) -> None:
        """The body has a `destination` from now on; `rest` of it has come already."""
        if self._into is not None and self.status in {200, 206}:
            destination = self._into[: self._expected]
        elif self._expected <= SCRATCH_SIZE:
            self._body = bytearray(self._expected)
            destination = memoryview(self._body)
        else:
            self._body, destination = receivable(self._expected)
        destination[: len(rest)] = rest
        self.destination = destination
        if self._summed:
            self._unsummed = destination
        self.filled(len(rest))

    def _sum(self, unsummed: memoryview) -> None:
        """Add to the checksum what has come, once that is enough or all."""
        left = self._expected - self.received
        come = len(unsummed) - left
        if come >= _SUMMED_AT_ONCE or left == 0:
            self._crc32c = crc32c(unsummed[:come], self._crc32c)
            self._unsummed = unsummed[come:]

    def _feed_chunked(self, chunked: _ChunkedBody, data: bytes) -> None:
        chunked.feed(data)
        self._check_size(len(chunked.body))
        self.received = len(chunked.body)
        if chunked.complete:
            self._take_whole(chunked.body)
            self.keep_alive = self.keep_alive and not chunked.surplus
            self.complete = True

    def _take_whole(self, body: bytes | bytearray) -> None:
        """The body, when its size was not known before its end."""
        self.received = len(body)
        if self._into is not None and self.status in {200, 206}:
            self._into[: self.received] = body
        else:
            self._body = body

    def _check_size(self, size: int) -> None:
        limit = self._limit
        if self.status not in {200, 206}:
            limit = max(limit, ERROR_BODY_LIMIT)
        if size > limit:
            raise OversizedBodyError(
                f"the reply's body has {size} bytes where at most {limit} were expected",
                status=self.status,
                size=size,
            )


def _announces_body(headers: Mapping[str, str]) -> bool:
    """Whether a 204 says that it has one, though it must not: RFC 9110, section 8.6."""
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _head_too_long() -> ProtocolError:
    return ProtocolError(f"the reply's head is over {HEAD_LIMIT} bytes")


class _ChunkedBody:
    """A body of unknown length, decoded by httptools. RFC 9112, section 7.1."""

    def __init__(self, head: bytes) -> None:
        self.body = bytearray()
        self._fed = 0
        self.complete = False
        self.surplus = False
        self._parser = httptools.HttpResponseParser(self)
        self._parser.feed_data(head)

    def feed(self, data: bytes) -> None:
        """Take more of the body. Raises `ProtocolError`."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise ProtocolError(f"the reply's chunked body is not valid: {error}") from None
            self.surplus = True
        self._fed += len(data)
        if not self.complete and self._fed > HEAD_LIMIT + _FRAME * len(self.body):
            raise ProtocolError("the reply's chunked body is hardly anything but frame")

    def on_message_begin(self) -> None:
        """httptools: a message begins; after the end of this one, nobody asked for it."""
        self.surplus = self.complete

    def on_body(self, data: bytes) -> None:
        """httptools: a piece of the body."""
        if not self.complete:
            self.body += data  # a list of pieces would take many times as much, were they small

    def on_message_complete(self) -> None:
        """httptools: the body's last chunk has come."""
        self.complete = True
