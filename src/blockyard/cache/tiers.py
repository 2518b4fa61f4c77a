"""What a cache keeps and where: both tiers together, under the epochs of keys.

A read notes the epoch of its key before its request goes out (`ReadStart`). What it gets is kept
under that epoch, and never given out under another: so nothing that was read before a change
outlives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from blockyard.cache.epochs import Epochs
from blockyard.cache.memory import MemoryTier
from blockyard.cache.tier import MUST_WAIT, DiskTier, Pages
from blockyard.context import Context
from blockyard.model import MAX_BLOCK_SIZE, BlockInfo
from blockyard.s3.integrity import SMALLEST_PAGE
from blockyard.stores.base import ReadRequest


@dataclass(frozen=True, slots=True)
class ReadStart:
    """When a read began, and the epoch of its key then.

    `disk_epoch` is None where changes by other processes can't be known: what is read is not kept.
    """

    epoch: object
    disk_epoch: int | None
    at: float


class Tiers:
    """The tier in memory, the tier on disk, and the epochs of keys. Either tier may be None."""

    def __init__(self, memory: MemoryTier | None, disk: DiskTier | None) -> None:
        self.memory = memory
        self.disk = disk
        self.epochs = Epochs()
        self.in_doubt: Callable[[str, float], bool] | None = None
        """Whether a key was changed by others, or may have been, at a time by `Runtime.now()`."""
        self.page_size = SMALLEST_PAGE
        """The page size of the block that was kept last."""
        self.dropped = 0
        """Reads that were not kept, since their key was changed meanwhile."""

    async def find(self, ctx: Context, request: ReadRequest, begun: ReadStart) -> Pages | None:
        """The pages that the tiers have; without bytes if only the version is known."""
        held = None
        if self.memory is not None:
            held = self.memory.find(request, self._epoch(begun))
            if held is not None and held.covers(request):
                return held
        if self.disk is None:
            return held
        found = self.disk.get(request, wait=not ctx.runtime.suspends)
        if found is MUST_WAIT:
            found = await ctx.runtime.blocking(partial(self.disk.get, request, wait=True))
        if found is None or found is MUST_WAIT:
            return held
        if found.covers(request):
            self.keep_in_memory(found, begun)
            return found
        return held or found

    def begin_read(self, ctx: Context, key: str) -> ReadStart | None:
        """Note the epoch of a key before a read; None where its result must not be kept."""
        epoch = self.epochs.of(key)
        disk_epoch = 0 if self.disk is None else self.disk.epoch(key)
        if not self.is_shared():
            disk_epoch = None
        now = ctx.runtime.now()
        if self.epochs.is_changing(key, now) or (self.in_doubt and self.in_doubt(key, now)):
            return None
        return ReadStart(epoch, disk_epoch, now)

    def epoch_of(self, key: str) -> object:
        """The key's current epoch; entries of another epoch are not served."""
        epoch = self.epochs.of(key)
        return epoch if self.disk is None else (epoch, self.disk.epoch(key))

    def is_shared(self) -> bool:
        """Whether the epochs read so far are those that all processes change. See `DiskTier`."""
        return self.disk is None or self.disk.is_shared()

    def _epoch(self, begun: ReadStart) -> object:
        return begun.epoch if self.disk is None else (begun.epoch, begun.disk_epoch)

    def keep(self, ctx: Context, pages: Pages, begun: ReadStart) -> None:
        """Keep the whole pages among those that the store gave, unless the key was changed."""
        key = pages.info.key
        if not pages.info.etag or pages.info.size > MAX_BLOCK_SIZE:  # whose pages are too large
            return
        if self.epochs.of(key) is not begun.epoch:
            self.dropped += 1
            return
        self.page_size = pages.page_size
        pages = pages.trimmed()
        self.keep_in_memory(pages, begun, anew=ctx.cache == "refresh")
        if self.disk is not None and (pages.data or pages.whole):
            _ = self.disk.fill(ctx.runtime, pages, begun.disk_epoch)

    def keep_in_memory(self, pages: Pages, begun: ReadStart, *, anew: bool = False) -> None:
        """Keep pages in the memory tier."""
        if self.memory is not None and begun.disk_epoch is not None:
            self.memory.fill(pages, self._epoch(begun), anew=anew)

    def revalidated(self, ctx: Context, info: BlockInfo, begun: ReadStart) -> None:
        """Mark the entries of this version as current at the beginning of the read."""
        if self.memory is not None:
            self.memory.revalidated(info, self._epoch(begun), begun.at)
        if self.disk is not None:
            self.disk.revalidated(ctx.runtime, info, begun.at)

    def forget(self, keys: Iterable[str]) -> None:
        """Replace the epochs of keys, so that nothing read before is served."""
        for key in keys:
            self.epochs.replace(key)
            if self.memory is not None:
                self.memory.drop(key)

    async def forget_on_disk(self, ctx: Context, keys: Sequence[str]) -> None:
        """Replace the epochs of keys for all processes, and remove their entries."""
        if self.disk is not None:
            await ctx.runtime.blocking(partial(self.disk.change, keys))
