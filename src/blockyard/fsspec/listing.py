"""What is there: a path as a file or a folder, listings, and what is remembered of them."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

from blockyard.errors import BlockNotFoundError
from blockyard.fsspec.base import Info, StoreFileSystem, file_info, folder_info, missing
from blockyard.fsspec.files import Files, Folder


class Listing(StoreFileSystem):
    """`info`, `ls`, `find` and their kin."""

    async def _info(self, path: str, **_: Any) -> Info:
        path = self._strip_protocol(path)
        found = await self._file(path) or await self._folder(path)
        if found is None:
            raise missing(path)
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
        known = self._infos.get(path)
        if known is not None:
            return known if known["type"] == "file" else None
        if self._is_root(path):
            return None
        place, state = self._stores.place(path), self._infos.state
        if not place.name:
            return None
        try:
            entry = await place.files.stat(place.name)
        except BlockNotFoundError:
            return None
        info = file_info(path, entry)
        self._infos.keep([info], state)
        return info

    async def _folder(self, path: str) -> Info | None:
        """What a path is as a folder, which is there when something is in it."""
        info = folder_info(path)
        if self._is_root(path) or self._infos.get(path) == info:
            return info
        place, state = self._stores.place(path), self._infos.state
        if not await place.files.exist_below(place.folder) and place.name:
            return None
        self._infos.keep([info], state)
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
        place, state = self._stores.place(path), self._infos.state
        listed = await _folder(place.files, place.folder + stem)
        found = [folder_info(place.base + name) for name in listed.folders]
        found += [
            file_info(place.base + entry.name, entry)
            for entry in listed.files
            if not entry.name.endswith("/")  # its own marker
        ]
        self._keep(found, state)
        return found

    def _keep(self, infos: Iterable[Info], state: int) -> None:
        """Remember what was listed: of a name that is both kinds that it is a file."""
        infos = list(infos)
        files = {info["name"] for info in infos if info["type"] == "file"}
        known = [
            info
            for info in infos
            if info["size"] is not None and (info["type"] == "file" or info["name"] not in files)
        ]
        self._infos.keep(known, state)

    async def _walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: Any = "omit",
        **options: Any,
    ) -> AsyncIterator[Any]:
        """As fsspec's, but "omit" leaves out missing paths alone, and hides no other error.

        Names are relative to the path.
        """
        handler = _omit if on_error == "omit" else on_error
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("walk: maxdepth: expected 1 or more")
        path = self._strip_protocol(path)
        detail = options.get("detail", False)
        files: dict[str, Info] = {}
        folders: dict[str, Info] = {}
        try:
            listed: Any = await self._ls(path, detail=True)
        except OSError as error:
            if handler == "raise":
                raise
            if callable(handler):
                _ = handler(error)
            listed = []
        for info in listed:
            name = info["name"].removeprefix(path).removeprefix("/") if path else info["name"]
            (folders if info["type"] == "directory" else files)[name] = info
        below = {name: info["name"] for name, info in folders.items()}
        found: Any = (path, folders, files) if detail else (path, list(folders), list(files))
        if topdown:
            yield found
        if maxdepth is None or maxdepth > 1:
            deeper = None if maxdepth is None else maxdepth - 1
            for name in list(found[1]):  # which who walks may have left some out of
                walking = self._walk(below[name], deeper, topdown, handler, **options)
                async for each in walking:
                    yield each
        if not topdown:
            yield found

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
            found[path] = folder_info(path)
        if not found and not prefix and (info := await self._file(path)):
            found = {path: info}
        wanted = [name for name in found if withdirs or found[name]["type"] == "file"]
        wanted.sort()
        return {name: found[name] for name in wanted} if detail else wanted

    async def _below(self, path: str, stem: str) -> dict[str, Info]:
        """All files and folders below a path."""
        place, state = self._stores.place(path), self._infos.state
        found: dict[str, Info] = {}
        for entry in await place.files.below(place.folder + stem):
            name = entry.name
            if not name.endswith("/"):
                found[place.base + name] = file_info(place.base + name, entry)
            while (name := name.rpartition("/")[0]) and len(name) >= len(place.folder):
                if place.base + name in found:
                    break
                if not name.endswith("/"):  # see `_folder`
                    found[place.base + name] = folder_info(place.base + name)
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

    async def _sizes(self, paths: Iterable[str], batch_size: int | None = None) -> list[int]:
        return await self._chunked([self._size(path) for path in paths], batch_size)

    async def _du(
        self, path: str, total: bool = True, maxdepth: int | None = None, **options: Any
    ) -> int | dict[str, int]:
        found: Any = await self._find(path, maxdepth, detail=True, **options)
        sizes: dict[str, int] = {}
        for name, info in found.items():
            known: int | None = info["size"]
            sizes[name] = (await self._info(name))["size"] if known is None else known
        return sum(sizes.values()) if total else sizes


async def _folder(files: Files, prefix: str) -> Folder:
    """What begins with a prefix, up to the next slash.

    The path of a folder without a name (`a//`) would be that of the one it lies in, which is then
    what is deleted: what lies in it is listed in its place.
    """
    found = await files.folder(prefix)
    if prefix not in found.folders or not f"/{prefix}".endswith("/"):
        return found
    within = await _folder(files, f"{prefix}/")
    named = [name for name in found.folders if name != prefix]
    return Folder([*found.files, *within.files], [*named, *within.folders])


def _omit(error: Exception) -> None:
    try:
        if not isinstance(error, FileNotFoundError):
            raise error
    finally:
        del error  # which its traceback refers to
