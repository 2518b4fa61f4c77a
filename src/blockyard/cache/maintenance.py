"""Maintenance of a cache folder, for `blockyard cache`: usage, verification, clearing.

Works in bounded memory, while other processes use the folder.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from blockyard import syscalls
from blockyard.cache.budget import Budget
from blockyard.cache.folder import SHARDS, Folder
from blockyard.cache.open_entry import DamagedEntryError, OpenEntry
from blockyard.cache.stage import Stage
from blockyard.config.showing import shown
from blockyard.errors import ConfigError, LocalStorageError
from blockyard.managing import contextmanager
from blockyard.user_code import pass_on_foreign

_PATIENCE = 60.0
"""Seconds for which the folder's lock is waited for: others may hold it often."""


@dataclass(slots=True)
class FolderUse:
    """What a cache folder holds: `allocated` bytes on the disk, folders included.

    Of all stores, `staged` blocks of `staged_size` bytes wait to be uploaded, the oldest of them
    since `oldest_staged`, in seconds since the epoch.
    """

    entries: int
    allocated: int
    staged: int = 0
    staged_size: int = 0
    oldest_staged: float | None = None


@dataclass(slots=True)
class FolderCheck:
    """What became of the entries that were verified: `size` bytes of blocks are right.

    Blocks that wait to be uploaded are counted by themselves; damaged ones among them are kept.
    """

    right: int = 0
    damaged: int = 0
    size: int = 0
    staged: int = 0
    staged_damaged: int = 0


class CacheFolder:
    """An existing cache folder. Raises `ConfigError` for any other, `LocalStorageError`."""

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)
        with self._errors("open"):
            if not (root / "format").exists():
                raise ConfigError(f"{shown(str(root))}: expected a cache folder of blockyard")
            self._folder.prepare()
        self._stage = Stage(self._folder, 0, "")

    def use(self) -> FolderUse:
        """Count the entries and staged blocks."""
        with self._errors("stat"), Budget(self._folder, 0, _PATIENCE).locked() as usage:
            entries = sum(len(usage.recount(shard)) for shard in range(SHARDS))
            use = FolderUse(entries, usage.total())
            files = self._stage.files()
            if files:
                use.oldest_staged = files[0].staged_at
                use.staged, use.staged_size = len(files), sum(each.size for each in files)
                use.allocated += self._stage.used()
            return use

    def verify(self) -> FolderCheck:
        """Verify every entry against its checksums; remove damaged ones."""
        check = FolderCheck()
        with self._errors("verify"):
            for path in self._folder.entries():
                try:
                    check.size += self._verified(path)
                    check.right += 1
                except DamagedEntryError:
                    check.damaged += 1
                    with syscalls.errors_ignored():
                        _ = self._folder.remove(path)
                except FileNotFoundError:
                    continue
            for each in self._stage.files():
                self._verify_staged(each.name, check)
        return check

    def _verify_staged(self, name: bytes, check: FolderCheck) -> None:
        try:
            staged = self._stage.find_of_any_store(name)
            if staged is not None:
                _ = staged.read(0, staged.info.size)
                check.staged += 1
        except DamagedEntryError:
            check.staged_damaged += 1

    def clear(self) -> int:
        """Remove every entry, but no staged block; return how many were removed."""
        gone = 0
        with self._errors("clear"), Budget(self._folder, 0, _PATIENCE).locked() as usage:
            for path in self._folder.entries():
                with syscalls.errors_ignored():
                    gone += self._folder.remove(path)
            for shard in range(SHARDS):
                _ = usage.recount(shard)
        return gone

    def _verified(self, path: str) -> int:
        """Verify an entry; return how many bytes of the block it has."""
        try:
            name = bytes.fromhex(os.path.basename(path))
        except ValueError:
            raise DamagedEntryError from None
        file = self._folder.open_entry(name)
        if file is None:
            if os.path.lexists(path):
                raise DamagedEntryError
            raise FileNotFoundError
        opened = OpenEntry(file, name, 0, self._folder.boot, wait=True)
        return sum(len(opened.read(*run, wait=True).data) for run in opened.runs())

    @contextmanager
    def _errors(self, what: str) -> Generator[None]:
        try:
            yield
        except OSError as error:
            pass_on_foreign(error)
            raise LocalStorageError(f"cache {what} {self._folder.root}: {error}") from error
