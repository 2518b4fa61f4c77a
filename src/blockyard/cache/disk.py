"""The tier of the cache on disk: a folder of verified blocks that processes share.

Coherence without a lock on reads and changes. A change gives the key another epoch, then removes
its entry, then gives it another epoch again: what others have read of the entry in between, and
keep in memory, is of the first. A fill that began before it is told by its epoch: it is looked at
before the entry gets its name and again after, and only then is the entry marked as settled. Until
that a reader looks at the epoch for itself. So an old entry that comes back in between, or is left
by a process that was killed just there, is served to nobody, and once an entry is settled every
later change removes it. Pages of the same version are added in place, each marked after it was
written; who writes holds the folder's lock, as one at a time does, which the budget needs anyway.

A disk that fails is none: reads miss, fills are dropped for a while, then tried again.
"""

from __future__ import annotations

import logging
import resource
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

from blockyard import atomic_dict, syscalls
from blockyard.cache.budget import SMALLEST, Budget
from blockyard.cache.entry import Head, name_of
from blockyard.cache.folder import Folder
from blockyard.cache.open_entry import (
    KEPT,
    DamagedEntryError,
    OpenEntry,
    RemovedEntryError,
    WouldBlockError,
)
from blockyard.cache.tier import INLINE, MUST_WAIT, DiskTier, MustWait, Pages, span_within
from blockyard.cache.work_queue import WorkQueue
from blockyard.cache.writing import EntryWriter
from blockyard.errors import ConfigError
from blockyard.user_code import pass_on_foreign

if TYPE_CHECKING:
    from blockyard.context import Runtime
    from blockyard.model import BlockInfo
    from blockyard.stores.base import ReadRequest

RETRY_AFTER = 10.0
"""Seconds after a failure of the disk until it is written to again."""
_WARN_EVERY = 60.0
_HITS_WAITING = 32
"""Hits that were not noted yet: then the next read notes them."""
_UNDROPPED = 10_000
"""Changed keys whose entries could not be removed that are remembered; if more, all entries go."""
_ALL = ""
"""In place of the keys that are too many: no key."""
_in_use: WeakSet[DiskCache] = WeakSet()
"""The caches of this process, which share its descriptors."""
_log = logging.getLogger("blockyard.cache")


class DiskCache(DiskTier):
    """The blocks of the store `identity` in the folder `path`, of `size` bytes for all stores.

    See `DiskTier`. Raises `ConfigError` for a folder that can't be used, and a size below 8 MiB.
    Without `wait` reads up to 256 KiB are answered at once from the page cache; opening an entry
    for the first time may wait for its folder to be read.
    """

    def __init__(self, path: Path, size: int, identity: str) -> None:
        if size < SMALLEST:
            raise ConfigError(f"cache.disk.size: expected {SMALLEST} bytes or more, got {size}")
        self._identity = identity
        self._folder = Folder(path)
        self._budget = Budget(self._folder, size)
        self._writer = EntryWriter(self._folder, self._budget)
        self._queue = WorkQueue()
        self._kept: dict[str, OpenEntry] = {}
        self._most_kept = _most_kept(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        _in_use.add(self)
        self._hits_waiting: deque[OpenEntry] = deque(maxlen=2 * _HITS_WAITING)
        self._undropped: dict[str, object] = {}
        """Changed keys whose entries could not be removed, or `_ALL`: each with its own object, by
        which a failure is told from one that came while the one before it was made good."""
        self._trouble: OSError | None = None
        self._off_until = self._warn_at = -float("inf")
        self._closed = False
        self._hits = self._dropped = self._damaged = 0
        try:
            self._folder.prepare()
        except OSError as error:
            pass_on_foreign(error)
            self._trouble = error

    def epoch(self, key: str) -> int | None:
        try:
            return self._folder.epoch(self._name(key))
        except OSError as error:
            pass_on_foreign(error)
            return None

    def is_shared(self) -> bool:
        try:
            return self._folder.is_there()
        except OSError as error:
            pass_on_foreign(error)
            return False

    def change(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._drop(key)

    def get(self, request: ReadRequest, *, wait: bool) -> Pages | MustWait | None:
        key = request.key
        if self._closed or (self._undropped and self._may_be_old(key)):
            return None
        if len(self._hits_waiting) >= min(_HITS_WAITING, self._may_keep):
            if not wait:
                return MUST_WAIT
            self._note_hits()
        try:
            return self._read(request, wait)
        except WouldBlockError:
            return MUST_WAIT
        except DamagedEntryError:
            self._remove_damaged(key)
        except RemovedEntryError:
            _ = self._kept.pop(key, None)
        except OSError as error:
            pass_on_foreign(error)
            self._kept.clear()  # it may be descriptors that are short
            self._hits_waiting.clear()
            self._trouble = error
        return None

    def fill(self, runtime: Runtime, pages: Pages, epoch: int | None) -> bool:
        if epoch is None:
            work, pages = self._prepare, replace(pages, data=b"")
        else:
            work = partial(self._fill, pages, epoch)
        usable = not self._closed and runtime.now() >= self._off_until
        if usable and self._queue.put(runtime, work, len(pages.data)):
            return True
        self._dropped += 1
        return False

    def revalidated(self, runtime: Runtime, info: BlockInfo, at: float) -> None:
        kept = self._kept.get(info.key)
        if kept is not None and kept.head.info.etag == info.etag:
            kept.checked(at)
        if not self._closed and runtime.now() >= self._off_until:
            _ = self._queue.put(runtime, partial(self._check, info, at))

    def stats(self) -> dict[str, int]:
        return {
            "hits": self._hits,
            "filled": self._writer.filled,
            "dropped": self._dropped + self._writer.dropped,
            "evicted": self._budget.evicted,
            "damaged": self._damaged,
        }

    def close(self) -> None:
        self._closed = ended = True
        try:
            ended = self._queue.wait()
        finally:
            _in_use.discard(self)
            _ = self._queue.clear()
            self._kept.clear()
            self._hits_waiting.clear()
            if ended:
                self._folder.close()

    @property
    def _may_keep(self) -> int:
        """How many entries this one may keep open: all caches of a process share its descriptors.

        As many again, at most, are open until their hits are noted.
        """
        return max(1, self._most_kept // max(1, len(_in_use)))

    def _name(self, key: str) -> bytes:
        return name_of(self._identity, key)

    def _read(self, request: ReadRequest, wait: bool) -> Pages | MustWait | None:
        key = request.key
        kept = self._kept.pop(key, None)  # put back behind all others: the least used go first
        if kept is None or not kept.current(self._folder):
            kept = self._open(key, wait)
            if kept is None:
                return None
        self._kept[key] = kept
        info = kept.head.info
        span = span_within(request, info.size)
        if span is None:
            return Pages(info, 0, b"", kept.checked_at, kept.sums)
        begin, end = span
        if end - begin > INLINE and not wait:
            return MUST_WAIT
        pages = kept.read(begin, end, wait=wait)
        if pages.data or not info.size:
            self._hits += 1
            if kept.hit(begin, end):
                self._hits_waiting.append(kept)
        return pages

    def _open(self, key: str, wait: bool) -> OpenEntry | None:
        """Open the key's entry, if it is of the current epoch; else None."""
        name = self._name(key)
        epoch = self._folder.epoch(name)
        file = self._folder.open_entry(name)
        if file is None:
            return None
        opened = OpenEntry(file, name, epoch, self._folder.boot, wait=wait)
        if opened.head.info.key != key:
            raise DamagedEntryError
        if not opened.current(self._folder):
            return None
        while len(self._kept) >= self._may_keep:
            with suppress(StopIteration, KeyError, RuntimeError):  # others take some as well
                del self._kept[next(iter(self._kept))]
        return opened

    def _may_be_old(self, key: str) -> bool:
        """Whether the key's entry could not be removed when the key was changed."""
        return key in self._undropped or _ALL in self._undropped

    def _drop(self, key: str) -> None:
        name, before = self._name(key), self._undropped.get(key)
        _ = self._kept.pop(key, None)
        try:
            try:
                self._folder.change(name)
            finally:
                self._writer.remove(name)
            self._folder.change(name)
        except (OSError, ConfigError) as error:
            if isinstance(error, OSError):
                pass_on_foreign(error)
                self._trouble = error
            few = key in self._undropped or len(self._undropped) < _UNDROPPED - 1
            atomic_dict.put(self._undropped, key if few else _ALL, object())
        else:
            if before is not None:
                _ = atomic_dict.remove(self._undropped, key, before)

    def _drop_again(self) -> None:
        """Retry the removal of stale entries: key by key, or all if there were too many."""
        before = self._undropped.copy()
        if _ALL not in before:
            for key in before:
                self._drop(key)
            return
        self._kept.clear()
        self._folder.change_all()
        self._writer.remove_all()
        self._folder.change_all()
        for key, failure in before.items():
            _ = atomic_dict.remove(self._undropped, key, failure)

    def _remove_damaged(self, key: str) -> None:
        self._damaged += 1
        _ = self._kept.pop(key, None)
        with syscalls.errors_ignored():
            self._writer.remove(self._name(key))

    def _note_hits(self) -> None:
        with syscalls.errors_ignored(), suppress(IndexError):
            while True:
                self._hits_waiting.popleft().count_hit()

    def _fill(self, pages: Pages, epoch: int, now: float) -> None:
        head = Head(
            self._name(pages.info.key),
            pages.info,
            epoch,
            b"" if pages.sums is None else pages.sums.running,
        )
        self._on_disk(now, lambda: self._writer.put(head, pages))

    def _prepare(self, now: float) -> None:
        """Make the folder again after it was removed or unusable."""
        self._dropped += 1
        self._on_disk(now, self._folder.ensure)

    def _check(self, info: BlockInfo, at: float, now: float) -> None:
        name = self._name(info.key)
        self._on_disk(now, lambda: self._writer.note_checked(name, info.etag, at))

    def _on_disk(self, now: float, write: Callable[[], None]) -> None:
        """Run a write; when the disk fails, stop writing for a while and drop what waits."""
        try:
            self._drop_again()
            self._note_hits()
            self._folder.ensure()
            try:
                write()
            except FileNotFoundError:  # the folder was removed
                self._folder.prepare()
                write()
        except (OSError, ConfigError, MemoryError) as error:
            if isinstance(error, OSError):
                pass_on_foreign(error)
            self._off_until = now + RETRY_AFTER
            self._dropped += 1 + self._queue.clear()
            self._warn(now, error)
        else:
            trouble, self._trouble = self._trouble, None
            if trouble is not None:
                self._warn(now, trouble)

    def _warn(self, now: float, error: Exception) -> None:
        """Log a disk failure, once a minute."""
        if now >= self._warn_at:
            self._warn_at = now + _WARN_EVERY
            _log.warning("the disk cache in %s is passed by: %s", self._folder.root, error)


def _most_kept(descriptors: int) -> int:
    """How many entries to keep open in a process with so many descriptors."""
    return KEPT if descriptors == resource.RLIM_INFINITY else max(1, min(KEPT, descriptors // 8))
