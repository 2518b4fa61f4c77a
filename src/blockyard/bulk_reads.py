"""Bulk reads: bytes that a cache has are returned at once, the rest read by few requests.

Ranges that lie close together in a block are merged into one request.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from blockyard.context import Context
from blockyard.errors import InvalidRangeError
from blockyard.merging import MergedRead, Range, merged, part
from blockyard.stores.base import ReadRequest, Store

if TYPE_CHECKING:
    from blockyard.operations import Operations


@dataclass(slots=True, eq=False)
class BulkRead:
    """Many reads: `found` has the bytes that were available at once, None for the rest."""

    found: list[bytes | None]
    wanted: list[Range]
    _read: Callable[[Context, list[Range]], Coroutine[Any, Any, list[bytes]]]

    def answered(self) -> list[bytes] | None:
        """All bytes, if none are missing; else None."""
        return None if None in self.found else cast("list[bytes]", self.found)

    async def complete(self, ctx: Context) -> list[bytes]:
        """Read what is missing; all bytes in the order of the request."""
        missing = [index for index, data in enumerate(self.found) if data is None]
        if len(missing) == len(self.wanted):
            return await self._read(ctx, self.wanted)
        read = await self._read(ctx, [self.wanted[index] for index in missing])
        for index, data in zip(missing, read, strict=True):
            self.found[index] = data
        return cast("list[bytes]", self.found)


def of_blocks(operations: Operations, ctx: Context, keys: list[str]) -> BulkRead:
    """A bulk read of whole blocks."""
    store = operations.store
    wanted: list[Range] = [(key, 0, None) for key in keys]
    found: list[bytes | None] = [None] * len(wanted)
    if _may_be_cached(store):
        blocks = (store.read_at_once(ctx, ReadRequest(key)) for key in keys)
        found = [None if block is None else block.data for block in blocks]
    return BulkRead(found, wanted, partial(_read_whole, operations))


def of_ranges(operations: Operations, ctx: Context, wanted: list[Range]) -> BulkRead:
    """A bulk read of ranges."""
    found: list[bytes | None] = [None] * len(wanted)
    if _may_be_cached(operations.store):
        found = operations.store.ranges_at_once(ctx, wanted)
    return BulkRead(found, wanted, partial(_read_ranges, operations.store))


def _may_be_cached(store: Store) -> bool:
    return type(store).read_at_once is not Store.read_at_once


async def _read_whole(operations: Operations, ctx: Context, wanted: list[Range]) -> list[bytes]:
    return await ctx.gather(partial(operations.read_block, ctx), [key for key, _, _ in wanted])


async def _read_ranges(store: Store, ctx: Context, wanted: list[Range]) -> list[bytes]:
    found = [b""] * len(wanted)
    _ = await ctx.gather(partial(_read_merged, store, ctx, wanted, found), merged(wanted))
    return found


async def _read_merged(
    store: Store, ctx: Context, wanted: list[Range], found: list[bytes], read: MergedRead
) -> None:
    """Read several ranges by one request, into their places in `found`.

    A range that begins past the end of the block is read alone, so that the store raises its error.
    """
    data = b""
    request = ReadRequest(read.key, read.offset, read.length, operation="read_block_range")
    try:
        block = await store.read(ctx, request)
        data = block.data
    except InvalidRangeError:
        if len(read.indices) == 1:
            raise
    for index in read.indices:
        piece = part(read, data, wanted[index])
        if piece is None:
            request = ReadRequest(*wanted[index], operation="read_block_range")
            block = await store.read(ctx, request)
            piece = block.data
        found[index] = piece
