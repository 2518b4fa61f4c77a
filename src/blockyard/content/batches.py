"""Moving a stream in order: while one batch is passed on, the next is fetched."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from blockyard.context import Context

Item = TypeVar("Item")


def batch_sizes(largest: int) -> Iterator[int]:
    """1, 2, 4 ... `largest`: starting small brings the first bytes soon."""
    size = 1
    while True:
        yield size
        size = max(1, min(2 * size, largest))


async def overlapped(
    ctx: Context,
    at_once: int,
    produce: Callable[[int], Coroutine[Any, Any, list[Item]]],
    consume: Callable[[list[Item]], Coroutine[Any, Any, None]],
) -> None:
    """Consume each batch while the next is produced, until `produce(size)` gives an empty one.

    Both hold `at_once` items at most, or one each.
    """
    sizes = batch_sizes(at_once // 2)
    batch = await produce(next(sizes))
    while batch:
        batch = await _consume_and_produce(ctx, consume, batch, produce, next(sizes))


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
