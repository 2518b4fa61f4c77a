"""Verifying what is stored: every block below a prefix is read whole, over any store.

The store says what a block was verified against (`Store.verify_block`); here is the walk over the
listing, many blocks at a time in bounded memory, and the report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from blockyard import arguments
from blockyard.content.manifest import begins_as_manifest, decode
from blockyard.content.transfers import Tally
from blockyard.content.types import Progress
from blockyard.context import Context
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    IntegrityError,
    StoreClosedError,
)
from blockyard.keys import MANIFEST_SUFFIX
from blockyard.model import MAX_BLOCK_SIZE, BlockInfo, VerifyReport
from blockyard.stores.base import ListRequest, ReadRequest

if TYPE_CHECKING:
    from blockyard.operations import Operations


class Verifier:
    """Verifies blocks of one open store."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def verify_by_prefix(
        self, ctx: Context, prefix: str, progress: Progress | None = None
    ) -> VerifyReport:
        progress = arguments.progress("verify_by_prefix", progress)
        walk = Walk(self._operations, Tally(ctx, progress))
        prefix = arguments.prefix("verify_by_prefix", prefix)
        request = ListRequest(prefix, operation="verify_by_prefix")
        while True:
            page = await self._operations.list_page(ctx, request)
            await walk.verify(ctx, page.blocks)
            if page.next_token is None:
                return walk.report()
            request.token = page.next_token


class Walk:
    """One walk over a prefix, and what it has found."""

    def __init__(self, operations: Operations, read: Tally) -> None:
        self._operations = operations
        self._store = operations.store
        self._read = read
        self._verified: Counter[str] = Counter()
        self._unverifiable = 0
        self._damaged: dict[str, BlockStoreError] = {}
        self._unreadable: dict[str, BlockStoreError] = {}

    async def verify(self, ctx: Context, blocks: Sequence[BlockInfo]) -> None:
        """Those of about one size at a time, as many as may be in memory."""
        alike: dict[int, list[BlockInfo]] = {}
        for block in blocks:
            alike.setdefault(block.size.bit_length(), []).append(block)

        async def one(block: BlockInfo) -> None:
            await self._verify_one(ctx, block)

        for group in alike.values():
            at_once = self._operations.blocks_in_flight(ctx, max(block.size for block in group))
            _ = await ctx.runtime.gather(one, group, at_once)

    def report(self) -> VerifyReport:
        return VerifyReport(
            dict(self._verified),
            self._unverifiable,
            dict(sorted(self._damaged.items())),
            dict(sorted(self._unreadable.items())),
            self._read.done,
        )

    async def _verify_one(self, ctx: Context, block: BlockInfo) -> None:
        if block.size > MAX_BLOCK_SIZE:  # none of ours, and never in memory
            self._unverifiable += 1
            return
        try:
            held_to = await self._store.verify_block(ctx, block.key)
            if held_to is None and block.key.endswith(MANIFEST_SUFFIX):
                held_to = await self._verify_manifest(ctx, block.key)
        except (StoreClosedError, DeadlineExceededError):
            raise
        except BlockNotFoundError:  # deleted since it was listed
            return
        except IntegrityError as error:
            self._damaged[block.key] = bare(error)
        except BlockStoreError as error:
            self._unreadable[block.key] = bare(error)
        else:
            await self._read.add(block.size)
            if held_to is None:
                self._unverifiable += 1
            else:
                self._verified[held_to] += 1

    async def _verify_manifest(self, ctx: Context, key: str) -> str | None:
        """Hold the manifest of a content to the checksum in it, where nothing else is kept."""
        request = ReadRequest(key, operation="verify_by_prefix", lifetime="mutable")
        data = (await self._store.read(replace(ctx, cache="bypass"), request)).data
        if not begins_as_manifest(data):
            return None
        _ = decode(f"verify_by_prefix {key!r}", data)
        return "manifest"


def bare(error: BlockStoreError) -> BlockStoreError:
    """`error` without the frames that it came through: they hold the bytes of the block."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)
