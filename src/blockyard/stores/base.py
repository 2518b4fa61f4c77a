"""The contract of a store. The comment on each method is what callers may rely on.

A new store implements `Store` and passes `blockyard.testing.conformance`. Keys, ranges and
buffers reach it already checked (`operations.py`), and conveniences (many at once, delete by
prefix, whole listings) are built once on top of it, there. A store is shared by threads and by
event loops at the same time, so it holds no lock across an await and keeps no I/O of its own:
that comes with the context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any

from blockyard.context import Context
from blockyard.model import BlockInfo, DeleteResult, HealthReport, Page


class Store(ABC):
    """Blocks under keys."""

    @abstractmethod
    async def write_block(
        self, ctx: Context, key: str, data: bytes | memoryview, *, if_absent: bool
    ) -> BlockInfo:
        """Store `data` under `key`, durably once this returns, replacing what was there.

        Readers see the old block or the new one, never a mixture and never a short one. With
        `if_absent` exactly one of several racing writers wins; the others get
        `BlockExistsError` and change nothing.
        """

    @abstractmethod
    async def read_block(self, ctx: Context, key: str) -> bytes:
        """The whole block, or `BlockNotFoundError`; `BlockTooLargeError` over MAX_BLOCK_SIZE."""

    @abstractmethod
    async def read_block_into(self, ctx: Context, key: str, buffer: memoryview) -> int:
        """Fill `buffer` (writable, flat bytes) from its start and return the block's size.

        Raises `BufferTooSmallError` when the block is larger. After an error the buffer's
        content is undefined.
        """

    @abstractmethod
    def read_block_range(
        self, ctx: Context, key: str, offset: int, length: int | None
    ) -> Coroutine[Any, Any, bytes]:
        """`length` bytes from `offset` (to the end when None), clamped at the block's end.

        `InvalidRangeError` when `offset` is at or past the end, which every offset of an empty
        block is; a length of 0 within the block gives b"".
        """

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        """Read the whole block and hold it to every checksum that it is kept with.

        Returns what it was held to, None when there is nothing to hold it to; raises
        `IntegrityError` when it does not match. The default, for stores that keep no checksums,
        only shows that it can be read.
        """
        _ = await self.read_block(ctx, key)
        return None

    @abstractmethod
    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        """Size, ETag and time of the block, or `BlockNotFoundError`."""

    @abstractmethod
    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> BlockInfo:
        """Copy within the store, no bytes through the client; the keys differ.

        Replaces the target as `write_block` does and returns its info.
        `BlockNotFoundError` names the source key.
        """

    @abstractmethod
    async def delete_block(self, ctx: Context, key: str) -> None:
        """Delete the block. No error when it is absent."""

    @abstractmethod
    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        """Delete many, each key with its own outcome, duplicates reported once.

        Raises only when nothing could be attempted (say, no access to the bucket at all);
        otherwise every key is in exactly one of `deleted` and `failed`.
        """

    @abstractmethod
    async def list_page(self, ctx: Context, prefix: str, token: str | None, page_size: int) -> Page:
        """At most `page_size` (1 to 1000) blocks whose keys begin with the literal `prefix`.

        Keys come in the order of their UTF-8 bytes, over all pages. `token` is None for the
        first page, then the `next_token` of the page before.
        """

    async def list_keys(
        self, ctx: Context, prefix: str, token: str | None, page_size: int
    ) -> tuple[list[str], str | None]:
        """The keys of the same `list_page`, and its `next_token`.

        For a store that can tell keys for less; the default reads the page.
        """
        page = await self.list_page(ctx, prefix, token, page_size)
        return [block.key for block in page.blocks], page.next_token

    @abstractmethod
    async def health_check(self, ctx: Context) -> HealthReport:
        """Show that the store can be used now, or raise the typed error that says why not."""

    def close(self) -> None:  # noqa: B027 - a store need not hold anything
        """Let go of what the store holds. Called once; the default holds nothing."""
