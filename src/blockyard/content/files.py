"""A content as an open file that can be read and sought in, for both clients.

The listing made when it is opened stays the truth for as long as it is open: a content that is
replaced or deleted meanwhile gives a `ContentReplacedError` on the next fetch, never other bytes.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Self

from blockyard import arguments
from blockyard.buffer import Buffer
from blockyard.content.layout import Layout
from blockyard.content.reading import ContentReader
from blockyard.context import Context
from blockyard.model import KIB

FIRST_WINDOW = 128 * KIB
"""How much a read fetches after a seek, in bytes, when it asks for less."""


class Cursor:
    """A position in a content, and the bytes that were fetched around it. Does no I/O itself.

    As long as reads go on where the last one ended, more and more is read ahead; after a seek one
    piece is, and nothing where the reads before it did not go on either.
    """

    def __init__(self, reader: ContentReader, layout: Layout) -> None:
        self._reader = reader
        self._layout = layout
        self._window = reader.window()
        self._fetched = memoryview(b"")
        self._fetched_start = 0
        self._went_on = True
        self.position = 0

    @property
    def name(self) -> str:
        """The content id."""
        return self._layout.content_id

    @property
    def size(self) -> int:
        """The content's size in bytes."""
        return self._layout.size

    @property
    def at_end(self) -> bool:
        """Whether nothing is left to read."""
        return self.position >= self.size

    def seek(self, offset: int, whence: int) -> int:
        """Move as `io.IOBase.seek` says, also past the end. Raises `ValueError` below 0."""
        offset = arguments.whole("seek", offset, "offset")
        whence = arguments.whole("seek", whence, "whence")
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}.get(whence)
        if start is None:
            raise ValueError(f"seek: whence: expected 0, 1 or 2, got {whence!r}")
        if start + offset < 0:
            raise ValueError(f"seek: {start + offset} is before the start of the content")
        self.position = start + offset
        return self.position

    def take(self, size: int) -> memoryview:
        """Return up to `size` of the fetched bytes at the position, and move past them."""
        first = self.position - self._fetched_start
        if not 0 <= first < len(self._fetched):
            return memoryview(b"")
        taken = self._fetched[first : first + size]
        self.position += len(taken)
        return taken

    async def fetch(self, ctx: Context, size: int) -> None:
        """Fetch some bytes from the position on, and begin to read the rest of `size`, or more."""
        layout, start, read_ahead = self._layout, self.position, self._window.under_way
        if start in read_ahead:  # what was skipped before it is on its way already
            start = read_ahead.start
        goes_on = start in (read_ahead.start, self._fetched_start + len(self._fetched))
        wanted = min(self.position + size, layout.size) - 1
        ahead = wanted // layout.block_size - start // layout.block_size
        if ahead == 0 and self._went_on:
            ahead = 1
        self._went_on = goes_on
        width = self._reader.width(ctx, layout)
        if width.parts is not None:  # connections that begin one after the other are less equal
            width = replace(width, parts=2 * width.parts)
        while start <= self.position:
            self._fetched, self._fetched_start = memoryview(b""), start  # free it before the next
            data = await self._window.next(
                ctx,
                layout,
                (start, layout.size),
                width=width,
                ahead=ahead,
                first=max(size, FIRST_WINDOW),
            )
            self._fetched = memoryview(data)
            start += len(data)

    def stop(self) -> None:
        """Drop fetched bytes and cancel the read-ahead, from any thread, without waiting."""
        self._fetched = memoryview(b"")
        self._window.stop()

    async def end(self) -> None:
        """`stop`, but wait until the read-ahead has ended."""
        self._fetched = memoryview(b"")
        await self._window.end()


class RawContentFile(io.RawIOBase):
    """The raw file below the buffered one that `BlockStore.open_content` returns."""

    def __init__(self, cursor: Cursor, fetch: Callable[[int], None]) -> None:
        super().__init__()
        self._cursor = cursor
        self._fetch = fetch
        self.name = cursor.name
        self.mode = "rb"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._cursor.position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._cursor.seek(offset, whence)

    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._next(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        start = self._cursor.position
        parts: list[memoryview] = []
        try:
            while True:
                data = self._next(self._cursor.size)
                if not data:
                    break
                parts.append(data)
        except BaseException:
            self._cursor.position = start  # what was read is lost: the next read begins here again
            raise
        return b"".join(parts)

    def close(self) -> None:
        super().close()
        self._cursor.stop()

    def _next(self, size: int) -> memoryview:
        data = self._cursor.take(size)
        if data or size == 0 or self._cursor.at_end:
            return data
        self._fetch(size)
        return self._cursor.take(size)


class AsyncContentFile:
    """What `AsyncBlockStore.open_content` returns: a content open for reading.

    Reads go one after the other; `RuntimeError` tells of two at once.
    """

    def __init__(self, cursor: Cursor, context: Callable[[], Context]) -> None:
        self._cursor = cursor
        self._context = context
        self._reading = False
        self.closed = False

    @property
    def name(self) -> str:
        """The content id."""
        return self._cursor.name

    @property
    def size(self) -> int:
        """The content's size in bytes."""
        return self._cursor.size

    async def tell(self) -> int:
        """The position in bytes from the start."""
        return self._cursor.position

    async def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to `offset` from the start (0), the position (1) or the end (2); returns where.

        Nothing is fetched before the next read. Raises `ValueError` below 0.
        """
        self._check_free()
        return self._cursor.seek(offset, whence)

    async def read(self, size: int | None = -1) -> bytes:
        """`size` bytes from the position (-1 or None: all that is left); fewer at the end only.

        A read that fails or is cancelled leaves the position where it was. Raises what
        `BlockStore.read_content` does, and `ValueError` on a closed file.
        """
        self._check_free()
        size = -1 if size is None else arguments.whole("read", size, "size")
        if size < -1:
            raise ValueError(f"read: size: expected a whole number from -1, got {size}")
        self._reading = True
        start = self._cursor.position
        try:
            return await self._read(self.size if size < 0 else size)
        except BaseException:
            self._cursor.position = start  # what was read is lost: the next read begins here again
            raise
        finally:
            self._reading = False

    async def close(self) -> None:
        """Drop fetched bytes and end the read-ahead. The store stays open."""
        self.closed = True
        await self._cursor.end()

    def stop(self) -> None:
        """`close`, from any thread, without waiting."""
        self.closed = True
        self._cursor.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _read(self, size: int) -> bytes:
        parts: list[memoryview] = []
        ctx = self._context()
        while size and not self._cursor.at_end:
            data = self._cursor.take(size)
            if data:
                parts.append(data)
                size -= len(data)
            else:
                self._check_open()
                await self._cursor.fetch(ctx, size)
        return b"".join(parts)

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError(f"{self.name!r}: the file is closed")

    def _check_free(self) -> None:
        self._check_open()
        if self._reading:
            raise RuntimeError(f"{self.name!r}: another read of this file is under way")
