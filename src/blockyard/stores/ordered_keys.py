"""The keys of a dictionary in order, for one that is written and listed in turns.

What was written since the last look is put in its place, and all are sorted only now and then. No
lock: a look and what is written meanwhile share a log of keys, and each state is put in place of
the one that it was made from, or not at all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection
from typing import NamedTuple

from blockyard import atomic_dict

_SPARE = 1000
"""Deleted keys that the list may hold beyond as many as there are; as many may be in the log."""
_FEW = 64
"""Keys that are inserted one by one; more of them are sorted, together with those in order."""


class _State(NamedTuple):
    """In order, every key that there was when the log `added` had `seen` keys, and perhaps more.

    None where they are to be sorted.
    """

    added: list[str]
    seen: int
    ordered: list[str] | None


class OrderedKeys:
    """The `keys` of a dictionary in the order of code points, which is that of UTF-8 bytes too."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys
        self._state: dict[str, _State] = {"": _State([], 0, [])}

    def note(self, key: str) -> None:
        """The key was put there, which it has to be by now."""
        state = self._state[""]
        state.added.append(key)
        if len(state.added) > 2 * len(self._keys) + _SPARE:  # nobody lists
            _ = atomic_dict.replace(self._state, "", state, _State([], 0, None))

    def all(self) -> list[str]:
        """Every key, not to be changed. Some may have been deleted, so that a walk which deletes as
        it goes need not sort again."""
        while True:
            state = self._state[""]
            ordered, seen = state.ordered, len(state.added)
            if ordered is None or len(ordered) > 2 * len(self._keys) + _SPARE:
                begun = _State([], 0, None)  # before the keys are looked at: for what comes then
                if atomic_dict.replace(self._state, "", state, begun):
                    ordered = sorted(self._keys)
                    _ = atomic_dict.replace(self._state, "", begun, begun._replace(ordered=ordered))
                    return ordered
            else:
                if seen > state.seen:
                    ordered = _with(ordered, state.added[state.seen : seen])
                    _ = atomic_dict.replace(
                        self._state, "", state, _State(state.added, seen, ordered)
                    )
                return ordered


def _with(ordered: list[str], added: list[str]) -> list[str]:
    """The keys in order and others, each once."""
    missing = {key for key in added if not _holds(ordered, key)}
    if len(missing) > _FEW:
        return sorted([*ordered, *sorted(missing)])  # two runs, which are merged
    if missing:
        ordered = ordered.copy()
    for key in missing:
        insort(ordered, key)
    return ordered


def _holds(ordered: list[str], key: str) -> bool:
    place = bisect_left(ordered, key)
    return place < len(ordered) and ordered[place] == key
