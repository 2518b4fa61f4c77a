"""Reads held to the checksums that the block was stored with.

What does not match is read once more, on another connection, before that is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from blockyard.context import Context, Response
from blockyard.errors import IntegrityError, InvalidRangeError
from blockyard.keys import range_past_end
from blockyard.model import KIB
from blockyard.s3.calls import Caller
from blockyard.s3.fetching import Asked, fetch, object_size
from blockyard.s3.integrity import SMALLEST_PAGE, Claim, Sums, checksum_claim

VerifyRanges = Literal["widen", "covered", "off"]
"""Verify ranged reads wholly, by reading whole pages; only the pages they cover; or not."""

Claimed = Callable[[Mapping[str, str]], Claim | None]

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

    async def read(self, ctx: Context, asked: Asked, claimed: Claimed = checksum_claim) -> Verified:
        """The reply to `asked`, complete (in `asked.into` where given) and as it was stored.

        `claimed` is what an object that has no sums of ours is held to, when it is read whole.
        """
        reply = await fetch(self._caller, ctx, asked)
        if asked.first is not None and self._verify_ranges == "off":
            return Verified(reply)
        try:
            if reply.size > _CHECKED_INLINE and not Sums.stated(reply.headers):
                return await ctx.runtime.blocking(lambda: verify(asked, reply, claimed))
            return verify(asked, reply, claimed)
        except IntegrityError:
            again = replace(asked, fresh=True)
            return verify(again, await fetch(self._caller, ctx, again), claimed)

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
            asked = Asked("read_block_range", key, full_key, first, wanted)
            try:
                verified = await self.read(ctx, asked)
            except InvalidRangeError as error:
                raise range_past_end(key, offset) from error
            sums, body = verified.sums, verified.reply.body
            if widen and sums is not None and sums.page_size != page:
                page = self._page = sums.page_size
                if not sums.cover(offset, length, first, len(body)):
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


@dataclass(slots=True)
class Verified:
    """A reply that matches what it was held to.

    `sums` are the block's own, None when it has none; `claim` is the service's, used instead.
    """

    reply: Response
    sums: Sums | None = None
    claim: Claim | None = None


def verify(asked: Asked, reply: Response, claimed: Claimed) -> Verified:
    """Hold what was read to its checksums. Raises `IntegrityError`."""
    body = memoryview(reply.body) if asked.into is None else asked.into[: reply.size]
    whole = asked.first is None
    claim = wrong = None
    try:
        sums = Sums.of(reply.headers)
        if sums is not None:
            sums.check_size(len(body) if whole else object_size(reply))
            wrong = sums.mismatch(body, asked.first or 0)
        elif whole and (claim := claimed(reply.headers)) is not None:
            wrong = claim.mismatch(body)
    except ValueError as error:  # sums that can't be read, or of another size
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {error}") from None
    if wrong is not None:
        raise IntegrityError(f"{asked.operation} {asked.key!r}: {wrong}")
    return Verified(reply, sums, claim)
