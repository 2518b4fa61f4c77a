"""Objects of any size, read to a file, a stream or an iterator: parts of one version, side by side.

The first part is requested as a range whose reply tells the size and the ETag; the rest is read
with `If-Match`. What fits in one part takes one request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from blockyard import arguments
from blockyard.content.downloads import Download, next_block, width_of
from blockyard.content.extents import Extent, Piece
from blockyard.content.targets import is_written_in_order, target_of
from blockyard.content.transfers import Tally
from blockyard.content.types import ContentTarget, Progress, Writable
from blockyard.content.window import Width, Window
from blockyard.context import Context, TaskQueue
from blockyard.crc32c import JoinedSum, crc32c
from blockyard.errors import IntegrityError, InvalidRangeError, PreconditionFailedError
from blockyard.iterators import Fetch, Fetched
from blockyard.model import PART_SIZE, BlockInfo
from blockyard.operations import Operations
from blockyard.stores.base import ReadRequest, Store


class ObjectExtent(Extent):
    """One version of an object, read in parts of `block_size` bytes."""

    def __init__(self, operation: str, info: BlockInfo, part_size: int) -> None:
        self.operation = operation
        self.info = info
        self.replaced = False
        """Whether it turned out to be another one by now."""
        self._part_size = part_size

    @property
    def block_size(self) -> int:
        return self._part_size

    def gone(self) -> PreconditionFailedError:
        """The error for an object that is another one by now."""
        self.replaced = True
        return PreconditionFailedError(
            f"{self.operation} {self.info.key!r}: the object was replaced while it was read"
        )

    def _piece(self, index: int, first: int, last: int, start: int) -> Piece:
        key, size, etag = self.info.key, self.info.size, self.info.etag or None
        return Piece(index, key, size, first, last - first, first - start, etag=etag)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be read of which object, its arguments checked."""

    operation: str
    key: str
    offset: int
    length: int | None
    part_size: int
    if_match: str | None


class _Found(NamedTuple):
    """An object whose first part has come: `first`, of the bytes `span` that are wanted.

    `verified` is whether it was held to the checksums that the block was stored with.
    """

    extent: ObjectExtent
    span: tuple[int, int]
    first: bytes
    verified: bool

    @property
    def rest(self) -> tuple[int, int]:
        """The bytes that are still to be read."""
        start, stop = self.span
        return start + len(self.first), stop

    @property
    def is_all(self) -> bool:
        """Whether the first part is all that is wanted."""
        start, stop = self.rest
        return start >= stop

    @property
    def is_whole_in_parts(self) -> bool:
        """Whether all of the object is read, in parts that are not verified each."""
        whole = self.span == (0, self.extent.info.size)
        return whole and not self.is_all and not self.verified


class _WholeSum:
    """Holds all of an object that is read in parts to the CRC32C that the store keeps of it.

    The store is asked for that while the parts come.
    """

    def __init__(self, ctx: Context, store: Store, extent: ObjectExtent) -> None:
        self._ctx = ctx
        self._extent = extent
        self._joined = JoinedSum()
        info = extent.info
        self._kept: TaskQueue[int | None] = ctx.runtime.task_queue(1)
        self._kept.begin(partial(store.kept_crc32c, ctx, extent.operation, info.key, info.etag))

    async def add(self, offset: int, data: bytes) -> None:
        """Add a part."""
        found = await self._ctx.runtime.blocking(partial(crc32c, data))
        self._joined.add(offset, found, len(data))

    async def verify(self) -> None:
        """Raise `IntegrityError` where what came is not what was stored."""
        kept, found = await self._kept.next(self._ctx.deadline), self._joined.value
        if kept is not None and kept != found:
            raise IntegrityError(
                f"{self._extent.operation} {self._extent.info.key!r}: the object: the checksum "
                f"stored is CRC32C {kept:08x}, that of the bytes {found:08x}"
            )

    async def end(self) -> None:
        """Ask no more."""
        await self._kept.end()


class ObjectReader:
    """Reads the objects of one store."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def read_object_into(
        self,
        ctx: Context,
        key: str,
        *,
        target: ContentTarget,
        offset: int = 0,
        length: int | None = None,
        part_size: int = PART_SIZE,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """See `BlockStore.read_object_into`."""
        operation, at_once = "read_object_into", None
        wanted = self._wanted(operation, key, (offset, length), part_size, if_match)
        if concurrency is not None:
            at_once = arguments.concurrency(operation, concurrency)
            ctx = replace(ctx, concurrency=at_once)
        into = await ctx.runtime.user_code(quick=True).run(partial(target_of, operation, target))
        tally = Tally(ctx, arguments.progress(operation, progress))
        width = width_of(self._operations, ctx, wanted.part_size, at_once)
        again = wanted.if_match is None and isinstance(into, str) and not is_written_in_order(into)
        return await self._read_into(ctx, wanted, into, width, tally, again=again)

    def blocks(
        self, key: str, offset: int, length: int | None, part_size: int, if_match: str | None
    ) -> tuple[Fetch[bytes], Window[ObjectExtent]]:
        """The parts of an object in order, which `iter_object` walks, and what is read ahead."""
        wanted = self._wanted("iter_object", key, (offset, length), part_size, if_match)
        window = Window(partial(self._read, None))

        def width_now(ctx: Context) -> Width:
            return width_of(self._operations, ctx, wanted.part_size)

        async def fetch_first(ctx: Context) -> Fetched[bytes]:
            found = await self._find(ctx, wanted)
            if found.is_all:
                return Fetched((found.first,) if found.first else (), None)
            span, width = found.rest, width_now(ctx)
            await window.begin(ctx, found.extent, span, width=width, ahead=1)
            following = partial(next_block, window, found.extent, span, width_now)
            return Fetched((found.first,), following)

        return fetch_first, window

    def _wanted(
        self,
        operation: str,
        key: str,
        span: tuple[int, int | None],
        part_size: int,
        if_match: str | None,
    ) -> _Wanted:
        """Raises what wrong arguments do, and `StoreClosedError`."""
        self._operations.check_open(operation)
        key = arguments.key(operation, key)
        offset, length = arguments.span(operation, key, *span)
        size = arguments.read_part_size(operation, part_size)
        match = arguments.etag(operation, if_match, "if_match")
        return _Wanted(operation, key, offset, length, size, match)

    async def _find(self, ctx: Context, wanted: _Wanted) -> _Found:
        """Read the first part, which shows how much there is."""
        operation, offset, size = wanted.operation, wanted.offset, wanted.part_size
        self._operations.check_open(operation, ctx)
        request = ReadRequest(
            wanted.key,
            offset,
            size if wanted.length is None else min(wanted.length, size),
            if_match=wanted.if_match,
            operation=operation,
            with_info=True,
            or_empty=True,
        )
        block = await self._operations.store.read(ctx, request)
        info = block.info
        stop = info.size if wanted.length is None else min(offset + wanted.length, info.size)
        extent = ObjectExtent(operation, info, size)
        return _Found(extent, (offset, stop), block.data, block.checksums is not None)

    async def _read_into(
        self,
        ctx: Context,
        wanted: _Wanted,
        into: str | Writable,
        width: Width,
        tally: Tally,
        *,
        again: bool,
    ) -> BlockInfo:
        """With `again` all of it is read once more when the object was replaced meanwhile."""
        found = await self._find(ctx, wanted)
        extent, sums = found.extent, None
        try:
            if found.is_whole_in_parts and self._operations.store.keeps_crc32c:
                sums = _WholeSum(ctx, self._operations.store, extent)
                await sums.add(0, found.first)
            download = Download(
                extent,
                found.span,
                partial(self._read, sums),
                width,
                first=found.first,
                verify=None if sums is None else sums.verify,
            )
            del found  # whose first part is held no longer than it takes to write it
            await download.into(ctx, into, tally)
        except PreconditionFailedError:
            if not again or not extent.replaced:
                raise
        else:
            return extent.info
        finally:
            if sums is not None:
                await sums.end()
        tally.done = 0
        if ctx.cache == "use":  # which may hold the part of a version that is gone
            ctx = replace(ctx, cache="refresh")
        return await self._read_into(ctx, wanted, into, width, tally, again=False)

    async def _read(
        self, sums: _WholeSum | None, ctx: Context, extent: ObjectExtent, piece: Piece
    ) -> bytes:
        """The bytes of one part. Raises `PreconditionFailedError` for those of another version."""
        self._operations.check_open(extent.operation, ctx)
        request = ReadRequest(
            piece.key, piece.offset, piece.length, if_match=piece.etag, operation=extent.operation
        )
        try:
            block = await self._operations.store.read(ctx, request)
        except (InvalidRangeError, PreconditionFailedError) as error:
            raise extent.gone() from error
        if block.size != piece.length:
            raise extent.gone()
        if sums is not None:
            await sums.add(piece.offset, block.data)
        return block.data
