"""What the clients' methods for contents take and give, light to import: the rest comes later."""

from __future__ import annotations

import os
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

from blockyard.buffer import Buffer
from blockyard.errors import BlockStoreError
from blockyard.model import BLOCK_SIZE


@runtime_checkable
class Readable(Protocol):
    """A file open for reading bytes: `read` returns at most `size` of them, none at the end."""

    def read(self, size: int, /) -> bytes: ...


ContentSource: TypeAlias = str | os.PathLike[str] | Buffer | Readable | Iterable[Buffer]
AsyncContentSource: TypeAlias = ContentSource | AsyncIterable[Buffer]


@runtime_checkable
class Writable(Protocol):
    """A file open for writing bytes: `write` returns how many of them it took."""

    def write(self, data: Buffer, /) -> int | None: ...


ContentTarget: TypeAlias = str | os.PathLike[str] | Writable

Progress: TypeAlias = Callable[[int], None]
"""Called with the bytes done so far, after each block: on the thread that made the call, or on the
event loop of an asyncio store, in one copy of the context that the call was made in."""


@dataclass(frozen=True, slots=True)
class ContentInfo:
    """A stored content: its size in bytes, and how many blocks it takes beside its manifest.

    `version` changes whenever the content is written; "" in the plain layout, which has none.
    `last_modified`, in UTC, is when it was stored; None where that is not known (the result of a
    write). `crc32c` is that of all of the content; None where it is not known. `content_type`,
    `modified` (in UTC) and `metadata` are as its writer gave them.
    """

    content_id: str
    size: int
    blocks: int
    last_modified: datetime | None = None
    version: str = ""
    block_size: int = BLOCK_SIZE
    crc32c: int | None = None
    content_type: str = ""
    modified: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])


class ContentEntry(NamedTuple):
    """A content in a listing: its id, and when it was stored, in UTC, where that is known."""

    content_id: str
    last_modified: datetime | None = None


What = Literal["orphan", "replaced", "tombstone", "probe", "upload"]


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something that is left of a content: `blocks` of `size` bytes together, or a tombstone.

    Or a "probe", whose key is its `content_id`: of a process that was killed while it found out
    what the service can do. Or an "upload" of the object with that key, in parts, which was neither
    completed nor given up: `generation` is its id, and what its parts take is not counted.
    """

    content_id: str
    what: What
    generation: str = ""
    blocks: int = 0
    size: int = 0


@dataclass(frozen=True, slots=True)
class CleanReport:
    """What `clean_contents` removed, or would have, and what it found that is too young yet.

    `damaged` are the contents whose manifests can't be read, and why: nothing of them was touched,
    as it can't be told which blocks are theirs.
    """

    removed: list[Leftover] = field(default_factory=list[Leftover])
    kept: list[Leftover] = field(default_factory=list[Leftover])
    damaged: dict[str, BlockStoreError] = field(default_factory=dict[str, BlockStoreError])

    @property
    def size(self) -> int:
        """The bytes that were removed, or would have been."""
        return sum(each.size for each in self.removed)
