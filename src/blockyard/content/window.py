"""Read-ahead of a content or an object: a sliding window of pieces.

As one piece is returned the next one is begun; nothing waits for the slowest of a batch. The window
starts small, and doubles with each piece that is taken and while one is waited for. At full width,
pieces are begun as long as there is room for them in memory, so that one slow piece does not hold
up those behind it. Reads go on between two calls.

Over a network the first pieces are parts of blocks, one for each connection: all connections start
slowly (slow start, RFC 5681), and the reader waits for the first block.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

from blockyard.content.extents import LEAST_PART, Extent, Piece
from blockyard.context import Context, TaskQueue

GROWS_AFTER = 0.02
"""Seconds that a reader waits for a piece before the read-ahead is doubled."""

AnyExtent = TypeVar("AnyExtent", bound=Extent)
ReadPiece: TypeAlias = Callable[[Context, AnyExtent, Piece], Coroutine[Any, Any, bytes]]


@dataclass(frozen=True, slots=True)
class Width:
    """How much a call may read ahead: pieces at a time, and blocks in memory.

    `parts` is the number of places for which blocks near both ends are cut: see `Extent.edge`.
    """

    places: int
    blocks: int
    parts: int | None = None


class Window(Generic[AnyExtent]):
    """The read-ahead of one reader, which takes one piece at a time."""

    def __init__(self, read: ReadPiece[AnyExtent]) -> None:
        self._read = read
        self._width = Width(1, 1)
        self._parts: int | None = None
        self._reads: TaskQueue[bytes] | None = None
        self._front = self._begun = 0
        self._ahead = 0
        self._largest = 0
        self._parts_until = 0

    @property
    def under_way(self) -> range:
        """The range of bytes being read ahead."""
        return range(self._front, self._begun if self._reads is not None else self._front)

    async def begin(
        self, ctx: Context, extent: AnyExtent, span: tuple[int, int], *, width: Width, ahead: int
    ) -> None:
        """Begin to read `ahead` pieces from the start of `span`, without waiting.

        For a caller that has other bytes to process first; `next` returns the pieces.
        """
        self._width = width
        reads = await self._start(ctx, extent, span)
        self._ahead = min(ahead, width.places)
        self._fill(ctx, reads, extent, span[1], self._ahead)

    async def next(
        self,
        ctx: Context,
        extent: AnyExtent,
        span: tuple[int, int],
        *,
        width: Width,
        ahead: int = 1,
        first: int | None = None,
    ) -> bytes:
        """Return the bytes from the start of `span` to the end of the next piece.

        `ahead` is the least number of pieces read beside it; at the start of a range whose blocks
        are cut, the number of blocks. After a seek, pieces have at most `first` bytes at first,
        four times as many with each piece that is returned. A read that fails or is cancelled ends
        the read-ahead; the next call starts over.
        """
        start, stop = span
        reads = self._reads
        self._width = width
        grows = first is None
        if reads is None or start != self._front or not reads.usable:
            reads = await self._start(ctx, extent, span)
            self._largest = first or extent.block_size
            if self._parts is not None and first is None:
                self._parts_until += self._parts * LEAST_PART
                ahead = (1 + ahead) * max(1, extent.block_size // LEAST_PART) - 1
            self._ahead = ahead
            self._begin(ctx, reads, extent, stop)
        else:
            self._ahead = max(ahead, 1, 2 * self._ahead)
            grows = True
        self._ahead = min(self._ahead, width.places)
        try:
            self._fill(ctx, reads, extent, stop, 1 + self._ahead)
            if grows:
                await self._grow(ctx, reads, extent, stop, width.places)
            data = await reads.next(ctx.deadline)
        except BaseException:
            await self.end()
            raise
        self._front += len(data)
        self._largest = min(4 * self._largest, extent.block_size)
        self._fill(ctx, reads, extent, stop, self._ahead)
        return data

    async def _start(
        self, ctx: Context, extent: AnyExtent, span: tuple[int, int]
    ) -> TaskQueue[bytes]:
        """Start over, with nothing read ahead."""
        await self.end()
        start, stop = span
        reads = self._reads = ctx.runtime.task_queue(self._width.places)
        self._front = self._begun = self._parts_until = start
        self._parts = extent.places_in_parts(start, stop, self._width.parts)
        self._largest = extent.block_size
        return reads

    async def _grow(
        self, ctx: Context, reads: TaskQueue[bytes], extent: AnyExtent, stop: int, most: int
    ) -> None:
        """Double the read-ahead as long as the next piece has not come."""
        while self._ahead < most and not await self._is_ready(ctx, reads):
            self._ahead = min(2 * self._ahead, most)
            self._fill(ctx, reads, extent, stop, 1 + self._ahead)

    def stop(self) -> None:
        """Cancel the read-ahead, from any thread, without waiting."""
        reads, self._reads = self._reads, None
        if reads is not None:
            reads.stop()

    async def end(self) -> None:
        """Cancel the read-ahead, and wait until it has ended."""
        reads, self._reads = self._reads, None
        if reads is not None:
            await reads.end()

    async def _is_ready(self, ctx: Context, reads: TaskQueue[bytes]) -> bool:
        seconds = GROWS_AFTER
        if ctx.deadline is not None:
            seconds = min(seconds, ctx.deadline - ctx.runtime.now())
        return await reads.is_ready(seconds)

    def _fill(
        self, ctx: Context, reads: TaskQueue[bytes], extent: AnyExtent, stop: int, wanted: int
    ) -> None:
        """Begin pieces until `wanted` are under way; at full width, as many as fit in memory.

        They have no deadline: that belongs to the call that waits for them, not to the one that
        began them.
        """
        if ctx.deadline is not None:
            ctx = replace(ctx, deadline=None)
        width = self._width
        room = width.blocks * extent.block_size
        grown = self._ahead == width.places
        while self._begun < stop and (
            len(reads) < min(wanted, width.blocks)
            or (grown and self._begun - self._front + self._largest <= room)
        ):
            self._begin(ctx, reads, extent, stop)

    def _begin(self, ctx: Context, reads: TaskQueue[bytes], extent: AnyExtent, stop: int) -> None:
        start = self._begun
        least = start < self._parts_until
        edge = extent.edge(start, stop, self._parts, least=least)
        self._begun = min(start + self._largest, edge)
        (piece,) = extent.pieces(start, self._begun)
        reads.begin(partial(self._read, ctx, extent, piece))
