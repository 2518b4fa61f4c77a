"""Faults of services that are nearly S3: early or foreign answers, ignored headers, other forms."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from blockyard.testing.messages import Head, Message
from blockyard.testing.steps import Close, Pause, Steps
from blockyard_faults.fault import Position, ReplyFault, RequestFault, offset
from blockyard_faults.meaning import signs
from blockyard_faults.requests import Status

_LIST_TARGET = re.compile(r"[?&]list-type=2(?:&|$)")
_TOKEN_IN_TARGET = re.compile(r"(?<=[?&])continuation-token=[^&]*&?")
_PREFIX_IN_TARGET = re.compile(r"[?&]prefix=([^&]*)")
_TRUNCATED = re.compile(rb"<IsTruncated>\w*</IsTruncated>")
_NEXT_TOKEN = re.compile(rb"<NextContinuationToken>.*?</NextContinuationToken>", re.DOTALL)
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_UPLOAD_SUMS = ("content-md5", "x-amz-checksum-crc32c", "x-amz-content-sha256")


@dataclass(frozen=True)
class WebPage(RequestFault):
    """A page of HTML as `200 OK`, as a login page, a console or a captive portal answers."""

    body: bytes = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"

    def steps(self, method: str) -> Steps:
        lines = (
            b"HTTP/1.1 200 OK",
            b"Content-Type: text/html; charset=utf-8",
            b"Content-Length: %d" % len(self.body),
        )
        return [Head(lines).encode() + (b"" if method == "HEAD" else self.body)]


@dataclass(frozen=True)
class EarlyStatus(Status):
    """The error of `Status` as soon as the head has come; the body is not read.

    The connection stays open for `seconds`: a client that does not read while it sends a large
    body waits all that time. RFC 9112, section 9.5.
    """

    seconds: float = 5.0

    @property
    def name(self) -> str:
        """Counted by status: "early_status_403"."""
        return f"early_status_{self.status}"

    def wanted(self, length: int) -> int:
        return 0

    def steps(self, method: str) -> Steps:
        return [*super().steps(method), Pause(self.seconds), Close()]


@dataclass(frozen=True)
class IgnoreHeader(ReplyFault):
    """The request header `header` is taken off on the way to the server.

    `IgnoreHeader("if-none-match")` is a server that ignores conditional writes. Nothing happens
    where the header was signed (blockyard signs none but `x-amz-*`).
    """

    header: str

    def passed_on(self, request: Message) -> Message:
        if signs(request.head, self.header):
            return request
        return Message(request.head.without(self.header.lower()), request.body)

    def steps(self, request: Message, reply: Message) -> Steps | None:
        ignored = request.head.get(self.header) and not signs(request.head, self.header)
        return [reply.encode()] if ignored else None


@dataclass(frozen=True)
class Created(ReplyFault):
    """201 in place of the 200 that answers a PUT, as WebDAV servers say it."""

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if request.head.method != "PUT" or reply.head.status != 200:
            return None
        return [Message(_with_status(reply.head, 201), reply.body).encode()]


@dataclass(frozen=True)
class RangeAs200(ReplyFault):
    """A range, with its Content-Range, under the status 200 in place of 206."""

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if reply.head.status != 206:
            return None
        return [Message(_with_status(reply.head, 200), reply.body).encode()]


@dataclass(frozen=True)
class UntilClose(ReplyFault):
    """A reply without a Content-Length, which ends with the connection (RFC 9112, section 6.3).

    Not for GETs of objects, whose end nobody could tell from a truncation.
    """

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if request.head.method == "HEAD" or reply.head.status in (204, 206, 304):
            return None
        if request.head.method == "GET" and "?" not in request.head.target:
            return None
        head = reply.head.without("content-length", "transfer-encoding")
        return [head.with_header("Connection", "close").encode(), reply.body, Close()]


@dataclass(frozen=True)
class HalfStored(ReplyFault):
    """The server gets `share` of a PUT's body, under no checksum, and acknowledges that.

    Nothing happens where the server checks signatures, which refuses the request.
    """

    share: Position = 0.5

    def passed_on(self, request: Message) -> Message:
        if request.head.method != "PUT" or not request.body:
            return request
        head = request.head.without(*_UPLOAD_SUMS)
        head = head.with_header("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        return Message(head, b"").with_body(request.body[: offset(self.share, len(request.body))])

    def steps(self, request: Message, reply: Message) -> Steps | None:
        changed = self.passed_on(request) is not request
        return [reply.encode()] if changed and reply.head.status == 200 else None


@dataclass(frozen=True)
class SameToken(ReplyFault):
    """A listing that never ends: always its first page, and the same token for the next one.

    The token is the last key, which stands for the rest of the listing where keys are tokens.
    """

    def passed_on(self, request: Message) -> Message:
        if not _lists(request.head):
            return request
        first, *others = request.head.lines
        target = _TOKEN_IN_TARGET.sub("", request.head.target).rstrip("&")
        changed = first.replace(request.head.target.encode("latin-1"), target.encode("latin-1"))
        return Message(Head((changed, *others)), request.body)

    def steps(self, request: Message, reply: Message) -> Steps | None:
        keys = _KEY.findall(reply.body)
        if not _lists(request.head) or reply.head.status != 200 or not keys:
            return None
        more = b"<IsTruncated>true</IsTruncated><NextContinuationToken>%b</NextContinuationToken>"
        body = _TRUNCATED.sub(lambda _: more % keys[-1], _NEXT_TOKEN.sub(b"", reply.body))
        return [reply.with_body(body).encode()]


@dataclass(eq=False)
class CachedListing(ReplyFault):
    """The reply to an earlier listing: of the same query, or `foreign`: of another prefix.

    A stale cache, and a cache whose key leaves out the query. Remembers the listings that meet
    this very fault, so the first one comes as it is; each takes the place of the one before.
    """

    foreign: bool = False
    _cached: dict[str, tuple[str, bytes]] = field(
        default_factory=dict[str, tuple[str, bytes]], init=False, repr=False
    )

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if not _lists(request.head) or reply.head.status != 200:
            return None
        key = request.head.target.partition("?")[0] if self.foreign else request.head.target
        prefix = _prefix(request.head)
        before, cached = self._cached.get(key, (prefix, b""))
        self._cached[key] = (prefix, reply.encode())
        return [cached] if cached and (before != prefix) == self.foreign else None


def _lists(head: Head) -> bool:
    return head.method == "GET" and _LIST_TARGET.search(head.target) is not None


def _prefix(head: Head) -> str:
    found = _PREFIX_IN_TARGET.search(head.target)
    return found[1] if found else ""


def _with_status(head: Head, status: int) -> Head:
    version, _, reason = head.lines[0].split(b" ", 2)
    return Head((b"%b %d %b" % (version, status, reason), *head.lines[1:]))
