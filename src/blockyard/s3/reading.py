"""Verified reads: one state, one loop, and a pure function that says what comes next.

A body that breaks off is taken up again at the byte it had reached, from the same version of the
object (`If-Match` with its ETag). When the object was replaced meanwhile, the read starts over.
What does not match the checksums that the block was stored with is read once more, on another
connection. A ranged read is widened to the edges of the pages that it is on, whose size is taken
to be that of the last block read; a block with another is read again. All of that is one call, with
one budget of attempts and one list of notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from typing import TypeAlias

from blockyard.config import VerifyRanges
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockStoreError,
    BlockTooLargeError,
    IncompleteBodyError,
    IntegrityError,
    InvalidRangeError,
    OversizedBodyError,
    ProtocolError,
    S3Error,
)
from blockyard.keys import range_past_end
from blockyard.model import KIB, MAX_BLOCK_SIZE, Block, BlockInfo
from blockyard.s3 import responses
from blockyard.s3.calls import Call, Caller, FunctionCall
from blockyard.s3.endpoints import Address
from blockyard.s3.integrity import SMALLEST_PAGE, PageChecksums, ServiceChecksum, service_checksum
from blockyard.s3.requests import get_object, head_object
from blockyard.s3.responses import (
    Span,
    check_object,
    check_range_reply,
    cut_from_whole,
    stated_range,
)
from blockyard.stores.base import (
    ReadRequest,
    buffer_too_small,
    changed,
    check_conditions,
    requested_range,
    unchanged,
)

Verified: TypeAlias = PageChecksums | ServiceChecksum | None
FindChecksum = Callable[[Mapping[str, str]], ServiceChecksum | None]

_CHECKED_INLINE = 64 * KIB
"""Bodies up to this many bytes are verified at once; larger ones against the service's checksum,
which may be slow to compute, where they block no one."""
_PROGRESS = 64 * KIB
"""A body that broke off after so many bytes made progress: its attempt does not count."""
_REREADS = 4
"""How often one read may find that its block has pages of yet another size."""


class Step(Enum):
    """What follows on a failure."""

    RETRY = auto()
    """The same request, after a pause."""
    RESUME = auto()
    """The rest of the body, after a pause."""
    START_OVER = auto()
    """All of it, after a pause."""
    READ_REPLACED = auto()
    """All of it, at once: there is another version of the object."""
    READ_WHOLE = auto()
    """The whole object, at once: the service ignores ranges."""
    READ_AGAIN = auto()
    """All of it, at once, on another connection: it did not match its checksum."""
    GIVE_UP = auto()


@dataclass(slots=True)
class Broken:
    """A body that broke off: its first reply, and what has come of it since.

    `received` bytes are in `pieces`, or in the caller's buffer; the rest is requested of the
    version with `etag` alone. `failed_before` counts the attempts before this one.
    """

    reply: Response
    etag: str
    failed_before: int
    pieces: list[bytes]
    received: int = 0

    def span(self) -> Span:
        """The bytes that are missing."""
        first = 0
        if "content-range" in self.reply.headers:
            first, _ = stated_range(self.reply)
        return Span(first + self.received, self.reply.size - self.received)

    def add(self, broken: IncompleteBodyError) -> None:
        self.received += broken.received
        if broken.partial is not None:
            self.pieces.append(broken.partial)

    def completed(self, rest: Response) -> Response:
        """The reply as if it had not broken off. Raises `ProtocolError` for another `rest`."""
        _ = check_range_reply(rest, self.span())
        if rest.size != self.reply.size - self.received:
            raise ProtocolError("the object ends before the body that broke off did")
        if _strong(rest.headers) != self.etag:
            raise ProtocolError("the rest of a body came from another version of the object")
        reply = self.reply
        body = b"".join([*self.pieces, rest.body])  # empty where it went into a buffer
        return Response(reply.status, reply.headers, body, reply.size)


class Read(Call):
    """A read under way: what goes out next, and what has come so far.

    To read what is `wanted`, widened to the edges of pages of `page` bytes. `span` is what is
    requested of the service, None for the whole object; `broken` is set while a body that broke off
    is completed; `stated` are the first byte and the object's size, as the checked reply to a range
    says; `widened` counts how often `page` was another than that of the block.
    """

    __slots__ = (
        "broken",
        "fresh",
        "full_key",
        "page",
        "ranges_ignored",
        "span",
        "stated",
        "wanted",
        "widened",
    )

    def __init__(self, wanted: ReadRequest, full_key: str, page: int) -> None:
        Call.__init__(self, wanted.operation, wanted.key)
        self.wanted = wanted
        self.full_key = full_key
        self.page = page
        self.widened = 0
        self.hedged = wanted.into is None
        self.ranges_ignored = self.fresh = False
        self.broken: Broken | None = None
        self.stated = 0, 0
        self.span: Span | None = None
        if wanted.offset is None and wanted.suffix is None:
            self.limit, self.into = self._most, wanted.into
        else:
            self.span = span = _widened(wanted, page)
            self.limit = span.most

    def widen(self, page: int) -> None:
        """From now on read to the edges of pages of `page` bytes. Raises `IntegrityError`."""
        self.page = page
        self.widened += 1
        if self.widened == _REREADS:
            raise IntegrityError(
                f"{self.operation} {self.key!r}: each of {_REREADS} reads found a block of "
                "another size"
            )
        self.span = _widened(self.wanted, page)
        self.start_over()

    def start_over(self) -> None:
        """Forget what has come of the body."""
        self.broken = None
        self.into = self.target
        span = self.sent
        self.limit = self._most if span is None else span.most

    def resume(self, failure: IncompleteBodyError, failed_before: int) -> Broken:
        """Go on behind what `failure` brought."""
        broken = self.broken
        if broken is None:
            broken = self.broken = Broken(
                _head(failure), _strong(failure.headers), failed_before, []
            )
        broken.add(failure)
        self.limit = broken.reply.size - broken.received
        target = self.target
        if target is not None:
            self.into = target[broken.received : broken.reply.size]
        return broken

    @property
    def _most(self) -> int:
        """The most bytes of a whole object: all that a buffer of the caller's has room for."""
        return MAX_BLOCK_SIZE if self.wanted.into is None else len(self.wanted.into)

    @property
    def target(self) -> memoryview | None:
        """Where the service's bytes go: those of a range may be more than are wanted."""
        return self.wanted.into if self.span is None else None

    @property
    def sent(self) -> Span | None:
        """The range that goes out next; None for the whole object."""
        if self.broken is not None:
            return self.broken.span()
        return None if self.ranges_ignored else self.span

    def request(self, address: Address) -> Request:
        span, wanted, broken = self.sent, self.wanted, self.broken
        if span is None:
            byte_range = suffix = None
        else:
            last = None if span.length is None else span.first + span.length - 1
            byte_range, suffix = (span.first, last), span.suffix
        request = get_object(
            address,
            self.full_key,
            byte_range=byte_range,
            suffix=suffix,
            if_match=wanted.if_match if broken is None else broken.etag,
            if_none_match=wanted.if_none_match if broken is None else None,
            checksum=self.checksum_mode and span is None,
        )
        request.sum_body = span is None
        request.fresh = self.fresh and broken is None
        return request

    def check(self, response: Response) -> Response:
        """The reply to all that is requested, if `response` is that or completes it.

        Raises `ProtocolError` where it is neither, `InvalidRangeError` where a service that ignores
        ranges shows that there is none.
        """
        check_object(response)
        if self.broken is not None:
            response = self.broken.completed(response)
        span = self.span
        if _is_whole(response):
            if span is not None:
                response = cut_from_whole(response, span)
                self.stated = stated_range(response)
            return response
        if span is None or self.ranges_ignored:
            raise ProtocolError(f"status {response.status} with a part of the whole object")
        resumed = self.broken is not None
        self.stated = stated_range(response) if resumed else check_range_reply(response, span)
        return response

    def continues(self, failure: IncompleteBodyError) -> bool:
        """Whether the bytes that a broken reply brought are the next of those requested."""
        etag = _strong(failure.headers)
        if not etag or (self.broken is not None and etag != self.broken.etag):
            return False
        span = self.sent
        if span is None:
            return _is_whole(_head(failure))
        try:
            _ = check_range_reply(_head(failure), span)
        except ProtocolError:
            return False
        return True


def _widened(wanted: ReadRequest, page: int) -> Span:
    """The range that is wanted, to the edges of pages of `page` bytes."""
    offset, length = wanted.offset or 0, wanted.length
    if wanted.suffix is not None:
        return Span(suffix=wanted.suffix + page - 1)
    first = offset - offset % page
    return Span(first, None if length is None else -(-(offset + length) // page) * page - first)


def next_step(read: Read, failure: BlockStoreError) -> Step:
    """What a read does after a failure."""
    step = Step.RETRY
    match failure:
        case IncompleteBodyError():
            step = Step.RESUME if read.continues(failure) else Step.START_OVER
        case OversizedBodyError() if read.broken is not None:
            step = Step.START_OVER  # the range is ignored, and the whole would come each time
        case OversizedBodyError():
            span = read.sent
            if span is None or (span.length is None and span.suffix is None):
                step = Step.GIVE_UP
            elif failure.status == 200:
                step = Step.READ_WHOLE
        case IntegrityError():
            step = Step.GIVE_UP if read.fresh else Step.READ_AGAIN
        case InvalidRangeError():
            step = Step.GIVE_UP
        case S3Error() if failure.status in {304, 412}:
            replaced = read.broken is not None and read.wanted.if_match is None
            step = Step.READ_REPLACED if replaced else Step.GIVE_UP
        case _:
            pass
    return step


class Reader:
    """Verified reads of one store."""

    def __init__(self, caller: Caller, verify_ranges: VerifyRanges) -> None:
        self._caller = caller
        self._verify_ranges = verify_ranges
        self.page_size = SMALLEST_PAGE

    async def read(
        self,
        ctx: Context,
        wanted: ReadRequest,
        full_key: str,
        find_checksum: FindChecksum = service_checksum,
    ) -> Block:
        """See `Store.read`, which answers empty ranges by itself.

        An object without page checksums is verified, when it is read whole, against what
        `find_checksum` finds in the headers.
        """
        if wanted.length == 0 or wanted.suffix == 0:
            info, _, _ = await self._look(ctx, wanted, full_key)
            return Block(b"", 0, lambda: info)
        read = Read(wanted, full_key, self.page_size if self._verify_ranges == "widen" else 1)
        read.object_headers = self._caller.headers.read
        if read.span is None:
            read.checksum_mode = self._caller.capabilities.checksum_mode is not False
        return await self._read(ctx, read, full_key, find_checksum)

    async def _read(
        self, ctx: Context, read: Read, full_key: str, find_checksum: FindChecksum
    ) -> Block:
        """The loop of `read`."""
        verified: Verified = None
        learnt = self._caller.capabilities
        while True:
            try:
                reply = await self._caller.attempt(ctx, read, read.check)
                if read.span is None and learnt.checksum_mode is None:
                    # if refused, it was all that was wrong
                    learnt.checksum_mode = read.checksum_mode
                if read.span is None or self._verify_ranges != "off":
                    if reply.size <= _CHECKED_INLINE or PageChecksums.stated(reply.headers):
                        verified = verify(read, reply, find_checksum)
                    else:
                        verified = await ctx.runtime.blocking(
                            partial(verify, read, reply, find_checksum)
                        )
            except BlockStoreError as error:
                failure = error
            else:
                if self._is_all(read, reply, verified):
                    return _block(read, reply, verified)
                continue
            try:
                await self._prepare_next(ctx, read, failure)
            except InvalidRangeError:
                refused = await self._read_refused(ctx, read, full_key)
                if refused is not None:
                    return refused
            finally:
                del failure  # which its traceback refers to, by way of this frame

    async def head(
        self, ctx: Context, operation: str, key: str, full_key: str, *, checksum: bool = False
    ) -> Response:
        """The headers of an object; with `checksum` also the one that the service keeps."""
        call = FunctionCall(
            operation,
            key,
            lambda address: head_object(address, full_key, checksum=checksum),
            object_headers=self._caller.headers.read,
        )

        def described(reply: Response) -> Response:
            check_object(reply)
            return reply

        return await self._caller.call(ctx, call, described)

    async def _read_refused(self, ctx: Context, read: Read, full_key: str) -> Block | None:
        """What a range is that the service refuses as one past the end; None to ask for it again.

        That is where the object's own headers say that it has these bytes: it is never taken for an
        empty one, and may have been replaced meanwhile.
        """
        wanted = read.wanted
        info, begin, end = await self._look(ctx, wanted, full_key)
        if begin >= end:
            return Block(b"", 0, lambda: info)
        if wanted.suffix:  # some refuse suffixes longer than the object
            return await self.read(ctx, replace(wanted, suffix=None, offset=begin), full_key)
        contradicted = ProtocolError(
            f"the service refuses bytes {begin} to {end - 1} as past the end of an object that it "
            f"says has {info.size}"
        )
        await self._prepare_next(ctx, read, contradicted)
        return None

    async def _look(
        self, ctx: Context, wanted: ReadRequest, full_key: str
    ) -> tuple[BlockInfo, int, int]:
        """The object, and what is wanted of it by its size: for what HTTP has no range of.

        The error response to a range does not show whether the block has the size that it was
        stored with, as a service may have lost its end; its headers do. Raises the error of a range
        past the end.
        """
        reply = await self.head(ctx, wanted.operation, wanted.key, full_key)
        info = responses.stat_result(reply, wanted.operation, wanted.key)
        check_conditions(wanted, info.etag)
        return info, *requested_range(wanted, info.size)

    def _is_all(self, read: Read, reply: Response, verified: Verified) -> bool:
        """Whether all pages that are wanted came whole; else `read` is widened to them.

        Raises the error for a version that the conditions refuse, of a service that ignores them.
        """
        wanted = read.wanted
        if wanted.if_match is not None or wanted.if_none_match is not None:
            check_conditions(wanted, responses.unquoted(reply.headers["etag"]))
        if read.span is None or read.page == 1 or not isinstance(verified, PageChecksums):
            return True
        self.page_size = verified.page_size
        if verified.page_size == read.page or _covered(read, reply, verified):
            return True
        read.widen(verified.page_size)
        return False

    async def _prepare_next(self, ctx: Context, read: Read, failure: BlockStoreError) -> None:
        """Make `read` ready for its next request, having waited; or raise what ends it."""
        step = next_step(read, failure)
        if step is Step.GIVE_UP or (step is Step.READ_AGAIN and self._caller.on_last_attempt(read)):
            error = self._caller.last_failure(ctx, read, _told(read.wanted, failure))
            try:
                raise error from (None if error is failure else failure)
            finally:
                del error, failure  # which its traceback refers to
        if isinstance(failure, IncompleteBodyError) and step is Step.RESUME:
            broken = read.resume(failure, read.history().failed)
            if failure.received >= _PROGRESS:
                self._caller.made_progress(read.history(), broken.failed_before)
        if step in {Step.READ_AGAIN, Step.READ_REPLACED}:
            self._caller.count(read, failure)
        elif step is not Step.READ_WHOLE:
            pausing = self._caller.pause_or_raise(ctx, read, failure)
            del failure  # which its traceback refers to
            await pausing
        read.fresh = read.fresh or step is Step.READ_AGAIN
        read.ranges_ignored = read.ranges_ignored or step is Step.READ_WHOLE
        if step not in {Step.RETRY, Step.RESUME}:
            read.start_over()


def verify(read: Read, reply: Response, find_checksum: FindChecksum) -> Verified:
    """What the bytes read were verified against. Raises `IntegrityError`.

    The block's own page checksums; what `find_checksum` finds for a block that has none, and was
    read whole; nothing, None.
    """
    target = read.target
    body = memoryview(reply.body) if target is None else target[: reply.size]
    first, size = (0, len(body)) if read.span is None else read.stated
    verified: Verified
    wrong = None
    try:
        verified = checksums = PageChecksums.of(reply.headers)
        if checksums is not None:
            checksums.check_size(size)
            wrong = checksums.mismatch(body, first, reply.headers, reply.crc32c)
        elif read.span is None and (verified := find_checksum(reply.headers)) is not None:
            wrong = verified.mismatch(body)
    except ValueError as error:  # checksums that can't be read, or of another size
        raise IntegrityError(f"{read.operation} {read.key!r}: {error}") from None
    if wrong is not None:
        raise IntegrityError(f"{read.operation} {read.key!r}: {wrong}")
    return verified


def _covered(read: Read, reply: Response, checksums: PageChecksums) -> bool:
    """Whether the pages of all bytes wanted came whole."""
    first, size = read.stated
    offset, length = read.wanted.offset, read.wanted.length
    if offset is None:
        offset = max(0, size - (read.wanted.suffix or 0))
    return checksums.cover(offset, length, first, reply.size)


def _block(read: Read, reply: Response, verified: Verified) -> Block:
    """What was wanted of the bytes that were read."""
    wanted, span = read.wanted, read.span
    page_sums = None
    if wanted.page_sums and isinstance(verified, PageChecksums):
        page_sums = verified.all(reply.headers)
    if span is None:
        size = reply.size
        return Block(
            reply.body,
            size,
            lambda: responses.read_result(wanted.key, reply, size),
            verified,
            page_sums,
        )
    first, size = read.stated
    begin, end = requested_range(wanted, size)
    data, got = reply.body[begin - first : end - first], end - begin
    if wanted.into is not None:
        wanted.into[:got] = data
        data = b""
    return Block(
        data, got, lambda: responses.read_result(wanted.key, reply, size), verified, page_sums
    )


def _told(wanted: ReadRequest, failure: BlockStoreError) -> BlockStoreError:
    """`failure` in the words of the caller."""
    where = f"{wanted.operation} {wanted.key!r}"
    match failure:
        case OversizedBodyError() if wanted.into is not None:
            return buffer_too_small(wanted, failure.size)
        case OversizedBodyError():
            return BlockTooLargeError(f"{where}: {failure}")
        case InvalidRangeError() if wanted.offset is not None:
            return range_past_end(wanted.operation, wanted.key, wanted.offset)
        case S3Error() if failure.status == 412 and wanted.if_match is not None:
            return changed(where, wanted.if_match)
        case S3Error() if failure.status == 304 and wanted.if_none_match is not None:
            return unchanged(where, wanted.if_none_match)
        case _:
            return failure


def _head(broken: IncompleteBodyError) -> Response:
    return Response(broken.status, broken.headers, b"", broken.expected)


def _is_whole(reply: Response) -> bool:
    """Whether the reply is one to a request for a whole object."""
    return reply.status == 200 and "content-range" not in reply.headers


def _strong(headers: Mapping[str, str]) -> str:
    """The ETag without quotes; "" for a weak one, which does not say that bytes are the same."""
    etag = headers.get("etag", "")
    return "" if etag.startswith("W/") else etag.strip('"')
