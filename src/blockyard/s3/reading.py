"""Verified reads: the loop around `read_steps.py`.

A ranged read is widened to whole pages. Their size is guessed to be that of the last block read; a
block with another page size is read again. Resumed bodies and reads that start over are all one
call, with one budget of attempts and one list of notes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeAlias

from blockyard.config import VerifyRanges
from blockyard.context import Context, Response
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
from blockyard.model import KIB, Block, BlockInfo
from blockyard.s3 import responses
from blockyard.s3.call import FunctionCall
from blockyard.s3.caller import Caller
from blockyard.s3.integrity import SMALLEST_PAGE, PageChecksums, ServiceChecksum, service_checksum
from blockyard.s3.read_steps import Read, Step, next_step
from blockyard.s3.requests import head_object
from blockyard.s3.responses import check_object
from blockyard.stores.base import ReadRequest
from blockyard.stores.checks import (
    buffer_too_small,
    check_conditions,
    etag_mismatch,
    not_modified,
    requested_range,
)

Verified: TypeAlias = PageChecksums | ServiceChecksum | None
FindChecksum = Callable[[Mapping[str, str]], ServiceChecksum | None]

_CHECKED_INLINE = 64 * KIB
"""Bodies up to this many bytes are verified on the spot. Larger ones without page checksums are
verified off the event loop, since the service's checksum (MD5, SHA-256) may be slow to compute."""
_PROGRESS = 64 * KIB
"""A truncated body of so many bytes counts as progress, and its attempt as none that failed."""


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
        """See `Store.read`.

        An object without page checksums is verified, when it is read whole, against the checksum
        that `find_checksum` finds in the headers. Empty ranges, which HTTP does not have, take a
        HEAD.
        """
        if wanted.length == 0 or wanted.suffix == 0:
            info, _, _ = await self._look_up(ctx, wanted, full_key)
            return Block(b"", 0, lambda: info)
        read = Read(wanted, full_key, self.page_size if self._verify_ranges == "widen" else 1)
        read.object_headers = self._caller.headers.read
        if read.span is None:
            read.checksum_mode = self._caller.capabilities.checksum_mode is not False
        return await self._read(ctx, read, full_key, find_checksum)

    async def _read(
        self, ctx: Context, read: Read, full_key: str, find_checksum: FindChecksum
    ) -> Block:
        """Attempt, verify, and prepare the next request after a failure, until it succeeds."""
        verified: Verified = None
        learnt = self._caller.capabilities
        while True:
            try:
                reply = await self._caller.attempt(ctx, read, read.check)
                if read.span is None and learnt.checksum_mode is None:
                    # the header was sent and taken, or refused and left out
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
                if self._has_all_pages(read, reply, verified):
                    return _to_block(read, reply, verified)
                continue
            try:
                await self._prepare_next(ctx, read, failure)
            except InvalidRangeError:
                refused = await self._resolve_refused_range(ctx, read, full_key)
                if refused is not None:
                    return refused
            finally:
                del failure  # which its traceback refers to, by way of this frame

    async def head(
        self, ctx: Context, operation: str, key: str, full_key: str, *, checksum: bool = False
    ) -> Response:
        """HEAD an object; with `checksum` ask for the checksum that the service keeps as well."""
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

    async def _resolve_refused_range(self, ctx: Context, read: Read, full_key: str) -> Block | None:
        """After a 416, look up the object: an empty block, or None to request the range again.

        None is for an object whose headers say that it has these bytes, as when it was replaced
        meanwhile. Raises where the range is past the end.
        """
        wanted = read.wanted
        info, begin, end = await self._look_up(ctx, wanted, full_key)
        if begin >= end:
            return Block(b"", 0, lambda: info)
        if wanted.suffix:  # some refuse suffixes longer than the object
            return await self.read(ctx, replace(wanted, suffix=None, offset=begin), full_key)
        how = (
            f"the service refuses bytes {begin} to {end - 1} as past the end of an object that it "
            f"says has {info.size}"
        )
        await self._prepare_next(ctx, read, ProtocolError(how))
        return None

    async def _look_up(
        self, ctx: Context, wanted: ReadRequest, full_key: str
    ) -> tuple[BlockInfo, int, int]:
        """HEAD the object; return its info and the start and end of the bytes wanted.

        The headers also show whether the object still has the size that the block was stored with;
        a 416 does not. Raises `InvalidRangeError` for a range past the end.
        """
        reply = await self.head(ctx, wanted.operation, wanted.key, full_key)
        info = responses.stat_result(reply, wanted.operation, wanted.key)
        check_conditions(wanted, info.etag)
        return info, *requested_range(wanted, info.size)

    def _has_all_pages(self, read: Read, reply: Response, verified: Verified) -> bool:
        """Whether all pages that are wanted have come whole; if not, widen `read` to them.

        Raises the error for a version that the conditions refuse, of a service that ignores them.
        """
        wanted = read.wanted
        if wanted.if_match is not None or wanted.if_none_match is not None:
            check_conditions(wanted, responses.unquoted(reply.headers["etag"]))
        if read.span is None or read.page == 1 or not isinstance(verified, PageChecksums):
            return True
        self.page_size = verified.page_size
        if verified.page_size == read.page or _pages_cover(read, reply, verified):
            return True
        read.widen_to_pages(verified.page_size)
        return False

    async def _prepare_next(self, ctx: Context, read: Read, failure: BlockStoreError) -> None:
        """Prepare `read` for its next request, after a backoff if due; or raise the final error."""
        step = next_step(read, failure)
        if step is Step.GIVE_UP or (step is Step.READ_AGAIN and self._caller.on_last_attempt(read)):
            error = self._caller.last_failure(ctx, read, _caller_error(read.wanted, failure))
            try:
                raise error from (None if error is failure else failure)
            finally:
                del error, failure  # which its traceback refers to
        if isinstance(failure, IncompleteBodyError) and step is Step.RESUME:
            resumed = read.resume(failure, read.history().failed)
            if failure.received >= _PROGRESS:
                self._caller.made_progress(read.history(), resumed.failed_before)
        if step in {Step.READ_AGAIN, Step.READ_REPLACED}:
            self._caller.count_failure(read, failure)
        elif step is not Step.READ_WHOLE:
            pausing = self._caller.pause_or_raise(ctx, read, failure)
            del failure  # which its traceback refers to
            await pausing
        read.fresh = read.fresh or step is Step.READ_AGAIN
        read.ranges_ignored = read.ranges_ignored or step is Step.READ_WHOLE
        if step not in {Step.RETRY, Step.RESUME}:
            read.start_over()


def verify(read: Read, reply: Response, find_checksum: FindChecksum) -> Verified:
    """Verify the bytes of a reply; return what they were verified against.

    The block's own page checksums; else, for a whole object, the checksum that `find_checksum`
    finds; else nothing, None. Raises `IntegrityError`.
    """
    target = read.target
    body = memoryview(reply.body) if target is None else target[: reply.size]
    first, size = (0, len(body)) if read.span is None else read.content_range
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


def _pages_cover(read: Read, reply: Response, checksums: PageChecksums) -> bool:
    """Whether all bytes wanted lie on pages that have come whole."""
    first, size = read.content_range
    offset, length = read.wanted.offset, read.wanted.length
    if offset is None:
        offset = max(0, size - (read.wanted.suffix or 0))
    return checksums.cover(offset, length, first, reply.size)


def _to_block(read: Read, reply: Response, verified: Verified) -> Block:
    """Cut the bytes that the caller wants out of the pages that were read."""
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
    first, size = read.content_range
    begin, end = requested_range(wanted, size)
    data, got = reply.body[begin - first : end - first], end - begin
    if wanted.into is not None:
        wanted.into[:got] = data
        data = b""
    return Block(
        data, got, lambda: responses.read_result(wanted.key, reply, size), verified, page_sums
    )


def _caller_error(wanted: ReadRequest, failure: BlockStoreError) -> BlockStoreError:
    """Translate a failure into the error that the operation promises."""
    where = f"{wanted.operation} {wanted.key!r}"
    match failure:
        case OversizedBodyError() if wanted.into is not None:
            return buffer_too_small(wanted, failure.size)
        case OversizedBodyError():
            return BlockTooLargeError(f"{where}: {failure}")
        case InvalidRangeError() if wanted.offset is not None:
            return range_past_end(wanted.operation, wanted.key, wanted.offset)
        case S3Error() if failure.status == 412 and wanted.if_match is not None:
            return etag_mismatch(where, wanted.if_match)
        case S3Error() if failure.status == 304 and wanted.if_none_match is not None:
            return not_modified(where, wanted.if_none_match)
        case _:
            return failure
