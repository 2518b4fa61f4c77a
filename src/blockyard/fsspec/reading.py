"""Files open for reading: all of one version."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from blockyard.fsspec.untyped import BufferedFile, sync
from blockyard.model import MIB

if TYPE_CHECKING:
    from blockyard.content.files import AsyncContentFile

AHEAD = 4 * MIB
"""Bytes that are read ahead, unless a file is opened with a `block_size`."""


class ReadFile(BufferedFile):
    """A file open for reading, with one of fsspec's caches of what was read.

    All that is read is of the version that was there when it was opened: a file that is replaced
    meanwhile is a `PreconditionFailedError`.
    """

    def __init__(self, fs: Any, path: str, block_size: int | None, **options: Any) -> None:
        self._version = ""
        super().__init__(fs, path, "rb", block_size or AHEAD, **options)
        if self._details is not None and self._details["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def _fetch_range(self, start: int, end: int) -> bytes:
        known: dict[str, Any] = self._details or {}
        version = self._version or known.get("ETag", "")
        data, self._version = sync(self.fs.loop, self.fs._read, self.path, start, end, version)
        return data


class ContentReadFile(ReadFile):
    """A content open for reading: one that is replaced meanwhile is a `ContentReplacedError`."""

    def __init__(
        self, fs: Any, path: str, block_size: int | None, file: AsyncContentFile, **options: Any
    ) -> None:
        self._file = file
        super().__init__(fs, path, block_size, **{**options, "size": file.size})

    def _fetch_range(self, start: int, end: int) -> bytes:
        return sync(self.fs.loop, self._fetched, start, end)

    async def _fetched(self, start: int, end: int) -> bytes:
        _ = await self._file.seek(start)
        return await self._file.read(end - start)

    def close(self) -> None:
        if not self.closed:
            self._file.stop()
        super().close()
