"""Finding out what is stored of a content, by listing its keys."""

from __future__ import annotations

from collections.abc import Iterable

from blockyard.content.layout import (
    BLOCKS_PER_CHUNK,
    Layout,
    Piece,
    block_index,
    block_key,
    blocks_prefix,
    check_content_id,
    chunk_prefix,
    is_staged,
    staged_prefix,
    whole_layout,
)
from blockyard.context import Context
from blockyard.model import BlockInfo
from blockyard.operations import Operations


class ContentListing:
    """Lists contents. One request shows a thousand blocks, which are 4 GiB of content."""

    def __init__(self, operations: Operations, block_size: int) -> None:
        self._operations = operations
        self._block_size = block_size

    async def blocks(self, ctx: Context, content_id: str) -> dict[int, BlockInfo]:
        """The blocks that are there, by index, whether they make a whole content or not."""
        found, _ = await self._all(ctx, blocks_prefix(content_id))
        return _by_index(content_id, found)

    async def staged_keys(self, ctx: Context, content_id: str) -> list[str]:
        """The keys of rewrites of the content that are under way or were interrupted."""
        found, _ = await self._all(ctx, staged_prefix(content_id))
        return [block.key for block in found if is_staged(content_id, block.key)]

    async def layout(self, ctx: Context, content_id: str, operation: str) -> Layout:
        """The layout of a whole content.

        Raises `BlockNotFoundError` when nothing is stored of it, and `IntegrityError` when it
        is unfinished, has a hole, or was written again while it was listed.
        """
        check_content_id(content_id)
        found, pages = await self._all(ctx, blocks_prefix(content_id))
        layout = whole_layout(operation, content_id, _by_index(content_id, found), self._block_size)
        if pages > 1:  # the later ones may show another content than the first
            again, _ = await self._all(ctx, block_key(content_id, 0))
            if layout.blocks[0] not in again:
                raise layout.changed(layout.blocks[0].key)
        return layout

    async def check_unchanged(self, ctx: Context, layout: Layout, pieces: list[Piece]) -> None:
        """Raise `IntegrityError` unless the blocks that were read are still those of `layout`.

        Their ETags then were the same before and after, so the bytes are all of one content.
        """

        async def list_chunk(chunk: int) -> list[BlockInfo]:
            found, _ = await self._all(ctx, chunk_prefix(layout.content_id, chunk))
            return found

        chunks = sorted({piece.index // BLOCKS_PER_CHUNK for piece in pieces})
        now = {
            (block.key, block.size, block.etag)
            for chunk in await ctx.gather(list_chunk, chunks)
            for block in chunk
        }
        for piece in pieces:
            block = piece.block
            if (block.key, block.size, block.etag) not in now:
                raise layout.changed(block.key)

    async def _all(self, ctx: Context, prefix: str) -> tuple[list[BlockInfo], int]:
        """All that is below a literal prefix, and how many pages that took."""
        found: list[BlockInfo] = []
        token: str | None = None
        pages = 0
        while True:
            page = await self._operations.list_page(ctx, prefix, token)
            found += page.blocks
            pages += 1
            token = page.next_token
            if token is None:
                return found, pages


def _by_index(content_id: str, blocks: Iterable[BlockInfo]) -> dict[int, BlockInfo]:
    numbered = ((block_index(content_id, block.key), block) for block in blocks)
    return {index: block for index, block in numbered if index is not None}
