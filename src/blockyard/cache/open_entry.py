"""Open entries of the disk cache: read and verified."""

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
    """An entry that is truncated, fails its checksums, or is no entry at all."""


class RemovedEntryError(FileNotFoundError):
    """The entry was removed while it was read."""


class WouldBlockError(Exception):
    """The bytes are not in the page cache, and the caller can't wait for the disk."""


class OpenEntry:
    """An open entry with a verified head. Raises `OSError`, `WouldBlockError`, `DamagedEntryError`.

    Other processes may replace or remove it at any time: `current` tells, and a read that comes too
    late raises `RemovedEntryError`. `epoch` is that of the key from before the entry was opened.
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
        """Whether the entry is still in the folder and its key was not changed."""
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
        """Read and verify the pages around `begin` to `end`; no data if some are missing."""
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
        """The byte ranges that are present, in pieces of up to `BLOCK_SIZE` bytes."""
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
        """Whether a read of these bytes counts as a hit: see `count_hit`.

        A range that continues the last one does not: one sequential pass counts once.
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
        """Note in this process that the entry was current `at` that time."""
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
        """The error for bytes that fail their checksums: the entry may have been removed."""
        removed = os.fstat(self._file.number).st_nlink == 0
        return RemovedEntryError() if removed else DamagedEntryError()

    def _has(self, first: int, last: int) -> bool:
        return self._whole or _ALL_PRESENT.startswith(self._marks.present[first:last])

    def _see(self, known: os.stat_result) -> None:
        """Read the mutable part of the head; `known` is the `fstat` result from before."""
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
