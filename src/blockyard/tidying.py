"""What a call leaves is taken back: also when it failed, past its deadline, and when cancelled."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from blockyard.context import Context
from blockyard.errors import BlockStoreError

TIDY_SECONDS = 30.0
"""How long a call that failed or was interrupted may take to remove what it wrote."""
_PAST_DEADLINE = 0.8
"""Seconds past the call's own deadline in which it may still do that, in all of its steps; past the
first of them where that could begin only later, as on an event loop that was held up."""


async def tidy_up(
    ctx: Context,
    error: BaseException | None,
    undo: Callable[[Context], Coroutine[Any, Any, object]],
    may_be_left: str,
) -> str:
    """Take back what a call wrote; after `error`, what could not be is said in a note on it.

    Returns what `may_be_left`, and why, "" for nothing.
    """
    left = [may_be_left]
    now, seconds = ctx.runtime.now(), TIDY_SECONDS
    if ctx.deadline is not None:
        ends = ctx.deadline if ctx.tidying else _end(ctx, ctx.deadline, now)
        seconds = min(seconds, max(ends - now, 0))

    async def tidy() -> None:
        own = replace(ctx, deadline=now + seconds, tidying=True)
        try:
            _ = await undo(own)
        except BlockStoreError as failure:
            left[0] += f": {failure}"
        else:
            left.clear()

    try:
        await ctx.runtime.finish(tidy(), seconds)
    except BaseException as again:  # cut off once more: this is raised in its place
        error = again
        raise
    finally:
        if error is not None:
            for note in left:
                error.add_note(note)
    return "".join(left)


def _end(ctx: Context, deadline: float, now: float) -> float:
    """When a call with that deadline has to have tidied up."""
    if ctx.late[0] < deadline <= now:  # not what began past an earlier deadline, of one step
        ctx.late[0] = now
    return max(deadline, ctx.late[0]) + _PAST_DEADLINE
