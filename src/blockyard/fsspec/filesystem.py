"""The file systems `blockyard://` and `blockyard+content://`."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from typing import Any, ClassVar, cast

from blockyard import arguments
from blockyard.buffer import Buffer
from blockyard.client import Client
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    ContentExistsError,
    PreconditionFailedError,
)
from blockyard.fsspec import urls
from blockyard.fsspec.contents import ContentFiles
from blockyard.fsspec.files import BlockFiles, Entry, Files
from blockyard.fsspec.reading import ContentReadFile, ReadAhead, ReadFile
from blockyard.fsspec.remembered import Remembered
from blockyard.fsspec.stores import Given, Place, Stores
from blockyard.fsspec.untyped import (
    NO_CALLBACK,
    AsyncFileSystem,
    Cached,
    compression_of,
    compressors,
    get_loop,
    has_magic,
    run_in_chunks,
    stringify_path,
    sync,
    tokenize,
)
from blockyard.fsspec.writing import PIECE, CompressedFile, WriteFile, text_file
from blockyard.merging import Range, merged, part
from blockyard.stores.base import Store

Info = dict[str, Any]
_Pair = tuple[str, str]
"""What is copied, and where to."""
_IsFolder = Callable[[str], Coroutine[Any, Any, bool]]

REMEMBERED = 5.0
"""Seconds for which what is known of a path is given out again."""

_OF_TEXT = ("encoding", "errors", "newline")
_ALL = 2**62
"""Bytes, as of a range up to a file's end."""


class _Instances(Cached):
    """fsspec gives out one file system for equal arguments: told apart by their `repr`.

    That of an open store does not tell it from others, so each of those has its own.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        if _is_open(options.get("store")):
            options["skip_instance_cache"] = True
        return super().__call__(*args, **options)


class BlockyardFileSystem(AsyncFileSystem, metaclass=_Instances):
    """Keys as files: `blockyard://BUCKET/KEY`, plain objects which every other tool reads.

    Each bucket is a store, opened with `settings`, which are those of `blockyard.open_store`; also
    `endpoint_url`, `anon` and `profile`. With `store`, anything that `open_store` takes or an open
    client, which stays its owner's to close, a path is a key in that.

    What `info` says, and `ls` and `find` of files, is given out again for `listings_expiry_time`
    seconds, 0 for never; own writes drop it, and `invalidate_cache` does. Raises
    `FileNotFoundError` for what is not there, `FileExistsError` for what is not to be, and
    blockyard's errors for all else.
    """

    protocol: ClassVar[str] = "blockyard"
    _files: ClassVar[Callable[..., Files]] = BlockFiles

    def __init__(
        self,
        *,
        store: Given = None,
        asynchronous: bool = False,
        loop: asyncio.AbstractEventLoop | None = None,
        batch_size: int | None = None,
        use_listings_cache: bool = True,
        listings_expiry_time: float = REMEMBERED,
        **settings: Any,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, batch_size=batch_size)
        self._stores = Stores(store, urls.named_as_ours(settings), type(self)._files)
        self._remembered = Remembered(listings_expiry_time if use_listings_cache else 0.0)

    # Who it is, and where it runs.

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in cast("list[Any]", path)]
        return urls.path_of(stringify_path(path), cls.protocol)

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, str]:
        return urls.settings_of(path)

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return urls.url_of(self._strip_protocol(name), self.protocol)

    @property
    def fsid(self) -> str:
        """The same for file systems that are equal."""
        return f"{self.protocol}_{self._fs_token}"

    @property
    def _fs_token(self) -> str:
        given: Any = self.storage_options.get("store")
        if not _is_open(given):
            return self._fs_token_
        return tokenize(self._fs_token_, id(getattr(given, "_operations", given)))

    def __reduce__(self) -> tuple[Any, ...]:
        make, (kind, args, options) = super().__reduce__()
        store = self._stores.given
        if store is not None and isinstance(options["store"], str | os.PathLike):
            config = store._source  # pyright: ignore[reportPrivateUsage]
            if config is not None and config.selected is None:  # else it would be an empty one
                options = {**options, "store": store}
        return make, (kind, args, options)

    def to_dict(self, *, include_password: bool = True) -> dict[str, Any]:
        """What `from_dict` makes it of again, with its secrets unless they are to be left out."""
        found = super().to_dict(include_password=include_password)
        left = set[str]() if include_password else urls.SECRET
        return {name: value for name, value in found.items() if name not in left}

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that calls run on: that of fsspec, in a forked child a new one."""
        if self._pid != os.getpid():
            self._loop = None if self.asynchronous else get_loop()
            self._pid = os.getpid()
        return self._loop

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget what is remembered of a path and what lies below it, or of all."""
        self._remembered.forget_below("" if path is None else self._strip_protocol(path))
        super().invalidate_cache(path)

    # What is there.

    async def _info(self, path: str, **_: Any) -> Info:
        path = self._strip_protocol(path)
        found = await self._file(path) or await self._folder(path)
        if found is None:
            raise _missing(path)
        return found

    async def _isfile(self, path: str) -> bool:
        return await self._file(self._strip_protocol(path)) is not None

    async def _isdir(self, path: str) -> bool:
        path = self._strip_protocol(path)
        return await self._file(path) is None and await self._folder(path) is not None

    async def _exists(self, path: str, **_: Any) -> bool:
        try:
            _ = await self._info(path)
        except FileNotFoundError:
            return False
        return True

    async def _file(self, path: str) -> Info | None:
        """What a path is as a file."""
        known = self._remembered.get(path)
        if known is not None:
            return known if known["type"] == "file" else None
        if self._is_root(path):
            return None
        place, state = self._stores.place(path), self._remembered.state
        if not place.name:
            return None
        try:
            entry = await place.files.stat(place.name)
        except BlockNotFoundError:
            return None
        info = _file_info(path, entry)
        self._remembered.keep([info], state)
        return info

    async def _folder(self, path: str) -> Info | None:
        """What a path is as a folder, which is there when something is in it."""
        info = _folder_info(path)
        if self._is_root(path) or self._remembered.get(path) == info:
            return info
        place, state = self._stores.place(path), self._remembered.state
        if not await place.files.exist_below(place.folder) and place.name:
            return None
        self._remembered.keep([info], state)
        return info

    def _is_root(self, path: str) -> bool:
        """Whether all buckets are below it, which nothing lists."""
        return not path and self._stores.given is None

    def created(self, path: str) -> datetime:
        """When a file was last written: object stores know of no other time."""
        return self.modified(path)

    def modified(self, path: str) -> datetime:
        """When a file was last written."""
        info = self.info(path)
        if info["type"] != "file":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), info["name"])
        return info["LastModified"]

    def ukey(self, path: str) -> str:
        """A text that changes when the file does."""
        info = self.info(path)
        return hashlib.sha256(f"{info['name']} {info.get('ETag')}".encode()).hexdigest()

    async def _ls(self, path: str, detail: bool = True, **_: Any) -> list[Info] | list[str]:
        path = self._strip_protocol(path)
        found = await self._listed(path)
        if not found and (info := await self._info(path))["type"] == "file":
            found = [info]
        found.sort(key=lambda info: info["name"])
        return found if detail else [*dict.fromkeys(info["name"] for info in found)]

    async def _listed(self, path: str, stem: str = "") -> list[Info]:
        """What lies directly in a folder, and begins with `stem`: a name may be both kinds."""
        place, state = self._stores.place(path), self._remembered.state
        listed = await place.files.folder(place.folder + stem)
        found = [_folder_info(place.base + name) for name in listed.folders]
        found += [
            _file_info(place.base + entry.name, entry)
            for entry in listed.files
            if entry.name != place.folder  # its own marker
        ]
        self._keep(found, state)
        return found

    def _keep(self, infos: Iterable[Info], state: int) -> None:
        known = [info for info in infos if info["size"] is not None]
        self._remembered.keep(known, state)

    async def _walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **options: Any,
    ) -> AsyncIterator[Any]:
        """As in fsspec, but that "omit" leaves out what is not there, and hides no other error."""
        handler = _omit if on_error == "omit" else on_error
        async for each in super()._walk(path, maxdepth, topdown, handler, **options):
            yield each

    async def _find(
        self,
        path: str,
        maxdepth: int | None = None,
        withdirs: bool = False,
        *,
        detail: bool = False,
        prefix: str = "",
        **_: Any,
    ) -> dict[str, Info] | list[str]:
        """The files below a folder: a listing of them all, or one of each folder to `maxdepth`."""
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("find: maxdepth: expected 1 or more")
        path = self._strip_protocol(path)
        if maxdepth is None:
            found = await self._below(path, prefix)
        else:
            found = await self._levels(path, prefix, maxdepth)
        if found and withdirs and path:
            found[path] = _folder_info(path)
        if not found and not prefix and (info := await self._file(path)):
            found = {path: info}
        wanted = [name for name in found if withdirs or found[name]["type"] == "file"]
        wanted.sort()
        return {name: found[name] for name in wanted} if detail else wanted

    async def _below(self, path: str, stem: str) -> dict[str, Info]:
        """All files and folders below a path."""
        place, state = self._stores.place(path), self._remembered.state
        found: dict[str, Info] = {}
        for entry in await place.files.below(place.folder + stem):
            name = entry.name
            if not name.endswith("/"):
                found[place.base + name] = _file_info(place.base + name, entry)
            while (name := name.rpartition("/")[0]) and len(name) >= len(place.folder):
                if place.base + name in found:
                    break
                found[place.base + name] = _folder_info(place.base + name)
        self._keep(found.values(), state)
        return found

    async def _levels(self, path: str, stem: str, maxdepth: int) -> dict[str, Info]:
        """The files and folders below a path, to a depth."""
        level = await self._listed(path, stem)
        found = {info["name"]: info for info in level}
        for _ in range(1, maxdepth):
            folders = [info["name"] for info in level if info["type"] == "directory"]
            listed = await self._chunked([self._listed(name) for name in folders])
            level: list[Info] = [info for each in listed for info in each]
            found |= {info["name"]: info for info in level}
        return found

    async def _du(
        self, path: str, total: bool = True, maxdepth: int | None = None, **options: Any
    ) -> int | dict[str, int]:
        found: Any = await self._find(path, maxdepth, detail=True, **options)
        sizes: dict[str, int] = {}
        for name, info in found.items():
            known: int | None = info["size"]
            sizes[name] = (await self._info(name))["size"] if known is None else known
        return sum(sizes.values()) if total else sizes

    # Reading.

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        place = self._stores.place(path)
        with _translated(path):
            if not start and end is None:
                return await place.files.read(place.name)
            if end is None and start is not None and start < 0:
                return await place.files.read_suffix(place.name, -start)
            if min(start or 0, end or 0) < 0:
                size: int = (await self._info(path))["size"]
                start, end = slice(start, end).indices(size)[:2]
            begin, length = start or 0, _ALL if end is None else end - (start or 0)
            if length <= 0:
                return b""
            return (await place.files.read_range(place.name, begin, length))[0]

    async def _cat_ranges(  # noqa: PLR0917 - fsspec's signature
        self,
        paths: Sequence[str],
        starts: int | Sequence[int | None] | None,
        ends: int | Sequence[int | None] | None,
        max_gap: int | None = None,
        batch_size: int | None = None,
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        """Parts of files; those of one file at most `max_gap` bytes apart are read together."""
        if not isinstance(paths, list):
            raise TypeError(f"cat_ranges: paths: expected a list, got {type(paths).__name__}")
        begins = _for_each(paths, starts)
        stops = _for_each(paths, ends)
        results: list[Any] = [None] * len(paths)
        wanted: list[Range] = []
        places: list[int] = []
        alone: list[int] = []
        for index, (path, start, end) in enumerate(zip(paths, begins, stops, strict=True)):
            if (start or 0) >= 0 and end is not None and end > (start or 0):
                wanted.append((self._strip_protocol(path), start or 0, end - (start or 0)))
                places.append(index)
            else:
                alone.append(index)
        reads = merged(wanted) if max_gap is None else merged(wanted, max_gap)
        calls = [self._cat_file(each.key, each.offset, _end(each)) for each in reads]
        calls += [self._cat_file(paths[index], begins[index], stops[index]) for index in alone]
        found = await self._chunked(calls, batch_size, return_exceptions=True)
        for read, data in zip(reads, found, strict=False):
            for index in read.indices:
                failed = isinstance(data, BaseException)
                results[places[index]] = data if failed else part(read, data, wanted[index]) or b""
        for index, data in zip(alone, found[len(reads) :], strict=True):
            results[index] = data
        if on_error != "return":
            for result in results:
                if isinstance(result, BaseException):
                    raise result
        return results

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = NO_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> Any:
        """As in fsspec, also where a path has no slash."""

        async def is_folder(path: str) -> bool:
            return os.path.isdir(path)  # noqa: ASYNC240 - a look, as fsspec's own

        rpath, lpath = await self._named(rpath, stringify_path(lpath), is_folder)
        return await super()._get(rpath, lpath, recursive, callback, maxdepth, **options)

    async def _get_file(
        self, rpath: str, lpath: str, callback: Any = NO_CALLBACK, **_: Any
    ) -> None:
        """Have a local file, which appears when it is whole, or a folder."""
        path = self._strip_protocol(rpath)
        place = self._stores.place(path)
        if place.name:
            try:
                return await place.files.download(place.name, lpath, callback)
            except BlockNotFoundError as error:
                if await self._folder(path) is None:
                    raise _missing(path) from error
        return os.makedirs(lpath, exist_ok=True)

    async def _read(self, path: str, start: int, end: int, version: str) -> tuple[bytes, str]:
        """A part of one version of a file, for those that are open."""
        place = self._stores.place(path)
        with _translated(path):
            try:
                return await place.files.read_range(place.name, start, end - start, version)
            except PreconditionFailedError:
                self.invalidate_cache(path)
                raise

    # Writing.

    async def _pipe_file(
        self, path: str, value: Buffer, mode: str = "overwrite", **options: Any
    ) -> None:
        """Store a file. Further options are those of `write_block`, or of `write_content`."""
        await self._store(self._strip_protocol(path), _exclusive(mode), options, value)

    async def _store(
        self,
        path: str,
        exclusive: bool,
        options: Mapping[str, Any],
        data: Buffer | AsyncIterator[Buffer],
    ) -> None:
        place = self._stores.place(path)
        with _translated(path), self._changing(path):
            await place.files.write(place.name, data, exclusive, **options)

    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = NO_CALLBACK,
        mode: str = "overwrite",
        **options: Any,
    ) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a look, as fsspec's own at each file
            return
        path = self._strip_protocol(rpath)
        place = self._stores.place(path)
        callback.set_size(os.stat(lpath).st_size)
        with _translated(path), self._changing(path):
            await place.files.upload(place.name, lpath, _exclusive(mode), callback, **options)

    async def _copy(  # noqa: PLR0917 - fsspec's signature
        self,
        path1: Any,
        path2: Any,
        recursive: bool = False,
        on_error: str | None = None,
        maxdepth: int | None = None,
        batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """As in fsspec, but refused where one copy would take what another one leaves."""
        planned: list[_Pair] = []
        path1, path2 = await self._named(path1, path2, self._isdir)
        await super()._copy(path1, path2, recursive=recursive, maxdepth=maxdepth, planned=planned)
        await self._check_apart(planned)
        copies = [self._cp_file(*pair, **options) for pair in planned]
        batch_size = batch_size or self.batch_size
        ended = await run_in_chunks(
            copies, batch_size=batch_size, return_exceptions=True, nofiles=True
        )
        ignored = on_error == "ignore" or (on_error is None and recursive)
        for error in ended:
            if isinstance(error, FileNotFoundError) and ignored:
                continue
            if isinstance(error, BaseException):
                raise error

    async def _named(self, source: Any, target: Any, is_folder: _IsFolder) -> tuple[Any, Any]:
        """What is copied and where to: by its own name into a folder.

        fsspec sees to that itself, unless the source's path has no slash: then it would have the
        folder's name.
        """
        name = self._strip_protocol(source) if isinstance(source, str) else ""
        if not name or "/" in name or str(source).endswith("/") or not isinstance(target, str):
            return source, target
        if has_magic(name):
            (name, *others) = await self._expand_path(name)
            if others or "/" in name or await self._file(name) is None:
                return source, target
        elif not target.endswith("/") and not await is_folder(target):
            return source, target
        return name, f"{target.rstrip('/')}/{name}"

    async def _check_apart(self, pairs: list[_Pair]) -> None:
        """Raise `ValueError` if files are copied to where another is copied from, or to."""
        clashing = _clashing(pairs)
        if not clashing:
            return
        targets = {target for _, target in clashing}
        suspects = [pair for pair in pairs if not targets.isdisjoint(pair)]
        files = [pair for pair in suspects if await self._file(pair[0]) is not None]
        for source, target in _clashing(files):  # folders may well be both
            raise ValueError(
                f"copy: {source!r} to {target!r}: another file is copied from there, or to it"
            )

    async def _cp_file(
        self,
        path1: str,
        path2: str,
        moved: list[str] | None = None,
        planned: list[_Pair] | None = None,
        **_: Any,
    ) -> None:
        """Copy a file: inside the service, or between two buckets through this machine."""
        path1, path2 = self._strip_protocol(path1), self._strip_protocol(path2)
        if planned is not None:  # of many, which are looked at before the first is copied
            planned.append((path1, path2))
            return
        if moved is not None and path1 == path2:
            return
        source, target = self._stores.place(path1), self._stores.place(path2)
        try:
            with _translated(path1), self._changing(path2):
                if source.files is target.files:
                    await source.files.copy(source.name, target.name)
                else:
                    pieces = source.files.pieces(source.name)
                    await target.files.write(target.name, pieces, False)
        except FileNotFoundError:
            if await self._folder(path1) is None:
                raise
            return
        if moved is not None:
            moved.append(path1)

    async def _mv(
        self, path1: str, path2: str, recursive: bool = False, maxdepth: int | None = None
    ) -> None:
        """Copy all, then delete what was copied: nothing that came into the folder meanwhile."""
        if self._strip_protocol(path1) == self._strip_protocol(path2):
            return
        moved: list[str] = []
        await self._copy(
            path1, path2, recursive=recursive, maxdepth=maxdepth, on_error="raise", moved=moved
        )
        await self._delete(moved)

    def mv(
        self,
        path1: str,
        path2: str,
        recursive: bool = False,
        maxdepth: int | None = None,
        **_: Any,
    ) -> None:
        """Move files: each is copied inside the service; then those are deleted."""
        sync(self.loop, self._mv, path1, path2, recursive, maxdepth)

    async def _mv_file(self, path1: str, path2: str) -> None:
        await self._mv(path1, path2)

    async def _rm_file(self, path: str, **_: Any) -> None:
        await self._delete([self._strip_protocol(path)])

    async def _rm(
        self,
        path: str | list[str],
        recursive: bool = False,
        batch_size: int | None = None,
        maxdepth: int | None = None,
        **ignored: Any,
    ) -> None:
        """Delete files, and with `recursive` what is in folders: a thousand keys a request."""
        paths: list[str] = await self._expand_path(
            path, recursive=recursive and maxdepth is not None, maxdepth=maxdepth
        )
        if not recursive or maxdepth is not None:
            await self._delete(paths)
            return
        calls = [self._rm_tree(each) for each in paths]
        _ = await self._chunked(calls, batch_size)

    async def _rm_tree(self, path: str) -> None:
        """Delete a file, and all that is below its name."""
        place = self._stores.place(path)
        is_file = await self._file(path) is not None
        with self._changing(path, below=True):
            if is_file:
                await place.files.delete([place.name])
            if not await place.files.delete_below(place.folder) and not is_file:
                raise _missing(path)

    async def _delete(self, paths: Iterable[str]) -> None:
        """Delete files: no error where there is none."""
        by_store: dict[int, list[Place]] = {}
        for path in paths:
            place = self._stores.place(path)
            by_store.setdefault(id(place.files), []).append(place)
        for places in by_store.values():
            try:
                await places[0].files.delete([place.name for place in places])
            finally:
                for place in places:
                    self._remembered.forget(place.base + place.name)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        """There are no folders to be made: raises `FileExistsError` as told, and does nothing."""
        path = self._strip_protocol(path)
        if not exist_ok and await self._exists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)

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
        if compression is not None:
            file = CompressedFile(file, compressors[compression](file, mode=mode[0]))
        return file if "b" in mode else text_file(file, **text)

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
        those of `write_block` or `write_content`.
        """
        block_size = _block_size(block_size)
        if mode == "rb":
            how = {"cache_type": cache_type, "cache_options": cache_options, "size": size}
            return self._opened(path, block_size, version=version, **how)
        if mode not in {"wb", "xb"}:
            raise NotImplementedError(f"open {path!r}: mode: expected rb, wb or xb, got {mode!r}")
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

    @contextmanager
    def _changing(self, path: str, *, below: bool = False) -> Generator[None]:
        """Forget what is known of a path once it was changed, or may be."""
        try:
            yield
        finally:
            if below:
                self._remembered.forget_below(path)
            else:
                self._remembered.forget(path)

    async def _chunked(
        self, calls: list[Any], batch_size: int | None = None, *, return_exceptions: bool = False
    ) -> list[Any]:
        """Await many, so many at once as fsspec's settings say."""
        return await run_in_chunks(
            calls, batch_size=batch_size or self.batch_size, return_exceptions=return_exceptions
        )


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
        with _translated(path):
            file, version = sync(self.loop, files.open, place.name, version)
        return ContentReadFile(self, path, block_size, version, file, **options)


def _is_open(store: object) -> bool:
    return isinstance(store, Client | Store)


def _file_info(path: str, entry: Entry) -> Info:
    return {
        "name": path,
        "size": entry.size,
        "type": "file",
        "ETag": entry.version,
        "LastModified": entry.modified,
        "mtime": None if entry.modified is None else entry.modified.timestamp(),
    }


def _folder_info(path: str) -> Info:
    return {"name": path, "size": 0, "type": "directory"}


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


@contextmanager
def _translated(path: str) -> Generator[None]:
    """Raise Python's own errors for a file that is not there, or is and should not be."""
    try:
        yield
    except BlockNotFoundError as error:
        raise _missing(path) from error
    except (BlockExistsError, ContentExistsError) as error:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error


def _block_size(given: Any) -> int | None:
    """Bytes, None for what fits: fsspec's "default", too."""
    if given in {None, "default"}:
        return None
    size = arguments.whole("open", given, "block_size")
    if size < 0:
        raise ValueError(f"open: block_size: expected a whole number from 0, got {size}")
    return size or None


def _exclusive(mode: str) -> bool:
    if mode not in {"overwrite", "create"}:
        raise ValueError(f"mode: expected overwrite or create, got {mode!r}")
    return mode == "create"


def _clashing(pairs: Iterable[_Pair]) -> list[_Pair]:
    """Those of which it matters whether another one is copied before or after them."""
    pairs = list(dict.fromkeys(pairs))
    sources, times = {source for source, _ in pairs}, Counter(target for _, target in pairs)
    return [
        (source, target)
        for source, target in pairs
        if source != target and (target in sources or times[target] > 1)
    ]


def _omit(error: Exception) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _for_each(paths: Sequence[str], given: Any) -> list[Any]:
    if not isinstance(given, Iterable):
        return [given] * len(paths)
    values = list(cast("Iterable[Any]", given))
    if len(values) != len(paths):
        raise ValueError("cat_ranges: expected as many starts and ends as paths")
    return values


def _end(read: Any) -> int:
    return read.offset + read.length
