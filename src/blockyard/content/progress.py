"""Telling the caller how far a content operation has come."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from blockyard.context import Context

Progress: TypeAlias = Callable[[int], None]
"""Called with the bytes done so far, after each block: on the thread that made the call, or on the
event loop of an asyncio store, in one copy of the context that the call was made in."""


class Tally:
    """Counts bytes done."""

    def __init__(self, ctx: Context, progress: Progress | None) -> None:
        self.done = 0
        self._progress = progress
        self._user = ctx.user_code(quick=True)

    async def add(self, size: int) -> None:
        """Count `size` more bytes and tell the caller."""
        self.done += size
        if self._progress is not None:
            await self._user.run(partial(self._progress, self.done))
