"""Read-ahead: the pieces of a content in order, the following ones under way meanwhile.

A sliding window: as one piece is given out the next one is begun, and nothing waits for the slowest
of a batch. It begins small, and twice as many pieces are read ahead for each that is asked for,
and while one is waited for, up to what the call may hold in memory. Between two calls they go on.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from blockyard.content.layout import Layout, Piece
from blockyard.context import Context, TaskQueue

GROWS_AFTER = 0.02
"""Seconds that a reader waits for a piece until twice as many are read ahead: it is fast enough."""

ReadPiece: TypeAlias = Callable[[Context, Layout, Piece], Coroutine[Any, Any, bytes]]


class Window:
    """What is read ahead of one reader, who asks for one piece at a time."""

    def __init__(self, read: ReadPiece) -> None:
        self._read = read
        self._reads: TaskQueue[bytes] | None = None
        self._front = self._begun = 0
        self._ahead = 0
        self._largest = 0

    @property
    def under_way(self) -> range:
        """The bytes that are read ahead."""
        return range(self._front, self._begun if self._reads is not None else self._front)

    async def next(
        self,
        ctx: Context,
        layout: Layout,
        span: tuple[int, int],
        *,
        at_once: int,
        ahead: int = 1,
        first: int | None = None,
    ) -> bytes:
        """The bytes from the start of `span` to the end of their block, or of the span.

        `at_once` is how many pieces may be under way, `ahead` how many at least beside the one
        that is asked for. Where this does not go on from the piece before, that has `first` bytes
        at most, and each of the following ones four times as many. A read that fails or is
        cancelled ends those ahead; the next call begins anew.
        """
        start, stop = span
        reads = self._reads
        grows = first is None
        if reads is None or start != self._front or not reads.usable:
            await self.end()
            reads = self._reads = ctx.runtime.task_queue()
            self._front = self._begun = start
            self._largest = first or layout.block_size
            self._ahead = ahead
            self._begin(ctx, reads, layout, stop)
        else:
            self._ahead = max(ahead, 1, 2 * self._ahead)
            grows = True
        self._ahead = min(self._ahead, at_once)
        try:
            self._fill(ctx, reads, layout, stop, min(at_once, 1 + self._ahead))
            while grows and self._ahead < at_once and not await self._is_ready(ctx, reads):
                self._ahead = min(2 * self._ahead, at_once)
                self._fill(ctx, reads, layout, stop, min(at_once, 1 + self._ahead))
            data = await reads.next(ctx.deadline)
        except BaseException:
            await self.end()
            raise
        self._front += len(data)
        self._fill(ctx, reads, layout, stop, self._ahead)
        return data

    def stop(self) -> None:
        """Cancel what is read ahead, from any thread, and wait for nothing."""
        reads, self._reads = self._reads, None
        if reads is not None:
            reads.stop()

    async def end(self) -> None:
        """Cancel what is read ahead, and wait until it has ended."""
        reads, self._reads = self._reads, None
        if reads is not None:
            await reads.end()

    async def _is_ready(self, ctx: Context, reads: TaskQueue[bytes]) -> bool:
        seconds = GROWS_AFTER
        if ctx.deadline is not None:
            seconds = min(seconds, ctx.deadline - ctx.runtime.now())
        return await reads.is_ready(seconds)

    def _fill(
        self, ctx: Context, reads: TaskQueue[bytes], layout: Layout, stop: int, wanted: int
    ) -> None:
        """Have so many pieces under way.

        A deadline is that of the call that waits, not of the one that has begun a read.
        """
        if ctx.deadline is not None:
            ctx = replace(ctx, deadline=None)
        while len(reads) < wanted and self._begun < stop:
            self._begin(ctx, reads, layout, stop)

    def _begin(self, ctx: Context, reads: TaskQueue[bytes], layout: Layout, stop: int) -> None:
        start = self._begun
        block_edge = start - start % layout.block_size + layout.block_size
        self._begun = min(start + self._largest, block_edge, stop)
        self._largest = min(4 * self._largest, layout.block_size)
        (piece,) = layout.pieces(start, self._begun)
        reads.begin(partial(self._read, ctx, layout, piece))
