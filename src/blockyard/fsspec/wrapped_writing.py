"""Files open for writing through a compressor, or as text, over a `WriteFile`.

Those of the standard library would store what an error has left of a file: they close it.
"""

from __future__ import annotations

import io
import weakref
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, cast

from blockyard.buffer import Buffer
from blockyard.fsspec.writing import WriteFile


class _Compressed(io.RawIOBase):
    """The raw file that a compressor writes to; it discards what comes after the file was given up.

    A compressor that is garbage collected writes its end, which would raise then. In a reference
    cycle it may be collected before the `CompressedFile` is.
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
    """A file open for writing through a compressor, which is closed with the file."""

    def __init__(self, file: WriteFile, compressor: Callable[[io.RawIOBase], Any]) -> None:
        super().__init__()
        self._file = file
        self._compressor = compressor(_Compressed(file, self))
        self._begun = False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        """Whether nothing was written yet: see `WriteFile.seekable`."""
        return not self.closed and not self._begun

    def write(self, data: Buffer, /) -> int:
        """Write all of `data`. Raises what has ended the upload."""
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
        """Give up the file: store nothing."""
        self._file.discard()
        self._let_go()

    def _let_go(self) -> None:
        """Close the compressor of a file that was given up: one left open warns when collected.

        What it writes or raises does not matter: the file is gone.
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

    It gives up its `file` when its `with` block ends by an error, or when it is garbage collected.
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
