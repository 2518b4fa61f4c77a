"""Marks of changes whose outcome is not known: one a key, in the folder `doubt` of a cache.

A request that was given up may still be applied, for up to `SETTLE_SECONDS`. Until then no other
version of its block is sent, and nothing that is read of it is kept. A mark without an end is of a
change that is under way, or whose process was killed: then its end is when somebody else holds the
lock of the key. Marks are not synced: for the first `SETTLE_SECONDS` after the system has booted
everything is in doubt.

A mark is a symbolic link, whose text says it all. File systems keep short ones in the inode: where
the disk is full a file could not be written, and nothing would be uploaded that makes room.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import suppress
from math import isnan, nan
from typing import NamedTuple

from blockyard.cache.folder import Folder

SETTLE_SECONDS = 60.0
"""How long a request whose outcome is unknown may still take effect."""
_TIME = struct.Struct(">d")
_BOOT_DIGITS = _TIME_DIGITS = 16
_NAME_DIGITS = 32


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
        try:
            text = os.readlink(self._path(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EINVAL:  # it is no link
                raise
            text = ""
        try:
            boot, at = bytes.fromhex(text[:_BOOT_DIGITS]), text[_BOOT_DIGITS:][:_TIME_DIGITS]
            (ended,) = _TIME.unpack(bytes.fromhex(at))
        except (ValueError, struct.error):
            return Mark("", nan)
        version = text[_BOOT_DIGITS + _TIME_DIGITS :]
        return Mark(version, ended if boot == self._folder.boot else 0.0)

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
        self._make(name, version, nan)

    def end(self, name: bytes, version: str, now: float) -> None:
        """Nothing more of the change is sent, and what was may still be applied."""
        self._make(name, version, now)

    def remove(self, name: bytes) -> None:
        """All that was sent has been answered, or has settled."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def names(self) -> list[bytes]:
        """All that are marked."""
        names = list[bytes]()
        with suppress(FileNotFoundError):
            for each in os.listdir(self._root):
                with suppress(ValueError):
                    if len(each) == _NAME_DIGITS:
                        names.append(bytes.fromhex(each))
        return names

    def _path(self, name: bytes) -> str:
        return f"{self._root}/{name.hex()}"

    def _make(self, name: bytes, version: str, at: float) -> None:
        """Make a mark, in place of the one that is there."""
        text, path = f"{self._folder.boot.hex()}{_TIME.pack(at).hex()}{version}", self._path(name)
        try:
            os.symlink(text, path)
        except FileNotFoundError:
            self.prepare()
            os.symlink(text, path)
        except FileExistsError:
            new = f"{self._root}/.{name.hex()}"
            with suppress(FileNotFoundError):  # left by a process that was killed
                os.unlink(new)
            os.symlink(text, new)
            os.rename(new, path)
