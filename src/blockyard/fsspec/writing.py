"""Files open for writing: a file is stored while it is written, and appears when it is closed."""

from __future__ import annotations

import atexit
import io
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

from blockyard.buffer import Buffer
from blockyard.fsspec import blocking
from blockyard.fsspec.upload import PieceBuffer, Upload, Write
from blockyard.fsspec.with_block import WithBlockState
from blockyard.model import MIB

PIECE = 8 * MIB
"""Bytes that a file collects before they are sent, unless it is opened with a `block_size`."""
_uploading = weakref.WeakSet["WriteFile"]()


@atexit.register
def _end_uploads() -> None:
    for file in list(_uploading):
        file.end_at_exit()


class WriteFile(io.RawIOBase):
    """A file open for writing bytes.

    What is written is sent while the program goes on, a few pieces behind. The file appears under
    its path when it is closed; after an error, in sending or in the `with` block around it, nothing
    is stored. In a transaction it appears when that is committed.
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
        self._buffer = PieceBuffer(self.blocksize)
        self._sent = 0
        self._upload: Upload | None = None
        self._ended = False
        self._process = os.getpid()
        self._opened_in = WithBlockState.capture()
        self._lock = threading.RLock()
        """Held while threads write, so that each finds room for all that it brings."""

    @property
    def full_name(self) -> str:
        """The file's URL."""
        return self.fs.unstrip_protocol(self.path)

    @property
    def given_up(self) -> bool:
        """Whether nothing more is stored: the file is complete, given up, or the parent's."""
        return self._ended or self._process != os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError(f"{self.path!r}: a file open for writing can't be pickled")

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """Whether nothing was written yet, although `seek` raises even then.

        `TextIOWrapper`, and so pandas and fsspec, writes the byte order mark of UTF-16 and UTF-32
        only where this is true, and files can't be read without it.
        """
        return not self.closed and self.tell() == 0

    def tell(self) -> int:
        return self._sent + self._buffer.size

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`. Raises what has ended the upload."""
        self._check_process()  # before the lock, which is the parent's in a forked child
        rest = memoryview(data).cast("B")
        size = len(rest)
        with self._lock:
            self.check_usable()
            self._collect(rest)
        return size

    def _collect(self, rest: memoryview) -> None:
        while rest:
            taken = rest[: self.blocksize - self._buffer.size]
            self._buffer.add(taken)
            rest = rest[len(taken) :]
            if self._buffer.size == self.blocksize:
                self._send()

    def close(self) -> None:
        """Store the file, unless its transaction will. Raises what prevents it."""
        if self.closed:
            return
        try:
            if self.given_up:
                return
            if self._opened_in.ended_by_error():
                self.discard()
            elif self.autocommit:
                self._commit()
        finally:
            self._opened_in = WithBlockState()  # frames, which hold what their calls do
            super().close()

    def commit(self) -> None:
        """Store what was written. Raises `ValueError` for a file that is not closed.

        A text or compressed file over it keeps its last bytes back until it is closed.
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
                    self._run(self._write, self._buffer.take())
                else:
                    if self._buffer.size:
                        self._send()
                    self._run(self._upload.finish)
                self._ended = True
            finally:
                self.discard()
                self.fs.invalidate_cache(self.path)

    def discard(self) -> None:
        """Give up the file: store nothing."""
        if self._process != os.getpid():
            return
        with self._lock:
            ended, self._ended = self._ended, True
            self._buffer = PieceBuffer(self.blocksize)
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
        """Cancel the upload without waiting: this may run on the event loop's own thread."""
        if getattr(self, "_ended", True) or self._process != os.getpid():
            return
        self._ended = True
        if self._upload is not None:
            with suppress(RuntimeError):  # the loop is closed
                _ = self.fs.loop.call_soon_threadsafe(self._upload.task.cancel)
        self._warn()

    def end_at_exit(self) -> None:
        """Abort an upload under way, while the event loop still runs."""
        if self._ended or self._process != os.getpid() or not self.fs.loop.is_running():
            return
        self._ended = True
        if self._upload is not None:
            self._run(self._upload.abort)
        self._warn()

    def _send(self) -> None:
        """Hand the collected piece to the upload."""
        try:
            self._sent += self._buffer.size
            piece = self._buffer.take()
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
        """Raise unless the file can be written to."""
        self._check_process()
        if self.closed:
            raise ValueError(f"{self.path!r}: the file is closed")
        if self._ended:
            raise ValueError(f"{self.path!r}: the file was given up")

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise ValueError(f"{self.path!r}: the file was opened by another process")
