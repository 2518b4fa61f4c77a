"""One timer for all exchanges of an event loop.

A timer for each exchange would cost more than the rest of its bookkeeping. Almost all end long
before their time, so one timer, set to the earliest end, looks after them all.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from blockyard.transport.clock import monotonic

_SOON = 1.0
"""Seconds until the next look when one came to grief."""


class Watched(Protocol):
    """What the watchdog watches."""

    def expire(self, now: float) -> float:
        """End itself if its time has come; else say when it will have."""
        ...

    def fail(self, error: BaseException) -> None:
        """End itself with `error`, which `expire` raised."""
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
        now = monotonic()
        ends = now + _SOON
        try:
            ends = min((_expire(each, now) for each in list(self._watched)), default=math.inf)
        finally:  # out of memory or not: the others are still looked after
            if ends < math.inf:
                self._set(max(ends, now))

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_later(max(due - monotonic(), 0), self._look)


def _expire(watched: Watched, now: float) -> float:
    try:
        return watched.expire(now)
    except Exception as error:  # noqa: BLE001 - what is watched raises it
        watched.fail(error)
        return math.inf
