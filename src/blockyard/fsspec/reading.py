"""Files open for reading: all of one version, read ahead where reads go on."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

from blockyard.fsspec import blocking
from blockyard.fsspec.untyped import BufferedFile, Cache, register_cache
from blockyard.model import KIB, MIB

if TYPE_CHECKING:
    from blockyard.content.files import AsyncContentFile

AHEAD = 4 * MIB
"""The most bytes that are read ahead, unless a file is opened with a `block_size`."""
_FIRST = 128 * KIB
"""How much a read fetches at least, so that a header read field by field is one request."""


class ReadAhead(Cache):
    """The bytes around the last read, for fsspec's files.

    Where a read goes on from the one before, more and more is read ahead; after a seek nothing is:
    who reads columns or tiles here and there gets little more than these.
    """

    name = "blockyard"

    def __init__(self, blocksize: int, fetcher: Any, size: int) -> None:
        super().__init__(blocksize, fetcher, size)
        self._data = b""
        self._start = -1  # so that the first read goes on from none
        self._ahead = 0

    def _fetch(self, start: int | None, stop: int | None) -> bytes:
        begin, end = start or 0, self.size if stop is None else min(stop, self.size)
        if begin >= end:
            return b""
        held = self._start + len(self._data)
        if not self._start <= begin <= held:
            self._ahead = 0
            return self._read(begin, end)[: end - begin]
        offset = begin - self._start
        if end <= held:
            return self._data[offset : offset + end - begin]
        self._ahead = min(max(_FIRST, 4 * self._ahead), self.blocksize)
        known = self._data[offset:]
        return known + self._read(held, end)[: end - held]

    def _read(self, begin: int, end: int) -> bytes:
        """Fetch up to `end` and ahead, in place of what is held."""
        stop = min(self.size, max(end + self._ahead, begin + min(_FIRST, self.blocksize)))
        data = self.fetcher(begin, stop)
        self._data, self._start = data, begin  # at once: no handler of a signal comes between
        return data


register_cache(ReadAhead, clobber=True)


class ReadFile(BufferedFile):
    """A file open for reading, with one of fsspec's caches of what was read.

    All that is read is of `version`, or of the one that was there when it was opened: a file that
    is replaced meanwhile is a `PreconditionFailedError`. In a pickle it is that version still.
    """

    def __init__(
        self, fs: Any, path: str, block_size: int | None, version: str, **options: Any
    ) -> None:
        self._version = version
        super().__init__(fs, path, "rb", block_size or AHEAD, **options)
        if self._details is not None and self._details["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    def __reduce__(self) -> tuple[Any, ...]:
        make, (*arguments, options) = super().__reduce__()
        return make, (*arguments, {**options, "version": self._known_version})

    @property
    def _known_version(self) -> str:
        known: dict[str, Any] = self._details or {}
        return self._version or known.get("ETag", "")

    def _fetch_range(self, start: int, end: int) -> bytes:
        version = self._known_version
        data, self._version = blocking.run(
            self.fs.loop, self.fs._read, self.path, start, end, version
        )
        return data


class ContentReadFile(ReadFile):
    """A content open for reading: one that is replaced meanwhile is a `ContentReplacedError`."""

    def __init__(
        self,
        fs: Any,
        path: str,
        block_size: int | None,
        version: str,
        file: AsyncContentFile,
        **options: Any,
    ) -> None:
        self._file = file
        super().__init__(fs, path, block_size, version, **{**options, "size": file.size})

    def _fetch_range(self, start: int, end: int) -> bytes:
        return blocking.run(self.fs.loop, self._fetched, start, end)

    async def _fetched(self, start: int, end: int) -> bytes:
        _ = await self._file.seek(start)
        return await self._file.read(end - start)

    def close(self) -> None:
        if not self.closed:
            self._file.stop()
        super().close()
