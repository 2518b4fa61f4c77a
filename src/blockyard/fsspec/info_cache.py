"""A cache of `info` results for a few seconds, since libraries ask for a path repeatedly."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

from blockyard.transport.clock import monotonic

_MOST = 10_000
"""Most paths kept; the oldest are dropped."""


class InfoCache:
    """The results of `info` by path, each kept for `seconds`. Shared by threads, without a lock.

    Only existing paths are kept, and no result of a request that began before a write ended.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._changes = 0

    @property
    def state(self) -> int:
        """A token to note before asking the store, for `keep`."""
        return self._changes

    def get(self, path: str) -> dict[str, Any] | None:
        """A copy of what is kept of a path."""
        kept = self._known.get(path)
        if kept is None or monotonic() >= kept[0]:
            return None
        return dict(kept[1])

    def keep(self, infos: Iterable[dict[str, Any]], state: int) -> None:
        """Keep results of the store, unless something was written since `state` was noted."""
        if state != self._changes or self._seconds <= 0:
            return
        until = monotonic() + self._seconds
        for info in infos:
            _ = self._known.pop(info["name"], None)  # to be the latest
            self._known[info["name"]] = until, dict(info)
        surplus = len(self._known) - _MOST
        if surplus > 0:
            with suppress(RuntimeError):  # changed by another thread meanwhile: the next call does
                for path in list(islice(self._known, surplus)):
                    _ = self._known.pop(path, None)

    def forget(self, path: str) -> None:
        """Drop a path and the folders above it, which may have vanished with it."""
        self._changes += 1
        while path:
            _ = self._known.pop(path, None)
            path = path.rpartition("/")[0]

    def forget_below(self, path: str) -> None:
        """Drop a path and everything below it; for an empty path, everything."""
        self.forget(path)
        below = f"{path}/" if path else ""
        for known in list(self._known):
            if known.startswith(below):
                _ = self._known.pop(known, None)
