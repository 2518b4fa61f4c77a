"""Telling the caller how far a content operation has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int], None]
"""Called with the bytes done so far, after each block, on the thread that does the work."""


class Tally:
    """Counts bytes done."""

    def __init__(self, progress: Progress | None) -> None:
        self.done = 0
        self._progress = progress

    def add(self, size: int) -> None:
        """Count `size` more bytes and tell the caller."""
        self.done += size
        if self._progress is not None:
            self._progress(self.done)
