"""Whole files and parts of them, to and from memory and the local disk."""

from __future__ import annotations

import os
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
    Sequence,
)
from typing import Any, cast

from blockyard.buffer import Buffer
from blockyard.errors import ContentReplacedError, PreconditionFailedError
from blockyard.fsspec.base import Info, missing, translated
from blockyard.fsspec.listing import Listing
from blockyard.fsspec.tasks import Carrying, in_task, together
from blockyard.fsspec.untyped import NO_CALLBACK, has_magic, stringify_path
from blockyard.managing import contextmanager
from blockyard.merging import Range, merged, part
from blockyard.put_options import PutOptions

_IsFolder = Callable[[str], Coroutine[Any, Any, bool]]

_ALL = 2**62
"""Bytes, as of a range up to a file's end."""


class Transfers(Listing):
    """`cat`, `get`, `pipe`, `put` and their kin."""

    async def _cat(
        self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any
    ) -> Any:
        """As fsspec's, but of folders only the files: to read a folder is an error."""
        if not recursive:
            return await together(super()._cat(path, on_error=on_error, **options))
        names: list[str] = []
        for each in await self._expand_path(path):
            if (await self._info(each))["type"] == "file":
                names.append(each)
            names += await self._find(each)
        names = [*dict.fromkeys(names)]
        batch_size: int | None = options.pop("batch_size", None)
        reads = [self._cat_file(name, **options) for name in names]
        found = await self._chunked(reads, batch_size, return_exceptions=on_error != "raise")
        if isinstance(path, str) and names == [self._strip_protocol(path)]:
            return found[0]
        return {
            name: data
            for name, data in zip(names, found, strict=True)
            if on_error != "omit" or not isinstance(data, BaseException)
        }

    @in_task
    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        place = self._stores.place(path)
        with self._reading(path):
            if not start and end is None:
                return await place.files.read(place.name)
            if end is None and start is not None and start < 0:
                return await place.files.read_suffix(place.name, -start)
            version = ""
            if min(start or 0, end or 0) < 0:
                info = await self._known_file(path)
                start, end = slice(start, end).indices(info["size"])[:2]
                version = info["ETag"]
            begin, length = start or 0, _ALL if end is None else end - (start or 0)
            if length <= 0:
                _ = await self._known_file(path)
                return b""
            return (await place.files.read_range(place.name, begin, length, version))[0]

    async def _known_file(self, path: str) -> Info:
        """What a file is. Raises `FileNotFoundError`, of a folder as well."""
        info = await self._file(path)
        if info is None:
            raise missing(path)
        return info

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
        data: Any = None
        for read, data in zip(reads, found, strict=False):
            for index in read.indices:
                failed = isinstance(data, BaseException)
                results[places[index]] = data if failed else part(read, data, wanted[index]) or b""
        for index, data in zip(alone, found[len(reads) :], strict=True):
            results[index] = data
        failed = next((each for each in results if isinstance(each, BaseException)), None)
        if failed is None or on_error == "return":
            return results
        try:
            raise failed
        finally:
            del failed, results, found, data  # which its traceback refers to, by way of this frame

    async def _get(
        self,
        rpath: Any,
        lpath: Any,
        recursive: bool = False,
        callback: Any = NO_CALLBACK,
        maxdepth: int | None = None,
        **options: Any,
    ) -> Any:
        """As fsspec's, also for a path without a slash."""

        async def is_folder(path: str) -> bool:
            return os.path.isdir(path)  # noqa: ASYNC240 - a look, as fsspec's own

        rpath, lpath = await self._named(rpath, stringify_path(lpath), is_folder)
        told = Carrying.of(callback)
        return await together(super()._get(rpath, lpath, recursive, told, maxdepth, **options))

    @in_task
    async def _get_file(
        self, rpath: str, lpath: str, callback: Any = NO_CALLBACK, **_: Any
    ) -> None:
        """Download a file, which appears when it is complete; or make a folder."""
        path = self._strip_protocol(rpath)
        place = self._stores.place(path)
        if place.name:
            try:
                with self._reading(path):
                    return await place.files.download(place.name, lpath, Carrying.of(callback))
            except FileNotFoundError:
                if await self._folder(path) is None:
                    raise
        return os.makedirs(lpath, exist_ok=True)

    async def _read(self, path: str, start: int, end: int, version: str) -> tuple[bytes, str]:
        """A part of one version of a file, for those that are open."""
        place = self._stores.place(path)
        with self._reading(path):
            return await place.files.read_range(place.name, start, end - start, version)

    @contextmanager
    def _reading(self, path: str) -> Generator[None]:
        """Forget what is known of a file that turns out to be gone, or another version."""
        try:
            with translated(path):
                yield
        except (FileNotFoundError, PreconditionFailedError, ContentReplacedError):
            if (self._infos.get(path) or {}).get("type") == "file":
                self._infos.forget(path)
            raise

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
        return name, name if self._is_all(target) else f"{target.rstrip('/')}/{name}"

    def _is_all(self, target: Any) -> bool:
        """Whether it is the folder that all keys of the given store lie in.

        fsspec puts a slash between that and the names in it, with which the keys would begin.
        """
        given = self._stores.given is not None
        return given and isinstance(target, str) and not self._strip_protocol(target)

    async def _pipe(self, path: Any, *arguments: Any, **options: Any) -> Any:
        return await together(super()._pipe(path, *arguments, **options))

    async def _pipe_file(
        self, path: str, value: Buffer, mode: str = "overwrite", **options: Any
    ) -> None:
        """Store a file. Further options are those of `write_object`, or of `write_content`."""
        path = self._strip_protocol(path)
        self._check_options("pipe_file", path, options)
        await self._store(path, _exclusive(mode), options, value)

    def _check_options(self, operation: str, path: str, options: Mapping[str, Any]) -> None:
        """Raise `TypeError` for options that a write does not take: before anything is written."""
        takes = self._stores.place(path).files.takes
        for name in options:
            if name not in takes:
                raise TypeError(
                    f"{operation} {path!r}: unexpected keyword argument {name!r}: expected one of: "
                    f"{', '.join(sorted(takes))}; {_advice(name, takes)}"
                )

    @in_task
    async def _store(
        self,
        path: str,
        exclusive: bool,
        options: Mapping[str, Any],
        data: Buffer | AsyncIterator[Buffer],
    ) -> None:
        place = self._stores.place(path)
        with translated(path), self._changing(path):
            await place.files.write(place.name, data, exclusive, **options)

    async def _put(
        self,
        lpath: Any,
        rpath: Any,
        recursive: bool = False,
        callback: Any = NO_CALLBACK,
        *arguments: Any,
        **options: Any,
    ) -> Any:
        """As fsspec's, also to the root."""
        among_all = {"among_all": True} if self._is_all(rpath) else {}
        told = Carrying.of(callback)
        putting = super()._put(lpath, rpath, recursive, told, *arguments, **among_all, **options)
        return await together(putting)

    @in_task
    async def _put_file(
        self,
        lpath: str,
        rpath: str,
        callback: Any = NO_CALLBACK,
        mode: str = "overwrite",
        among_all: bool = False,
        **options: Any,
    ) -> None:
        if os.path.isdir(lpath):  # noqa: ASYNC240 - a look, as fsspec's own at each file
            return
        path = self._strip_protocol(rpath)
        path = path.removeprefix("/") if among_all else path
        self._check_options("put_file", path, options)
        place = self._stores.place(path)
        told = Carrying.of(callback)
        told.set_size(os.stat(lpath).st_size)
        with translated(path), self._changing(path):
            await place.files.upload(place.name, lpath, _exclusive(mode), told, **options)


def _advice(name: str, takes: Collection[str]) -> str:
    """A hint where an option belongs, by its name."""
    if "options" in takes and name in PutOptions.__dataclass_fields__:
        return f"did you mean options=PutOptions({name}=...)?"
    return "these are those of a write, beside fsspec's own"


def _exclusive(mode: str) -> bool:
    if mode not in {"overwrite", "create"}:
        raise ValueError(f"mode: expected overwrite or create, got {mode!r}")
    return mode == "create"


def _for_each(paths: Sequence[str], given: Any) -> list[Any]:
    if not isinstance(given, Iterable):
        return [given] * len(paths)
    values = list(cast("Iterable[Any]", given))
    if len(values) != len(paths):
        raise ValueError("cat_ranges: expected as many starts and ends as paths")
    return values


def _end(read: Any) -> int:
    return read.offset + read.length
