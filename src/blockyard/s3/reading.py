"""Reading a block or a range of it: never a byte too few, too many, or from another version.

A body that breaks off is taken up again at the byte it had reached, from the same version of
the object (`If-Match` with its ETag). When the object was replaced meanwhile, the read starts
over. Every ranged reply is held to what was asked: status, Content-Range and length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blockyard.context import Context, Request, Response
from blockyard.errors import (
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
)
from blockyard.keys import range_past_end
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.s3.calls import Attempts, Call, Caller
from blockyard.s3.requests import Address, get_object
from blockyard.s3.signing import EMPTY_SHA256

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

    @property
    def limit(self) -> int:
        """The most bytes that an honest reply can hold."""
        if self.into is not None:
            return len(self.into)
        return MAX_BLOCK_SIZE if self.length is None else self.length

    def request(self, address: Address) -> Request:
        if self.first is None:
            return get_object(address, self.full_key)
        last = None if self.length is None else self.first + self.length - 1
        return get_object(address, self.full_key, byte_range=(self.first, last))

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


async def read(
    caller: Caller, ctx: Context, asked: Asked, attempts: Attempts | None = None
) -> Response:
    """The reply to `asked`, its body complete (in `asked.into` where that is given)."""
    call = Call(
        asked.operation,
        asked.key,
        asked.request,
        EMPTY_SHA256,
        asked.limit,
        asked.into,
        handled=_HANDLED,
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
        return await read(caller, ctx, asked, attempts)


async def _cut_from_whole(
    caller: Caller, ctx: Context, asked: Asked, first: int, length: int
) -> Response:
    """For a service that ignores `Range`, as it may: read all and cut out what was asked."""
    whole = await read(caller, ctx, Asked(asked.operation, asked.key, asked.full_key))
    if first >= whole.size:
        raise range_past_end(asked.key, first, whole.size)
    part = whole.body[first : first + length]
    return Response(206, whole.headers, part, len(part))


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
            return await read(caller, ctx, asked, attempts)
        rest = _Rest(asked, etag, begin + have, first_reply.expected - have, have)
        try:
            reply = await caller.call(ctx, rest.call(), rest.check, attempts)
        except IncompleteBodyError as again:
            broken = again
        except S3Error as error:
            if error.status != 412:
                raise
            return await read(caller, ctx, asked, attempts)  # it was replaced: all anew
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
