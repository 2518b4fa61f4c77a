"""What is in a cache folder, looked at and removed from outside: for `blockyard cache`.

Entries are gone through one by one, in bounded memory, beside the processes that use the folder.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blockyard import syscalls
from blockyard.cache.budget import Budget
from blockyard.cache.folder import SHARDS, Folder
from blockyard.cache.kept import DamagedEntryError, OpenEntry
from blockyard.errors import ConfigError, LocalStorageError
from blockyard.user_code import pass_on_foreign


@dataclass(slots=True)
class FolderUse:
    """What a cache folder holds: `allocated` bytes on the disk, folders included."""

    entries: int
    allocated: int


@dataclass(slots=True)
class FolderCheck:
    """What became of the entries that were verified: `size` bytes of blocks are right."""

    right: int = 0
    damaged: int = 0
    size: int = 0


class CacheFolder:
    """A cache folder that is there. Raises `ConfigError` for another, `LocalStorageError`."""

    def __init__(self, root: Path) -> None:
        self._folder = Folder(root)
        if not (root / "format").exists():
            raise ConfigError(f"{root}: expected a cache folder of blockyard")
        with self._errors("open"):
            self._folder.prepare()

    def use(self) -> FolderUse:
        """Count what is there."""
        with self._errors("stat"), Budget(self._folder, 0).locked() as usage:
            entries = sum(len(usage.recount(shard)) for shard in range(SHARDS))
            return FolderUse(entries, usage.total())

    def verify(self) -> FolderCheck:
        """Hold every entry to its checksums; what does not match is removed."""
        check = FolderCheck()
        with self._errors("verify"):
            for path in self._entries():
                try:
                    check.size += self._verified(path)
                    check.right += 1
                except DamagedEntryError:
                    check.damaged += 1
                    with syscalls.errors_ignored():
                        os.unlink(path)
                except FileNotFoundError:
                    continue
        return check

    def clear(self) -> int:
        """Remove every entry; returns how many went. What is being read is read to its end."""
        gone = 0
        with self._errors("clear"), Budget(self._folder, 0).locked() as usage:
            for path in self._entries():
                with syscalls.errors_ignored():
                    os.unlink(path)
                    gone += 1
            for shard in range(SHARDS):
                _ = usage.recount(shard)
        return gone

    def _entries(self) -> Generator[str]:
        for shard in range(SHARDS):
            try:
                with os.scandir(self._folder.shard(shard)) as found:
                    yield from (each.path for each in found)
            except FileNotFoundError:
                continue

    def _verified(self, path: str) -> int:
        """How many bytes of the entry are right: all that are there."""
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
