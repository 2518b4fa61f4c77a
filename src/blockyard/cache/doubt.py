"""Marks of changes whose outcome is not known: a file a key, in the folder `doubt` of a cache.

A request that was given up may still be applied, for up to `SETTLE_SECONDS`. Until then no other
version of its block is sent, and nothing that is read of it is kept. A mark without an end is of a
change that is under way, or whose process was killed: then its end is when somebody else holds the
lock of the key. Marks are not synced: for the first `SETTLE_SECONDS` after the system has booted
everything is in doubt.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from math import isnan, nan
from typing import NamedTuple

from blockyard import syscalls
from blockyard.cache.folder import Descriptor, Folder
from blockyard.crc32c import crc32c

SETTLE_SECONDS = 60.0
"""How long a request whose outcome is unknown may still take effect."""
_RECORD = struct.Struct(">8s8s40sdI")
_MAGIC = b"doubt 1\n"
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Mark(NamedTuple):
    """A change to `version` was sent; `at` is when that ended, by `Runtime.now()`, or nan."""

    version: str
    at: float

    @property
    def under_way(self) -> bool:
        """Whether its end is not known."""
        return isnan(self.at)

    def settled(self, now: float) -> bool:
        """Whether nothing of it can come about any more."""
        return now >= self.at + SETTLE_SECONDS


class Doubt:
    """The marks of a folder. Those of a key are made by the holder of its lock alone."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._root = f"{folder.root}/doubt"

    def prepare(self) -> None:
        """Make its folder."""
        with suppress(FileExistsError):
            os.mkdir(self._root, 0o700)

    def mark(self, name: bytes) -> Mark | None:
        """The mark of a key. What can't be read is a change under way."""
        number = self._folder.open_file(self._path(name))
        if number is None:
            return None
        with Descriptor(number):
            record = os.pread(number, _RECORD.size, 0)
        if len(record) < _RECORD.size or crc32c(record[:-4]) != int.from_bytes(record[-4:]):
            return Mark("", nan)
        magic, boot, version, at, _ = _RECORD.unpack(record)
        if magic != _MAGIC:
            return Mark("", nan)
        return Mark(version.rstrip(b"\0").decode(), at if boot == self._folder.boot else 0.0)

    def in_doubt(self, name: bytes, now: float) -> bool:
        """Whether the block in the store may be replaced by what is late."""
        if now < SETTLE_SECONDS:
            return True
        mark = self.mark(name)
        return mark is not None and not mark.settled(now)

    def settles_at(self, name: bytes, version: str | None, now: float) -> float:
        """From when on `version` may be sent, or any where that is None; for who holds the lock."""
        mark = self.mark(name)
        ends = SETTLE_SECONDS if now < SETTLE_SECONDS else 0.0
        if mark is None:
            return ends
        if mark.under_way:
            self.end(name, mark.version, now)
            mark = Mark(mark.version, now)
        if mark.settled(now):
            self.remove(name)
        elif mark.version != version:
            ends = mark.at + SETTLE_SECONDS
        return ends

    def begin(self, name: bytes, version: str) -> None:
        """A change to that version is about to be sent."""
        self._write(name, version, nan)

    def end(self, name: bytes, version: str, now: float) -> None:
        """Nothing more of the change is sent, and what was may still be applied."""
        self._write(name, version, now)

    def remove(self, name: bytes) -> None:
        """All that was sent has been answered, or has settled."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def names(self) -> list[bytes]:
        """All that are marked."""
        with suppress(FileNotFoundError):
            return [bytes.fromhex(name) for name in os.listdir(self._root) if len(name) == 32]
        return []

    def _path(self, name: bytes) -> str:
        return f"{self._root}/{name.hex()}"

    def _write(self, name: bytes, version: str, at: float) -> None:
        record = _RECORD.pack(_MAGIC, self._folder.boot, version.encode(), at, 0)[:-4]
        record += crc32c(record).to_bytes(4)
        try:
            number = os.open(self._path(name), _WRITE, 0o600)
        except FileNotFoundError:
            self.prepare()
            number = os.open(self._path(name), _WRITE, 0o600)
        with Descriptor(number):
            syscalls.write_all_at(number, record, 0)
