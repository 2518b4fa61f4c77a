"""Blocks in this process's memory: for tests, and for data that need not outlive the process.

Owns the dictionary and the sorted list of its keys; does no I/O. A copy of the data is made on
the way in, unless it is `bytes`, and none on the way out: what is stored is immutable.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import count
from typing import NamedTuple

from crc32c import crc32c

from blockyard.context import Context
from blockyard.errors import BlockExistsError, BlockNotFoundError, BufferTooSmallError
from blockyard.keys import range_past_end
from blockyard.model import BlockInfo, DeleteResult, HealthReport, Page
from blockyard.stores.base import Store


class _Block(NamedTuple):
    data: bytes
    info: BlockInfo


class MemoryStore(Store):
    """A store that lives and dies with this object. Closing it keeps the blocks.

    Threads and event loops share it: the lock is held for the change of the dictionary and its
    key list alone, never across an await.
    """

    def __init__(self) -> None:
        self._blocks: dict[str, _Block] = {}
        # Sorted by code point, which is the order of the UTF-8 bytes too.
        self._keys: list[str] = []
        self._changing = threading.Lock()
        self._writes = count(1)

    async def write_block(
        self, ctx: Context, key: str, data: bytes | memoryview, *, if_absent: bool
    ) -> BlockInfo:
        block = self._block(ctx, key, bytes(data))
        with self._changing:
            if if_absent and key in self._blocks:
                raise BlockExistsError(f"write_block {key!r}: there is a block under that key")
            self._put(block)
        return block.info

    async def read_block(self, ctx: Context, key: str) -> bytes:
        return self._get("read_block", key).data

    async def read_block_into(self, ctx: Context, key: str, buffer: memoryview) -> int:
        data = self._get("read_block_into", key).data
        if len(data) > len(buffer):
            raise BufferTooSmallError(
                f"read_block_into {key!r}: the block has {len(data)} bytes, "
                f"the buffer {len(buffer)}"
            )
        buffer[: len(data)] = data
        return len(data)

    async def read_block_range(
        self, ctx: Context, key: str, offset: int, length: int | None
    ) -> bytes:
        data = self._get("read_block_range", key).data
        if offset >= len(data):
            raise range_past_end(key, offset, len(data))
        return data[offset:] if length is None else data[offset : offset + length]

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        return self._get("stat_block", key).info

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        block = self._block(ctx, target_key, self._get("copy_block", source_key).data)
        with self._changing:
            self._put(block)
        return block.info

    async def delete_block(self, ctx: Context, key: str) -> None:
        with self._changing:
            self._drop(key)

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        unique = list(dict.fromkeys(keys))
        with self._changing:
            for key in unique:
                self._drop(key)
        return DeleteResult(unique)

    async def list_page(self, ctx: Context, prefix: str, token: str | None, page_size: int) -> Page:
        with self._changing:
            if token is None:
                start = bisect_left(self._keys, prefix)
            else:
                start = bisect_right(self._keys, token)
            # One key more than the page holds shows whether there is another page.
            following = self._keys[start : start + page_size + 1]
            found = [self._blocks[key].info for key in following if key.startswith(prefix)]
        page = found[:page_size]
        return Page(page, page[-1].key if len(found) > page_size else None)

    async def health_check(self, ctx: Context) -> HealthReport:
        return HealthReport(latency=0.0, store="memory")

    def _block(self, ctx: Context, key: str, data: bytes) -> _Block:
        modified = datetime.fromtimestamp(ctx.runtime.wall_time(), UTC)
        # The checksum tells contents apart across stores, the count within this one.
        etag = f"{crc32c(data):08x}-{next(self._writes):x}"
        return _Block(data, BlockInfo(key, len(data), etag, modified))

    def _get(self, operation: str, key: str) -> _Block:
        block = self._blocks.get(key)
        if block is None:
            raise BlockNotFoundError(f"{operation} {key!r}: no block under that key")
        return block

    def _put(self, block: _Block) -> None:
        key = block.info.key
        if key not in self._blocks:
            insort(self._keys, key)
        self._blocks[key] = block

    def _drop(self, key: str) -> None:
        if self._blocks.pop(key, None) is not None:
            del self._keys[bisect_left(self._keys, key)]
