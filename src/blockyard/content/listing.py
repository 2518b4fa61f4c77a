"""Finding contents: which version of one is there, and what contents a folder has."""

from __future__ import annotations

from collections.abc import Iterable

from blockyard.content.layout import (
    MAX_CONTENT_ID_BYTES,
    Layout,
    check_content_id,
    plain_index,
    plain_key,
    plain_layout,
    plain_prefix,
)
from blockyard.content.manifest import LEAST_SIZE, is_generation, manifest_key
from blockyard.content.register import Register
from blockyard.content.types import ContentEntry
from blockyard.context import Context
from blockyard.errors import BlockNotFoundError
from blockyard.keys import MANIFEST_SUFFIX
from blockyard.model import BLOCK_SIZE, BlockInfo
from blockyard.operations import Operations
from blockyard.prefixes import all_pages
from blockyard.stores.base import ListRequest


class ContentListing:
    """Finds contents, by their manifests, or by listing blocks in the plain layout."""

    def __init__(
        self, operations: Operations, register: Register, block_size: int = BLOCK_SIZE
    ) -> None:
        self._operations = operations
        self._register = register
        self._block_size = block_size

    async def layout(
        self, ctx: Context, content_id: str, operation: str, *, cached: bool = True
    ) -> Layout:
        """The layout of the current version: one request, and a listing if it has no manifest.

        Raises `BlockNotFoundError` when there is no such content, `IntegrityError` for a damaged
        manifest, and for blocks in the plain layout that make no whole content.
        """
        content_id = check_content_id(operation, content_id)
        found = await self._register.look(ctx, content_id, operation, cached=cached)
        if found.live is not None:
            return Layout.of_manifest(operation, content_id, found.live, found.stored_at)
        if found.manifest is not None:
            raise BlockNotFoundError(f"{operation} {content_id!r}: there is no such content")
        blocks = await self.plain(ctx, content_id, operation)
        return plain_layout(operation, content_id, blocks, self._block_size)

    async def plain(self, ctx: Context, content_id: str, operation: str) -> dict[int, BlockInfo]:
        """The blocks in the plain layout, by their index."""
        request = ListRequest(plain_prefix(content_id), operation=operation)
        pages = await all_pages(self._operations, ctx, request)
        numbered = (
            (plain_index(content_id, block.key), block) for page in pages for block in page.blocks
        )
        return {index: block for index, block in numbered if index is not None}

    async def exists(self, ctx: Context, content_id: str) -> bool:
        """Whether there is a content of that id."""
        operation = "content_exists"
        content_id = check_content_id(operation, content_id)
        self._operations.check_open(operation, ctx)
        try:
            info = await self._operations.store.stat_block(ctx, manifest_key(content_id))
        except BlockNotFoundError:
            return await self._operations.block_exists(ctx, plain_key(content_id, 0))
        return info.size >= LEAST_SIZE

    async def entries(self, ctx: Context, prefix: str) -> list[ContentEntry]:
        """The contents whose ids begin with the literal `prefix`, ordered by UTF-8 bytes.

        Each folder that may hold contents is listed; the blocks of contents are not.
        """
        found: dict[str, ContentEntry] = {}
        folders = [prefix]
        while folders:
            listed = await ctx.gather(lambda folder: self._folder(ctx, folder), folders)
            folders = list[str]()
            for entries, below in listed:
                for entry in entries:
                    if entry.content_id.startswith(prefix):
                        _ = found.setdefault(entry.content_id, entry)
                folders += below
        return sorted(found.values(), key=lambda entry: entry.content_id.encode())

    async def _folder(self, ctx: Context, prefix: str) -> tuple[list[ContentEntry], list[str]]:
        """The contents directly below a prefix, and the folders to look into."""
        request = ListRequest(prefix, delimiter="/", operation="list_contents")
        pages = await all_pages(self._operations, ctx, request)
        entries = [
            ContentEntry(block.key.removesuffix(MANIFEST_SUFFIX), block.last_modified)
            for page in pages
            for block in page.blocks
            if block.key.endswith(MANIFEST_SUFFIX) and block.size >= LEAST_SIZE
        ]
        below: list[str] = []
        for folder in (folder for page in pages for folder in page.folders):
            name = folder[:-1].rpartition("/")[2]
            if name == "chunk-0" and "/" in folder[:-1]:
                entries += await self._plain_entry(ctx, folder[: -len("/chunk-0/")])
            if not is_generation(name):
                below.append(folder)
        return [entry for entry in entries if _fits(entry.content_id)], below

    async def _plain_entry(self, ctx: Context, content_id: str) -> Iterable[ContentEntry]:
        """A content in the plain layout, unless a tombstone hides it."""
        store = self._operations.store
        try:
            first = await store.stat_block(ctx, plain_key(content_id, 0))
        except BlockNotFoundError:
            return ()
        try:
            _ = await store.stat_block(ctx, manifest_key(content_id))
        except BlockNotFoundError:
            return (ContentEntry(content_id, first.last_modified),)
        return ()


def _fits(content_id: str) -> bool:
    return bool(content_id) and len(content_id.encode()) <= MAX_CONTENT_ID_BYTES
