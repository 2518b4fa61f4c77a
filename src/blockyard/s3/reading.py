"""Reading a block or a range of it: never a byte too few, too many, or from another version.

A body that breaks off is taken up again at the byte it had reached, from the same version of
the object (`If-Match` with its ETag). When the object was replaced meanwhile, the read starts
over. Every ranged reply is held to what was asked: status, Content-Range and length. What was
read is held to the checksums it was stored with; on a mismatch it is read once more, on another
connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from blockyard.context import Context, Request, Response
from blockyard.errors import (
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
)
from blockyard.keys import range_past_end
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.s3.calls import Attempts, Call, Caller
from blockyard.s3.integrity import SMALLEST_PAGE, Sums, declared_mismatch
from blockyard.s3.requests import Address, get_object
from blockyard.s3.signing import EMPTY_SHA256

VerifyRanges = Literal["widen", "covered", "off"]
"""Verify ranged reads wholly, by reading whole pages; only the pages they cover; or not."""

_HANDLED = (IncompleteBodyError, OversizedBodyError)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)")


@dataclass(slots=True)
class Asked:
    """What to read: `length` bytes from `first` (to the end when None); all when `first` is None.

    `key` is as users know it, `full_key` as the bucket does.
    """

    operation: str
    key: str
    full_key: str
    first: int | None = None
    length: int | None = None
    into: memoryview | None = None
    fresh: bool = False

    @property
    def limit(self) -> int:
        """The most bytes that an honest reply can hold."""
        if self.into is not None:
            return len(self.into)
        return MAX_BLOCK_SIZE if self.length is None else self.length

    def request(self, address: Address) -> Request:
        if self.first is None:
            request = get_object(address, self.full_key, checksum=True)
        else:
            last = None if self.length is None else self.first + self.length - 1
            request = get_object(address, self.full_key, byte_range=(self.first, last))
        request.fresh = self.fresh
        return request

    def check(self, response: Response) -> Response:
        """The reply, if it holds just the bytes asked for. Raises `ProtocolError`."""
        if self.first is not None:
            _ = check_range_reply(response, self.first, self.length)
        elif response.status != 200:
            raise ProtocolError(f"status {response.status} for a whole object")
        return response


def check_range_reply(response: Response, first: int, length: int | None) -> int | None:
    """Hold a reply to the range that was asked; returns the object's size where it is told.

    Fewer bytes than asked are right only at the object's end. RFC 9110, sections 14.4, 15.3.7.
    """
    if response.status != 206:
        raise ProtocolError(f"status {response.status} for a range request, expected 206")
    stated = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    if match is None:
        raise ProtocolError(f"Content-Range {stated!r}: expected 'bytes FIRST-LAST/SIZE'")
    begin, last = int(match[1]), int(match[2])
    size = None if match[3] == "*" else int(match[3])
    end = size if length is None else first + length if size is None else min(first + length, size)
    wrong = begin != first or last - begin + 1 != response.size
    if wrong or (end is not None and last + 1 != end):
        raise ProtocolError(
            f"Content-Range {stated!r} with a body of {response.size} bytes does not answer "
            f"a request for {length if length is not None else 'all'} bytes from {first}"
        )
    return size


class Reader:
    """Verified reads of one store."""

    def __init__(self, caller: Caller, verify_ranges: VerifyRanges) -> None:
        self._caller = caller
        self._verify_ranges = verify_ranges
        self._page = SMALLEST_PAGE

    async def read(self, ctx: Context, asked: Asked) -> Verified:
        """The reply to `asked`, complete (in `asked.into` where given) and as it was stored."""
        reply = await _fetch(self._caller, ctx, asked)
        if asked.first is not None and self._verify_ranges == "off":
            return Verified(reply, None)
        try:
            return verify(asked, reply)
        except IntegrityError:
            again = replace(asked, fresh=True)
            return verify(again, await _fetch(self._caller, ctx, again))

    async def read_range(
        self, ctx: Context, key: str, full_key: str, offset: int, length: int | None
    ) -> bytes:
        """`length` bytes from `offset`, clamped at the end.

        To verify them all, the read is widened to the edges of the pages they are on. The page
        size is taken to be that of the last block read; a block with another is read again.
        """
        widen = self._verify_ranges == "widen"
        while True:
            page = self._page if widen else 1
            first = offset - offset % page
            wanted = None if length is None else -(-(offset + length) // page) * page - first
            asked = Asked("read_block_range", key, full_key, first, wanted)
            try:
                verified = await self.read(ctx, asked)
            except InvalidRangeError as error:
                raise range_past_end(key, offset) from error
            sums, body = verified.sums, verified.reply.body
            if widen and sums is not None and sums.page_size != page:
                self._page = sums.page_size
                if not sums.cover(offset, length, first, len(body)):
                    continue
            begin = offset - first
            if begin >= len(body):
                raise range_past_end(key, offset, first + len(body))
            if begin == 0 and length == wanted:
                return body
            return body[begin:] if length is None else body[begin : begin + length]


@dataclass(slots=True)
class Verified:
    """A reply that matches its checksums; `sums` are the block's own, None when it has none."""

    reply: Response
    sums: Sums | None


def verify(asked: Asked, reply: Response) -> Verified:
    """Hold what was read to its checksums. Raises `IntegrityError`."""
    body = memoryview(reply.body) if asked.into is None else asked.into[: reply.size]
    whole = asked.first is None
    try:
        sums = Sums.of(reply.headers)
        if sums is None:
            wrong = declared_mismatch(reply.headers, body) if whole else None
        else:
            sums.check_size(len(body) if whole else _stated_size(reply))
            wrong = sums.mismatch(body, asked.first or 0)
    except ValueError as error:  # sums that can't be read, or of another size
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {error}") from None
    if wrong is not None:
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {wrong}")
    return Verified(reply, sums)


def _stated_size(reply: Response) -> int | None:
    """The object's size by the Content-Range of a checked ranged reply."""
    size = reply.headers.get("content-range", "").rpartition("/")[2]
    return int(size) if size.isdecimal() else None


async def _fetch(
    caller: Caller, ctx: Context, asked: Asked, attempts: Attempts | None = None
) -> Response:
    """The reply to `asked`, its body complete."""
    call = Call(
        asked.operation,
        asked.key,
        asked.request,
        EMPTY_SHA256,
        asked.limit,
        asked.into,
        handled=_HANDLED,
        hedged=asked.into is None,
    )
    try:
        return await caller.call(ctx, call, asked.check, attempts)
    except IncompleteBodyError as error:
        return await _resume(caller, ctx, asked, error, attempts or Attempts())
    except OversizedBodyError as error:
        if asked.first is None or asked.length is None:
            raise
        if error.status == 200:
            return await _cut_from_whole(caller, ctx, asked, asked.first, asked.length)
        attempts = attempts or Attempts()
        await caller.pause_or_raise(ctx, asked.operation, asked.key, attempts, error)
        return await _fetch(caller, ctx, asked, attempts)


async def _cut_from_whole(
    caller: Caller, ctx: Context, asked: Asked, first: int, length: int
) -> Response:
    """For a service that ignores `Range`, as it may: read all and cut out what was asked."""
    whole = await _fetch(caller, ctx, Asked(asked.operation, asked.key, asked.full_key))
    if first >= whole.size:
        raise range_past_end(asked.key, first, whole.size)
    part = whole.body[first : first + length]
    stated = {"content-range": f"bytes {first}-{first + len(part) - 1}/{whole.size}"}
    return Response(206, {**whole.headers, **stated}, part, len(part))


async def _resume(
    caller: Caller,
    ctx: Context,
    asked: Asked,
    broken: IncompleteBodyError,
    attempts: Attempts,
) -> Response:
    """Take the body up where it broke off, as often as needed; attempts that moved are free."""
    first_reply = broken
    etag = broken.headers.get("etag", "").strip('"')
    begin = asked.first or 0
    have = 0
    pieces: list[bytes] = []
    while True:
        have += broken.received
        pieces.append(broken.partial or b"")
        if broken.received:
            attempts.failed = 0
        await caller.pause_or_raise(ctx, asked.operation, asked.key, attempts, broken)
        if not etag:
            return await _fetch(caller, ctx, asked, attempts)
        rest = _Rest(asked, etag, begin + have, first_reply.expected - have, have)
        try:
            reply = await caller.call(ctx, rest.call(), rest.check, attempts)
        except IncompleteBodyError as again:
            broken = again
        except S3Error as error:
            if error.status != 412:
                raise
            return await _fetch(caller, ctx, asked, attempts)  # it was replaced: all anew
        else:
            body = b"".join([*pieces, reply.body]) if asked.into is None else b""
            return Response(first_reply.status, first_reply.headers, body, first_reply.expected)


@dataclass(frozen=True, slots=True)
class _Rest:
    """What is missing of a body: `length` bytes from `first`, of the version with `etag`."""

    asked: Asked
    etag: str
    first: int
    length: int
    received: int

    def call(self) -> Call:
        into = self.asked.into
        return Call(
            self.asked.operation,
            self.asked.key,
            self._request,
            EMPTY_SHA256,
            self.length,
            None if into is None else into[self.received : self.received + self.length],
            handled=_HANDLED,
        )

    def check(self, response: Response) -> Response:
        _ = check_range_reply(response, self.first, self.length)
        if response.headers.get("etag", "").strip('"') != self.etag:
            raise ProtocolError("the rest of a body came from another version of the object")
        return response

    def _request(self, address: Address) -> Request:
        last = self.first + self.length - 1
        return get_object(
            address, self.asked.full_key, byte_range=(self.first, last), if_match=self.etag
        )
