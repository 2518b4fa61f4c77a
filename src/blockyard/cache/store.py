"""A cache in front of any store: what was read through it is answered from memory or from a folder.

**Coherence.** A read that begins after a write, delete or copy through this cache has returned gets
the new block: each key has an epoch, which every change replaces before its request goes out, and
nothing that was read under another epoch is served. While a change is under way, and for
`SETTLE_SECONDS` after one whose outcome is unknown, its keys are read from the store and not kept.
Changes by other clients are seen once the entry is older than `revalidate`: a conditional read then
asks the store, and a 304 makes the entry fresh again.

**Fetching.** Ranges are widened to whole pages; a block of up to `BLOCK_SIZE` bytes is read whole
once ranges of it miss in sequence, or for the fourth time. Concurrent misses of the same bytes
share one read. Absent blocks, and blocks without an ETag, are not cached.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Hashable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeVar

from blockyard import arguments
from blockyard.cache.batches import deleted_in_batches
from blockyard.cache.epochs import Change
from blockyard.cache.memory import MemoryTier
from blockyard.cache.policy import MOST_HITS
from blockyard.cache.tier import INLINE, MUST_WAIT, DiskTier, Pages, span_within
from blockyard.cache.tiers import ReadStart, Tiers
from blockyard.cache.widening import Widening
from blockyard.context import Context, Lifetime
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    DeadlineExceededError,
    InvalidRangeError,
    NotModifiedError,
    PreconditionFailedError,
)
from blockyard.keys import range_past_end
from blockyard.merging import MergedRead, Range, merged, part
from blockyard.model import (
    BLOCK_SIZE,
    MAX_BLOCK_SIZE,
    Block,
    BlockInfo,
    CacheStats,
    CopyResult,
    DeleteResult,
    Part,
    StoreStats,
)
from blockyard.process import PerProcess
from blockyard.stores.base import OpenUpload, ReadRequest, Store, WriteRequest
from blockyard.stores.checks import check_conditions, requested_range
from blockyard.stores.wrapper import WrapperStore

Result = TypeVar("Result")
Revalidate = Literal["never", "always"] | float

_DELETED_TOGETHER = 10_000
"""As many batches as S3 is sent at a time; of all epochs they are one in seven."""


class CacheStore(WrapperStore):
    """Answers reads of `inner` from memory (of `memory` bytes), and from the tier on disk.

    With neither of the two nothing is kept. Raises `TypeError`, `ValueError`.

    `revalidate` is how many seconds an entry is served without asking the store whether it still
    holds that version: 0 and "always" ask each time, "never" does not. Threads, event loops and
    both clients share it; a forked child goes on with what its parent had in memory.
    """

    def __init__(
        self,
        inner: Store,
        *,
        memory: int | None = None,
        disk: DiskTier | None = None,
        revalidate: Revalidate = 60.0,
    ) -> None:
        super().__init__(inner)
        memory = arguments.cache_memory("CacheStore", memory)
        if not (disk is None or isinstance(disk, DiskTier)):
            raise arguments.unsuitable("CacheStore", "disk", "a DiskTier", disk)
        self._memory = MemoryTier(memory) if memory else None
        self._disk = disk
        self.tiers = tiers = Tiers(self._memory, disk)
        self._epochs = tiers.epochs
        self._epoch_of, self._is_shared = tiers.epoch_of, tiers.is_shared
        age = arguments.cache_age("CacheStore", revalidate)
        self._max_age: dict[Lifetime, float] = {
            "default": age,
            "immutable": math.inf,
            "mutable": 0.0 if age == math.inf else age,
        }
        self._largest = MAX_BLOCK_SIZE if disk is not None else memory
        self._under_way: PerProcess[dict[Hashable, Any]] = PerProcess(dict[Hashable, Any])
        self._widening = Widening(min(BLOCK_SIZE, self._largest))
        self._counts = CacheStats()

    # Reads.

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """See `Store.read_at_once`: what is in memory, or in the page cache of the system."""
        if ctx.cache != "use":
            return None
        key = request.key
        if self._memory is not None:
            entry = self._memory.entries.get(key)
            if entry is not None:
                epoch = self._epoch_of(key)
                fresh = ctx.runtime.now() - entry.checked_at < self._max_age[request.lifetime]
                fresh = fresh and entry.epoch == epoch and self._is_shared()
                if fresh and _answers(entry.info.etag, request):
                    begin, end = requested_range(request, entry.info.size)
                    data = entry.data(begin, end)
                    if data is not None:
                        if entry.hits < MOST_HITS:
                            entry.hits += 1
                        self._counts.memory_hits += 1
                        if request.into is not None:
                            request.into[: end - begin] = data
                            data = b""
                        sums = entry.sums if request.page_sums else None
                        return Block(data, end - begin, entry.describe, page_sums=sums)
        if self._disk is None:
            return None
        return self._from_disk_at_once(ctx, request, self._disk)

    @property
    def keeps_crc32c(self) -> bool:
        """False: asking the store for it would cost a request that a hit does not."""
        return False

    def ranges_at_once(self, ctx: Context, wanted: Sequence[Range]) -> list[bytes | None]:
        """See `Store.ranges_at_once`: ranges of a block that touch are read from disk together."""
        if ctx.cache != "use":
            return [None] * len(wanted)
        if self._memory is None:
            found: list[bytes | None] = [None] * len(wanted)
        else:
            fresh_since = ctx.runtime.now() - self._max_age["default"]
            found = self._memory.ranges(wanted, self._epoch_of, fresh_since)
            if not self._is_shared():
                found = [None] * len(wanted)
        missing = [index for index, data in enumerate(found) if data is None]
        self._counts.memory_hits += len(wanted) - len(missing)
        for read in merged([wanted[index] for index in missing], gap=0, most=INLINE):
            data = self._read_merged(ctx, read)
            hits = 0
            for index in (missing[place] for place in read.indices):
                piece = part(read, data, wanted[index]) if data else None
                hits += piece is not None
                if piece is None:  # by its own, and with an error of its own
                    (piece,) = super().ranges_at_once(ctx, [wanted[index]])
                found[index] = piece
            self._counts.disk_hits += max(0, hits - 1)  # the read was counted once
        return found

    def _read_merged(self, ctx: Context, read: MergedRead) -> bytes:
        """The bytes that several ranges span, if all are kept; else b""."""
        if len(read.indices) == 1:
            return b""
        request = ReadRequest(read.key, read.offset, read.length, operation="read_block_range")
        with suppress(InvalidRangeError):
            block = self.read_at_once(ctx, request)
            return b"" if block is None else block.data
        return b""

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        block = self.read_at_once(ctx, request)
        if block is not None:
            return block
        begun = None if self._bypasses(ctx, request) else self.tiers.begin_read(ctx, request.key)
        if begun is None:
            self._counts.misses += ctx.cache != "bypass"
            return await self.inner.read(ctx, request)
        held = None
        if ctx.cache != "refresh":
            held = await self.tiers.find(ctx, request, begun)
            if held is not None and held.covers(request) and self._fresh(ctx, held, request):
                self._counts.disk_hits += 1
                return held.block(request)
        return await self._read_through(ctx, request, held, begun)

    def _bypasses(self, ctx: Context, request: ReadRequest) -> bool:
        """Whether the request goes to the store uncached: nothing to keep, or too much."""
        into = request.into
        return (
            ctx.cache == "bypass"
            or request.length == 0
            or request.suffix == 0
            or (into is not None and len(into) > self._largest)
        )

    def _fresh(self, ctx: Context, held: Pages, request: ReadRequest) -> bool:
        """Whether the version that is held may be served without asking the store."""
        young = ctx.runtime.now() - held.checked_at < self._max_age[request.lifetime]
        return young and _answers(held.info.etag, request)

    def _from_disk_at_once(
        self, ctx: Context, request: ReadRequest, disk: DiskTier
    ) -> Block | None:
        if self._bypasses(ctx, request) or self._epochs.is_changing(request.key, ctx.runtime.now()):
            return None
        begun = None if self._memory is None else self.tiers.begin_read(ctx, request.key)
        held = disk.get(request, wait=False)
        if held is None or held is MUST_WAIT or not held.covers(request):
            return None
        if not self._fresh(ctx, held, request):
            return None
        block = held.block(request)
        self._counts.disk_hits += 1
        if begun is not None:
            self.tiers.keep_in_memory(held, begun)
        return block

    async def _read_through(
        self, ctx: Context, request: ReadRequest, held: Pages | None, begun: ReadStart
    ) -> Block:
        """On a miss, or to revalidate: read whole pages from the store, and keep them."""
        wanted = self._widening.widened(request, held, self.tiers.page_size)
        conditional = request.if_match is not None or request.if_none_match is not None
        stale = None
        if held is None:
            self._counts.misses += 1
        elif not held.covers(request):
            self._counts.partial_hits += 1
        elif not conditional:
            stale, wanted.if_none_match = held, held.info.etag
        read = partial(self._read_and_keep, ctx, wanted, begun, stale)
        try:
            alone = conditional or ctx.cache == "refresh" or begun.disk_epoch is None
            if alone or self._max_age[request.lifetime] == 0:
                pages = await read()
            else:
                pages = await self._read_shared(ctx, wanted, begun, read)
        except InvalidRangeError:
            if request.offset is None or request.offset == wanted.offset:
                raise
            raise range_past_end(request.operation, request.key, request.offset) from None
        except (NotModifiedError, BlockNotFoundError, PreconditionFailedError) as error:
            if held is not None:
                await self._note_refusal(ctx, request, held.info, error, begun)
            raise
        if pages is None:
            assert stale is not None  # noqa: S101 - a 304 has no other cause
            self._counts.revalidated += 1
            pages = stale
        if span_within(request, pages.info.size) and not pages.covers(request):
            return await self.inner.read(ctx, request)  # another size than the one it was held with
        return pages.block(request)

    async def _note_refusal(
        self,
        ctx: Context,
        request: ReadRequest,
        held: BlockInfo,
        error: NotModifiedError | BlockNotFoundError | PreconditionFailedError,
        begun: ReadStart,
    ) -> None:
        """Update the entry after a 304, 404 or 412 to a conditional read of the caller's."""
        if isinstance(error, PreconditionFailedError) and held.etag != request.if_match:
            return
        if not isinstance(error, NotModifiedError):
            self.tiers.forget([request.key])
            await self.tiers.forget_on_disk(ctx, [request.key])
        elif held.etag == request.if_none_match:
            self.tiers.revalidated(ctx, held, begun)

    async def _read_shared(
        self,
        ctx: Context,
        request: ReadRequest,
        begun: ReadStart,
        read: Callable[[], Coroutine[Any, Any, Pages | None]],
    ) -> Pages | None:
        """Await `read`, or share the result of an equal read that is under way in this epoch."""
        what = (request.offset, request.length, request.suffix, request.if_none_match)
        same = (request.key, *what, begun.epoch, begun.disk_epoch)
        under_way = self._under_way.here()
        try:
            pages, of_another = await ctx.runtime.once(under_way, same, read, ctx.deadline)
        except DeadlineExceededError as error:
            where = f"{request.operation} {request.key!r}"
            if where in str(error):
                raise
            raise DeadlineExceededError(f"{where}: {error}") from None
        self._counts.coalesced += of_another
        return pages

    async def _read_and_keep(
        self, ctx: Context, wanted: ReadRequest, begun: ReadStart, stale: Pages | None
    ) -> Pages | None:
        """Read from the store and keep it; None for a 304: the version of `stale` is current."""
        try:
            block = await self.inner.read(ctx, wanted)
        except NotModifiedError:
            if stale is None:
                raise
            self.tiers.revalidated(ctx, stale.info, begun)
            return None
        info = block.info._replace(metadata=None, content_type="", storage_class="")
        first, _ = requested_range(wanted, info.size)
        pages = Pages(info, first, block.data, begun.at, block.page_sums)
        self.tiers.keep(ctx, pages, begun)
        return pages

    # Changes.

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        return await self._change(ctx, [request.key], partial(self.inner.write, ctx, request))

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        call = partial(self.inner.complete_upload, ctx, upload, parts)
        return await self._change(ctx, [upload.request.key], call)

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        call = partial(self.inner.copy_block, ctx, source_key, target_key)
        return await self._change(ctx, [target_key], call)

    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        await self._change(ctx, [key], partial(self.inner.delete_block, ctx, key, if_match))

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        def delete(batch: Sequence[str]) -> Coroutine[Any, Any, DeleteResult]:
            return self._change(ctx, batch, partial(self.inner.delete_blocks, ctx, batch))

        return await deleted_in_batches(keys, _DELETED_TOGETHER, delete)

    async def _change(
        self,
        ctx: Context,
        keys: Sequence[str],
        call: Callable[[], Coroutine[Any, Any, Result]],
    ) -> Result:
        """Make a change of these keys; nothing that was read before its end is served after it."""
        change = Change(keys)
        unknown_before, known = ctx.unknown_attempts, False
        forgotten = False
        try:
            self._epochs.begin(change)
            self.tiers.forget(keys)
            await self.tiers.forget_on_disk(ctx, keys)
            result = await call()
            known = ctx.unknown_attempts == unknown_before
            await self.tiers.forget_on_disk(ctx, keys)  # what other processes have kept meanwhile
            forgotten = True
        except (BlockExistsError, BlockNotFoundError, PreconditionFailedError):
            known = ctx.unknown_attempts == unknown_before
            raise
        else:
            return result
        finally:
            if self._disk is not None and not forgotten:
                self._disk.change(keys)
            self._epochs.end(change, ctx.runtime.now(), known=known)

    # The rest.

    def stats(self) -> StoreStats:
        counts = replace(self._counts, dropped=self.tiers.dropped)
        if self._memory is not None:
            counts.filled, counts.evicted = self._memory.filled, self._memory.evicted
            counts.dropped += self._memory.dropped
            counts.memory_used = self._memory.used
        if self._disk is not None:
            disk = self._disk.stats()
            counts.filled += disk.get("filled", 0)
            counts.evicted += disk.get("evicted", 0)
            counts.dropped += disk.get("dropped", 0)
            counts.damaged += disk.get("damaged", 0)
        return replace(self.inner.stats(), cache=counts)

    @property
    def waits_to_close(self) -> bool:
        return self._disk is not None or self.inner.waits_to_close

    def close(self) -> None:
        if self._memory is not None:
            self._memory.close()
        try:
            if self._disk is not None:
                self._disk.close()
        finally:
            self.inner.close()


def _answers(etag: str, request: ReadRequest) -> bool:
    """Whether the cached version with this ETag answers a conditional read.

    False where the store has to be asked. Raises `NotModifiedError` where `if_none_match` has it.
    """
    if request.if_match is None and request.if_none_match is None:
        return True
    if request.if_match not in {None, etag}:
        return False
    if etag not in {request.if_match, request.if_none_match}:
        return False
    check_conditions(request, etag)
    return True
