"""The blocks of one write of a content, on their way to its generation."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import repeat
from typing import Any

from blockyard.content.layout import plain_key
from blockyard.content.manifest import MOST_BLOCKS, Manifest, generation_key
from blockyard.content.manifest_state import Condition, ManifestState
from blockyard.content.streams import SourceBlock
from blockyard.content.transfers import Tally
from blockyard.context import Context
from blockyard.crc32c import JoinedSum, crc32c
from blockyard.errors import BlockStoreError, BlockTooLargeError, ContentChangedError
from blockyard.operations import Operations
from blockyard.put_options import PutOptions
from blockyard.stores.base import Data
from blockyard.tidying import TIDY_SECONDS

LONGEST_WRITE = 12 * 3600.0
"""Seconds after which a write is given up: half of the age from which `clean` deletes blocks that
no manifest names."""


class ContentUpload:
    """Stores the blocks of one write below its generation.

    A content of up to `inline_limit` bytes goes into its manifest instead. `manifest` is the
    manifest as far as it is known; `look` reads the current one.
    """

    def __init__(
        self,
        operations: Operations,
        ctx: Context,
        content_id: str,
        manifest: Manifest,
        *,
        tally: Tally,
        look: Callable[[], Coroutine[Any, Any, ManifestState]],
        inline_limit: int = 0,
        options: PutOptions | None = None,
    ) -> None:
        self._operations = operations
        self._ctx = ctx
        self._content_id = content_id
        self._tally = tally
        self._began = ctx.runtime.now()
        self._sums = array("I")
        """The CRC32C of each block: nothing else of it is held, as there may be millions."""
        self._whole = JoinedSum()
        self._held: bytes | None = None
        self._look: Callable[[], Coroutine[Any, Any, ManifestState]] | None = look
        self._inline_limit = inline_limit
        self._options = options
        self.manifest = manifest
        self.count = 0
        self.found: ManifestState | None = None
        """The state of the manifest when the first block was stored."""

    @property
    def place(self) -> str:
        """The folder of the generation."""
        return f"{self._content_id}/{self.manifest.id}/"

    def keys(self) -> list[str]:
        """The keys of all blocks that may have been stored."""
        return [block_key(self._content_id, self.manifest, index) for index in range(self.count)]

    async def write(self, block: SourceBlock) -> None:
        """Store one block, or keep it for the manifest. See `Source.feed`."""
        index, offset, data = block
        if index >= MOST_BLOCKS:
            raise BlockTooLargeError(
                f"write_content {self._content_id!r}: more than {MOST_BLOCKS} blocks; "
                "larger ones make fewer (block_size)"
            )
        crc = crc32c(data)
        self._whole.add(offset, crc, len(data))
        self._sums.extend(repeat(0, index + 1 - len(self._sums)))  # others may come first
        self._sums[index] = crc
        if index == 0 and len(data) <= self._inline_limit:
            self._held = bytes(data)  # it may be all
        else:
            await self._put(index, data)
        await self._tally.add(len(data))

    async def complete(self) -> Manifest:
        """The manifest of everything that was written."""
        count = len(self._sums)
        if count > 1 and self._held is not None:
            await self._put(0, self._held)
            self._held = None
        described = replace(self.manifest, size=self._whole.size, crc32c=self._whole.value)
        if self._held is not None or count == 0:
            return replace(described, layout="inline", data=self._held or b"")
        if sys.byteorder == "little":
            self._sums.byteswap()
        return replace(described, layout="generation", checksums=self._sums.tobytes())

    def within_time(self, condition: Condition) -> Condition:
        """`condition`, and that the write is not so old that `clean` may remove its blocks."""

        def within(found: ManifestState) -> BlockStoreError | None:
            if self._ctx.runtime.now() - self._began >= LONGEST_WRITE:
                return ContentChangedError(
                    f"{self._content_id!r}: the write took over {LONGEST_WRITE / 3600:g} hours, "
                    "after which its blocks may have been removed as orphans"
                )
            return condition(found)

        return within

    async def _put(self, index: int, data: Data) -> None:
        self.count = max(self.count, index + 1)
        key = block_key(self._content_id, self.manifest, index)
        write = self._operations.write_block(
            self._ctx, key, data, options=self._options, through=True
        )
        # awaited to its end: a request given up could store its block after the cleanup
        await self.beside_find(self._ctx.runtime.finish(write, TIDY_SECONDS))

    async def beside_find(self, change: Coroutine[Any, Any, object]) -> None:
        """Await a change of a block; the first one beside a read of the current manifest."""
        look, self._look = self._look, None
        if look is None:
            _ = await change
            return

        async def keep() -> None:
            self.found = replace(await look(), guessed=True)

        async def make() -> None:
            _ = await change

        try:
            _ = await self._ctx.runtime.gather(lambda call: call(), (make, keep), 2)
        finally:
            change.close()  # where it never began


def block_key(content_id: str, manifest: Manifest, index: int) -> str:
    """The key of a block of a content."""
    if manifest.layout == "plain":
        return plain_key(content_id, index)
    return generation_key(content_id, manifest.id, index, manifest.chunk_blocks)
