"""Fetching a block or a range of it: never a byte too few, too many, or from another version.

A body that breaks off is taken up again at the byte it had reached, from the same version of
the object (`If-Match` with its ETag). When the object was replaced meanwhile, the read starts
over. Every ranged reply, whole or broken off, is held to what was asked: status, Content-Range
and length. Checksums are not looked at here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockStoreError,
    IncompleteBodyError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
)
from blockyard.keys import range_past_end
from blockyard.model import KIB, MAX_BLOCK_SIZE
from blockyard.s3.attempts import Attempts, Call
from blockyard.s3.calls import Caller
from blockyard.s3.proof import check_object
from blockyard.s3.requests import Address, get_object

_HANDLED = (IncompleteBodyError, OversizedBodyError)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
_PROGRESS = 64 * KIB
"""A body that broke off after so many bytes made progress: its attempt does not count."""


@dataclass(slots=True)
class Asked(Call):
    """What to read: `length` bytes from `first` (to the end when None); all when `first` is None.

    `key` is as users know it, `full_key` as the bucket does; `limit` is the most bytes that an
    honest reply can hold. Only a whole block is read `into` a buffer. `fresh` asks for another
    connection than those in use.
    """

    full_key: str
    first: int | None = None
    length: int | None = None
    limit: int = field(default=MAX_BLOCK_SIZE, kw_only=True)
    handled: tuple[type[BlockStoreError], ...] = field(default=_HANDLED, kw_only=True)
    hedged: bool = field(default=True, kw_only=True)
    fresh: bool = False

    def request(self, address: Address) -> Request:
        if self.first is None:
            request = get_object(address, self.full_key, checksum=self.checksum_mode)
            request.sum_body = True
        else:
            last = None if self.length is None else self.first + self.length - 1
            request = get_object(address, self.full_key, byte_range=(self.first, last))
        request.fresh = self.fresh
        return request

    def check(self, response: Response) -> Response:
        """The reply, if it holds just the bytes asked for. Raises `ProtocolError`."""
        check_object(response)
        if self.first is None:
            if response.status != 200 or "content-range" in response.headers:
                raise ProtocolError(f"status {response.status} with a part of the whole object")
        elif response.status == 200 and "content-range" not in response.headers:
            return _cut_from_whole(self.key or "", response, self.first, self.length)
        else:
            check_range_reply(response, self.first, self.length)
        return response

    def begun_by(self, broken: IncompleteBodyError) -> bool:
        """Whether the bytes that a broken reply did bring are the first of those asked for."""
        if self.first is None:
            return broken.status == 200 and "content-range" not in broken.headers
        return _answers(broken, self.first, self.length)


def check_range_reply(response: Response, first: int, length: int | None) -> None:
    """Raise `ProtocolError` unless the reply holds the range that was asked for.

    Fewer bytes than asked are right only at the object's end. RFC 9110, sections 14.4, 15.3.7.
    Some services answer 200 and yet no more than the range, as its Content-Range says.
    """
    if response.status not in {200, 206}:
        raise ProtocolError(f"status {response.status} for a range request, expected 206")
    stated = response.headers.get("content-range", "")
    match = _CONTENT_RANGE.fullmatch(stated)
    if match is None:
        raise ProtocolError(f"Content-Range {stated!r}: expected 'bytes FIRST-LAST/SIZE'")
    begin, last, size = int(match[1]), int(match[2]), int(match[3])
    end = size if length is None else min(first + length, size)
    if begin != first or last + 1 != end or end - begin != response.size:
        raise ProtocolError(
            f"Content-Range {stated!r} with a body of {response.size} bytes does not answer "
            f"a request for {length if length is not None else 'all'} bytes from {first}"
        )


def object_size(reply: Response) -> int:
    """The object's size in bytes by the Content-Range of a reply that was checked."""
    return int(reply.headers["content-range"].rpartition("/")[2])


async def fetch(caller: Caller, ctx: Context, asked: Asked) -> Response:
    """The reply to `asked`, checked, its body complete."""
    while True:
        try:
            return await caller.call(ctx, asked, asked.check)
        except IncompleteBodyError as error:
            broken = error
        except OversizedBodyError as error:
            if asked.first is None or asked.length is None:
                raise
            if error.status == 200:
                return await _ranged_from_whole(caller, ctx, asked, asked.first)
            await caller.pause_or_raise(ctx, asked.operation, asked.key, asked.history(), error)
            continue
        resumed = await _resume(caller, ctx, asked, broken, asked.history())
        if resumed is not None:
            return resumed


async def _ranged_from_whole(caller: Caller, ctx: Context, asked: Asked, first: int) -> Response:
    """For a service that ignores `Range`, as it may: read all and cut out what was asked."""
    all_of_it = replace(
        asked, first=None, length=None, limit=MAX_BLOCK_SIZE, attempts=asked.history()
    )
    whole = await fetch(caller, ctx, all_of_it)
    return _cut_from_whole(asked.key or "", whole, first, asked.length)


def _cut_from_whole(key: str, whole: Response, first: int, length: int | None) -> Response:
    if first >= whole.size:
        raise range_past_end(key, first, whole.size)
    part = whole.body[first:] if length is None else whole.body[first : first + length]
    stated = {"content-range": f"bytes {first}-{first + len(part) - 1}/{whole.size}"}
    return Response(206, {**whole.headers, **stated}, part, len(part))


async def _resume(
    caller: Caller,
    ctx: Context,
    asked: Asked,
    broken: IncompleteBodyError,
    attempts: Attempts,
) -> Response | None:
    """The reply, its body taken up where it broke off, as often as needed.

    None when that can't be, since the object was replaced or the reply does not say which
    version it is of: then all of it has to be read anew.
    """
    first_reply = broken
    etag = _etag(broken.headers.get("etag", "")) if asked.begun_by(broken) else ""
    failed = attempts.failed
    have = 0
    pieces: list[bytes] = []
    while True:
        if etag:
            have += broken.received
            pieces.append(broken.partial or b"")
            if broken.received >= _PROGRESS:
                caller.made_progress(attempts, failed)
        await caller.pause_or_raise(ctx, asked.operation, asked.key, attempts, broken)
        if not etag:
            return None
        rest = _rest_of(asked, etag, first_reply.expected - have, have, attempts)
        try:
            reply = await caller.call(ctx, rest, rest.check)
        except IncompleteBodyError as again:
            broken = again
            if not rest.begun_by(again):
                return None
        except OversizedBodyError as ignored:  # the range; and the whole would come each time
            await caller.pause_or_raise(ctx, asked.operation, asked.key, attempts, ignored)
            return None
        except S3Error as error:
            if error.status != 412:
                raise
            return None
        else:
            body = b"".join([*pieces, reply.body]) if asked.into is None else b""
            return Response(first_reply.status, first_reply.headers, body, first_reply.expected)


def _rest_of(asked: Asked, etag: str, length: int, received: int, attempts: Attempts) -> _Rest:
    """What is missing after the first `received` bytes."""
    into = asked.into
    return _Rest(
        asked.operation,
        asked.key,
        asked.full_key,
        etag,
        (asked.first or 0) + received,
        length,
        limit=length,
        into=None if into is None else into[received : received + length],
        handled=_HANDLED,
        attempts=attempts,
    )


@dataclass(slots=True)
class _Rest(Call):
    """What is missing of a body: `length` bytes from `first`, of the version with `etag`."""

    full_key: str
    etag: str
    first: int
    length: int

    def check(self, response: Response) -> Response:
        check_range_reply(response, self.first, self.length)
        if response.size != self.length:
            raise ProtocolError("the object ends before the body that broke off did")
        if _etag(response.headers.get("etag", "")) != self.etag:
            raise ProtocolError("the rest of a body came from another version of the object")
        return response

    def begun_by(self, broken: IncompleteBodyError) -> bool:
        """As `Asked.begun_by`."""
        same = _etag(broken.headers.get("etag", "")) == self.etag
        return same and _answers(broken, self.first, self.length)

    def request(self, address: Address) -> Request:
        last = self.first + self.length - 1
        return get_object(address, self.full_key, byte_range=(self.first, last), if_match=self.etag)


def _answers(broken: IncompleteBodyError, first: int, length: int | None) -> bool:
    head = Response(broken.status, broken.headers, b"", broken.expected)
    try:
        check_range_reply(head, first, length)
    except ProtocolError:
        return False
    return True


def _etag(value: str) -> str:
    """The ETag without quotes; "" for a weak one, which does not say that bytes are the same."""
    return "" if value.startswith("W/") else value.strip('"')
