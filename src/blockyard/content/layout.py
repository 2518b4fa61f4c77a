"""How a content lies in a store, and what a listing of its blocks shows.

A content is the blocks `CONTENT/chunk-C/block-B`: 4 MiB each, the last one shorter or not, 16
to a chunk. Nothing else says how long it is, so a listing must leave no doubt: block 0 is there
(it is the last that a write puts in place and the first that a change removes), no block is
missing below the last, and only the last is short. What breaks this is an `IntegrityError` that
names the key. This module does no I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from blockyard import arguments
from blockyard.crc32c import crc32c
from blockyard.errors import BlockNotFoundError, IntegrityError, InvalidKeyError, InvalidRangeError
from blockyard.keys import MAX_KEY_BYTES
from blockyard.model import BlockInfo

BLOCKS_PER_CHUNK = 16
MAX_CONTENT_ID_BYTES = MAX_KEY_BYTES - 64
"""The longest content id in UTF-8: what comes behind it in a key fits in the rest."""

_BLOCK = re.compile(r"chunk-(0|[1-9][0-9]{0,15})/block-(0|[1-9][0-9]?)")
_CONTENT_BLOCK = re.compile(r"(.+)/chunk-[0-9]+/block-[0-9]+", re.DOTALL)
_STAGED = re.compile(r"chunk-new-([0-9a-f]{8})([0-9a-f]{8})/")
STAGED_NONCE_BYTES = 4


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A stored content: its size in bytes, and how many blocks it takes.

    `last_modified`, in UTC, is when the last of them was stored; None where the store did not say
    (the reply to a write).
    """

    content_id: str
    size: int
    blocks: int
    last_modified: datetime | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of one block that a range needs; `position` is its place in the result."""

    index: int
    block: BlockInfo
    offset: int
    length: int
    position: int

    @property
    def whole(self) -> bool:
        """Whether it is all of the block."""
        return self.length == self.block.size


class Layout:
    """The blocks of a content, in order, as one listing showed them.

    `where` is what errors begin with: the operation and the content.
    """

    def __init__(
        self, where: str, content_id: str, blocks: list[BlockInfo], block_size: int
    ) -> None:
        self.where = where
        self.content_id = content_id
        self.blocks = blocks
        self.size = sum(block.size for block in blocks)
        self.block_size = block_size

    @property
    def info(self) -> ContentInfo:
        """The content's size and how many blocks it takes."""
        times = [block.last_modified for block in self.blocks if block.last_modified]
        return ContentInfo(self.content_id, self.size, len(self.blocks), max(times, default=None))

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

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """What to read of which block for the bytes from `start` to `stop`, both within."""
        if stop <= start:
            return []
        first, last = start // self.block_size, (stop - 1) // self.block_size
        return [self._piece(index, start, stop) for index in range(first, last + 1)]

    def _piece(self, index: int, start: int, stop: int) -> Piece:
        block = self.blocks[index]
        block_start = index * self.block_size
        first = max(start, block_start)
        last = min(stop, block_start + block.size)
        return Piece(index, block, first - block_start, last - first, first - start)

    def changed(self, key: str) -> IntegrityError:
        """The error for a block that is no longer what the listing showed."""
        return IntegrityError(
            f"{self.where}: {key!r} changed while the content was read; the content has been "
            "written again or deleted"
        )


@dataclass(slots=True)
class _Extent:
    """What a listing has shown of a content so far."""

    last: BlockInfo
    index: int = -1
    begun: bool = False
    modified: datetime | None = None


class ListedContents:
    """The contents that a listing of blocks shows, as its pages come: those that were finished.

    Their block 0 is there, then. A hole below the last block is not looked for.
    """

    def __init__(self, prefix: str, block_size: int) -> None:
        self._prefix = prefix
        self._block_size = block_size
        self._extents: dict[str, _Extent] = {}

    def add(self, blocks: Iterable[BlockInfo]) -> None:
        """Note what more is listed."""
        for block in blocks:
            found = content_block(block.key)
            if found is None or not found[0].startswith(self._prefix):
                continue
            content_id, index = found
            extent = self._extents.setdefault(content_id, _Extent(block))
            extent.begun |= index == 0
            if index > extent.index:
                extent.index, extent.last = index, block
            if block.last_modified is not None:
                extent.modified = max(block.last_modified, extent.modified or block.last_modified)

    def infos(self) -> list[ContentInfo]:
        """In the order of the UTF-8 bytes of their ids."""
        return [
            ContentInfo(
                content_id,
                extent.index * self._block_size + extent.last.size,
                extent.index + 1,
                extent.modified,
            )
            for content_id, extent in sorted(self._extents.items(), key=_bytes_of_id)
            if extent.begun
        ]


def _bytes_of_id(item: tuple[str, _Extent]) -> bytes:
    return item[0].encode()


def check_content_id(operation: str, value: str, name: str = "content_id") -> str:
    """The id of a content. Raises `TypeError`, `InvalidKeyError`."""
    content_id = arguments.key(operation, value, name)
    if content_id.endswith("/"):
        raise InvalidKeyError(f"{operation}: {name} {content_id!r}: must not end with '/'")
    size = len(content_id.encode())
    if size > MAX_CONTENT_ID_BYTES:
        raise InvalidKeyError(
            f"{operation}: {name} {content_id[:40]!r}...: {size} bytes in UTF-8, "
            f"the limit is {MAX_CONTENT_ID_BYTES}"
        )
    return content_id


def content_prefix(content_id: str) -> str:
    """The literal prefix of the keys of a content's blocks, and of rewrites of it."""
    return f"{content_id}/chunk-"


def chunk_prefix(content_id: str, chunk: int) -> str:
    """The literal prefix of the keys of one chunk's blocks."""
    return f"{content_id}/chunk-{chunk}/"


def block_key(content_id: str, index: int) -> str:
    """The key of the block that holds the bytes from `index` times the block size on."""
    chunk, block = divmod(index, BLOCKS_PER_CHUNK)
    return f"{content_id}/chunk-{chunk}/block-{block}"


def block_index(content_id: str, key: str) -> int | None:
    """The inverse of `block_key`; None for a key that is no block of this content."""
    match = _BLOCK.fullmatch(key, len(content_id) + 1)
    if match is None or not key.startswith(content_id + "/"):
        return None
    chunk, block = int(match[1]), int(match[2])
    return chunk * BLOCKS_PER_CHUNK + block if block < BLOCKS_PER_CHUNK else None


def content_block(key: str) -> tuple[str, int] | None:
    """The content and the index of the block of it that has this key.

    None for a key that is no block of a content, and for one of a rewrite.
    """
    match = _CONTENT_BLOCK.fullmatch(key)
    if match is None or is_staged(match[1].rpartition("/chunk-new-")[0], key):
        return None
    content_id = match[1]
    index = block_index(content_id, key)
    fits = not content_id.endswith("/") and len(content_id.encode()) <= MAX_CONTENT_ID_BYTES
    return (content_id, index) if index is not None and fits else None


def staged_id(content_id: str, nonce: bytes) -> str:
    """The content id under which a rewrite is kept until it is whole.

    `nonce` has `STAGED_NONCE_BYTES`. The checksum behind it tells such an id from one that a user
    chose, whose blocks are not to be tidied up.
    """
    return f"{content_id}/chunk-new-{nonce.hex()}{_staged_sum(content_id, nonce.hex())}"


def _staged_sum(content_id: str, nonce: str) -> str:
    return f"{crc32c(f'{content_id}/{nonce}'.encode()):08x}"


def belongs_to(content_id: str, key: str) -> bool:
    """Whether the key is of the content or of a rewrite of it: what deleting it deletes."""
    return block_index(content_id, key) is not None or is_staged(content_id, key)


def is_staged(content_id: str, key: str) -> bool:
    """Whether the key belongs to a rewrite of the content."""
    match = _STAGED.match(key, len(content_id) + 1)
    return (
        match is not None
        and key.startswith(content_id + "/")
        and match[2] == _staged_sum(content_id, match[1])
        and block_index(key[: match.end() - 1], key) is not None
    )


def whole_layout(
    operation: str, content_id: str, found: Mapping[int, BlockInfo], block_size: int
) -> Layout:
    """The layout that the blocks `found` make.

    Raises `BlockNotFoundError` when there is none, and `IntegrityError` when they leave a doubt.
    """
    where = f"{operation} {content_id!r}"
    if not found:
        raise BlockNotFoundError(f"{where}: there is no such content")
    if 0 not in found:
        raise IntegrityError(
            f"{where}: the content is unfinished: {block_key(content_id, 0)!r} is not there, "
            "as after a write, copy or delete that was interrupted, or during one"
        )
    last = max(found)
    for index in range(last + 1):
        block = found.get(index)
        if block is None:
            raise IntegrityError(
                f"{where}: there is a hole: {block_key(content_id, index)!r} is missing"
            )
        if block.size > block_size or (block.size < block_size and index < last):
            raise IntegrityError(
                f"{where}: {block.key!r} has {block.size} bytes where {block_size} were expected"
            )
    return Layout(where, content_id, [found[index] for index in range(last + 1)], block_size)
