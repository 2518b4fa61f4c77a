"""Where the bytes of a content lie: by its manifest, or by a listing of the plain layout.

Other systems write contents in the plain layout: blocks `CONTENT/chunk-C/block-B` of 4 MiB each,
the last one shorter or not, 16 to a chunk, and nothing that says how many there are. A listing must
leave no doubt then: block 0 is there, none is missing below the last, and only the last is short.
What breaks this is an `IntegrityError` that names the key. This module does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from blockyard import arguments
from blockyard.content.extents import Extent, Piece
from blockyard.content.manifest import (
    BLOCKS_PER_CHUNK,
    Manifest,
    generation_key,
)
from blockyard.content.types import ContentInfo
from blockyard.errors import (
    BlockNotFoundError,
    ContentReplacedError,
    IntegrityError,
    InvalidKeyError,
    InvalidRangeError,
)
from blockyard.keys import MANIFEST_SUFFIX, MAX_KEY_BYTES
from blockyard.model import BLOCK_SIZE, BlockInfo
from blockyard.times import utc

MAX_CONTENT_ID_BYTES = MAX_KEY_BYTES - 64
"""The longest content id in UTF-8: what comes behind it in a key fits in the rest."""

_BLOCK = re.compile(r"chunk-(0|[1-9][0-9]{0,15})/block-(0|[1-9][0-9]?)")


class Layout(Extent):
    """One version of a content: where its bytes lie. See `of_manifest` and `of_blocks`.

    `operation` is what errors name.
    """

    def __init__(self, operation: str, info: ContentInfo, manifest: Manifest | None) -> None:
        self.operation = operation
        self.info = info
        self.manifest = manifest
        self._blocks: Sequence[BlockInfo] = ()

    @classmethod
    def of_manifest(
        cls, operation: str, content_id: str, manifest: Manifest, stored_at: float | None
    ) -> Layout:
        """The layout of the version that a manifest describes."""
        return cls(operation, info_of(content_id, manifest, stored_at), manifest)

    @classmethod
    def of_blocks(
        cls, operation: str, content_id: str, blocks: Sequence[BlockInfo], block_size: int
    ) -> Layout:
        """The layout of blocks in the plain layout, in order, as one listing showed them."""
        times = [block.last_modified for block in blocks if block.last_modified]
        info = ContentInfo(
            content_id,
            sum(block.size for block in blocks),
            len(blocks),
            max(times, default=None),
            block_size=block_size,
        )
        layout = cls(operation, info, None)
        layout._blocks = blocks
        return layout

    @property
    def where(self) -> str:
        """The beginning of error messages: the operation and the content."""
        return f"{self.operation} {self.content_id!r}"

    @property
    def content_id(self) -> str:
        return self.info.content_id

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return self.info.size

    @property
    def block_size(self) -> int:
        """Bytes of a block; only the last one may be smaller."""
        return self.info.block_size

    @property
    def inline(self) -> bytes | None:
        """All bytes of a content that is stored in its manifest; else None."""
        manifest = self.manifest
        return None if manifest is None or manifest.layout != "inline" else manifest.data

    def span(self, offset: int, length: int | None) -> tuple[int, int]:
        """Start and stop of a range of the content, clamped at its end.

        Raises `InvalidRangeError` when it starts at or past the end; but offset 0 is always in
        range, so that all of an empty content can be read.
        """
        if offset >= self.size and offset > 0:
            raise InvalidRangeError(
                f"{self.where}: offset {offset} is at or past the end of the content's "
                f"{self.size} bytes"
            )
        return offset, self.size if length is None else min(offset + length, self.size)

    def walk(self, start: int, stop: int, places: int | None = None) -> Iterator[Piece]:
        """See `Extent.walk`; a content stored in its manifest is one piece."""
        if self.inline is not None and start < stop:
            key = self.content_id + MANIFEST_SUFFIX
            return iter((Piece(0, key, self.size, start, stop - start, 0),))
        return super().walk(start, stop, places)

    def _piece(self, index: int, first: int, last: int, start: int) -> Piece:
        """See `Extent`."""
        block_start = index * self.block_size
        return Piece(
            index,
            self.key(index),
            min(self.block_size, self.size - block_start),
            first - block_start,
            last - first,
            first - start,
            None if self.manifest is None else self.manifest.checksum(index),
            self._etag(index),
        )

    @property
    def plain(self) -> bool:
        """Whether its blocks have keys that other writers may overwrite."""
        return self.manifest is None or self.manifest.layout == "plain"

    def key(self, index: int) -> str:
        """The key of a block."""
        manifest = self.manifest
        if manifest is None or self.plain:
            return plain_key(self.content_id, index)
        return generation_key(self.content_id, manifest.id, index, manifest.chunk_blocks)

    def _etag(self, index: int) -> str | None:
        if self._blocks:
            return self._blocks[index].etag
        etags = self.manifest.etags if self.manifest is not None else ()
        return etags[index] if etags else None

    def replaced(self) -> ContentReplacedError:
        """The error for a content that was replaced since it was opened."""
        return ContentReplacedError(
            f"{self.where}: the content was written again or deleted while it was read"
        )


def info_of(content_id: str, manifest: Manifest, stored_at: float | None = None) -> ContentInfo:
    """What a manifest says of a content, which was stored at that time, in seconds."""
    return ContentInfo(
        content_id,
        manifest.size,
        manifest.blocks,
        None if stored_at is None else utc(stored_at),
        manifest.id,
        manifest.block_size or BLOCK_SIZE,
        manifest.crc32c,
        manifest.content_type,
        None if manifest.modified is None else utc(manifest.modified),
        dict(manifest.metadata),
    )


def check_content_id(operation: str, value: str, name: str = "content_id") -> str:
    """The id of a content. Raises `TypeError`, `InvalidKeyError`."""
    content_id = arguments.key(operation, value, name)
    if content_id.endswith("/"):
        raise InvalidKeyError(f"{operation}: {name} {content_id!r}: must not end with '/'")
    if any(part.endswith(MANIFEST_SUFFIX) for part in content_id.split("/")):
        raise InvalidKeyError(
            f"{operation}: {name} {content_id!r}: no part of it may end with {MANIFEST_SUFFIX!r}, "
            "as the keys of manifests do"
        )
    size = len(content_id.encode())
    if size > MAX_CONTENT_ID_BYTES:
        raise InvalidKeyError(
            f"{operation}: {name} {content_id[:40]!r}...: {size} bytes in UTF-8, "
            f"the limit is {MAX_CONTENT_ID_BYTES}"
        )
    return content_id


def plain_prefix(content_id: str) -> str:
    """The literal prefix of the keys of a content's blocks in the plain layout."""
    return f"{content_id}/chunk-"


def plain_key(content_id: str, index: int) -> str:
    """The key in the plain layout of the block with the bytes from `index` times 4 MiB on."""
    chunk, block = divmod(index, BLOCKS_PER_CHUNK)
    return f"{content_id}/chunk-{chunk}/block-{block}"


def plain_index(content_id: str, key: str) -> int | None:
    """The inverse of `plain_key`; None for a key that is no such block of this content."""
    match = _BLOCK.fullmatch(key, len(content_id) + 1)
    if match is None or not key.startswith(content_id + "/"):
        return None
    chunk, block = int(match[1]), int(match[2])
    return chunk * BLOCKS_PER_CHUNK + block if block < BLOCKS_PER_CHUNK else None


def plain_layout(
    operation: str, content_id: str, found: Mapping[int, BlockInfo], block_size: int
) -> Layout:
    """The layout that the blocks `found` make, in the plain layout.

    Raises `BlockNotFoundError` when there is none, and `IntegrityError` when they leave a doubt.
    """
    where = f"{operation} {content_id!r}"
    if not found:
        raise BlockNotFoundError(f"{where}: there is no such content")
    if 0 not in found:
        raise IntegrityError(
            f"{where}: the content is unfinished: {plain_key(content_id, 0)!r} is not there"
        )
    last = max(found)
    for index in range(last + 1):
        block = found.get(index)
        if block is None:
            raise IntegrityError(
                f"{where}: there is a hole: {plain_key(content_id, index)!r} is missing"
            )
        if block.size > block_size or (block.size < block_size and index < last):
            raise IntegrityError(
                f"{where}: {block.key!r} has {block.size} bytes where {block_size} were expected"
            )
    blocks = [found[index] for index in range(last + 1)]
    return Layout.of_blocks(operation, content_id, blocks, block_size)
