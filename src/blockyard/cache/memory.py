"""The tier in memory: blocks and pages of blocks in a dictionary, found without a lock.

A hit looks into the dictionary and raises a counter. What changes the dictionary is queued, and
done by one call at a time: the one that finds nobody at it, which goes on until the queue is empty.
The others do not wait, since a signal handler or a finalizer may have interrupted the one that is
at it, on their own thread or on one that waits for them. When it is cut off in the middle the
bookkeeping is made anew from the dictionary, and so it is in a forked child.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING
from weakref import ref

from blockyard import atomic_dict
from blockyard.cache.policy import MOST_HITS, S3Fifo
from blockyard.cache.tier import Pages, span_within
from blockyard.process import PerProcess

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from blockyard.merging import Range
    from blockyard.model import BlockInfo, PageSums
    from blockyard.stores.base import ReadRequest

_OVERHEAD = 700
"""The bytes that an entry takes beside its data and its checksums: measured, on CPython 3.11."""
_OVERHEAD_OF_A_PAGE = 150
_QUEUED = 1000
"""Changes that may wait for the one who makes them: more are dropped."""


class Entry:
    """A version of a block in memory: all of it, or pages by their numbers."""

    __slots__ = (
        "charged",
        "checked_at",
        "dropped",
        "epoch",
        "hits",
        "info",
        "key",
        "page_size",
        "pages",
        "sums",
        "whole",
    )

    def __init__(self, pages: Pages, epoch: object) -> None:
        self.key = pages.info.key
        self.info = pages.info
        self.sums = pages.sums
        self.epoch = epoch
        self.checked_at = pages.checked_at
        self.page_size = pages.page_size
        self.whole: bytes | None = None
        self.pages: dict[int, bytes] = {}
        self.hits = 0
        self.charged = 0
        self.dropped = False
        self.add(pages)

    @property
    def cost(self) -> int:
        """The bytes of memory that the entry takes."""
        size = _OVERHEAD + len(self.key) + (len(self.sums.running) if self.sums else 0)
        whole = self.whole
        if whole is not None:
            return size + len(whole)
        return size + sum(len(page) + _OVERHEAD_OF_A_PAGE for page in self.pages.copy().values())

    def describe(self) -> BlockInfo:
        """What `Block.describe` gives."""
        return self.info

    def is_of(self, info: BlockInfo, sums: PageSums | None) -> bool:
        """Whether the entry is this version: ETag, size and checksums are equal."""
        mine = self.info
        return mine.etag == info.etag and mine.size == info.size and self.sums == sums

    def add(self, pages: Pages) -> None:
        """Add pages of the same version."""
        if pages.whole:
            self.whole = pages.data
            self.pages = {}
            return
        page, data = self.page_size, pages.data
        for begin in range(0, len(data), page):
            self.pages[(pages.first + begin) // page] = data[begin : begin + page]

    def data(self, begin: int, end: int) -> bytes | None:
        """The bytes from `begin` to `end`; None where a page of them is missing."""
        whole = self.whole
        if whole is not None:
            return whole[begin:end]
        pages, page = self.pages, self.page_size
        number = begin // page
        first = number * page
        if end <= first + page:
            data = pages.get(number)
            return data if data is None else data[begin - first : end - first]
        found: list[bytes] = []
        for each in range(number, -(-end // page)):
            data = pages.get(each)
            if data is None:
                return None
            found.append(data)
        return b"".join(found)[begin - first : end - first]


class MemoryTier:
    """Blocks and pages of blocks, of `budget` bytes together."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.entries: dict[str, Entry] = {}
        self.filled = 0
        self.dropped = 0
        self.evicted = 0
        self._books = PerProcess(_Books)

    @property
    def used(self) -> int:
        """The bytes that all entries take."""
        return self._books.here().policy.used if self.entries else 0

    def find(self, request: ReadRequest, epoch: object) -> Pages | None:
        """What is kept of a block under that epoch; None where nothing is.

        `Pages` with the bytes requested, or without bytes where some of them are missing.
        """
        entry = self.entries.get(request.key)
        if entry is None or entry.epoch != epoch:
            return None
        span = span_within(request, entry.info.size)
        data = None if span is None else entry.data(*span)
        if span is None or data is None:
            return Pages(entry.info, 0, b"", entry.checked_at, entry.sums)
        return Pages(entry.info, span[0], data, entry.checked_at, entry.sums)

    def ranges(
        self, wanted: Sequence[Range], epoch_of: Callable[[str], object], since: float
    ) -> list[bytes | None]:
        """The bytes of each range, from entries of the current epoch that were checked `since`.

        A fast path for hits, without requests and results; misses and errors are None.
        """
        entries = self.entries
        found: list[bytes | None] = []
        for key, begin, length in wanted:
            data = None
            entry = entries.get(key)
            if entry is not None and entry.checked_at > since and entry.epoch == epoch_of(key):
                size = entry.info.size
                end = size if length is None else min(begin + length, size)
                data = entry.data(begin, end) if begin < size else None
                if data is not None and entry.hits < MOST_HITS:
                    entry.hits += 1
            found.append(data)
        return found

    def fill(self, pages: Pages, epoch: object, *, anew: bool = False) -> None:
        """Keep pages that were read under that epoch; with `anew` in place of those kept before."""
        if len(pages.data) + _OVERHEAD > self.budget:
            return
        entry = self.entries.get(pages.info.key)
        if entry is None or entry.dropped or entry.epoch != epoch or anew:
            entry = Entry(pages, epoch)
        elif entry.is_of(pages.info, pages.sums):
            entry.checked_at = max(entry.checked_at, pages.checked_at)
            if entry.whole is not None:
                return
            entry.add(pages)
        elif entry.checked_at > pages.checked_at:  # a newer one came meanwhile
            return
        else:
            entry = Entry(pages, epoch)
        self.filled += bool(pages.data)
        self._change(entry)

    def revalidated(self, info: BlockInfo, epoch: object, at: float) -> None:
        """Note that the store still had the version at that time."""
        entry = self.entries.get(info.key)
        if entry is not None and entry.epoch == epoch and entry.info.etag == info.etag:
            entry.checked_at = max(entry.checked_at, at)

    def drop(self, key: str) -> None:
        """Remove the entry of a block."""
        entry = self.entries.get(key)
        if entry is not None:
            entry.dropped = True
            entry.whole, entry.pages = None, {}
            self._change(entry)

    def close(self) -> None:
        """Remove all entries."""
        self.entries.clear()
        self._books = PerProcess(_Books)

    def _change(self, entry: Entry) -> None:
        books = self._books.here()
        if len(books.queue) < _QUEUED:
            books.queue.append(entry)
        else:
            self.dropped += 1
        while books.queue:
            mine = _Turn()
            mine_here = ref(mine)
            try:
                taken = books.turn.setdefault("", mine_here)
                if taken is mine_here:
                    self._make_changes(books)
                elif taken() is not None:
                    return
                else:  # whose turn it was has ended in the middle of saying so
                    _ = atomic_dict.remove(books.turn, "", taken)
            finally:
                _ = atomic_dict.remove(books.turn, "", mine_here)

    def _make_changes(self, books: _Books) -> None:
        """Make what changes are queued. Only the call whose turn it is comes here."""
        if not books.in_order:
            books.policy = S3Fifo(self.budget)
            for entry in list(self.entries.values()):
                self._keep(books.policy, entry)
        books.in_order = False
        while books.queue:
            entry = books.queue.popleft()
            if not entry.dropped:
                self.entries[entry.key] = entry
                self._keep(books.policy, entry)
            elif self.entries.get(entry.key) is entry:
                del self.entries[entry.key]
                books.policy.remove(entry.key)
        books.in_order = True

    def _keep(self, policy: S3Fifo[Entry], entry: Entry) -> None:
        for gone in policy.keep(entry):
            self.evicted += 1
            gone.dropped = True
            if self.entries.get(gone.key) is gone:
                _ = self.entries.pop(gone.key, None)


class _Turn:
    __slots__ = ("__weakref__",)


class _Books:
    """The bookkeeping of one process."""

    def __init__(self) -> None:
        self.queue: deque[Entry] = deque()
        self.turn: dict[str, ref[_Turn]] = {}
        """Whose turn it is: the value refers to what that call alone holds."""
        self.policy: S3Fifo[Entry] = S3Fifo(0)
        self.in_order = False
