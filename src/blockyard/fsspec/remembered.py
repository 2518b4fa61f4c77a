"""What is known of paths for a few seconds, so that libraries which ask again cost no request."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Any

from blockyard.transport.clock import monotonic

_MOST = 10_000
"""Paths; those that were learnt first are forgotten."""


class Remembered:
    """What `info` said of paths, each for `seconds`. Shared by threads, without a lock.

    Only what is there is remembered. What was asked for before a write ended is not, since it may
    be of the time before it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[str, tuple[float, dict[str, Any]]] = {}
        self._changes = 0

    @property
    def state(self) -> int:
        """What `keep` is to be given: as it was before the store was asked."""
        return self._changes

    def get(self, path: str) -> dict[str, Any] | None:
        """What is known of a path: a copy."""
        kept = self._known.get(path)
        if kept is None or monotonic() >= kept[0]:
            return None
        return dict(kept[1])

    def keep(self, infos: Iterable[dict[str, Any]], state: int) -> None:
        """Remember what the store said, unless something was written since `state`."""
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
        """Forget a path, and the folders that it lies in, which may be gone with it."""
        self._changes += 1
        while path:
            _ = self._known.pop(path, None)
            path = path.rpartition("/")[0]

    def forget_below(self, path: str) -> None:
        """Forget a path and all below it, all of them for an empty one."""
        self.forget(path)
        below = f"{path}/" if path else ""
        for known in list(self._known):
            if known.startswith(below):
                _ = self._known.pop(known, None)
