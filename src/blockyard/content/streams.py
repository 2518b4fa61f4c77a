"""Drawing what only comes in order (a pipe, the caller's file or iterable), cut into blocks."""

from __future__ import annotations

import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
)
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

from blockyard import arguments
from blockyard.buffer import Buffer
from blockyard.context import Context
from blockyard.managing import asynccontextmanager
from blockyard.model import MIB
from blockyard.stores.base import Data
from blockyard.user_code import UserIterator

Result = TypeVar("Result")


class SourceBlock(NamedTuple):
    """The block `number` of a source, from 0 on: `data`, that begins at byte `offset`."""

    number: int
    offset: int
    data: Data


Write: TypeAlias = Callable[[SourceBlock], Coroutine[Any, Any, None]]
Several: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
Draw: TypeAlias = Callable[[int], Coroutine[Any, Any, Data]]
"""Gives a block of so many bytes, a shorter one at the end."""
Open: TypeAlias = Callable[[Context], AbstractAsyncContextManager[Draw]]
Run: TypeAlias = Callable[[Callable[[], Data]], Coroutine[Any, Any, Data]]

_END = memoryview(b"")
_GROWTHS = 5


@dataclass(frozen=True, slots=True)
class Cut:
    """How a source is cut: into blocks of `size` bytes, the last one shorter.

    `at_once` of them may be in memory at a time. Where there may be `most` blocks at the most,
    they are larger when there would be more, but none has over `largest` bytes, and fewer are in
    memory then. `operation` is what errors name.
    """

    operation: str
    size: int
    at_once: int
    most: int | None = None
    largest: int = sys.maxsize

    def fitting(self, total: int) -> Cut:
        """The cut for a source that is known to hold `total` bytes."""
        if self.most is None or total <= self.size * self.most:
            return self
        return self._of(-(-total // self.most))

    def stages(self) -> Iterator[tuple[Cut, int]]:
        """Growing block sizes for a source of unknown length, and how many blocks have each.

        Where the number of blocks is limited, the second half of them is larger and larger.
        """
        if self.most is None:
            yield self, sys.maxsize
            return
        yield self, self.most // 2
        for doubled in range(1, _GROWTHS + 1):
            last = doubled == _GROWTHS
            yield self._of(self.size << doubled), sys.maxsize if last else self.most // 10

    def _of(self, size: int) -> Cut:
        size = min(size, self.largest)
        return replace(self, size=size, at_once=max(1, self.at_once * self.size // size))


class StreamSource:
    """What can only be drawn in order; `opened` draws from it."""

    def __init__(self, opened: Open, cut: Cut) -> None:
        self._opened = opened
        self._cut = cut

    async def feed(self, ctx: Context, write: Write, several: Several | None = None) -> None:
        async with self._opened(ctx) as draw:
            await Stream(draw, self._cut, several).pass_on(ctx, write)


class Stream(AsyncIterator[SourceBlock]):
    """The blocks that are drawn, numbered, at least one.

    With `several` the second one is drawn before the first is given, for that is awaited in
    between where there is a second one.
    """

    def __init__(self, draw: Draw, cut: Cut, several: Several | None = None) -> None:
        self._draw = draw
        self._cut = cut
        self._several = several
        self._size = cut.size
        self._left = sys.maxsize
        self._drawn = self._offset = 0
        self._ahead: SourceBlock | None = None
        self._ended = False

    async def pass_on(self, ctx: Context, write: Write) -> None:
        """See `Source.feed`. One is drawn while the others are written."""
        for cut, count in self._cut.stages():
            self._size, self._left = cut.size, count
            _ = await ctx.runtime.gather(write, self, max(1, cut.at_once))
            if self._ended:
                return

    async def __anext__(self) -> SourceBlock:
        try:
            block = await self._following()
        except BaseException:
            self._ended, self._ahead = True, None  # nothing more of it is to be written
            raise
        if block is None:
            raise StopAsyncIteration
        return block

    async def _following(self) -> SourceBlock | None:
        block, self._ahead = self._ahead or await self._next(), None
        if block is not None and block.number == 0 and self._several is not None:
            self._ahead = await self._next()
            if self._ahead is not None:
                await self._several()
        return block

    async def _next(self) -> SourceBlock | None:
        if self._ended or not self._left:
            return None
        data = await self._draw(self._size)
        self._ended = len(data) < self._size
        if not data and self._drawn:
            return None
        block = SourceBlock(self._drawn, self._offset, data)
        self._left -= 1
        self._drawn += 1
        self._offset += len(data)
        return block


class _Cutter:
    """Collects buffers of any size until they fill a block.

    They are copied, since an iterator may use its buffer again for the next; but for `bytes` that
    fill a block by themselves, as nothing changes those.
    """

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._block = bytearray()
        self._given: memoryview | None = None
        self._rest = memoryview(b"")

    def add(self, data: Buffer) -> None:
        self._rest = arguments.flat(self._operation, data, "a piece of the source")

    def fill(self, size: int) -> bool:
        """Move what was added into the block of `size` bytes, and say whether it is full."""
        taken = self._rest[: size - len(self._block)]
        self._rest = self._rest[len(taken) :]
        if len(taken) == size and isinstance(taken.obj, bytes):
            self._given = taken
            return True
        self._block += taken
        return len(self._block) == size

    def take(self) -> Data:
        given, block = self._given, self._block
        self._given, self._block = None, bytearray()
        return block if given is None else given


@asynccontextmanager
async def drawn(pieces: Iterable[Buffer], operation: str, ctx: Context) -> AsyncGenerator[Draw]:
    """A `Draw` from an iterable of the caller's own."""
    given = UserIterator(pieces)
    async with ctx.user_code(close=given.close) as user:
        yield _drawn(lambda _: given.next(_END), operation, user.run)


async def on_a_thread(ctx: Context, call: Callable[[], Result]) -> Result:
    """Run a read of a file of ours that may stall for ever; the deadline does not wait for it.

    One that is left behind goes on, so it must take nothing that others are to get.
    """
    return await ctx.runtime.wait(ctx.runtime.start(call), ctx.deadline)


@asynccontextmanager
async def drawn_async(
    pieces: AsyncIterable[Buffer], operation: str, ctx: Context
) -> AsyncGenerator[Draw]:
    """A `Draw` from an async iterable of the caller's own."""
    cutter = _Cutter(operation)

    async def next_block(size: int, iterator: AsyncIterator[Buffer]) -> Data:
        while not cutter.fill(size):
            data = await anext(iterator, _END)
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    async with ctx.runtime.user_task(pieces, ctx.deadline) as task:
        yield lambda size: task.run(partial(next_block, size))


def drawn_from_file(read: Callable[[int], Buffer], operation: str, run: Run) -> Draw:
    """A `Draw` from the `read` of a file, which returns at most so many bytes."""
    return _drawn(lambda size: _piece(operation, read(size)), operation, run)


def drawn_as_it_comes(
    wait: Callable[[], Coroutine[Any, Any, None]],
    read: Callable[[int], Buffer | None],
    operation: str,
    run: Callable[[Callable[[], Buffer | None]], Coroutine[Any, Any, Buffer | None]],
) -> Draw:
    """Draws from the `read` of what may have nothing yet, once `wait` has seen that it has some.

    A call that ends meanwhile has taken nothing of what comes later. None of `read` says that
    others were faster.
    """
    cutter = _Cutter(operation)

    async def draw(size: int) -> Data:
        while not cutter.fill(size):
            await wait()
            data = await run(partial(read, min(size, MIB)))
            if data is not None:
                piece = _piece(operation, data)
                if piece is _END:
                    break
                cutter.add(piece)
        return cutter.take()

    return draw


def _piece(operation: str, data: Buffer) -> Buffer:
    """What a file's `read` returned; `_END` for an empty buffer, of whatever type.

    Raises `TypeError` for what is none. None is no end either: a file that does not block has
    nothing yet.
    """
    if isinstance(data, bytes):
        return data or _END
    return arguments.flat(operation, data, "what read of the source returned") or _END


def _drawn(next_piece: Callable[[int], Buffer], operation: str, run: Run) -> Draw:
    """Draws pieces, each of which may be long in coming, a whole block at a time."""
    cutter = _Cutter(operation)
    stopped = False

    def next_block(size: int) -> Data:
        while not stopped and not cutter.fill(size):
            data = next_piece(size)
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    async def draw(size: int) -> Data:
        nonlocal stopped
        try:
            return await run(partial(next_block, size))
        except BaseException:
            stopped = True  # the call has ended, and may not wait for slow pieces of a block
            raise

    return draw
