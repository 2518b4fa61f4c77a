"""Reading contents: whole or a range, to bytes, into a file, or block by block.

Every read begins with the manifest, or with a listing where there is none, and is of that one
version: blocks of a generation are never written twice, and those of the plain layout are read in
the version that was listed. Only the blocks that a range touches are read, and of the outer ones
only the part within. A block that is gone says that the content was replaced: a read of bytes
begins anew then.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import NamedTuple

from blockyard import arguments
from blockyard.content.downloads import Download, next_block, width_of
from blockyard.content.extents import LEAST_PART, Piece
from blockyard.content.layout import Layout, check_content_id
from blockyard.content.listing import ContentListing
from blockyard.content.manifest import block_count
from blockyard.content.register import Register
from blockyard.content.targets import target_of
from blockyard.content.transfers import Tally
from blockyard.content.types import ContentEntry, ContentInfo, ContentTarget, Progress
from blockyard.content.window import Width, Window
from blockyard.context import Context
from blockyard.crc32c import combined, crc32c
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    ContentReplacedError,
    IntegrityError,
    InvalidRangeError,
    PreconditionFailedError,
)
from blockyard.iterators import Fetch, Fetched
from blockyard.model import BLOCK_SIZE
from blockyard.operations import Operations
from blockyard.stores.base import ReadRequest

_READS = 8
"""How often a read begins anew since the content was replaced meanwhile."""
_UNFINISHED = 64
"""Blocks of which parts are remembered: of those that are never read whole."""
_MOST_PARTS = 256
"""Parts of one that are, at least: of a larger block as many as it may be cut into for a read from
its start to its end."""


class ContentRange(NamedTuple):
    """A range of a content, whose version was found."""

    layout: Layout
    span: tuple[int, int]

    @property
    def blocks(self) -> int:
        """How many blocks the range lies in."""
        start, stop = self.span
        return block_count(stop, self.layout.block_size) - start // self.layout.block_size

    def pieces(self, width: Width) -> list[Piece]:
        """The pieces to read, for so many reads at a time."""
        return self.layout.pieces(*self.span, width.parts)


class PartSums:
    """The CRC32C of blocks that were read in parts, from those of their parts."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[int, tuple[int, int]]] = {}
        """By block: of the part that begins at a byte, CRC32C and length."""

    def add(self, piece: Piece, part: int) -> int | None:
        """Add the CRC32C of one; that of its block where all of it has come, in whatever order."""
        parts = self._parts.setdefault(piece.index, {})
        _ = parts.pop(piece.offset, None)  # to be the latest
        parts[piece.offset] = part, piece.length
        whole = at = 0
        while (known := parts.get(at)) is not None:
            whole = combined(whole, *known)
            at += known[1]
        if at == piece.size:
            del self._parts[piece.index]
            return whole
        while len(parts) > max(_MOST_PARTS, 1 + piece.size // LEAST_PART):
            del parts[next(iter(parts))]
        while len(self._parts) > _UNFINISHED:
            del self._parts[next(iter(self._parts))]
        return None


class ContentReader:
    """Reads the contents of one store."""

    def __init__(self, operations: Operations, block_size: int = BLOCK_SIZE) -> None:
        self._operations = operations
        self._register = Register(operations)
        self._listing = ContentListing(operations, self._register, block_size)

    async def stat_content(self, ctx: Context, content_id: str) -> ContentInfo:
        return (await self.layout(ctx, content_id, "stat_content")).info

    async def content_exists(self, ctx: Context, content_id: str) -> bool:
        return await self._listing.exists(ctx, content_id)

    async def list_contents(self, ctx: Context, prefix: str) -> list[ContentEntry]:
        return await self._listing.entries(ctx, arguments.prefix("list_contents", prefix))

    async def read_content(
        self, ctx: Context, content_id: str, offset: int, length: int | None
    ) -> bytes:
        for _ in range(_READS - 1):
            try:
                return await self._read_content(ctx, content_id, offset, length)
            except ContentReplacedError:
                ctx = replace(ctx, cache="refresh") if ctx.cache == "use" else ctx
        return await self._read_content(ctx, content_id, offset, length)

    async def _read_content(
        self, ctx: Context, content_id: str, offset: int, length: int | None
    ) -> bytes:
        found = await self.find(ctx, content_id, "read_content", offset, length)
        read = partial(self._read, PartSums(), ctx, found.layout)
        width = self.width(ctx, found.layout)
        places = max(1, min(ctx.concurrency, found.blocks))
        pieces = found.pieces(replace(width, parts=width.parts and places))
        return b"".join(await ctx.runtime.gather(read, pieces, places))

    async def read_content_into(
        self,
        ctx: Context,
        content_id: str,
        target: ContentTarget,
        *,
        offset: int,
        length: int | None,
        progress: Progress | None,
    ) -> int:
        operation = "read_content_into"
        into = await ctx.runtime.user_code(quick=True).run(partial(target_of, operation, target))
        tally = Tally(ctx, arguments.progress(operation, progress))
        found = await self.find(ctx, content_id, operation, offset, length)
        read, width = partial(self._read, PartSums()), self.width(ctx, found.layout)
        await Download(found.layout, found.span, read, width).into(ctx, into, tally)
        return tally.done

    def width(self, ctx: Context, layout: Layout) -> Width:
        """How much of a content may be read ahead."""
        return width_of(self._operations, ctx, layout.block_size)

    async def layout(self, ctx: Context, content_id: str, operation: str) -> Layout:
        """See `ContentListing.layout`."""
        return await self._listing.layout(ctx, content_id, operation)

    async def find(
        self, ctx: Context, content_id: str, operation: str, offset: int, length: int | None
    ) -> ContentRange:
        """Find the current version of a content, and a range of it."""
        offset, length = arguments.span(operation, content_id, offset, length)
        layout = await self._listing.layout(ctx, content_id, operation)
        return ContentRange(layout, layout.span(offset, length))

    def blocks(
        self, content_id: str, offset: int, length: int | None
    ) -> tuple[Fetch[bytes], Window[Layout]]:
        """The blocks of a content in order, as pages for `iter_content`, and their read-ahead."""
        self._operations.check_open("iter_content")
        content_id = check_content_id("iter_content", content_id)
        offset, length = arguments.span("iter_content", content_id, offset, length)
        window = self.window()

        async def fetch_first(ctx: Context) -> Fetched[bytes]:
            layout = await self.layout(ctx, content_id, "iter_content")
            span = layout.span(offset, length)
            return await next_block(window, layout, span, partial(self.width, layout=layout), ctx)

        return fetch_first, window

    def window(self) -> Window[Layout]:
        """A read-ahead window for one reader."""
        return Window(partial(self._read, PartSums()))

    async def _read(self, sums: PartSums, ctx: Context, layout: Layout, piece: Piece) -> bytes:
        """Read one piece, verified against the manifest.

        A block read in parts, whose parts came without checksums of their own, is verified when the
        last part has come.
        """
        if layout.inline is not None:
            return layout.inline[piece.offset : piece.offset + piece.length]
        request = ReadRequest(piece.key, if_match=piece.etag, operation=layout.operation)
        if not layout.plain:
            request.lifetime = "immutable"
        if not piece.whole:
            request.offset, request.length = piece.offset, piece.length
        self._operations.check_open(layout.operation, ctx)
        try:
            block = await self._operations.store.read(ctx, request)
        except (BlockNotFoundError, InvalidRangeError, PreconditionFailedError) as error:
            raise await self._gone(ctx, layout, piece) from error
        if block.size != piece.length:
            raise await self._gone(ctx, layout, piece)
        if piece.crc32c is not None:
            found = None if block.checksums is None else block.checksums.block_crc32c
            if found is None:  # else the bytes were verified against it
                found = sums.add(piece, crc32c(block.data))
            if found not in {None, piece.crc32c}:
                raise IntegrityError(
                    f"{layout.where}: {piece.key!r}: its CRC32C is {found:08x}, the manifest says "
                    f"{piece.crc32c:08x}"
                )
        return block.data

    async def _gone(self, ctx: Context, layout: Layout, piece: Piece) -> BlockStoreError:
        """The error for a block that is missing or changed: the content is damaged, or replaced."""
        if layout.manifest is None:
            return layout.replaced()
        found = await self._register.look(ctx, layout.content_id, layout.operation)
        if found.live is None or found.live.id != layout.info.version:
            return layout.replaced()
        return IntegrityError(f"{layout.where}: {piece.key!r} is missing, or not as it was written")
