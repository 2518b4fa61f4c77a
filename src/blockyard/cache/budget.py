"""How much the disk cache may hold, and what goes when it is too much.

The budget is the folder's, in allocated bytes, whoever fills it. Who writes holds the lock of the
folder, so that there is one at a time: it counts what it adds, and evicts first where there is no
room. The counts are kept for each of the 256 folders of entries; an eviction counts those that it
looks at anew, which puts right what killed writers and others did to them.

No index says which entries are used. S3-FIFO (https://s3fifo.com) is approximated on samples:
the entries of a few folders, which hashing made random ones. The access time of an entry, which
the cache sets and nobody else, holds its place in the queues and how often it was hit since. New
entries are on probation, in a queue of a fifth of the budget: at its end those that were not hit
go, the others move on to the main queue, whose end gives a hit entry another round.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Generator
from contextlib import suppress
from typing import NamedTuple

from blockyard import syscalls
from blockyard.cache.folder import SHARDS, Descriptor, Folder, allocated
from blockyard.config.cache import SMALLEST_DISK
from blockyard.crc32c import crc32c
from blockyard.managing import contextmanager
from blockyard.model import MIB

SMALLEST = SMALLEST_DISK
"""The smallest budget in bytes: epochs and folders alone take 2 MiB."""
MOST_HITS = 3
"""Hits of an entry that are counted."""
MAIN = 4
"""Bits of an access time in nanoseconds; its microseconds are the place in the queue."""
_PROBATION = 0.2
"""The share of the budget that entries on probation may have."""
_SAMPLE = 256
"""Entries looked at in one round of an eviction, at least, where there are so many."""
_EVICTED_OF_SAMPLE = 8
"""One entry in so many of a sample goes, at most: then the next sample is looked at."""
_SLACK = 128
"""An eviction makes room for one part in so many of the budget more than is needed."""
_FREE_SHARE = 20
"""One part in so many of the file system's bytes, and of its inodes, is left free."""
_FREE_BYTES = 10 * 1024 * MIB
"""More than these bytes need not be left free."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.005
_USAGE = struct.Struct(f">8s8sqq{SHARDS}qI")
_USAGE_ALLOCATED = 4096
"""Bytes that the counts take, once they are written."""
_USAGE_MAGIC = b"usage 2\n"


class _Entry(NamedTuple):
    """An entry of a sample."""

    time: int
    path: str
    shard: int
    size: int

    @property
    def flags(self) -> int:
        """How often it was hit since it got its place, and whether it is in the main queue."""
        return self.time % 1000


class Budget:
    """The size limit of a cache folder. Its methods raise `OSError`; `evicted` counts entries.

    `patience` is how many seconds to wait for the lock of the folder.
    """

    def __init__(self, folder: Folder, size: int, patience: float = 5.0) -> None:
        self.evicted = 0
        self.patience = patience
        self._folder = folder
        self.size = size
        self._own_size = 0
        self._to_recount: set[int] = set()

    @contextmanager
    def locked(self) -> Generator[Usage]:
        """Hold the lock of the folder: one writer at a time, among all processes.

        A process that was stopped in the middle of a write may hold it for good.
        """
        with (
            Descriptor(self._folder.open_own("lock")) as lock,
            Descriptor(self._folder.open_own("usage")) as file,
            _lock_of(lock.number, self.patience),
        ):
            if not self._own_size:
                self._own_size = self._folder.own_size() + _USAGE_ALLOCATED
            usage = Usage(self._folder, file.number, self._own_size)
            usage.remove_temporary()
            try:
                yield usage
            finally:
                usage.save()

    def make_room(self, usage: Usage, need: int) -> None:
        """Evict until `need` more bytes fit. Raises `OSError` if other files leave too little."""
        if self._over(usage, need) <= 0:
            return
        while self._to_recount:
            _ = usage.recount(self._to_recount.pop())
        goal = need + self.size // _SLACK
        in_vain = 0
        while in_vain < SHARDS and self._over(usage, goal) > 0:
            sample, shards = usage.sample()
            over = self._over(usage, goal)  # now that they are counted anew
            in_vain = 0 if self._evict(usage, sample, over) else in_vain + shards
        if self._over(usage, need) > 0:
            raise OSError(errno.ENOSPC, "other files leave no room for the cache")

    def recount(self, shard: int) -> None:
        """Something was removed there: what is counted may be too much, until there is no room.

        Not subtracted at once, as another process may have counted the folder anew since then.
        """
        self._to_recount.add(shard)

    def _over(self, usage: Usage, need: int) -> int:
        """Bytes that have to be evicted before `need` more fit."""
        over = usage.total() + need - self.size
        disk = os.statvfs(self._folder.root)
        if disk.f_blocks:  # 0 where there is no limit, or none that the file system tells
            floor = min(disk.f_blocks * disk.f_frsize // _FREE_SHARE, _FREE_BYTES)
            over = max(over, floor + need - disk.f_bavail * disk.f_frsize)
        if disk.f_files and disk.f_favail < disk.f_files // _FREE_SHARE:
            over = max(over, need)
        return over

    def _evict(self, usage: Usage, sample: list[_Entry], over: int) -> int:
        """Evict entries of a sample whose turn it is, until `over` bytes are freed.

        Returns how many bytes that was.
        """
        sample.sort(reverse=True)
        probation = [entry for entry in sample if not entry.flags & MAIN]
        main = [entry for entry in sample if entry.flags & MAIN]
        size = sum(entry.size for entry in sample)
        on_probation = sum(entry.size for entry in probation)
        most = max(1, len(sample) // _EVICTED_OF_SAMPLE)
        gone = 0
        while over > 0 and gone < most and (probation or main):
            if probation and (on_probation > size * _PROBATION or not main):
                entry = probation.pop()
                on_probation -= entry.size
                flags = MAIN if entry.flags & MOST_HITS else None
            else:
                entry = main.pop()
                hits = entry.flags & MOST_HITS
                flags = MAIN | (hits - 1) if hits else None
            if flags is not None:
                main.insert(0, entry._replace(time=usage.stamp(entry.path, flags)))
            elif usage.remove(entry.path, entry.shard, entry.size):
                size -= entry.size
                over -= entry.size
                gone += 1
        self.evicted += gone
        return gone


class Usage:
    """The byte counts of a folder, while its lock is held."""

    def __init__(self, folder: Folder, file: int, own_size: int) -> None:
        self._folder = folder
        self._own_size = own_size
        self._file = file
        record = os.pread(file, _USAGE.size, 0)
        known = len(record) == _USAGE.size and record[:16] == _USAGE_MAGIC + folder.boot
        if known and crc32c(record[:-4]) == int.from_bytes(record[-4:]):
            _, _, self._time, self._hand, *self.shards, _ = _USAGE.unpack(record)
        else:  # a new folder, or one that a power cut may have set back, or a damaged one
            self._time, self._hand, self.shards = 0, 0, [0] * SHARDS
            for shard in range(SHARDS):
                latest = max((entry.time for entry in self.recount(shard)), default=0)
                self._time = max(self._time, latest // 1000)

    def total(self) -> int:
        """Bytes allocated in the folder, its own files included."""
        return self._own_size + sum(self.shards)

    @contextmanager
    def reserved(self, shard: int, size: int) -> Generator[None]:
        """Count `size` bytes while they are written, in case the writer is killed."""
        self.shards[shard] += size
        self.save()
        try:
            yield
        finally:
            self.shards[shard] -= size

    def stamp(self, file: str | int, flags: int = 0) -> int:
        """Put an entry at the end of a queue; returns its new time in nanoseconds.

        Times are counted and not taken from a clock, which may be set back.
        """
        self._time += 1
        time = self._time * 1000 + flags
        with suppress(FileNotFoundError):
            os.utime(file, ns=(time, os.stat(file).st_mtime_ns))
        return time

    def remove(self, path: str, shard: int, size: int) -> bool:
        """Remove an entry; False when another process did, or it can't be removed."""
        if not self._folder.remove(path):
            return False
        self.shards[shard] -= size
        return True

    def sample(self) -> tuple[list[_Entry], int]:
        """The entries of the next folders, counted anew, and how many folders those are."""
        entries, shards = list[_Entry](), 0
        while shards < SHARDS and len(entries) < _SAMPLE:
            entries += self.recount(self._hand)
            self._hand = (self._hand + 1) % SHARDS
            shards += 1
        return entries, shards

    def remove_temporary(self) -> None:
        """Remove what killed writers left: nobody else is writing now."""
        for name in os.listdir(self._folder.temporary):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._folder.temporary}/{name}")

    def save(self) -> None:
        """Write the counts for the next holder of the lock."""
        counts = (_USAGE_MAGIC, self._folder.boot, self._time, self._hand, *self.shards)
        record = _USAGE.pack(*counts, 0)[:-4]
        syscalls.write_all_at(self._file, record + struct.pack(">I", crc32c(record)), 0)

    def recount(self, shard: int) -> list[_Entry]:
        """Count the entries of a folder anew."""
        folder = self._folder.shard(shard)
        entries = list[_Entry]()
        try:
            with os.scandir(folder) as found:
                for each in found:
                    with suppress(FileNotFoundError):
                        known = each.stat(follow_symlinks=False)
                        entries.append(
                            _Entry(known.st_atime_ns, each.path, shard, known.st_blocks * 512)
                        )
        except FileNotFoundError:
            self.shards[shard] = 0
            return []
        self.shards[shard] = allocated(folder) + sum(entry.size for entry in entries)
        return entries


@contextmanager
def _lock_of(file: int, patience: float) -> Generator[None]:
    """Hold flock(2) on an open file, waiting up to `patience` seconds."""
    pause, waited = _FIRST_PAUSE, 0.0
    while not _locked(file):
        if waited >= patience:
            raise OSError(errno.EBUSY, f"another process has held its lock for {patience:g} s")
        _ = threading.Event().wait(pause)
        waited += pause
        pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        yield
    finally:
        # closing is not enough: a child that was forked meanwhile has the file open as well
        with syscalls.errors_ignored():
            fcntl.flock(file, fcntl.LOCK_UN)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
