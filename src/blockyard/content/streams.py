"""Drawing what only comes in order (a pipe, the caller's file or iterable), cut into blocks."""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

from blockyard import arguments
from blockyard.buffer import Buffer
from blockyard.context import Context
from blockyard.user_code import UserIterator

Block: TypeAlias = bytes | bytearray | memoryview
Write: TypeAlias = Callable[[int, Block], Coroutine[Any, Any, None]]
Draw: TypeAlias = Callable[[], Coroutine[Any, Any, bytearray]]
"""Gives full blocks, and a shorter one at the end."""
Open: TypeAlias = Callable[[Context], AbstractAsyncContextManager[Draw]]
Run: TypeAlias = Callable[[Callable[[], bytearray]], Coroutine[Any, Any, bytearray]]

_END = memoryview(b"")
_OPERATION = "write_content"


class StreamSource:
    """What can only be drawn in order; `opened` draws from it."""

    def __init__(self, opened: Open, block_size: int) -> None:
        self._opened = opened
        self._block_size = block_size

    async def feed(self, ctx: Context, write: Write, at_once: int) -> None:
        async with self._opened(ctx) as draw:
            await Stream(draw, self._block_size).pass_on(ctx, write, at_once)


class Stream(AsyncIterator[tuple[int, bytearray]]):
    """The blocks that are drawn, numbered, at least one."""

    def __init__(self, draw: Draw, block_size: int) -> None:
        self._draw = draw
        self._block_size = block_size
        self._index = 0
        self._ended = False

    async def pass_on(self, ctx: Context, write: Write, at_once: int) -> None:
        """See `Source.feed`. One is drawn while the others are written."""

        async def put(numbered: tuple[int, bytearray]) -> None:
            await write(*numbered)

        _ = await ctx.runtime.gather(put, self, max(1, at_once))

    async def __anext__(self) -> tuple[int, bytearray]:
        if self._ended:
            raise StopAsyncIteration
        block = await self._draw()
        self._ended = len(block) < self._block_size
        if not block and self._index:
            raise StopAsyncIteration
        self._index += 1
        return self._index - 1, block


class _Cutter:
    """Collects buffers of any size until they fill a block.

    They are copied, since an iterator may use its buffer again for the next.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._block = bytearray()
        self._rest = memoryview(b"")

    def add(self, data: Buffer) -> None:
        self._rest = arguments.flat(_OPERATION, data, "a piece of the source")

    def fill(self) -> bool:
        """Move what was added into the block, as far as it fits, and say whether it is full."""
        space = self._block_size - len(self._block)
        self._block += self._rest[:space]
        self._rest = self._rest[space:]
        return len(self._block) == self._block_size

    def take(self) -> bytearray:
        block, self._block = self._block, bytearray()
        return block


@asynccontextmanager
async def drawn(pieces: Iterable[Buffer], block_size: int, ctx: Context) -> AsyncGenerator[Draw]:
    """Draws from an iterable of the caller's own."""
    given = UserIterator(pieces)
    async with ctx.user_code(close=given.close) as user:
        yield _drawn(partial(given.next, _END), block_size, user.run)


@asynccontextmanager
async def drawn_on_a_thread(
    read: Callable[[int], Buffer], block_size: int, ctx: Context
) -> AsyncGenerator[Draw]:
    """Draws from what may wait for ever, as a pipe does; the deadline does not wait for it."""

    async def run(call: Callable[[], bytearray]) -> bytearray:
        return await ctx.runtime.wait(ctx.runtime.start(call), ctx.deadline)

    yield drawn_from_file(read, block_size, run)


@asynccontextmanager
async def drawn_async(
    pieces: AsyncIterable[Buffer], block_size: int, ctx: Context
) -> AsyncGenerator[Draw]:
    """Draws from an async iterable of the caller's own."""
    cutter = _Cutter(block_size)

    async def next_block(iterator: AsyncIterator[Buffer]) -> bytearray:
        while not cutter.fill():
            data = await anext(iterator, _END)
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    async with ctx.runtime.user_task(pieces, ctx.deadline) as task:
        yield partial(task.run, next_block)


def drawn_from_file(read: Callable[[int], Buffer], block_size: int, run: Run) -> Draw:
    """Draws from the `read` of a file, which returns at most `size` bytes."""

    def next_piece() -> Buffer:
        data = read(block_size)
        # None is no end: a file that does not block has nothing yet, which `_Cutter` refuses
        return _END if isinstance(data, bytes) and not data else data

    return _drawn(next_piece, block_size, run)


def _drawn(next_piece: Callable[[], Buffer], block_size: int, run: Run) -> Draw:
    """Draws pieces, each of which may be long in coming, a whole block at a time."""
    cutter = _Cutter(block_size)
    stopped = False

    def next_block() -> bytearray:
        while not stopped and not cutter.fill():
            data = next_piece()
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    async def draw() -> bytearray:
        nonlocal stopped
        try:
            return await run(next_block)
        except BaseException:
            stopped = True  # the call has ended, and may not wait for slow pieces of a block
            raise

    return draw
