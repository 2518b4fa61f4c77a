"""Where the bytes of a new content come from, cut into blocks.

A source feeds `write(index, data)` with every block, several at a time, and at least with block
0, which is empty when the source is. A buffer and a regular file can be read at any place, so
each of the writes in flight fetches its own block; a stream is drawn in order, a batch ahead of
the batch that is being written. No source is ever held whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from io import FileIO, TextIOBase
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

from typing_extensions import Buffer

from blockyard import arguments
from blockyard.content.batches import overlapped
from blockyard.content.local import local_errors
from blockyard.context import Context
from blockyard.errors import LocalStorageError

Block: TypeAlias = bytes | bytearray | memoryview
Write: TypeAlias = Callable[[int, Block], Coroutine[Any, Any, None]]
Draw: TypeAlias = Callable[[Context], Coroutine[Any, Any, bytearray]]

_END = memoryview(b"")
_OPERATION = "write_content"
_TICK = 0.012
"""Seconds: longer than the clock of a file's time needs to go on, at 100 ticks a second."""


@runtime_checkable
class Readable(Protocol):
    """A file open for reading bytes: `read` returns at most `size` of them, none at the end."""

    def read(self, size: int, /) -> bytes: ...


ContentSource: TypeAlias = str | os.PathLike[str] | Buffer | Readable | Iterable[Buffer]
AsyncContentSource: TypeAlias = ContentSource | AsyncIterable[Buffer]


class Source(Protocol):
    """See the module's docstring."""

    async def feed(self, ctx: Context, write: Write, at_once: int) -> None:
        """Write every block; `at_once` is how many of them may be in memory at a time."""
        ...


def source_of(
    ctx: Context, given: AsyncContentSource, block_size: int
) -> Coroutine[Any, Any, Source]:
    """The source for what a caller gave. Raises `TypeError` for what can't be one.

    The caller's own code already runs to find out: what gives a path, a buffer or an iterator.
    """
    return ctx.runtime.user(partial(_source_of, given, block_size, ctx.runtime.awaits), quick=True)


def _source_of(given: AsyncContentSource, block_size: int, awaits: bool) -> Source:
    if isinstance(given, str | os.PathLike):
        return PathSource(arguments.path(_OPERATION, given, "source"), block_size)
    if awaits and isinstance(given, AsyncIterable):
        return StreamSource(_drawn_async(given, block_size), block_size)
    if arguments.is_buffer(given):
        buffer = arguments.flat(_OPERATION, cast("Buffer", given), "source")
        return BufferSource(buffer, block_size)
    if isinstance(given, Readable) and not isinstance(given, TextIOBase):
        return _file_source(given, block_size)
    if isinstance(given, Iterable) and not isinstance(given, TextIOBase | Mapping):
        return StreamSource(_drawn(partial(next, iter(given), _END), block_size), block_size)
    expected = "a path, a buffer, a file open for reading bytes or an iterable of buffers"
    raise arguments.unsuitable(_OPERATION, "source", expected, cast("object", given))


class BufferSource:
    """A buffer, sliced: nothing is copied."""

    def __init__(self, buffer: memoryview, block_size: int) -> None:
        self._buffer = buffer
        self._block_size = block_size

    async def feed(self, ctx: Context, write: Write, at_once: int) -> None:
        async def send(start: int) -> None:
            stop = start + self._block_size
            await write(start // self._block_size, self._buffer[start:stop])

        _ = await ctx.gather(send, _starts(len(self._buffer), self._block_size))


class PathSource:
    """The file at a path, stored as it was at one time: one that changes meanwhile is an error.

    A regular file that says its size is read at many places at once. One that says 0 bytes may
    hold some all the same (/proc, FUSE): it is read in order, to its end, as pipes and devices
    are.
    """

    def __init__(self, path: str, block_size: int) -> None:
        self._path = path
        self._block_size = block_size

    async def feed(self, ctx: Context, write: Write, at_once: int) -> None:
        with ExitStack() as opened:  # closed also when this is cancelled while it is opened
            file = await ctx.runtime.blocking(lambda: opened.enter_context(self._open()))
            known = self._status(file)
            if not stat.S_ISREG(known.st_mode):
                await _file_source(file, self._block_size).feed(ctx, write, at_once)
                return
            await self._check_settled(ctx, file, known)
            if known.st_size:
                await self._feed_regular(ctx, write, at_once, file, known.st_size)
            else:
                await _file_source(file, self._block_size).feed(ctx, write, at_once)
            await ctx.runtime.blocking(partial(self._check_unchanged, file, known))

    async def _feed_regular(
        self, ctx: Context, write: Write, at_once: int, file: FileIO, size: int
    ) -> None:
        free: list[bytearray] = []  # used again, as what is freed is not always to be had again

        async def send(start: int) -> None:
            length = min(self._block_size, size - start)
            buffer = free.pop() if free else bytearray(min(self._block_size, size))
            data = memoryview(buffer)[:length]
            await ctx.runtime.blocking(partial(self._read_into, file, start, data))
            await write(start // self._block_size, data)
            if start:  # block 0 is kept to the end
                free.append(buffer)

        _ = await ctx.runtime.gather(send, _starts(size, self._block_size), max(1, at_once))
        beyond = partial(self._read_some, file, size, memoryview(bytearray(1)))
        if await ctx.runtime.blocking(beyond):
            raise self._changed(f"it goes on after its {size} bytes")

    def _open(self) -> FileIO:
        with local_errors(_OPERATION, self._path):
            return FileIO(self._path)

    def _status(self, file: FileIO) -> os.stat_result:
        with local_errors(_OPERATION, self._path):
            return os.fstat(file.fileno())

    async def _check_settled(self, ctx: Context, file: FileIO, known: os.stat_result) -> None:
        """Let a file that has just been written age until a further change would show in its time.

        The clock of a file system ticks only every few ms.
        """
        if known.st_mtime + _TICK > ctx.runtime.wall_time():
            await ctx.sleep(_TICK)
            self._check_unchanged(file, known)

    def _check_unchanged(self, file: FileIO, known: os.stat_result) -> None:
        now = self._status(file)
        if (now.st_size, now.st_mtime_ns) != (known.st_size, known.st_mtime_ns):
            raise self._changed(f"it had {known.st_size} bytes and now has {now.st_size}")

    def _read_into(self, file: FileIO, start: int, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            count = self._read_some(file, start + filled, buffer[filled:])
            if count == 0:
                raise self._changed(f"it ends at byte {start + filled}")
            filled += count

    def _read_some(self, file: FileIO, start: int, buffer: memoryview) -> int:
        with local_errors(_OPERATION, self._path):
            return os.preadv(file.fileno(), [buffer], start)

    def _changed(self, how: str) -> LocalStorageError:
        return LocalStorageError(
            f"write_content: {self._path!r}: the file changed while it was read: {how}"
        )


class StreamSource:
    """What can only be drawn in order. `draw` gives full blocks, and a shorter one at the end."""

    def __init__(self, draw: Draw, block_size: int) -> None:
        self._draw = draw
        self._block_size = block_size
        self._index = 0
        self._ended = False

    async def feed(self, ctx: Context, write: Write, at_once: int) -> None:
        async def put(numbered: tuple[int, bytearray]) -> None:
            await write(*numbered)

        async def put_batch(batch: list[tuple[int, bytearray]]) -> None:
            _ = await ctx.gather(put, batch)

        # one more is held while it is drawn: what the source gave, not yet all cut into blocks
        await overlapped(ctx, at_once - 1, partial(self._next_batch, ctx), put_batch)

    async def _next_batch(self, ctx: Context, size: int) -> list[tuple[int, bytearray]]:
        batch: list[tuple[int, bytearray]] = []
        while len(batch) < size and not self._ended:
            block = await self._draw(ctx)
            self._ended = len(block) < self._block_size
            if block or self._index == 0:
                batch.append((self._index, block))
                self._index += 1
        return batch


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
        room = self._block_size - len(self._block)
        self._block += self._rest[:room]
        self._rest = self._rest[room:]
        return len(self._block) == self._block_size

    def take(self) -> bytearray:
        block, self._block = self._block, bytearray()
        return block


def _file_source(file: Readable, block_size: int) -> StreamSource:
    def next_piece() -> Buffer:
        data = file.read(block_size)
        # None is no end: a file that does not block has nothing yet, which `_Cutter` refuses
        return _END if isinstance(data, bytes) and not data else data

    return StreamSource(_drawn(next_piece, block_size), block_size)


def _drawn(next_piece: Callable[[], Buffer], block_size: int) -> Draw:
    """Draws from the caller's file or iterator, which may block, a whole block at a time."""
    cutter = _Cutter(block_size)
    stopped = False

    def next_block() -> bytearray:
        while not stopped and not cutter.fill():
            data = next_piece()
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    async def draw(ctx: Context) -> bytearray:
        nonlocal stopped
        try:
            return await ctx.user(next_block)
        except BaseException:
            stopped = True  # the call has ended, and may not wait for slow pieces of a block
            raise

    return draw


def _drawn_async(buffers: AsyncIterable[Buffer], block_size: int) -> Draw:
    cutter = _Cutter(block_size)
    iterator: AsyncIterator[Buffer] = aiter(buffers)

    async def next_block() -> bytearray:
        while not cutter.fill():
            data = await anext(iterator, _END)
            if data is _END:
                break
            cutter.add(data)
        return cutter.take()

    return lambda ctx: ctx.runtime.user_async(next_block, deadline=ctx.deadline)


def _starts(size: int, block_size: int) -> range:
    """Where the blocks of `size` bytes start; an empty content has one, empty block."""
    return range(0, max(1, size), block_size)
