"""One timer for all exchanges of an event loop.

A timer for each exchange would cost more than the rest of its bookkeeping. Almost all end long
before their time, so one timer, set to the earliest end, looks after them all.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Protocol


class Watched(Protocol):
    """What the watchdog watches."""

    def expire(self, now: float) -> float:
        """End itself if its time has come; else say when it will have."""
        ...


class Watchdog:
    """Ends exchanges that have waited too long."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def watch(self, watched: Watched, ends: float) -> None:
        """Look after `watched`, whose time comes at `ends` (monotonic) at the earliest."""
        self._watched.add(watched)
        if ends < self._due:
            self._set(ends)

    def unwatch(self, watched: Watched) -> None:
        """Its exchange is over."""
        self._watched.discard(watched)

    def stop(self) -> None:
        """Look after nothing any more."""
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due = math.inf

    def _look(self) -> None:
        self._timer = None
        self._due = math.inf
        now = time.monotonic()
        ends = min((each.expire(now) for each in list(self._watched)), default=math.inf)
        if ends < math.inf:
            self._set(max(ends, now))

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(max(due - time.monotonic(), 0), self._look)
