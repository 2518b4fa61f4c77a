"""Reads held to the checksums that the block was stored with.

What does not match is read once more, on another connection, before that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from blockyard.context import Context, Response
from blockyard.errors import (
    BlockTooLargeError,
    IntegrityError,
    InvalidRangeError,
    OversizedBodyError,
)
from blockyard.keys import range_past_end
from blockyard.model import KIB, MAX_BLOCK_SIZE
from blockyard.s3.calls import Caller
from blockyard.s3.fetching import Asked, fetch, object_size
from blockyard.s3.integrity import SMALLEST_PAGE, PageChecksums, ServiceChecksum, service_checksum

VerifyRanges = Literal["widen", "covered", "off"]
"""Verify ranged reads wholly, by reading whole pages; only the pages they cover; or not."""

Claimed = Callable[[Mapping[str, str]], ServiceChecksum | None]

_CHECKED_INLINE = 64 * KIB
"""Bodies up to this many bytes are held to any checksum at once; to the service's, which may be
slow to compute, larger ones where they block no one."""
_REREADS = 4
"""How often one read may find that its block has pages of yet another size."""


class Reader:
    """Verified reads of one store."""

    def __init__(self, caller: Caller, verify_ranges: VerifyRanges) -> None:
        self._caller = caller
        self._verify_ranges = verify_ranges
        self._page = SMALLEST_PAGE

    async def read(
        self, ctx: Context, asked: Asked, claimed: Claimed = service_checksum
    ) -> tuple[Response, PageChecksums | ServiceChecksum | None]:
        """The reply to `asked`, complete (in `asked.into` where given), and what it was held to.

        `claimed` is what an object that has no sums of ours is held to, when it is read whole.
        """
        whole = asked.first is None
        learnt = self._caller.capabilities
        asked.checksum_mode = whole and learnt.checksum_mode is not False
        reply = await fetch(self._caller, ctx, asked)
        if whole and learnt.checksum_mode is None:  # if it was refused, it was all that was wrong
            learnt.checksum_mode = asked.checksum_mode
        if not whole and self._verify_ranges == "off":
            return reply, None
        try:
            large = reply.size > _CHECKED_INLINE and whole
            if large and not PageChecksums.stated(reply.headers):
                return reply, await ctx.runtime.blocking(lambda: verify(asked, reply, claimed))
            return reply, verify(asked, reply, claimed)
        except IntegrityError as error:
            again = replace(asked, fresh=True, attempts=asked.history())
            self._caller.count_mismatch(asked.operation, asked.key, asked.history(), error)
        reply = await fetch(self._caller, ctx, again)
        try:
            return reply, verify(again, reply, claimed)
        except IntegrityError as error:
            raise self._caller.last_failure(again, error) from None

    async def read_range(
        self, ctx: Context, key: str, full_key: str, offset: int, length: int | None
    ) -> bytes:
        """`length` bytes from `offset`, clamped at the end.

        To verify them all, the read is widened to the edges of the pages they are on. The page
        size is taken to be that of the last block read; a block with another is read again.
        """
        widen = self._verify_ranges == "widen"
        page = self._page if widen else 1
        for _ in range(_REREADS):
            first = offset - offset % page
            wanted = None if length is None else -(-(offset + length) // page) * page - first
            limit = MAX_BLOCK_SIZE if wanted is None else wanted
            asked = Asked("read_block_range", key, full_key, first, wanted, limit=limit)
            try:
                reply, held_to = await self.read(ctx, asked)
            except InvalidRangeError as error:
                raise range_past_end(key, offset) from error
            except OversizedBodyError as error:
                raise BlockTooLargeError(f"read_block_range {key!r}: {error}") from None
            body = reply.body
            if widen and isinstance(held_to, PageChecksums) and held_to.page_size != page:
                page = self._page = held_to.page_size
                if not held_to.cover(offset, length, first, len(body)):
                    continue
            begin = offset - first
            if begin >= len(body):
                raise range_past_end(key, offset, first + len(body))
            if begin == 0 and length == wanted:
                return body
            return body[begin:] if length is None else body[begin : begin + length]
        raise IntegrityError(
            f"read_block_range {key!r}: each of {_REREADS} reads found a block of another size"
        )


def verify(
    asked: Asked, reply: Response, claimed: Claimed
) -> PageChecksums | ServiceChecksum | None:
    """Hold what was read to its checksums, and say to which. Raises `IntegrityError`.

    To the block's own sums; to what the service claims of a block that has none, and was read
    whole; to nothing, None.
    """
    body = memoryview(reply.body) if asked.into is None else asked.into[: reply.size]
    held_to: PageChecksums | ServiceChecksum | None
    wrong = None
    try:
        held_to = sums = PageChecksums.of(reply.headers)
        if sums is not None:
            sums.check_size(len(body) if asked.first is None else object_size(reply))
            wrong = sums.mismatch(body, asked.first or 0, reply.headers, reply.crc32c)
        elif asked.first is None and (held_to := claimed(reply.headers)) is not None:
            wrong = held_to.mismatch(body)
    except ValueError as error:  # sums that can't be read, or of another size
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {error}") from None
    if wrong is not None:
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {wrong}")
    return held_to
