"""Epochs of keys within a process: nothing that was read before a change is served after it.

Keys share epochs by hash. No lock is taken: each step is one operation of a list or dictionary, so
a signal handler may run between any two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from blockyard.cache.in_doubt import SETTLE_SECONDS

_SLOTS = 1 << 16
_MASK = _SLOTS - 1


class Change:
    """A change of some keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.slots = frozenset(hash(key) & _MASK for key in keys)


class Epochs:
    """The epochs of all keys, and the changes that are under way or in doubt."""

    def __init__(self) -> None:
        self._epochs: list[object] = [self] * _SLOTS
        self._changes: dict[Change, float] = {}
        """Changes under way (inf) or in doubt, and until when."""
        self._process = os.getpid()

    def of(self, key: str) -> object:
        """The current epoch of the key."""
        return self._epochs[hash(key) & _MASK]

    def replace(self, key: str) -> None:
        """Give the key a new epoch."""
        self._epochs[hash(key) & _MASK] = object()

    def begin(self, change: Change) -> None:
        """Note a change as under way."""
        self._changes[change] = math.inf

    def end(self, change: Change, now: float, *, known: bool) -> None:
        """Note the end of a change, which is in doubt for a while unless its outcome is `known`."""
        if known:
            _ = self._changes.pop(change, None)
        else:
            self._changes[change] = now + SETTLE_SECONDS

    def is_changing(self, key: str, now: float) -> bool:
        """Whether a change of the key is under way or in doubt."""
        if not self._changes:
            return False
        slot = hash(key) & _MASK
        if self._process != os.getpid():  # nobody ends those of the parent process here
            self._process = os.getpid()
            for change, until in list(self._changes.items()):
                self._changes[change] = min(until, now + SETTLE_SECONDS)
        for change, until in list(self._changes.items()):
            if until < now:
                _ = self._changes.pop(change, None)
            elif slot in change.slots:
                return True
        return False
