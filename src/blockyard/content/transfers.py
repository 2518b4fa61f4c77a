"""What transfers share: progress, errors of local files, and what a failed one takes back."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from blockyard.context import Context
from blockyard.errors import BlockStoreError, LocalStorageError
from blockyard.user_code import pass_on_foreign

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


TIDY_SECONDS = 30.0
"""How long a call that failed or was interrupted may take to remove what it wrote."""
_PAST_DEADLINE = 0.8
"""Seconds past the call's own deadline in which it may still do that."""


async def tidy_up(
    ctx: Context,
    error: BaseException,
    undo: Callable[[Context], Coroutine[Any, Any, object]],
    may_be_left: str,
) -> None:
    """After `error`, take back what a call wrote; what could not be is said in a note on it."""
    left = [may_be_left]
    now, seconds = ctx.runtime.now(), TIDY_SECONDS
    if ctx.deadline is not None:
        seconds = min(seconds, max(ctx.deadline - now, 0) + _PAST_DEADLINE)

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
        for note in left:
            error.add_note(note)


@contextmanager
def local_errors(operation: str, path: str) -> Generator[None]:
    """Give an `OSError` on the file at `path` its place in the error tree."""
    try:
        yield
    except BlockStoreError:  # a deadline, which is a TimeoutError too
        raise
    except OSError as error:
        pass_on_foreign(error)
        raise LocalStorageError(f"{operation}: {path!r}: {error.strerror or error}") from error
