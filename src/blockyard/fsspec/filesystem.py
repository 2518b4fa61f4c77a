"""The file systems `blockyard://` and `blockyard+content://`, and the files that they open.

All else that they do is in the classes below them: `base.py`, then `listing.py`, `transfers.py`
and `changes.py`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, cast

from blockyard import arguments
from blockyard.fsspec import blocking
from blockyard.fsspec.base import translated
from blockyard.fsspec.changes import Changes
from blockyard.fsspec.contents import ContentFiles
from blockyard.fsspec.files import BlockFiles, Files
from blockyard.fsspec.reading import ContentReadFile, ReadAhead, ReadFile
from blockyard.fsspec.untyped import compression_of, compressors
from blockyard.fsspec.wrapped_writing import CompressedFile, TextFile
from blockyard.fsspec.writing import PIECE, WriteFile

_OF_TEXT = ("encoding", "errors", "newline")


class BlockyardFileSystem(Changes):
    """Keys as files: `blockyard://BUCKET/KEY`, plain objects which every other tool reads.

    Each bucket is a store, opened with `settings`, which are those of `blockyard.open_store`; also
    `endpoint_url`, `anon`, `key`, `secret` and `token`. With `store`, anything that `open_store`
    takes or an open client, which stays its owner's to close, a path is a key in that.

    What `info` says, and `ls` and `find` of files, is given out again for `listings_expiry_time`
    seconds, 0 for never; own writes drop it, and `invalidate_cache` does. Raises
    `FileNotFoundError` for what is not there, `FileExistsError` for what is not to be, and
    blockyard's errors for all else.
    """

    protocol: ClassVar[str] = "blockyard"
    _files: ClassVar[Callable[..., Files]] = BlockFiles

    def open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        cache_options: Any = None,
        compression: str | None = None,
        **options: Any,
    ) -> Any:
        """Open a file: see `_open`. Text modes and `compression` are as fsspec has them."""
        options |= {"block_size": block_size, "cache_options": cache_options}
        compression = compression_of(path, compression)
        if "r" in mode:
            return super().open(path, mode, compression=compression, **options)
        text = {name: options.pop(name) for name in _OF_TEXT if name in options}
        file = super().open(path, mode.replace("t", "").replace("b", "") + "b", **options)
        try:
            if compression is not None:
                file = CompressedFile(file, partial(compressors[compression], mode=mode[0]))
            return file if "b" in mode else TextFile(file, **text)
        except BaseException:  # an encoding that there is not: nobody has the file, to close it
            _ = file.discard()
            raise

    def sign(self, path: str, expiration: float = 100, **_: Any) -> str:
        """A URL by which whoever has it may read a file for `expiration` seconds.

        Raises `UnsupportedError` where a read needs headers beside it, as with SSE-C, and of stores
        without URLs.
        """
        place = self._stores.place(self._strip_protocol(path))
        return blocking.run(self.loop, place.files.signed_url, place.name, expiration)

    def _open(  # noqa: PLR0917 - fsspec's signature
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: Any = None,
        cache_type: str = ReadAhead.name,
        size: int | None = None,
        version: str = "",
        **options: Any,
    ) -> ReadFile | WriteFile:
        """Open a file: `rb`, `wb`, or `xb`, which stores it only where none is.

        What is read is of one version, and with `version` of none but that. Further options are
        those of `write_object` or `write_content`: others raise `TypeError`.
        """
        block_size = _block_size(block_size)
        if mode == "rb":
            how = {"cache_type": cache_type, "cache_options": cache_options, "size": size}
            return self._opened(path, block_size, version=version, **how)
        if mode not in {"wb", "xb"}:
            raise NotImplementedError(f"open {path!r}: mode: expected rb, wb or xb, got {mode!r}")
        self._check_options("open", path, options)
        if mode == "xb" and self.exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        write = partial(self._store, path, mode == "xb", options)
        return WriteFile(
            self, path, mode, write, piece_size=block_size or PIECE, autocommit=autocommit
        )

    def _opened(
        self, path: str, block_size: int | None, *, version: str, **options: Any
    ) -> ReadFile:
        return ReadFile(self, path, block_size, version, **options)


class BlockyardContentFileSystem(BlockyardFileSystem):
    """Contents as files: `blockyard+content://BUCKET/CONTENT`. See `BlockyardFileSystem`.

    Listings tell no sizes; `info` does. Deleting a folder deletes the contents in it, one by one.
    """

    protocol: ClassVar[str] = "blockyard+content"
    _files: ClassVar[Callable[..., Files]] = ContentFiles

    def _opened(
        self, path: str, block_size: int | None, *, version: str, **options: Any
    ) -> ReadFile:
        place = self._stores.place(path)
        files = cast("ContentFiles", place.files)
        with translated(path):
            file, version = blocking.run(self.loop, files.open, place.name, version)
        return ContentReadFile(self, path, block_size, version, file, **options)


def _block_size(given: Any) -> int | None:
    """Bytes, None for what fits: fsspec's "default", too."""
    if given in {None, "default"}:
        return None
    size = arguments.whole("open", given, "block_size")
    if size < 0:
        raise ValueError(f"open: block_size: expected a whole number from 0, got {size}")
    return size or None
