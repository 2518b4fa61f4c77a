"""Entries of the disk cache that are kept open, and how they are read and verified."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress

from blockyard import syscalls
from blockyard.cache import entry
from blockyard.cache.budget import MAIN, MOST_HITS
from blockyard.cache.entry import HEAD, PRESENT
from blockyard.cache.folder import Descriptor, Folder
from blockyard.cache.tier import Pages
from blockyard.crc32c import crc32c
from blockyard.model import BLOCK_SIZE, MIB
from blockyard.transport.memory import receivable

KEPT = 224
"""Entries kept open in a process, at most; and no more than an eighth of its descriptors."""
_ALL_PRESENT = PRESENT * 256
_LARGE = 1 * MIB
_MUTABLE = HEAD - entry.MUTABLE_AT


class DamagedEntryError(Exception):
    """An entry that does not match its checksums, is cut, or is none."""


class RemovedEntryError(FileNotFoundError):
    """The entry was removed while it was read, and its bytes with it."""


class WouldBlockError(Exception):
    """The disk would have to be read, and the caller can't wait for it."""


class OpenEntry:
    """An entry, its head verified. Raises `OSError`, `WouldBlockError`, `DamagedEntryError`.

    It may be replaced or removed at any time by whoever shares the folder: `current` tells, and a
    read that comes too late raises `RemovedEntryError`. `epoch` is the key's from before it was
    opened by its name.
    """

    __slots__ = (
        "_boot",
        "_epoch",
        "_file",
        "_marks",
        "_modified",
        "_next",
        "_place",
        "_whole",
        "_whole_crc32c",
        "head",
        "sums",
    )

    def __init__(
        self, file: Descriptor, name: bytes, epoch: int, boot: bytes, *, wait: bool
    ) -> None:
        self._file = file
        self._epoch = epoch
        known = os.fstat(file.number)
        if not stat.S_ISREG(known.st_mode):
            raise DamagedEntryError
        data = _read(file.number, HEAD, 0, wait=wait)
        head = entry.decode_head(data, name)
        if head is None or known.st_size != HEAD + head.info.size:
            raise self._damaged()
        self.head = head
        self.sums = head.page_sums
        self._boot = boot
        self._next = -1
        self._see(known)

    @property
    def checked_at(self) -> float:
        """When the store was last known to hold this version."""
        return self._marks.checked_at

    def current(self, folder: Folder) -> bool:
        """Whether it is still the folder's entry, and its key was not changed."""
        name = self.head.name
        epoch = folder.epoch(name)
        known = os.fstat(self._file.number)
        if epoch != self._epoch or known.st_nlink == 0:
            return False
        self._place = known.st_atime_ns
        if known.st_mtime_ns != self._modified:
            self._see(known)
        return self._marks.settled or epoch == self.head.epoch

    def read(self, begin: int, end: int, *, wait: bool) -> Pages:
        """The pages from before `begin` to behind `end`, verified; without data if some lack."""
        head, info = self.head, self.head.info
        page = head.page_size
        first, last = begin // page, -(-end // page)
        if not self._has(first, last):
            self._see(os.fstat(self._file.number))  # times are coarse: it may have changed since
            if not self._has(first, last):
                return Pages(info, 0, b"", self.checked_at, self.sums)
        marks = self._marks
        begin = first * page
        size = min(last * page, info.size) - begin
        data = _read(self._file.number, size, HEAD + begin, wait=wait) if size > 0 else b""
        if len(data) != max(size, 0) or not self._is_right(data, first, marks):
            raise self._damaged()
        return Pages(info, begin, data, marks.checked_at, self.sums)

    def runs(self) -> list[tuple[int, int]]:
        """All bytes that are there, in pieces to be read."""
        page, present = self.head.page_size, self._marks.present
        most = max(1, BLOCK_SIZE // page)
        pieces, first = list[tuple[int, int]](), 0
        while first < len(present):
            last = first
            while last < len(present) and last < first + most and present[last] == PRESENT[0]:
                last += 1
            if last > first:
                pieces.append((first * page, min(last * page, self.head.info.size)))
            first = max(last, first + 1)
        return pieces

    def hit(self, begin: int, end: int) -> bool:
        """Whether a read from `begin` to `end` is a hit to be counted: see `count_hit`.

        The next range of a reader who goes through the block is none: one pass reads it once.
        """
        first_of_pass = begin != self._next
        self._next = end
        return first_of_pass and self._place % 1000 & MOST_HITS < MOST_HITS

    def count_hit(self) -> None:
        """Note a hit in the entry's access time: see `budget.py`. May wait for the disk."""
        with suppress(FileNotFoundError):
            known = os.fstat(self._file.number)
            self._place = known.st_atime_ns
            if (
                self._place % 1000 & MOST_HITS < MOST_HITS
                and self._place % 1000 <= MOST_HITS + MAIN
            ):
                self._place += 1
                os.utime(self._file.number, ns=(self._place, known.st_mtime_ns))

    def checked(self, at: float) -> None:
        """From now on this process takes it for checked `at` that time."""
        self._marks = self._marks._replace(checked_at=max(at, self._marks.checked_at))

    def _is_right(self, data: bytes, first: int, marks: entry.Marks) -> bool:
        """Whether whole pages from the page `first` on match their checksums.

        Of a block without its writer's own, all of which was verified page by page, the CRC32C of
        all is remembered: one call for 4 MiB instead of 256 takes two thirds of the time.
        """
        whole = not self.head.sums and len(data) == self.head.info.size > self.head.page_size
        if whole and self._whole_crc32c is not None:
            return crc32c(data) == self._whole_crc32c
        right = entry.verified(data, first, self.head, marks.own_sums)
        if whole and right:
            self._whole_crc32c = crc32c(data)
        return right

    def _damaged(self) -> Exception:
        """What to raise for bytes that are not right."""
        removed = os.fstat(self._file.number).st_nlink == 0
        return RemovedEntryError() if removed else DamagedEntryError()

    def _has(self, first: int, last: int) -> bool:
        return self._whole or _ALL_PRESENT.startswith(self._marks.present[first:last])

    def _see(self, known: os.stat_result) -> None:
        """Read what may have changed by `known`, which is from before."""
        data = os.pread(self._file.number, _MUTABLE, entry.MUTABLE_AT)
        if len(data) < _MUTABLE:
            raise self._damaged()
        self._modified, self._place = known.st_mtime_ns, known.st_atime_ns
        self._marks = entry.decode_marks(data, self.head.pages, self._boot)
        self._whole = _ALL_PRESENT.startswith(self._marks.present)
        self._whole_crc32c: int | None = None


def _read(file: int, size: int, offset: int, *, wait: bool) -> bytes:
    if not wait:
        try:
            data = syscalls.read_cached(file, size, offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
        else:
            if data is None:
                raise WouldBlockError
            return data
    if size < _LARGE:
        return os.pread(file, size, offset)
    block, view = receivable(size)  # in pages of 2 MiB: less to make than what pread returns
    count = os.preadv(file, [view], offset)
    return block if count == size else block[:count]
