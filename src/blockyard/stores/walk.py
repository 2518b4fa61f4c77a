"""Walks the files below a root in key order, a page at a time.

A walk keeps the names that it has still to visit, and no file open between pages. A folder is read
when the walk reaches it, so concurrent writes and deletes may or may not show.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from blockyard import syscalls
from blockyard.model import BlockInfo
from blockyard.stores.disk import NotABlockError, block_info, open_below, opened_folder, stat_file
from blockyard.stores.file_io import Check
from blockyard.stores.paths import Entry, entry_of, folders_of, key_of


class _Place(NamedTuple):
    """A block's file in a folder; or, with no `name`, a folder whose keys all begin with `key`."""

    key: bytes
    folders: tuple[str, ...]
    name: str | None


class Walk:
    """Walks the blocks whose keys begin with `prefix` and come after `after`.

    With `by_folder` a folder with such blocks is listed as one entry, as by a delimiter `/`.
    """

    def __init__(self, root: Path, prefix: str, after: bytes, *, by_folder: bool = False) -> None:
        self._root = root
        self._prefix = prefix.encode()
        self._after = after
        self._by_folder = by_folder
        start = self._prefix[: self._prefix.rfind(b"/") + 1]
        # The next place to visit is the last.
        self._pending = [_Place(start, folders_of(start), None)]

    @property
    def left(self) -> int:
        """How many places it has still to visit, as far as is known."""
        return len(self._pending)

    def page(self, size: int, check: Check) -> tuple[list[BlockInfo], list[str], bool]:
        """The next blocks and folders, at most `size` together, and whether there are more."""
        try:
            folder = _OpenFolder(self._root)
        except FileNotFoundError:  # the first write makes the root
            return [], [], False
        with folder:
            return self._page(size, check, folder)

    def _page(
        self, size: int, check: Check, folder: _OpenFolder
    ) -> tuple[list[BlockInfo], list[str], bool]:
        found: list[BlockInfo] = []
        folders: list[str] = []
        while self._pending:
            check()
            place = self._pending.pop()
            if place.name is not None:
                entry = _info(place, place.name, folder)
            elif self._is_listed(place):
                entry = self._with_blocks(place, check)
            else:
                self._pending += reversed(self._inside(place, folder))
                continue
            if entry is None:
                continue
            if len(found) + len(folders) == size:
                self._pending.append(place)
                return found, folders, True
            if isinstance(entry, str):
                folders.append(entry)
            else:
                found.append(entry)
        return found, folders, False

    def _is_listed(self, place: _Place) -> bool:
        """Whether the folder is listed as one entry, rather than walked through."""
        return self._by_folder and b"/" in place.key[len(self._prefix) :]

    def _with_blocks(self, place: _Place, check: Check) -> str | None:
        """The key of the folder, if any wanted block lies in it; else None."""
        key = key_of(place.key)
        if key is None:
            return None
        found, _, _ = Walk(self._root, key, self._after).page(1, check)
        return key if found else None

    def _inside(self, place: _Place, folder: _OpenFolder) -> list[_Place]:
        """The entries of a folder that are to be visited, in key order."""
        try:
            names = os.listdir(folder.go(place.folders))
        except (FileNotFoundError, NotADirectoryError):  # gone meanwhile; not the store's
            return []
        entries = sorted(entry for name in names if (entry := entry_of(name)) is not None)
        places = (_below(place, entry) for entry in entries)
        return [inside for inside in places if self._is_wanted(inside)]

    def _is_wanted(self, place: _Place) -> bool:
        key = place.key
        if place.name is not None:
            return key > self._after and key.startswith(self._prefix)
        if not key.startswith(self._prefix[: len(key)]):
            return False
        return key > self._after or self._after.startswith(key)


class _OpenFolder:
    """The folder that a page has open. Going to a folder directly below takes one openat(2)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: tuple[str, ...] = ()
        self._descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)

    def go(self, folders: tuple[str, ...]) -> int:
        """Go to the folder and return its descriptor."""
        if folders != self._folders:
            left, self._descriptor = self._descriptor, self._reach(folders)
            self._folders = folders
            syscalls.close(left)  # a signal handler may raise once it is closed
        return self._descriptor

    def _reach(self, folders: tuple[str, ...]) -> int:
        if folders[:-1] == self._folders:
            return open_below(self._descriptor, folders[-1])
        with opened_folder(self._root, folders) as folder:
            return os.dup(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        syscalls.close(self._descriptor)


def _below(place: _Place, entry: Entry) -> _Place:
    key = place.key + entry.adds
    if entry.is_block:
        return _Place(key, place.folders, entry.name)
    return _Place(key, (*place.folders, entry.name), None)


def _info(place: _Place, name: str, folder: _OpenFolder) -> BlockInfo | None:
    """The info of a block; None when it is gone, or the file is not one of the store's."""
    key = key_of(place.key)
    if key is None:
        return None
    try:
        return block_info(key, stat_file(folder.go(place.folders), name))
    except (FileNotFoundError, NotADirectoryError, NotABlockError):
        return None
