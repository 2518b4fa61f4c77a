"""Faults in what a well-formed reply says: the wrong range, a listing out of order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape

from blockyard.testing.messages import Head, Message
from blockyard.testing.steps import Steps
from blockyard_faults.fault import ReplyFault

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_ENTRY = re.compile(rb"<(Contents|Deleted|Error)>.*?</\1>", re.DOTALL)
_KEY = re.compile(rb"<Key>.*?</Key>", re.DOTALL)
_DELETE_TARGET = re.compile(r"[?&]delete(?:[=&]|$)")
_XMLNS = b"http://s3.amazonaws.com/doc/2006-03-01/"
_FIELD = re.compile(rb"<(\w+)(?:\s[^>]*)?(?:/>|>.*?</\1>)", re.DOTALL)


@dataclass(frozen=True)
class IgnoreRange(ReplyFault):
    """200 and the whole object in answer to a request with a Range.

    The header is taken off on the way to the server, so nothing happens where it was signed
    (blockyard does not sign it): a server that checks signatures would refuse.
    """

    def passed_on(self, request: Message) -> Message:
        if signs(request.head, "range"):
            return request
        return Message(request.head.without("range"), request.body)

    def steps(self, request: Message, reply: Message) -> Steps | None:
        ranged = request.head.get("range") and not signs(request.head, "range")
        return [reply.encode()] if ranged and reply.head.status == 200 else None


@dataclass(frozen=True)
class ShortRange(ReplyFault):
    """A 206 that holds `missing` bytes less than asked, and says so in Content-Range."""

    missing: int = 1

    def steps(self, request: Message, reply: Message) -> Steps | None:
        found = _content_range(reply)
        if found is None or self.missing >= len(reply.body):
            return None
        first, last, size = found
        shorter = reply.with_body(reply.body[: -self.missing])
        head = _with_range(shorter.head, first, last - self.missing, size)
        return [head.encode(), shorter.body]


@dataclass(frozen=True)
class WrongRange(ReplyFault):
    """A 206 whose Content-Range lies `shift` bytes further on than what was asked."""

    shift: int = 1

    def steps(self, request: Message, reply: Message) -> Steps | None:
        found = _content_range(reply)
        if found is None:
            return None
        first, last, size = found
        head = _with_range(reply.head, first + self.shift, last + self.shift, size)
        return [head.encode(), reply.body]


@dataclass(frozen=True)
class ShuffleXml(ReplyFault):
    """The entries of a list or delete reply in an order, or a number, that S3 never gives.

    "fields" turns round the fields inside each entry, which XML allows and a client must not
    mind; "entries" turns round the entries; "double" gives every entry twice.
    """

    how: Literal["fields", "entries", "double"] = "entries"

    def steps(self, request: Message, reply: Message) -> Steps | None:
        entries = [found.group() for found in _ENTRY.finditer(reply.body)]
        if self.how == "entries":
            changed = entries[::-1]
        elif self.how == "double":
            changed = [entry * 2 for entry in entries]
        else:
            changed = [_fields_reversed(entry) for entry in entries]
        if reply.head.status != 200 or changed == entries:
            return None
        following = iter(changed)
        return [reply.with_body(_ENTRY.sub(lambda _: next(following), reply.body)).encode()]


@dataclass(frozen=True)
class FailKeys(ReplyFault):
    """A DeleteObjects reply that calls the first `count` keys of the request failed.

    They are gone all the same; each is given `code` as its error.
    https://docs.aws.amazon.com/AmazonS3/latest/API/API_DeleteObjects.html
    """

    count: int = 1
    code: str = "InternalError"

    def steps(self, request: Message, reply: Message) -> Steps | None:
        if reply.head.status != 200 or not _DELETE_TARGET.search(request.head.target):
            return None
        failed = _KEY.findall(request.body)[: self.count]
        entries = [found.group() for found in _ENTRY.finditer(reply.body)]
        kept = [entry for entry in entries if not any(key in entry for key in failed)]
        code = escape(self.code).encode()
        errors = [b"<Error>%b<Code>%b</Code><Message/></Error>" % (key, code) for key in failed]
        body = b'<DeleteResult xmlns="%b">%b</DeleteResult>' % (_XMLNS, b"".join(kept + errors))
        return [reply.with_body(body).encode()]


def signs(head: Head, header: str) -> bool:
    """Whether the request's signature covers `header`."""
    signed = re.search(r"SignedHeaders=([^,\s]*)", head.get("authorization"))
    return signed is not None and header.lower() in signed.group(1).split(";")


def _content_range(reply: Message) -> tuple[int, int, str] | None:
    found = _CONTENT_RANGE.fullmatch(reply.head.get("content-range"))
    if reply.head.status != 206 or found is None:
        return None
    return int(found.group(1)), int(found.group(2)), found.group(3)


def _with_range(head: Head, first: int, last: int, size: str) -> Head:
    return head.with_header("Content-Range", f"bytes {first}-{last}/{size}")


def _fields_reversed(entry: bytes) -> bytes:
    start, end = entry.index(b">") + 1, entry.rindex(b"</")
    fields = [found.group() for found in _FIELD.finditer(entry, start, end)]
    return entry[:start] + b"".join(reversed(fields)) + entry[end:]
