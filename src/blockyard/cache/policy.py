"""Which entries a cache in memory keeps: S3-FIFO over bytes, bookkeeping only.

New entries are on probation in a small first-in-first-out queue; those that were hit there move to
the main queue, the others leave, and only their keys are remembered for a while: an entry that
comes back meanwhile goes to the main queue at once. The head of the main queue goes round again
where it was hit, or else leaves. A hit changes nothing but a counter of the entry, and a long scan
leaves what is in use where it is. One caller at a time.
https://dl.acm.org/doi/10.1145/3600006.3613147
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

PROBATION = 0.2
"""The part of the budget for entries that were not hit since they came."""
MOST_HITS = 1
"""How many hits an entry of the main queue is remembered for, each a further round.

The paper has 3, by which what was read often stays for too long once it is not any more.
"""
_KEYS_OF_ENTRIES = 2
"""One key of those that left is remembered for so many entries.

As many as there are entries let in what comes back after so long that it will leave again.
`python -m bench.policy` shows what both do.
"""


class Evictable(Protocol):
    """What is kept; `hits` is raised by whoever finds it, `charged` is the policy's own."""

    key: str
    hits: int
    charged: int

    @property
    def cost(self) -> int:
        """The bytes that it holds."""
        ...


Entry = TypeVar("Entry", bound=Evictable)


class S3Fifo(Generic[Entry]):
    """The entries of a cache of `budget` bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._probation: OrderedDict[str, Entry] = OrderedDict()
        self._main: OrderedDict[str, Entry] = OrderedDict()
        self._ghosts: OrderedDict[str, None] = OrderedDict()
        self._on_probation = 0
        self._in_main = 0

    def __len__(self) -> int:
        return len(self._probation) + len(self._main)

    @property
    def used(self) -> int:
        """The bytes that the entries hold."""
        return self._on_probation + self._in_main

    def keep(self, entry: Entry) -> Iterator[Entry]:
        """Take the entry in, in place of one with its key, or with what it has grown by.

        Gives those that leave; it may be one of them.
        """
        proven = entry.key in self._main or entry.key in self._ghosts
        self.remove(entry.key)
        entry.charged = entry.cost
        if entry.charged > self._budget:
            return iter((entry,))
        if proven:
            self._main[entry.key] = entry
            self._in_main += entry.charged
        else:
            self._probation[entry.key] = entry
            self._on_probation += entry.charged
        return self._evicted()

    def remove(self, key: str) -> None:
        """Forget the entry with that key, if there is one."""
        _ = self._ghosts.pop(key, None)
        entry = self._probation.pop(key, None)
        if entry is not None:
            self._on_probation -= entry.charged
            return
        entry = self._main.pop(key, None)
        if entry is not None:
            self._in_main -= entry.charged

    def _evicted(self) -> Iterator[Entry]:
        while self.used > self._budget:
            if self._on_probation > self._budget * PROBATION or not self._main:
                key, entry = self._probation.popitem(last=False)
                self._on_probation -= entry.charged
                if entry.hits:
                    entry.hits = 0
                    self._main[key] = entry
                    self._in_main += entry.charged
                else:
                    self._remember(key)
                    yield entry
            else:
                key, entry = self._main.popitem(last=False)
                if entry.hits:
                    entry.hits -= 1
                    self._main[key] = entry
                else:
                    self._in_main -= entry.charged
                    yield entry

    def _remember(self, key: str) -> None:
        self._ghosts[key] = None
        while len(self._ghosts) > max(len(self) // _KEYS_OF_ENTRIES, 1):
            _ = self._ghosts.popitem(last=False)
