"""One way to call a store for the campaign's coroutines, whichever face it has."""

from __future__ import annotations

from typing import Any, Protocol

from blockyard.aio import AsyncBlockStore
from blockyard.sync import BlockStore


class Face(Protocol):
    """Calls a method of an open store under a deadline in seconds."""

    async def call(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        """What the method returns; its errors pass."""
        ...


class BlockingFace:
    """Calls on the running thread, so that a coroutine over it never suspends."""

    def __init__(self, store: BlockStore) -> None:
        self._store = store

    async def call(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        return getattr(self._store.with_options(deadline=deadline), method)(*args, **options)


class AsyncioFace:
    """Calls on the running event loop."""

    def __init__(self, store: AsyncBlockStore) -> None:
        self._store = store

    async def call(self, deadline: float, method: str, *args: Any, **options: Any) -> Any:
        return await getattr(self._store.with_options(deadline=deadline), method)(*args, **options)
