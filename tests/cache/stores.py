"""Stores to put a cache in front of: one that counts its requests, and one that can be held up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from blockyard.cache.store import CacheStore, Revalidate
from blockyard.context import Context
from blockyard.errors import BlockStoreError
from blockyard.model import Block, BlockInfo, CopyResult, DeleteResult
from blockyard.stores.base import ReadRequest, Store, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import PretendRuntime, PretendS3

Result = TypeVar("Result")


class CountingStore(WrapperStore):
    """Keeps the reads that it is asked for; `tell` changes what it says of a block."""

    def __init__(self, inner: Store | None = None) -> None:
        super().__init__(MemoryStore() if inner is None else inner)
        self.reads: list[ReadRequest] = []
        self.tell: Callable[[BlockInfo], BlockInfo] = lambda info: info

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        self.reads.append(replace(request))
        block = await self.inner.read(ctx, request)
        info = self.tell(block.info)
        return replace(block, describe=lambda: info)


class Cached:
    """A cache in front of a store, each call run to its end; `clock` is what it goes by."""

    def __init__(
        self,
        inner: Store | None = None,
        *,
        memory: int | None = 1 << 24,
        revalidate: Revalidate = 60.0,
    ) -> None:
        self.inner = CountingStore(inner)
        self.store = CacheStore(self.inner, memory=memory, revalidate=revalidate)
        self.runtime = PretendRuntime(PretendS3())
        self.ctx = Context(self.runtime)

    @property
    def reads(self) -> list[tuple[int | None, int | None]]:
        """Offset and length of what the store was asked for since the last look."""
        reads = [(each.offset, each.length) for each in self.inner.reads]
        self.inner.reads.clear()
        return reads

    def wait(self, seconds: float) -> None:
        self.runtime.clock += seconds

    def write(self, key: str, data: bytes, **how: Any) -> BlockInfo:
        return run_to_end(self.store.write(self.ctx, WriteRequest(key, data, **how)))

    def write_elsewhere(self, key: str, data: bytes) -> BlockInfo:
        """As another machine does: the cache does not see it."""
        return run_to_end(self.inner.write(self.ctx, WriteRequest(key, data)))

    def delete_elsewhere(self, key: str) -> None:
        run_to_end(self.inner.delete_block(self.ctx, key))

    def read(self, key: str, **how: Any) -> bytes:
        return self.block(key, **how).data

    def block(self, key: str, **how: Any) -> Block:
        return run_to_end(self.store.read(self.ctx, ReadRequest(key, **how)))


class HeldStore(WrapperStore):
    """Its calls go on only when they are let: reads have their bytes then, nothing is changed."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.held: list[asyncio.Event] = []
        self.hold_reads = self.hold_changes = False
        self.read_count = 0
        self.fail_changes: BlockStoreError | None = None

    async def _hold(self) -> None:
        go_on = asyncio.Event()
        self.held.append(go_on)
        _ = await go_on.wait()

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        self.read_count += 1
        block = await self.inner.read(ctx, request)
        if self.hold_reads:
            await self._hold()
        return block

    async def _change(self, ctx: Context, change: Callable[[], Awaitable[Result]]) -> Result:
        if self.hold_changes:
            await self._hold()
        result = await change()
        if self.fail_changes is not None:
            ctx.unknown_attempts += 1
            raise self.fail_changes
        return result

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return await self._change(ctx, lambda: self.inner.write(ctx, request))

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        return await self._change(ctx, lambda: self.inner.copy_block(ctx, source_key, target_key))

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self._change(ctx, lambda: self.inner.delete_block(ctx, key, if_match))

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        return await self._change(ctx, lambda: self.inner.delete_blocks(ctx, keys))

    async def until_held(self, calls: int) -> None:
        for _ in range(1000):
            if len(self.held) >= calls:
                return
            await asyncio.sleep(0)
        raise AssertionError(f"{len(self.held)} calls of {calls}")
