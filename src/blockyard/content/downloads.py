"""Downloads of a range of a content or object to a target, several pieces at a time.

Pieces for a file at a path are written at their offsets as they arrive; other targets are written
in order, from a read-ahead window.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from itertools import chain
from typing import Any, Generic

from blockyard.content.extents import Piece
from blockyard.content.targets import (
    NewFile,
    is_written_in_order,
    open_in_order,
    opened_in_order,
    write_all,
)
from blockyard.content.transfers import Tally
from blockyard.content.types import Writable
from blockyard.content.window import AnyExtent, ReadPiece, Width, Window
from blockyard.context import Context
from blockyard.iterators import Fetched
from blockyard.operations import Operations


def width_of(
    operations: Operations, ctx: Context, size: int, concurrency: int | None = None
) -> Width:
    """How much a call may read ahead of blocks of `size` bytes.

    As many as fit in `in_flight`, or `concurrency` of them.
    """
    places = concurrency or operations.blocks_in_flight(ctx, size)
    blocks = max(concurrency or 1, operations.in_flight // max(1, size))
    parts = places if operations.store.reads_in_parts else None
    return Width(places, min(blocks, 2 * places), parts)


class Download(Generic[AnyExtent]):
    """Reads the bytes `span` of `extent` and writes them to a target.

    read: reads a piece; width: how much may be under way
    first: bytes at the start of `span` that have been read already
    verify: awaited when all bytes have come, before the last ones are written
    """

    def __init__(
        self,
        extent: AnyExtent,
        span: tuple[int, int],
        read: ReadPiece[AnyExtent],
        width: Width,
        *,
        first: bytes = b"",
        verify: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        self._extent = extent
        self._start, self._stop = span
        self._read = read
        self._width = width
        self._first = first
        self._verify = verify

    async def into(self, ctx: Context, target: str | Writable, tally: Tally) -> None:
        """Write everything to a file object, or to the file at a path: see `read_content_into`."""
        if not isinstance(target, str):
            await self._into_stream(ctx, target, tally)
        elif is_written_in_order(target):
            file = await open_in_order(ctx, target, self._extent.operation)
            with opened_in_order(target, self._extent.operation, file) as opened:
                await self._in_order(ctx, partial(opened.write, ctx), tally)
        else:
            await self._into_new_file(ctx, target, tally)

    async def _into_stream(self, ctx: Context, file: Writable, tally: Tally) -> None:
        async with ctx.user_code() as user:

            async def write(block: bytes) -> None:
                await user.run(partial(write_all, file, block, self._extent.operation))

            await self._in_order(ctx, write, tally)

    async def _in_order(
        self, ctx: Context, write: Callable[[bytes], Coroutine[Any, Any, None]], tally: Tally
    ) -> None:
        extent, width, stop = self._extent, self._width, self._stop
        block = self._taken_first()
        start = self._start + len(block)
        window = Window(self._read)
        try:
            if block and start < stop:
                await window.begin(ctx, extent, (start, stop), width=width, ahead=width.places)
            while True:
                if start >= stop and self._verify is not None:
                    await self._verify()
                if block:
                    await write(block)
                    await tally.add(len(block))
                if start >= stop:
                    return
                block = await window.next(
                    ctx, extent, (start, stop), width=width, ahead=width.places
                )
                start += len(block)
        finally:
            await window.end()

    async def _into_new_file(self, ctx: Context, path: str, tally: Tally) -> None:
        file = NewFile(path, self._extent.operation)
        begun = len(self._first)
        pieces = self._extent.walk(self._start + begun, self._stop, self._width.parts)

        async def copy(piece: Piece | None) -> None:
            if piece is None:
                data, position = self._taken_first(), 0
            else:
                data, position = await self._read(ctx, self._extent, piece), piece.position + begun
            await ctx.runtime.blocking(partial(file.write_at, position, data))
            await tally.add(len(data))

        try:
            await ctx.runtime.blocking(file.create)
            all_pieces = chain((None,), pieces) if begun else pieces
            _ = await ctx.runtime.gather(copy, all_pieces, self._places)
            if self._verify is not None:
                await self._verify()
            await ctx.runtime.blocking(file.commit)
        finally:
            file.close()

    @property
    def _places(self) -> int:
        """How many pieces are on their way at a time, where not all of them are known yet."""
        extent, places = self._extent, self._width.places
        if extent.places_in_parts(self._start, self._stop, self._width.parts) is not None:
            return places
        return max(1, min(places, 2 + (self._stop - self._start) // extent.block_size))

    def _taken_first(self) -> bytes:
        """The bytes that were read already; they are not held any longer."""
        first, self._first = self._first, b""
        return first


async def next_block(
    window: Window[AnyExtent],
    extent: AnyExtent,
    span: tuple[int, int],
    width_now: Callable[[Context], Width],
    ctx: Context,
) -> Fetched[bytes]:
    """A page of an iterator: the next block, and how to fetch the one after it."""
    start, stop = span
    if start == stop:
        return Fetched((), None)
    width, parts = width_now(ctx), list[bytes]()
    while not parts or (start < stop and start % extent.block_size):
        parts.append(await window.next(ctx, extent, (start, stop), width=width))
        start += len(parts[-1])
    block = parts[0] if len(parts) == 1 else b"".join(parts)
    if start == stop:
        return Fetched((block,), None)
    following = partial(next_block, window, extent, (start, stop), width_now)
    return Fetched((block,), following)
