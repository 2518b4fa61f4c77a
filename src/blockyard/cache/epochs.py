"""Epochs of keys within a process: what was read before a change is not given out after it.

Keys share them by their hash. No lock is taken: each step is one of a list's or a dictionary's, so
that a signal handler may come between any two.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

from blockyard.cache.doubt import SETTLE_SECONDS

_SLOTS = 1 << 16
_MASK = _SLOTS - 1


class Change:
    """A change of these keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.slots = frozenset(hash(key) & _MASK for key in keys)


class Epochs:
    """The epochs of all keys, and the changes that are under way or in doubt."""

    def __init__(self) -> None:
        self._epochs: list[object] = [self] * _SLOTS
        self._changes: dict[Change, float] = {}
        """Until when each is under way, or in doubt."""
        self._process = os.getpid()

    def of(self, key: str) -> object:
        """The key's epoch by now."""
        return self._epochs[hash(key) & _MASK]

    def replace(self, key: str) -> None:
        """From now on the key has another one."""
        self._epochs[hash(key) & _MASK] = object()

    def begin(self, change: Change) -> None:
        """It is under way."""
        self._changes[change] = math.inf

    def end(self, change: Change, now: float, *, known: bool) -> None:
        """It is over; where its outcome is not `known` it is in doubt for `SETTLE_SECONDS`."""
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
