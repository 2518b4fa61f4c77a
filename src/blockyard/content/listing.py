"""Finding out what is stored of a content, by listing its keys."""

from __future__ import annotations

from typing import NamedTuple

from blockyard.content.layout import (
    BLOCKS_PER_CHUNK,
    ContentInfo,
    Layout,
    ListedContents,
    Piece,
    block_index,
    block_key,
    chunk_prefix,
    content_prefix,
    is_staged,
    whole_layout,
)
from blockyard.context import Context
from blockyard.errors import IntegrityError
from blockyard.model import BlockInfo
from blockyard.operations import Operations, all_pages, each_page
from blockyard.stores.base import ListRequest


class Found(NamedTuple):
    """The blocks of a content by index, the keys of rewrites that were begun, and the pages."""

    blocks: dict[int, BlockInfo]
    staged: list[str]
    pages: int


class ContentListing:
    """Lists contents. One request shows a thousand blocks, which are 4 GiB of content."""

    def __init__(self, operations: Operations, block_size: int) -> None:
        self._operations = operations
        self._block_size = block_size

    async def find(self, ctx: Context, content_id: str) -> Found:
        """What is there of the content, whether it makes a whole one or not."""
        listed, pages = await self._all(ctx, content_prefix(content_id))
        numbered = ((block_index(content_id, block.key), block) for block in listed)
        blocks = {index: block for index, block in numbered if index is not None}
        staged = [block.key for block in listed if is_staged(content_id, block.key)]
        return Found(blocks, staged, pages)

    async def layout(self, ctx: Context, content_id: str, operation: str) -> Layout:
        """The layout of a whole content.

        Raises `BlockNotFoundError` when nothing is stored of it, and `IntegrityError` when it
        is unfinished, has a hole, or was written again while it was listed.
        """
        blocks, staged, pages = await self.find(ctx, content_id)
        if 0 not in blocks and staged:
            raise IntegrityError(
                f"{operation} {content_id!r}: the content is unfinished: a rewrite of it was "
                f"interrupted or is under way; {staged[0]!r} is part of that"
            )
        layout = whole_layout(operation, content_id, blocks, self._block_size)
        if pages > 1:  # the later ones may show another content than the first
            again, _ = await self._all(ctx, block_key(content_id, 0))
            if layout.blocks[0] not in again:
                raise layout.changed(layout.blocks[0].key)
        return layout

    async def contents(self, ctx: Context, prefix: str) -> list[ContentInfo]:
        """The contents whose ids begin with the literal `prefix`; see `ListedContents`."""
        listed = ListedContents(prefix, self._block_size)
        request = ListRequest(prefix, operation="list_contents")
        await each_page(self._operations, ctx, request, lambda page: listed.add(page.blocks))
        return listed.infos()

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
        pages = await all_pages(self._operations, ctx, ListRequest(prefix))
        return [block for page in pages for block in page.blocks], len(pages)
