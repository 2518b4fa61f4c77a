"""What transfers of contents share: overlapping batches, progress, errors of local files."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias, TypeVar

from blockyard.context import Context
from blockyard.errors import BlockStoreError, LocalStorageError
from blockyard.user_code import pass_on_foreign

Item = TypeVar("Item")


def larger_batch(size: int, largest: int) -> int:
    """The size of the batch after one of `size`: starting with 1 brings the first bytes soon."""
    return max(1, min(2 * size, largest))


async def overlapped(
    ctx: Context,
    at_once: int,
    produce: Callable[[int], Coroutine[Any, Any, list[Item]]],
    consume: Callable[[list[Item]], Coroutine[Any, Any, None]],
) -> None:
    """Consume each batch while the next is produced, until `produce(size)` gives an empty one.

    Both hold `at_once` items at most, or one each.
    """
    size = 1
    batch = await produce(size)
    while batch:
        size = larger_batch(size, at_once // 2)
        batch = await _consume_and_produce(ctx, consume, batch, produce, size)


async def _consume_and_produce(
    ctx: Context,
    consume: Callable[[list[Item]], Coroutine[Any, Any, None]],
    batch: list[Item],
    produce: Callable[[int], Coroutine[Any, Any, list[Item]]],
    size: int,
) -> list[Item]:
    async def take_part(consuming: bool) -> list[Item]:
        if not consuming:
            return await produce(size)
        await consume(batch)
        return []

    _, following = await ctx.runtime.gather(take_part, (True, False), 2)
    return following


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
