"""What is used of fsspec, with types, of which it has none."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec import asyn, caching, callbacks, compression, core, exceptions, json, utils

if TYPE_CHECKING:
    import asyncio

    class AsyncFileSystem:
        """See `fsspec.asyn.AsyncFileSystem`."""

        asynchronous: bool
        batch_size: int | None
        storage_options: dict[str, Any]
        _fs_token_: str
        _loop: asyncio.AbstractEventLoop | None
        _pid: int

        def __init__(self, **options: Any) -> None: ...
        def __reduce__(self) -> tuple[Any, ...]: ...
        def exists(self, path: str) -> bool: ...
        def info(self, path: str) -> dict[str, Any]: ...
        def invalidate_cache(self, path: str | None = None) -> None: ...
        def open(self, path: str, mode: str = "rb", **options: Any) -> Any: ...
        def _walk(
            self, path: str, maxdepth: int | None, topdown: bool, on_error: Any, **options: Any
        ) -> AsyncIterator[Any]: ...
        async def _expand_path(self, path: Any, **options: Any) -> list[str]: ...
        async def _cat(self, path: Any, **options: Any) -> Any: ...
        async def _size(self, path: str) -> int: ...
        async def _pipe(self, path: Any, *arguments: Any, **options: Any) -> Any: ...
        async def _put(self, lpath: Any, rpath: Any, *arguments: Any, **options: Any) -> Any: ...
        async def _get(self, rpath: Any, lpath: Any, *arguments: Any, **options: Any) -> Any: ...
        async def _copy(self, path1: Any, path2: Any, **options: Any) -> None: ...

    class BlockingFileSystem:
        """See `fsspec.AbstractFileSystem`."""

    class Callback:
        """See `fsspec.callbacks.Callback`."""

        def __init__(self) -> None: ...

    class BufferedFile:
        """See `fsspec.spec.AbstractBufferedFile`."""

        closed: bool
        fs: Any
        path: str
        _details: dict[str, Any] | None

        def __init__(
            self, fs: Any, path: str, mode: str, block_size: int, **options: Any
        ) -> None: ...
        def __reduce__(self) -> tuple[Any, ...]: ...
        def close(self) -> None: ...

    class Cache:
        """See `fsspec.caching.BaseCache`."""

        blocksize: int
        fetcher: Any
        size: int

        def __init__(self, blocksize: int, fetcher: Any, size: int) -> None: ...

    Cached = type
else:
    from fsspec.asyn import AsyncFileSystem
    from fsspec.caching import BaseCache as Cache
    from fsspec.callbacks import Callback
    from fsspec.spec import AbstractBufferedFile as BufferedFile
    from fsspec.spec import AbstractFileSystem as BlockingFileSystem

    Cached = type(AsyncFileSystem)

__all__ = [
    "NO_CALLBACK",
    "AsyncFileSystem",
    "BlockingFileSystem",
    "BufferedFile",
    "Cache",
    "Cached",
    "Callback",
    "TimedOutError",
    "compression_of",
    "compressors",
    "file_system_class",
    "get_loop",
    "has_magic",
    "json_encoder",
    "mirrored_names",
    "register_cache",
    "run_in_chunks",
    "stringify_path",
    "tokenize",
]

_fsspec: Any = fsspec
_asyn: Any = asyn
_compression: Any = compression
_caching: Any = caching
_core: Any = core
_exceptions: Any = exceptions
_json: Any = json
_utils: Any = utils

NO_CALLBACK: Any = callbacks.DEFAULT_CALLBACK
TimedOutError: Any = _exceptions.FSTimeoutError
compressors: Any = _compression.compr
compression_of: Any = _core.get_compression
file_system_class: Any = _fsspec.get_filesystem_class
get_loop: Any = _asyn.get_loop
has_magic: Any = _core.has_magic
json_encoder: Any = _json.FilesystemJSONEncoder()
register_cache: Any = _caching.register_cache
run_in_chunks: Any = _asyn._run_coros_in_chunks
stringify_path: Any = _utils.stringify_path
tokenize: Any = _utils.tokenize


def mirrored_names() -> list[str]:
    """The names of the methods, of one underscore, that fsspec has blocking ones for."""
    names = {*_asyn.async_methods, *dir(AsyncFileSystem)}
    return [name for name in names if re.match("_[^_]", name)]
