"""In-doubt changes, whose outcome is not known: one mark a key, in the folder `doubt` of a cache.

A request that was given up may still take effect for up to `SETTLE_SECONDS`. Until then no other
version of its block is sent, and no read of the block is cached. A mark without an end belongs to a
change that is under way, or whose process was killed; the next holder of the key's lock ends it.
Marks are not synced to the disk: everything is in doubt for the first `SETTLE_SECONDS` after a
boot.

A mark is a symbolic link; its target holds the data. File systems keep short targets in the inode,
so marks can be written on a full disk, where uploads are what makes room.
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
    """A change to `version` was sent; `at` is when it ended, by `Runtime.now()`, or nan."""

    version: str
    at: float

    @property
    def under_way(self) -> bool:
        """Whether the change has not ended, as far as is known."""
        return isnan(self.at)

    def settled(self, now: float) -> bool:
        """Whether no attempt of the change can take effect any more."""
        return now >= self.at + SETTLE_SECONDS


class InDoubtMarks:
    """The marks in a cache folder. Only the holder of a key's lock writes its mark."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._root = f"{folder.root}/doubt"

    def prepare(self) -> None:
        """Make the folder of the marks."""
        with suppress(FileExistsError):
            os.mkdir(self._root, 0o700)

    def mark(self, name: bytes) -> Mark | None:
        """The mark of a key. An unreadable one counts as a change under way."""
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
        """Whether a late request may still replace the block in the store."""
        if now < SETTLE_SECONDS:
            return True
        mark = self.mark(name)
        return mark is not None and not mark.settled(now)

    def settles_at(self, name: bytes, version: str | None, now: float) -> float:
        """When `version` may be sent; None for `version`: when any change may be made.

        For the holder of the key's lock. A mark left under way by a killed process ends now.
        """
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
        """Mark a change to `version` as under way, before it is sent."""
        self._make(name, version, nan)

    def end(self, name: bytes, version: str, now: float) -> None:
        """Mark a change as ended with an unknown outcome."""
        self._make(name, version, now)

    def remove(self, name: bytes) -> None:
        """Remove the mark: the outcome is known, or has settled."""
        with suppress(FileNotFoundError):
            os.unlink(self._path(name))

    def names(self) -> list[bytes]:
        """The names of all keys with a mark."""
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
        """Write a mark, replacing the one that is there."""
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
