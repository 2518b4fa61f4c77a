"""Cleanup after a call that failed, was cancelled, or passed its deadline: undo what it wrote."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from blockyard.context import Context
from blockyard.errors import BlockStoreError

TIDY_SECONDS = 30.0
"""The time limit for the cleanup of a call that failed or was interrupted."""
_PAST_DEADLINE = 0.8
"""Seconds past its deadline that all cleanup of a call may take together. They count from the first
cleanup, where that could begin only later, as on an event loop that was held up."""


async def tidy_up(
    ctx: Context,
    error: BaseException | None,
    undo: Callable[[Context], Coroutine[Any, Any, object]],
    may_be_left: str,
) -> str:
    """Undo what a call wrote; if that fails too, say so in a note on `error`.

    Returns the text `may_be_left` and the reason, or "" when nothing is left.
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
    except BaseException as again:  # cancelled again: this error is raised in its place
        error = again
        raise
    finally:
        if error is not None:
            for note in left:
                error.add_note(note)
    return "".join(left)


def _end(ctx: Context, deadline: float, now: float) -> float:
    """The time by which a call with this deadline has to have tidied up."""
    if ctx.late[0] < deadline <= now:  # not the cleanup of a step with a deadline of its own
        ctx.late[0] = now
    return max(deadline, ctx.late[0]) + _PAST_DEADLINE
