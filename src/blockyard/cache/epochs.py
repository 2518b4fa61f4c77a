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
_GROUPS = 1 << 10
"""Changes are kept by groups of slots: a read looks at those of one alone, however many others are
under way, or in doubt in an outage."""


class Change:
    """A change of some keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self.slots = frozenset(hash(key) & _MASK for key in keys)
        self.groups = frozenset(slot % _GROUPS for slot in self.slots)
        self.process = os.getpid()


class Epochs:
    """The epochs of all keys, and the changes that are under way or in doubt."""

    def __init__(self) -> None:
        self._epochs: list[object] = [self] * _SLOTS
        self._changes: list[dict[Change, float]] = [{} for _ in range(_GROUPS)]
        """By group, changes under way (inf) or in doubt, and until when."""
        self._process = os.getpid()

    def of(self, key: str) -> object:
        """The current epoch of the key."""
        return self._epochs[hash(key) & _MASK]

    def replace(self, key: str) -> None:
        """Give the key a new epoch."""
        self._epochs[hash(key) & _MASK] = object()

    def begin(self, change: Change) -> None:
        """Note a change as under way."""
        for group in change.groups:
            self._changes[group][change] = math.inf

    def end(self, change: Change, now: float, *, known: bool) -> None:
        """Note the end of a change, which is in doubt for a while unless its outcome is `known`."""
        for group in change.groups:
            changes = self._changes[group]
            if known:
                _ = changes.pop(change, None)
            else:
                changes[change] = now + SETTLE_SECONDS
                _forget_settled(changes, now)

    def is_changing(self, key: str, now: float) -> bool:
        """Whether a change of the key is under way or in doubt."""
        slot = hash(key) & _MASK
        changes = self._changes[slot % _GROUPS]
        if not changes:
            return False
        if self._process != os.getpid():  # nobody ends those of the parent process here
            self._process = os.getpid()
            for each in self._changes:
                for change, until in list(each.items()):
                    if change.process != self._process:
                        each[change] = min(until, now + SETTLE_SECONDS)
        _forget_settled(changes, now)
        return any(slot in change.slots for change in list(changes))


def _forget_settled(changes: dict[Change, float], now: float) -> None:
    for change, until in list(changes.items()):
        if until < now:
            _ = changes.pop(change, None)
