"""Telling the caller how far a content operation has come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from blockyard.context import Context

Progress: TypeAlias = Callable[[int], None]
"""Called with the bytes done so far, after each block: on the thread that made the call, or on the
event loop of an asyncio store."""


class Tally:
    """Counts bytes done."""

    def __init__(self, progress: Progress | None) -> None:
        self.done = 0
        self._progress = progress

    async def add(self, ctx: Context, size: int) -> None:
        """Count `size` more bytes and tell the caller."""
        self.done += size
        if self._progress is not None:
            tell = partial(self._progress, self.done)
            await ctx.runtime.user(tell, deadline=ctx.deadline, quick=True)
