"""Where the bytes of a new content come from, cut into blocks.

A source feeds `write(block)` with every block, several at a time, and at least with block 0, which
is empty when the source is. A buffer and a regular file can be read at any place, so
each of the writes in flight fetches its own block; a stream is drawn in order, its next block while
those before it are written. No source is ever held whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterable, Coroutine, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from io import FileIO, TextIOBase
from typing import Any, NamedTuple, Protocol, cast

from blockyard import arguments, syscalls
from blockyard.buffer import Buffer
from blockyard.content import pipes
from blockyard.content.streams import (
    Cut,
    Draw,
    Several,
    SourceBlock,
    Stream,
    StreamSource,
    Write,
    drawn,
    drawn_as_it_comes,
    drawn_async,
    drawn_from_file,
    on_a_thread,
)
from blockyard.content.transfers import local_errors
from blockyard.content.types import AsyncContentSource, Readable
from blockyard.context import Context, UserCode
from blockyard.errors import LocalStorageError

_TICK = 0.012
"""Seconds: longer than the clock of a file's time needs to go on, at 100 ticks a second."""


class Source(Protocol):
    """See the module's docstring."""

    async def feed(self, ctx: Context, write: Write, several: Several | None = None) -> None:
        """Write every block; `several` is awaited first if there is more than one."""
        ...


def source_of(ctx: Context, given: AsyncContentSource, cut: Cut) -> Coroutine[Any, Any, Source]:
    """The source for what a caller gave. Raises `TypeError` for what can't be one.

    The caller's own code already runs to find out: what gives a path or a buffer.
    """
    find = partial(_source_of, given, cut, ctx.runtime.awaits)
    return ctx.runtime.user_code(quick=True).run(find)


def _source_of(given: AsyncContentSource, cut: Cut, awaits: bool) -> Source:
    operation = cut.operation
    if isinstance(given, str | os.PathLike):
        return PathSource(arguments.path(operation, given, "source"), cut)
    if awaits and isinstance(given, AsyncIterable):
        return StreamSource(partial(drawn_async, given, operation), cut)
    if arguments.is_buffer(given):
        return BufferSource(arguments.flat(operation, cast("Buffer", given), "source"), cut)
    if isinstance(given, Readable) and not isinstance(given, TextIOBase):
        return OpenFileSource(given, cut)
    if isinstance(given, Iterable) and not isinstance(given, TextIOBase | Mapping):
        return StreamSource(partial(drawn, given, operation), cut)
    expected = "a path, a buffer, a file open for reading bytes or an iterable of buffers"
    raise arguments.unsuitable(operation, "source", expected, cast("object", given))


class BufferSource:
    """A buffer, sliced: nothing is copied."""

    def __init__(self, buffer: memoryview, cut: Cut) -> None:
        self._buffer = buffer
        self._size = cut.fitting(len(buffer)).size

    async def feed(self, ctx: Context, write: Write, several: Several | None = None) -> None:
        size = self._size

        async def send(start: int) -> None:
            await write(SourceBlock(start // size, start, self._buffer[start : start + size]))

        if several is not None and len(self._buffer) > size:
            await several()
        _ = await ctx.gather(send, _starts(len(self._buffer), size))


class PathSource:
    """The file at a path, stored as it was at one time: one that changes meanwhile is an error.

    A regular file that says its size is read at many places at once. One that says 0 bytes may
    hold some all the same (/proc, FUSE): it is read in order, to its end, as pipes and devices
    are. Of a pipe nothing is taken once the call has ended.
    """

    def __init__(self, path: str, cut: Cut) -> None:
        self._path = path
        self._cut = cut
        self._errors = partial(local_errors, cut.operation, path)

    async def feed(self, ctx: Context, write: Write, several: Several | None = None) -> None:
        with ExitStack() as opened:  # closed also when this is cancelled while it is opened
            file = await ctx.runtime.blocking(lambda: opened.enter_context(self._open()))
            with self._errors():
                known = os.fstat(file.fileno())
            if not stat.S_ISREG(known.st_mode):
                draw = self._drawn_as_it_comes(ctx, file, known.st_mode)
                await Stream(draw, self._cut, several).pass_on(ctx, write)
                return
            checked = _Checked(self._cut.operation, self._path, file.fileno(), known)
            await checked.settled(ctx)
            if not known.st_size:
                draw = drawn_from_file(
                    partial(self._read, file), self._cut.operation, partial(on_a_thread, ctx)
                )
                await Stream(draw, self._cut, several).pass_on(ctx, write)
            else:
                cut = self._cut.fitting(known.st_size)
                if several is not None and known.st_size > cut.size:
                    await several()
                await self._feed_regular(ctx, write, cut, file, known.st_size)
            checked.unchanged()

    async def _feed_regular(
        self, ctx: Context, write: Write, cut: Cut, file: FileIO, size: int
    ) -> None:
        free: list[bytearray] = []  # used again, as what is freed is not always to be had again

        async def send(start: int) -> None:
            length = min(cut.size, size - start)
            buffer = free.pop() if free else bytearray(min(cut.size, size))
            data = memoryview(buffer)[:length]
            await ctx.runtime.blocking(partial(self._read_into, file, start, data))
            await write(SourceBlock(start // cut.size, start, data))
            if start:  # block 0 is kept to the end
                free.append(buffer)

        _ = await ctx.runtime.gather(send, _starts(size, cut.size), max(1, cut.at_once))
        beyond = partial(self._read_some, file, size, memoryview(bytearray(1)))
        if await ctx.runtime.blocking(beyond):
            raise self._changed(f"it goes on after its {size} bytes")

    def _drawn_as_it_comes(self, ctx: Context, file: FileIO, mode: int) -> Draw:
        prompt = pipes.is_prompt(file, mode)
        run = ctx.runtime.blocking if prompt else partial(on_a_thread, ctx)
        wait = partial(ctx.runtime.readable, file, ctx.deadline)
        return drawn_as_it_comes(wait, partial(self._read, file), self._cut.operation, run)

    def _open(self) -> FileIO:
        with self._errors():
            return pipes.opened(self._path)

    def _read(self, file: FileIO, size: int) -> bytes:
        with self._errors():
            return cast("bytes", file.read(size))  # None where there are none yet

    def _read_into(self, file: FileIO, start: int, buffer: memoryview) -> None:
        filled = 0
        while filled < len(buffer):
            count = self._read_some(file, start + filled, buffer[filled:])
            if count == 0:
                raise self._changed(f"it ends at byte {start + filled}")
            filled += count

    def _read_some(self, file: FileIO, start: int, buffer: memoryview) -> int:
        with self._errors():
            return os.preadv(file.fileno(), [buffer], start)

    def _changed(self, how: str) -> LocalStorageError:
        return _changed(self._cut.operation, self._path, how)


class OpenFileSource:
    """A file that the caller has opened, from its position to its end.

    A regular file must not change meanwhile, as one at a path; of others nobody can tell. Of a
    pipe, socket or terminal nothing is taken once the call has ended, where the file is one of
    the system's as `open` gives them. Others are read as they come, and a `read` that waits then
    may end after its call.
    """

    def __init__(self, file: Readable, cut: Cut) -> None:
        self._file = file
        self._cut = cut

    async def feed(self, ctx: Context, write: Write, several: Several | None = None) -> None:
        async with ctx.user_code() as user:
            number = await user.run(self._descriptor)
            if number is None:
                draw = drawn_from_file(self._file.read, self._cut.operation, user.run)
                await Stream(draw, self._cut, several).pass_on(ctx, write)
                return
            try:
                await self._feed_from(number, ctx, user, write, several)
            finally:
                syscalls.close(number)

    async def _feed_from(
        self, number: int, ctx: Context, user: UserCode, write: Write, several: Several | None
    ) -> None:
        operation = self._cut.operation
        known = os.fstat(number)
        if stat.S_ISREG(known.st_mode):
            name = str(cast("FileIO", self._file).name)
            draw = drawn_from_file(self._file.read, operation, user.run)
            checked = _Checked(operation, name, number, known)
            await checked.settled(ctx)
            await Stream(draw, self._cut, several).pass_on(ctx, write)
            checked.unchanged()
            return
        read = pipes.read_of(self._file)
        assert read is not None  # noqa: S101 - `_descriptor` has looked
        wait = partial(ctx.runtime.readable, pipes.PipeDescriptor(number), ctx.deadline)
        draw = drawn_as_it_comes(wait, read, operation, user.run)
        await Stream(draw, self._cut, several).pass_on(ctx, write)

    def _descriptor(self) -> int | None:
        """A further descriptor of a regular file, and of one that can be waited for."""
        file = cast("FileIO", self._file)
        try:
            number = file.fileno()
            regular = stat.S_ISREG(os.fstat(number).st_mode)
            if regular:
                _ = file.name
            return os.dup(number) if regular or pipes.read_of(file) is not None else None
        except TimeoutError:  # of a signal handler: no file says so
            raise
        except (AttributeError, OSError, TypeError, ValueError):  # in memory, closed, made up
            return None


class _Checked(NamedTuple):
    """A regular file of the caller's, as it was `known` to be when its reading began."""

    operation: str
    name: str
    file: int
    known: os.stat_result

    async def settled(self, ctx: Context) -> None:
        """Let a file just written age until a further change would show in its time.

        The clock of a file system ticks only every few ms.
        """
        age = ctx.runtime.wall_time() - self.known.st_mtime
        if age < _TICK:
            await ctx.sleep(min(_TICK, _TICK - age))
            self.unchanged()

    def unchanged(self) -> None:
        """Raise `LocalStorageError` for one that has changed since."""
        known = self.known
        with local_errors(self.operation, self.name):
            now = os.fstat(self.file)
        if (now.st_size, now.st_mtime_ns) != (known.st_size, known.st_mtime_ns):
            how = f"it had {known.st_size} bytes and now has {now.st_size}"
            raise _changed(self.operation, self.name, how)


def _changed(operation: str, name: str, how: str) -> LocalStorageError:
    return LocalStorageError(f"{operation}: {name!r}: the file changed while it was read: {how}")


def _starts(size: int, block_size: int) -> range:
    """The offsets of blocks of `size` bytes; an empty content has one, empty block."""
    return range(0, max(1, size), block_size)
