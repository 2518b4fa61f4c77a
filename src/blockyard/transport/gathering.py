"""Many operations at once under asyncio: one task a place, each taking the next item.

The items of an iterable of the caller's own are drawn where the caller's code runs, only as places
become free, and each begins as soon as it is drawn: the next one may be long in coming, or come
only when this one is done.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sized
from typing import Any, Generic, TypeVar

from blockyard.context import UserItems
from blockyard.transport.stepping import OnCallingThread
from blockyard.transport.tasks import all_done
from blockyard.user_code import UserIterator

Item = TypeVar("Item")
Result = TypeVar("Result")

Tell = Callable[[Callable[[], object]], object]
"""From the thread that draws: has the loop call a function."""

_END: Any = object()


async def gather(
    operation: Callable[[Item], Coroutine[Any, Any, Result]],
    items: Iterable[Item],
    concurrency: int,
) -> list[Result]:
    """See `Runtime.gather`; the items are none of the caller's own."""
    results: list[Any] = []
    numbered = enumerate(items)

    async def work() -> None:
        for index, item in numbered:
            results.append(None)
            results[index] = await operation(item)

    places = min(concurrency, len(items)) if isinstance(items, Sized) else concurrency
    await all_done([work() for _ in range(places)])
    return results


async def gather_awaited(
    operation: Callable[[Item], Coroutine[Any, Any, Result]],
    items: AsyncIterator[Item],
    concurrency: int,
) -> list[Result]:
    """See `Runtime.gather`; one place at a time waits for its next item."""
    results: list[Any] = []
    turn = asyncio.Lock()

    async def work() -> None:
        while True:
            async with turn:
                item = await anext(items, _END)
                if item is _END:
                    return
                index = len(results)
                results.append(None)
            results[index] = await operation(item)
            del item  # which the next one may need the memory of

    await all_done([work() for _ in range(concurrency)])
    return results


class InTurn(Generic[Item, Result]):
    """An operation on items, of which those with one key go one after the other, as they came.

    What fails lets none of those after it begin: the call is to end.
    """

    def __init__(
        self,
        operation: Callable[[Item], Coroutine[Any, Any, Result]],
        key: Callable[[Item], str],
    ) -> None:
        self._operation = operation
        self._key = key
        self._last: dict[str, asyncio.Future[None]] = {}

    async def __call__(self, item: Item) -> Result:
        key = self._key(item)
        before = self._last.get(key)
        done = self._last[key] = asyncio.get_running_loop().create_future()
        if before is not None:
            await before
        result = await self._operation(item)
        done.set_result(None)
        if self._last[key] is done:
            del self._last[key]
        return result


async def gather_drawn(
    operation: Callable[[Item], Coroutine[Any, Any, Result]],
    given: UserItems[Item],
    items: UserIterator[Item],
    concurrency: int,
    thread: OnCallingThread,
) -> list[Result]:
    """See `Runtime.gather`; the items are the caller's own, and drawn on `thread`."""
    results: list[Any] = []
    feed = _Feed(given, items, thread.tell)

    async def work() -> None:
        while (numbered := await feed.take()) is not None:
            index, size, item = numbered
            del numbered
            result = await operation(item)
            del item  # which the next one may need the memory of
            feed.done(size)
            while len(results) <= index:
                results.append(None)
            results[index] = result

    async def draw_all() -> None:
        while await feed.is_to_draw() and await thread.run(feed.draw):
            pass

    async def draw() -> None:
        try:
            await draw_all()
        finally:
            feed.end()

    await all_done([draw(), *(work() for _ in range(concurrency))])
    return results


class _Feed(Generic[Item]):
    """Items on their way from the thread that draws them to the tasks that ask for one.

    `draw` is for that thread, the rest for the loop. One item is drawn for each that is asked for,
    as long as those under way do not hold too much memory.
    """

    def __init__(self, given: UserItems[Item], items: UserIterator[Item], tell: Tell) -> None:
        self._items = items
        self._size = given.size
        self._in_flight = given.in_flight
        self._bytes_drawn = 0  # changed by the thread that draws
        self._bytes_done = 0  # changed by the loop
        self._tell = tell
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._asked: deque[None] = deque()
        self._asking = asyncio.Event()
        self._drawn: deque[tuple[int, int, Item]] = deque()
        self._waiting: deque[asyncio.Future[tuple[int, int, Item] | None]] = deque()
        self._ended = False
        self._told = False

    async def take(self) -> tuple[int, int, Item] | None:
        """Number and size of the next item, and the item; None when there is none any more."""
        if self._ended:
            return None
        place: asyncio.Future[tuple[int, int, Item] | None] = self._loop.create_future()
        self._waiting.append(place)
        self._asked.append(None)
        self._asking.set()
        return await place

    async def is_to_draw(self) -> bool:
        """Wait until an item is asked for, and those under way leave room for it."""
        while not self._asked or not self._has_room():
            self._asking.clear()
            _ = await self._asking.wait()
        return True

    def done(self, size: int) -> None:
        """An item of that size is no longer under way."""
        self._bytes_done += size
        self._asking.set()

    def _has_room(self) -> bool:
        return self._bytes_drawn - self._bytes_done < self._in_flight

    def end(self) -> None:
        """No more is drawn: tell those who wait for an item."""
        self._deliver()
        self._ended = True
        self._asked.clear()
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)

    def draw(self) -> bool:
        """Draw as many items as are asked for and have room; False when there are no more."""
        while self._asked and self._has_room():
            item = self._items.next(_END)
            if item is _END:
                return False
            size = self._size(item)
            self._bytes_drawn += size
            self._drawn.append((self._count, size, item))
            del item
            self._count += 1
            try:
                _ = self._asked.popleft()
            except IndexError:  # the call has ended meanwhile
                return False
            if not self._told:
                self._told = True
                _ = self._tell(self._deliver)
        return True

    def _deliver(self) -> None:
        self._told = False
        while self._drawn and self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(self._drawn.popleft())
