"""Moving a stream in order: while one batch is passed on, the next is fetched."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from blockyard.context import Context

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
