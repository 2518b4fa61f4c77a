"""The iterators of both clients: a position in what is fetched page by page.

A generator that has raised is at its end, so that one failed step would read as the end of the
listing or the content. These keep their position, which only a page that came whole moves on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from blockyard.context import Context

Item = TypeVar("Item")

_TWO_AT_ONCE = "another step of this iterator is under way"


@dataclass(frozen=True, slots=True)
class Fetched(Generic[Item]):
    """The items of a page, and what fetches the page after it: None after the last one."""

    items: Sequence[Item]
    following: Callable[[Context], Coroutine[Any, Any, Fetched[Item]]] | None


Fetch: TypeAlias = Callable[[Context], Coroutine[Any, Any, Fetched[Item]]]


class _Position(Generic[Item]):
    """The items that were fetched and not yet given out, and what fetches the next."""

    def __init__(self, fetch: Fetch[Item]) -> None:
        self._ready: deque[Item] = deque()
        self._following: Fetch[Item] | None = fetch
        self._fetching = False

    def _move(self, to: Fetched[Item]) -> None:
        if self._following is not None:  # closed meanwhile
            self._ready, self._following = deque(to.items), to.following

    def _close(self) -> None:
        self._following = None
        self._ready.clear()


class PageIterator(_Position[Item], Iterator[Item]):
    """What `iter_blocks`, `iter_content` and `iter_object` of a `BlockStore` return.

    A step that raises leaves the iterator where it was: the next one tries the same page again, so
    that `StopIteration` always means that all was given out, or that `close` was called. One step
    at a time: `RuntimeError` tells of two at once. Nothing is held that an end would have to free:
    it may be dropped anywhere.
    """

    def __init__(
        self,
        fetch: Fetch[Item],
        run: Callable[[Fetch[Item]], Fetched[Item]],
        stop: Callable[[], None] | None = None,
    ) -> None:
        """`stop` ends what is fetched ahead."""
        super().__init__(fetch)
        self._run = run
        self._stop = stop

    def __next__(self) -> Item:
        while not self._ready:
            if self._following is None:
                raise StopIteration
            if self._fetching:
                raise RuntimeError(_TWO_AT_ONCE)
            self._fetching = True
            try:
                self._move(self._run(self._following))
            finally:
                self._fetching = False
        return self._ready.popleft()

    def close(self) -> None:
        """End the iteration here, and let go of what was fetched."""
        self._close()
        if self._stop is not None:
            self._stop()


class AsyncPageIterator(_Position[Item], AsyncIterator[Item]):
    """What the same methods of an `AsyncBlockStore` return: see `PageIterator`.

    A step that is cancelled, as by `asyncio.wait_for`, leaves it where it was, too.
    """

    def __init__(
        self,
        fetch: Fetch[Item],
        context: Callable[[], Context],
        end: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> None:
        """`end` ends what is fetched ahead."""
        super().__init__(fetch)
        self._context = context
        self._end = end

    async def __anext__(self) -> Item:
        while not self._ready:
            if self._following is None:
                raise StopAsyncIteration
            if self._fetching:
                raise RuntimeError(_TWO_AT_ONCE)
            self._fetching = True
            try:
                self._move(await self._following(self._context()))
            finally:
                self._fetching = False
        return self._ready.popleft()

    async def aclose(self) -> None:
        """End the iteration here, and let go of what was fetched."""
        self._close()
        if self._end is not None:
            await self._end()
