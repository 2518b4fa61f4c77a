"""Files open for writing: a file is stored while it is written, and appears when it is closed."""

from __future__ import annotations

import asyncio
import atexit
import io
import os
import threading
import warnings
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from blockyard.buffer import Buffer
from blockyard.fsspec import blocking
from blockyard.fsspec.with_blocks import Surroundings
from blockyard.model import MIB
from blockyard.stores.base import Data
from blockyard.transport.memory import receivable

PIECE = 8 * MIB
"""Bytes that a file collects before they are sent, unless it is opened with a `block_size`."""
_WAITING = 1
"""Pieces that may wait to be sent, while the next is collected."""
_LARGE = 1 * MIB
"""Until then the memory of a piece grows with it: small files are to be small."""

Write = Callable[[Buffer | AsyncIterator[Data]], Coroutine[Any, Any, None]]


class _Collected:
    """What was written and not handed over, up to `most` bytes.

    It is copied at once, while it is in the processor's cache: what a program has let go of is then
    the memory it writes from next, where to keep its pieces would take as much again, fresh. What
    is large gets its place as a whole, so that nothing is put together in the end.
    """

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._begun = bytearray()
        self._large: tuple[bytes, memoryview] | None = None
        """The piece as a whole, and the places of its bytes."""

    def add(self, data: memoryview) -> None:
        """Take all of `data`, for which there has to be room.

        None of it, should a signal handler raise: then `size` is what it was, and says where what
        is taken next belongs.
        """
        size = self.size + len(data)
        if self._large is None and size > _LARGE:
            whole, places = receivable(self._most)
            places[: self.size] = memoryview(self._begun)[: self.size]
            self._large = whole, places
            self._begun = bytearray()
        if self._large is None:
            del self._begun[self.size :]
            self._begun += data
        else:
            self._large[1][self.size : size] = data
        self.size = size

    def take(self) -> Data:
        """All of it, which nothing changes any more; then there is none."""
        if self._large is None:
            taken: Data = bytes(memoryview(self._begun)[: self.size])
        else:
            whole, places = self._large
            taken = whole if self.size == self._most else bytes(places[: self.size])
        self._begun, self._large, self.size = bytearray(), None, 0
        return taken


class Upload:
    """A write under way that is fed piece by piece.

    Made on an event loop, and used there, but for `offer`.
    """

    def __init__(self, write: Write) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces = deque[Data | None]()
        self._came, self._went = asyncio.Event(), asyncio.Event()
        self.task = asyncio.ensure_future(write(self._drawn()))

    def offer(self, piece: Data) -> bool:
        """Hand over a piece from another thread, unless it has to wait for those before it.

        A program that writes goes on at once then: it is not to wait for the loop to have its turn.
        """
        if len(self._pieces) >= _WAITING or self.task.done():
            return False
        self._pieces.append(piece)
        _ = self._loop.call_soon_threadsafe(self._came.set)
        return True

    async def feed(self, piece: Data | None) -> None:
        """Hand over a piece (None: there are no more), or raise what has ended the write."""
        while len(self._pieces) >= _WAITING and not self.task.done():
            self._went.clear()
            room = asyncio.ensure_future(self._went.wait())
            try:
                _ = await asyncio.wait({room, self.task}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                _ = room.cancel()
        if self.task.done():
            await self.task
        self._pieces.append(piece)
        self._came.set()

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

    async def _drawn(self) -> AsyncIterator[Data]:
        while True:
            while not self._pieces:
                self._came.clear()
                if not self._pieces:  # one that came from a thread just before
                    _ = await self._came.wait()
            piece = self._pieces.popleft()
            self._went.set()
            if piece is None:
                return
            yield piece


_uploading = weakref.WeakSet["WriteFile"]()


@atexit.register
def _end_uploads() -> None:
    for file in list(_uploading):
        file.end_at_exit()


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
        self._collected = _Collected(self.blocksize)
        self._sent = 0
        self._upload: Upload | None = None
        self._ended = False
        self._process = os.getpid()
        self._opened_in = Surroundings.now()
        self._lock = threading.RLock()
        """Held while threads write, so that each finds room for all that it brings."""

    @property
    def full_name(self) -> str:
        """The file's URL."""
        return self.fs.unstrip_protocol(self.path)

    @property
    def given_up(self) -> bool:
        """Whether nothing will be stored, at least by this process, or all is."""
        return self._ended or self._process != os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{self.path!r}: a file open for writing can't be pickled")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """Whether nothing was written, though `seek` raises even then.

        `TextIOWrapper`, of pandas and fsspec as well, begins UTF-16 and UTF-32 without the mark of
        their byte order where this is false: without it they can't be read.
        """
        return not self.closed and self.tell() == 0

    def tell(self) -> int:
        return self._sent + self._collected.size

    def write(self, data: Buffer, /) -> int:
        """Take all of `data`. Raises what has ended the upload."""
        self._check_process()  # before the lock, which is the parent's in a forked child
        rest = memoryview(data).cast("B")
        size = len(rest)
        with self._lock:
            self.check_usable()
            self._collect(rest)
        return size

    def _collect(self, rest: memoryview) -> None:
        while rest:
            taken = rest[: self.blocksize - self._collected.size]
            self._collected.add(taken)
            rest = rest[len(taken) :]
            if self._collected.size == self.blocksize:
                self._send()

    def close(self) -> None:
        """Store the file, unless its transaction does that. Raises what stands against it."""
        if self.closed:
            return
        try:
            if self.given_up:
                return
            if self._opened_in.were_left_by_an_error():
                self.discard()
            elif self.autocommit:
                self._commit()
        finally:
            self._opened_in = Surroundings()  # frames, which hold what their calls do
            super().close()

    def commit(self) -> None:
        """Store what was written. Raises `ValueError` if it is not closed: more may be to come.

        A text or a compressor over it keeps some of it until then.
        """
        if not self._ended and not self.closed:
            raise ValueError(f"{self.path!r}: not stored: its file was not closed before")
        self._commit()

    def _commit(self) -> None:
        if self._ended:
            return
        self._check_process()
        with self._lock:
            try:
                if self._upload is None:
                    self._run(self._write, self._collected.take())
                else:
                    if self._collected.size:
                        self._send()
                    self._run(self._upload.finish)
                self._ended = True
            finally:
                self.discard()
                self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Store nothing of what was written."""
        if self._process != os.getpid():
            return
        with self._lock:
            ended, self._ended = self._ended, True
            self._collected = _Collected(self.blocksize)
            if not ended and self._upload is not None:
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
        self._warn()

    def end_at_exit(self) -> None:
        """Leave nothing of an upload under way, while the event loop still runs."""
        if self._ended or self._process != os.getpid() or not self.fs.loop.is_running():
            return
        self._ended = True
        if self._upload is not None:
            self._run(self._upload.abort)
        self._warn()

    def _send(self) -> None:
        """Hand over what is collected."""
        try:
            self._sent += self._collected.size
            piece = self._collected.take()
            upload: Upload = self._upload or self._run(self._begin)
            self._upload = upload
            if not upload.offer(piece):
                self._run(upload.feed, piece)
        except BaseException:  # an interrupt, too: what was handed over then can't be known
            self.discard()
            raise

    async def _begin(self) -> Upload:
        _uploading.add(self)
        return Upload(self._write)

    def _run(self, function: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
        return blocking.run(self.fs.loop, function, *args)

    def _warn(self) -> None:
        warnings.warn(
            f"{self.full_name} was not stored: its file was never closed",
            RuntimeWarning,
            stacklevel=3,
        )

    def check_usable(self) -> None:
        """Raise what stands against writing."""
        self._check_process()
        if self.closed:
            raise ValueError(f"{self.path!r}: the file is closed")
        if self._ended:
            raise ValueError(f"{self.path!r}: the file was given up")

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise ValueError(f"{self.path!r}: the file was opened by another process")


class _Compressed(io.RawIOBase):
    """What a compressor writes to: its file, while that is wanted.

    A compressor that is dropped writes its end, which would raise of a file that was given up. In
    a cycle it may be dropped before the `CompressedFile` is.
    """

    def __init__(self, file: WriteFile, owner: CompressedFile) -> None:
        super().__init__()
        self._file = file
        self._owner = weakref.ref(owner)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def write(self, data: Buffer, /) -> int:
        if self._owner() is None or self._file.given_up:
            return memoryview(data).nbytes
        return self._file.write(data)


class CompressedFile(io.BufferedIOBase):
    """A file open for writing, by way of a compressor, which would leave the file open."""

    def __init__(self, file: WriteFile, compressor: Callable[[io.RawIOBase], Any]) -> None:
        super().__init__()
        self._file = file
        self._compressor = compressor(_Compressed(file, self))
        self._begun = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """Whether nothing was written, as of a `WriteFile`."""
        return not self.closed and not self._begun

    def write(self, data: Buffer, /) -> int:
        """Take all of `data`. Raises what has ended the upload."""
        self._file.check_usable()
        self._begun = True
        return self._compressor.write(data)

    def tell(self) -> int:
        return self._compressor.tell() if self._begun else 0  # some compressors can't tell

    def close(self) -> None:
        if self.closed:
            return
        try:
            if self._file.given_up:
                self._let_go()
            else:
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
        self._let_go()

    def _let_go(self) -> None:
        """Close the compressor of a file that was given up: one that is dropped complains.

        What it says of its end does not matter, as that goes nowhere.
        """
        with suppress(Exception):
            self._compressor.close()

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
        try:
            self._file.__del__()
        finally:
            self._let_go()


class TextFile(io.TextIOWrapper):
    """A file open for writing text. `options` are those of `TextIOWrapper`.

    An error in its `with` block, and being dropped, mean what they do for its `file`.
    """

    def __init__(self, file: WriteFile | CompressedFile, **options: Any) -> None:
        self.file = file
        super().__init__(cast("Any", file), **options)

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
