"""Files open for writing: a file is stored while it is written, and appears when it is closed."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from blockyard.buffer import Buffer
from blockyard.fsspec.untyped import sync
from blockyard.model import MIB

PIECE = 8 * MIB
"""Bytes that a file collects before they are sent, unless it is opened with a `block_size`."""
_WAITING = 2
"""Pieces that may wait to be sent."""

Write = Callable[[Buffer | AsyncIterator[bytes]], Coroutine[Any, Any, None]]


class Upload:
    """A write under way that is fed piece by piece. Used on one event loop."""

    def __init__(self, write: Write) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_WAITING)
        self.task = asyncio.ensure_future(write(self._drawn()))

    async def feed(self, piece: bytes | None) -> None:
        """Hand over a piece (None: there are no more), or raise what has ended the write."""
        put = asyncio.ensure_future(self._pieces.put(piece))
        try:
            _ = await asyncio.wait({put, self.task}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            _ = put.cancel()
        if self.task.done():
            await self.task

    async def finish(self) -> None:
        """Wait until what was handed over is stored."""
        await self.feed(None)
        await self.task

    async def abort(self) -> None:
        """End the write, and store nothing. Waits until that is so."""
        _ = self.task.cancel()
        _ = await asyncio.wait({self.task})
        if not self.task.cancelled():
            _ = self.task.exception()  # seen

    async def _drawn(self) -> AsyncIterator[bytes]:
        while (piece := await self._pieces.get()) is not None:
            yield piece


class WriteFile(io.RawIOBase):
    """A file open for writing bytes.

    What is written is sent while the program goes on, a few pieces behind. It appears under its
    path when the file is closed; an error before that, in sending or in the `with` block that the
    file is used in, leaves nothing there. In a transaction it appears when that is committed.
    """

    def __init__(
        self, fs: Any, path: str, mode: str, write: Write, *, piece_size: int, autocommit: bool
    ) -> None:
        super().__init__()
        self.fs = fs
        self.path = path
        self.mode = mode
        self.autocommit = autocommit
        self.blocksize = piece_size
        self._write = write
        self._collected = bytearray()
        self._sent = 0
        self._upload: Upload | None = None
        self._ended = False
        self._process = os.getpid()

    @property
    def full_name(self) -> str:
        """The file's URL."""
        return self.fs.unstrip_protocol(self.path)

    @property
    def given_up(self) -> bool:
        """Whether nothing will be stored, or all is."""
        return self._ended

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._sent + len(self._collected)

    def write(self, data: Buffer, /) -> int:
        """Take all of `data`. Raises what has ended the upload."""
        self._check_usable()
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest:
            taken = rest[: self.blocksize - len(self._collected)]
            self._collected += taken
            rest = rest[len(taken) :]
            if len(self._collected) == self.blocksize:
                self._send()
        return size

    def close(self) -> None:
        """Store the file, unless its transaction does that. Raises what stands against it."""
        if self.closed:
            return
        try:
            if self._ended or self._process != os.getpid():
                return
            if _is_left_by_an_error():
                self.discard()
            elif self.autocommit:
                self.commit()
        finally:
            super().close()

    def commit(self) -> None:
        """Store what was written."""
        if self._ended:
            return
        self._check_process()
        try:
            if self._upload is None:
                self._run(self._write, bytes(self._collected))
            else:
                if self._collected:
                    self._send()
                self._run(self._upload.finish)
            self._ended = True
        finally:
            self.discard()
            self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Store nothing of what was written."""
        ended, self._ended = self._ended, True
        self._collected = bytearray()
        if not ended and self._upload is not None and self._process == os.getpid():
            self._run(self._upload.abort)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        """Dropped, maybe on the event loop's own thread: nothing is waited for, nor stored."""
        if getattr(self, "_ended", True) or self._process != os.getpid():
            return
        self._ended = True
        if self._upload is not None:
            with suppress(RuntimeError):  # the loop is closed
                _ = self.fs.loop.call_soon_threadsafe(self._upload.task.cancel)
        warnings.warn(
            f"{self.full_name} was not stored: its file was never closed",
            RuntimeWarning,
            stacklevel=2,
        )

    def _send(self) -> None:
        """Hand over what is collected."""
        piece = bytes(self._collected)
        self._collected.clear()
        self._sent += len(piece)
        try:
            upload: Upload = self._upload or self._run(self._begin)
            self._upload = upload
            self._run(upload.feed, piece)
        except BaseException:  # an interrupt, too: what was handed over then can't be known
            self.discard()
            raise

    async def _begin(self) -> Upload:
        return Upload(self._write)

    def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        """What a coroutine returns: `sync` would take one that is cancelled for done."""

        async def told() -> tuple[Any]:
            return (await function(*args),)

        done = sync(self.fs.loop, told)
        if done is None:
            raise RuntimeError(f"{self.path!r}: writing was cancelled, and nothing is stored")
        return done[0]

    def _check_usable(self) -> None:
        if self.closed:
            raise ValueError(f"{self.path!r}: the file is closed")
        if self._ended:
            raise ValueError(f"{self.path!r}: the file was given up")
        self._check_process()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise ValueError(f"{self.path!r}: the file was opened by another process")


def _is_left_by_an_error() -> bool:
    """Whether an error ends the `with` block of somebody who closes the file because of it.

    fsspec's `OpenFile`, pandas and `contextlib` do, and tell the file nothing of the error.
    """
    error, frame = sys.exception(), sys._getframe()  # pyright: ignore[reportPrivateUsage]
    while error is not None and frame is not None:
        if frame.f_code.co_name == "__exit__":
            for value in frame.f_locals.values():
                given = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
                if any(each is error for each in given):
                    return True
        frame = frame.f_back
    return False


class CompressedFile(io.BufferedIOBase):
    """A file open for writing, by way of a compressor, which would leave the file open."""

    def __init__(self, file: WriteFile, compressor: Any) -> None:
        super().__init__()
        self._file = file
        self._compressor = compressor

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        return self._compressor.write(data)

    def tell(self) -> int:
        return self._compressor.tell()

    def close(self) -> None:
        if self.closed:
            return
        try:
            if not self._file.given_up:
                self._compressor.close()
        except BaseException:
            self._file.discard()
            raise
        finally:
            super().close()
            self._file.close()

    def discard(self) -> None:
        """Store nothing of what was written."""
        self._file.discard()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.discard()
        self.close()

    def __del__(self) -> None:
        self._file.__del__()


def text_file(file: WriteFile | CompressedFile, **options: Any) -> io.TextIOWrapper:
    """A file open for writing text. `options` are those of `TextIOWrapper`."""
    opened = _TextFile(cast("Any", file), **options)
    opened.file = file
    return opened


class _TextFile(io.TextIOWrapper):
    """Has an error in its `with` block, and being dropped, mean what they do for its `file`."""

    file: WriteFile | CompressedFile

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.file.discard()
            self.file.close()  # so that nothing more is flushed to it
        self.close()

    def __del__(self) -> None:
        self.file.__del__()
