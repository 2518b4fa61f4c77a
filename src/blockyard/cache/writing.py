"""How entries of the disk cache are made, completed and removed. Raises `OSError`."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from blockyard import syscalls
from blockyard.cache import entry
from blockyard.cache.budget import Budget, Usage
from blockyard.cache.entry import HEAD, MUTABLE_AT, PRESENT, Head, Marks
from blockyard.cache.folder import SHARDS, Descriptor, Folder, allocated
from blockyard.cache.tier import Pages

_LARGEST = 4
"""An entry may have one part in so many of the budget."""
_ALIGNED = 4096
_METADATA = 16_384
"""Bytes that a new entry may take besides: its folder's, and the map of a file with holes."""
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class EntryWriter:
    """Writes entries; `filled` and `dropped` count the fills that were, and were not, put in."""

    def __init__(self, folder: Folder, budget: Budget) -> None:
        self.filled = 0
        self.dropped = 0
        self._folder = folder
        self._budget = budget

    def put(self, head: Head, pages: Pages) -> None:
        """Add pages to their entry, which is made or replaced if need be.

        Unless the key was changed meanwhile, or the entry is of a version that was seen later.
        """
        text = entry.encode_head(head)
        if text is None or (head.sums and pages.sums and pages.sums.page_size != head.page_size):
            self.dropped += 1
            return
        with self._budget.locked() as usage:
            if self._is_current(head) and (
                self._complete(usage, head, pages) or self._make(usage, text, head, pages)
            ):
                self.filled += 1
            else:
                self.dropped += 1

    def note_checked(self, name: bytes, etag: str, at: float) -> None:
        """Note in the entry that the store still held its version at that time."""
        opened = self._opened(name)
        if opened is not None:
            file, head, marks = opened
            if head.info.etag == etag and marks.checked_at < at:
                self._write_checked(file.number, at)

    def remove(self, name: bytes) -> None:
        """Remove an entry, if it is there."""
        if self._folder.remove(self._folder.path(name)):
            self._budget.recount(name[0])

    def remove_all(self) -> None:
        """Remove every entry, of whichever store."""
        with self._budget.locked() as usage:
            for path in self._folder.entries():
                _ = self._folder.remove(path)
            for shard in range(SHARDS):
                _ = usage.recount(shard)

    def _complete(self, usage: Usage, head: Head, pages: Pages) -> bool:
        """Add missing pages to an entry of the same version; False if a new entry is needed."""
        opened = self._opened(head.name)
        if opened is None:
            return False
        file, its_head, marks = opened
        if not marks.settled and its_head.epoch != head.epoch:
            return False
        if not its_head.same_version(head):
            return marks.checked_at >= pages.checked_at
        if self._add(usage, file.number, head, pages, marks):
            if marks.checked_at < pages.checked_at:
                self._write_checked(file.number, pages.checked_at)
            return True
        return False

    def _add(self, usage: Usage, file: int, head: Head, pages: Pages, marks: Marks) -> bool:
        """Write missing pages in place; False when the entry was evicted to make room."""
        before = os.fstat(file).st_blocks * 512
        for first, last in _lacking(marks.present, pages):
            begin = first * head.page_size
            data = memoryview(pages.data)[begin - pages.first :][: (last - first) * head.page_size]
            if before + len(data) > self._budget.size // _LARGEST:
                return True
            need = len(data) + 2 * _ALIGNED
            self._budget.make_room(usage, need)
            if os.fstat(file).st_nlink == 0:
                return False
            with usage.reserved(head.name[0], need):
                self._add_run(file, head, data, first)
            after = os.fstat(file).st_blocks * 512
            usage.shards[head.name[0]] += after - before + _ALIGNED  # the map of its places
            before = after
        return True

    def _add_run(self, file: int, head: Head, data: memoryview, first: int) -> None:
        """Write pages from the page `first` on, then mark them."""
        count = -(-len(data) // head.page_size)
        syscalls.write_all_at(file, data, HEAD + first * head.page_size)
        if not head.sums:
            sums = entry.own_sums(data, head.page_size)
            syscalls.write_all_at(file, sums, entry.OWN_SUMS_AT + 4 * first)
        syscalls.write_all_at(file, PRESENT * count, entry.PRESENT_AT + first)

    def _make(self, usage: Usage, text: bytes, head: Head, pages: Pages) -> bool:
        """Make an entry of these pages; False if it is too large, or the key was changed."""
        need = HEAD + len(pages.data) + _METADATA
        if need > self._budget.size // _LARGEST:
            return False
        self._budget.make_room(usage, need)
        temporary = f"{self._folder.temporary}/{os.urandom(8).hex()}"
        with (
            usage.reserved(head.name[0], need),
            Descriptor(os.open(temporary, _NEW, 0o600)) as file,
        ):
            try:
                checked = entry.encode_checked(pages.checked_at, self._folder.boot)
                first = pages.first // head.page_size
                begin = entry.marked(text, head, first, pages.data, checked)
                syscalls.write_all_at(file.number, begin, 0)
                syscalls.write_all_at(file.number, pages.data, HEAD + pages.first)
                os.ftruncate(file.number, HEAD + head.info.size)
                _ = usage.stamp(file.number)
                return self._publish(usage, file.number, temporary, head)
            except BaseException:
                with syscalls.errors_ignored():
                    os.unlink(temporary)
                raise

    def _publish(self, usage: Usage, file: int, temporary: str, head: Head) -> bool:
        """Rename an entry into place, unless the key has another epoch by now."""
        name, path = head.name, self._folder.path(head.name)
        shard = Path(path).parent
        if not shard.exists():
            shard.mkdir(0o700)
            usage.shards[name[0]] += allocated(str(shard))
        if not self._is_current(head):
            os.unlink(temporary)
            return False
        replaces = allocated(path) > 0
        try:
            self._folder.replace(path, temporary)
        except IsADirectoryError:  # none of ours
            os.unlink(temporary)
            return False
        usage.shards[name[0]] += os.fstat(file).st_blocks * 512
        if replaces:
            self._budget.recount(name[0])
        if not self._is_current(head):
            self.remove(name)
            return False
        syscalls.write_all_at(file, entry.SETTLED, entry.SETTLED_AT)
        return True

    def _is_current(self, head: Head) -> bool:
        """Whether the key still has the epoch in the head."""
        epoch = self._folder.epoch(head.name)
        return self._folder.is_there() and epoch == head.epoch

    def _opened(self, name: bytes) -> tuple[Descriptor, Head, Marks] | None:
        """Open the entry for changes; None where there is none that can be used."""
        file = self._folder.open_entry(name, os.O_RDWR)
        if file is None:
            return None
        with suppress(IsADirectoryError):
            data = os.pread(file.number, HEAD, 0)
            head = entry.decode_head(data, name)
            if head is not None:
                marks = entry.decode_marks(data[MUTABLE_AT:], head.pages, self._folder.boot)
                return file, head, marks
        return None

    def _write_checked(self, file: int, at: float) -> None:
        record = entry.encode_checked(at, self._folder.boot)
        syscalls.write_all_at(file, record, entry.CHECKED_AT)


def _lacking(present: bytes, pages: Pages) -> list[tuple[int, int]]:
    """The runs of pages that are given and not present: the first, and the one after the last."""
    page = pages.page_size
    runs = list[tuple[int, int]]()
    for number in range(pages.first // page, -(-pages.end // page)):
        if present[number : number + 1] == PRESENT:
            continue
        if runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs
