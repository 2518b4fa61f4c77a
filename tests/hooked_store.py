"""A store that calls a hook before each of its operations: to count them, or to break them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from blockyard.content.reading import ContentReader
from blockyard.content.writing import ContentWriter
from blockyard.context import Context
from blockyard.model import Block, BlockInfo, DeleteResult, HealthReport, Page
from blockyard.operations import Operations
from blockyard.stores.base import ListRequest, ReadRequest, Store, WriteRequest
from blockyard.sync import BlockStore

Hook = Callable[[str, str], Awaitable[None]]


async def nothing(operation: str, key: str) -> None:
    """The hook of a store that is just a store."""


class HookedStore(Store):
    """Awaits `hook(operation, key or prefix)` before each operation of the store within."""

    def __init__(self, inner: Store, hook: Hook = nothing) -> None:
        self.inner = inner
        self.hook = hook

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        await self.hook("write_block", request.key)
        return await self.inner.write(ctx, request)

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        await self.hook(request.operation, request.key)
        return await self.inner.read(ctx, request)

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        await self.hook("stat_block", key)
        return await self.inner.stat_block(ctx, key)

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        await self.hook("copy_block", target_key)
        return await self.inner.copy_block(ctx, source_key, target_key)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self.hook("delete_block", key)
        await self.inner.delete_block(ctx, key, if_match)

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        """One key at a time, each with its own hook: a crash may come between any two."""
        for key in keys:
            await self.hook("delete_blocks", key)
            _ = await self.inner.delete_blocks(ctx, [key])
        return DeleteResult(list(keys))

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        await self.hook("list_page", request.prefix)
        return await self.inner.list(ctx, request)

    async def health_check(self, ctx: Context) -> HealthReport:
        return await self.inner.health_check(ctx)


def shrink_blocks(store: BlockStore, block_size: int) -> None:
    """Let the contents of an open store be made of smaller blocks."""
    target = getattr(store, "_store", store)  # the driven asyncio client holds the real one
    operations: Operations = target._operations
    target._reader = ContentReader(operations, block_size)
    target._writer = ContentWriter(operations, block_size, inline_limit=0)
