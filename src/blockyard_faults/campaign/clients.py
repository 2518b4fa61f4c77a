"""One way to call a store for the campaign's coroutines, whichever client it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from blockyard.aio import AsyncBlockStore
from blockyard.sync import BlockStore
from blockyard_faults.campaign.own import Own

Seek = tuple[int, int]
"""A position to seek to, and how many bytes to read from there."""


class Client(Protocol):
    """Calls a method of an open store under a deadline in seconds.

    The clients have two methods of their own besides: `collected`, all that `iter_content` gives,
    and `sought`, what a file from `open_content` reads after each seek.
    """

    @property
    def lets_go(self) -> bool:
        """Whether a call past its deadline leaves the caller's own code to itself."""
        ...

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        """What the method returns; its errors pass. `own` notes what a client itself raises."""
        ...


class BlockingClient:
    """Calls on the running thread, so that a coroutine over it never suspends."""

    lets_go = False

    def __init__(self, store: BlockStore) -> None:
        self.store = store

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        return self.now(deadline, method, *args, **options)

    def now(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        """As `call`."""
        store = self.store.with_options(deadline=deadline)
        match method:
            case "collected":
                return b"".join(store.iter_content(*args))
            case "sought":
                return _sought(store, *args)
            case _:
                return getattr(store, method)(*args, **options)


class AsyncioClient:
    """Calls on the running event loop."""

    lets_go = True

    def __init__(self, store: AsyncBlockStore) -> None:
        self.store = store

    async def call(self, own: Own, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        store = self.store.with_options(deadline=deadline)
        match method:
            case "collected":
                return b"".join([piece async for piece in store.iter_content(*args)])
            case "sought":
                return await _sought_async(store, *args)
            case _:
                return await getattr(store, method)(*args, **options)


def _sought(store: BlockStore, content_id: str, seeks: Sequence[Seek]) -> list[bytes]:
    with store.open_content(content_id) as file:
        return [file.read(size) for position, size in seeks if file.seek(position) == position]


async def _sought_async(
    store: AsyncBlockStore, content_id: str, seeks: Sequence[Seek]
) -> list[bytes]:
    async with await store.open_content(content_id) as file:
        parts: list[bytes] = []
        for position, size in seeks:
            _ = await file.seek(position)
            parts.append(await file.read(size))
        return parts
