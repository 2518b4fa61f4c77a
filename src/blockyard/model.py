"""The values that operations return, and their limits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple, Protocol, TypeAlias

from blockyard.errors import BlockStoreError, PartialDeleteError

KIB = 1024
MIB = 1024 * KIB
BLOCK_SIZE = 4 * MIB
"""The size of a block as a rule, in bytes."""

MAX_BLOCK_SIZE = 1024 * MIB
"""The largest block that can be written or read whole, in bytes."""

MAX_PARTS = 10_000
"""The most parts that an object can be uploaded in."""
MIN_PART_SIZE = 5 * MIB
"""The smallest part of an object but for its last one, in bytes: S3's own limit."""
MIN_READ_PART = 64 * KIB
"""The smallest part that an object can be read in, in bytes."""
PART_SIZE = 8 * MIB
"""The size of a part as a rule, in bytes."""
MAX_OBJECT_SIZE = MAX_PARTS * MAX_BLOCK_SIZE
"""The largest object that can be written, in bytes: 9.8 TiB."""

MAX_CONCURRENCY = 10_000
"""The most requests that a bulk call may keep in flight."""

MAX_SECONDS = 7 * 24 * 3600
"""The longest timeout or deadline, in seconds: a week."""


DEFAULT_IN_FLIGHT = 64 * MIB
"""The bytes of blocks that one call holds in memory at a time, unless configured."""

_SIZE = re.compile(r"([0-9]{1,15}) ?(?:B|([KMGT])iB)?")


def parse_size(text: str) -> int:
    """Bytes from text such as 512, 64KiB or 2 GiB. Raises `ValueError`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("expected a size such as 512MiB or 2GiB")
    return int(match[1]) * KIB ** (" KMGT".index(match[2]) if match[2] else 0)


class BlockInfo(NamedTuple):  # a listing makes a thousand at a time, and this is made fastest
    """What a store knows of a block without reading it.

    `size` is in bytes; `etag` comes without quotes and changes when the content does;
    `last_modified` is in UTC, and None where the service did not say (a write's reply). The rest
    `stat_block` tells, and `read_block_with_info` unless the bytes came through a cache; a listing
    and the reply to a write don't: `metadata` of the caller's own (None where it was not told, {}
    where there is none), `content_type` and `storage_class` ("" in both).
    """

    key: str
    size: int
    etag: str
    last_modified: datetime | None = None
    metadata: Mapping[str, str] | None = None
    content_type: str = ""
    storage_class: str = ""


Method: TypeAlias = Literal["GET", "HEAD", "PUT", "DELETE"]
"""What a presigned request may do."""


class PresignedRequest(NamedTuple):
    """A request that whoever has it may send: `method` and `url`, and the `headers` that it needs.

    Its `repr` hides the signature, which is as good as a key for as long as it holds.
    """

    method: Method
    url: str
    headers: Mapping[str, str]

    def __repr__(self) -> str:
        return f"PresignedRequest({self.method!r}, {self.url.partition('?')[0]!r})"


class CopyResult(NamedTuple):
    """What the reply to a copy tells of the new block: not its size, which `stat_block` does."""

    key: str
    etag: str
    last_modified: datetime | None = None


class Checksums(Protocol):
    """What the bytes of a block were verified against."""

    @property
    def name(self) -> str:
        """The kind: "page checksums", "x-amz-checksum-crc32c" and its like, "ETag"."""
        ...

    @property
    def block_crc32c(self) -> int | None:
        """The CRC32C of the whole block, where it is known."""
        ...


class PageSums(NamedTuple):
    """The checksums that a block was stored with: of each of its pages, by its writer.

    `running` holds, for each page, the CRC32C of the block from its first byte to the end of that
    page, 4 bytes each, the highest first; the last is that of the whole block, and the only one of
    a block without bytes. So any run of pages is verified by one call, which leads from the
    checksum before it to the one at its end.
    """

    page_size: int
    running: bytes


@dataclass(slots=True)
class Block:
    """What a read gives: `size` bytes in `data`, or in the buffer that the request had.

    `checksums` are those that they were verified against, None where there are none; `page_sums`
    all of the block's page checksums, where `ReadRequest.page_sums` asks for them.
    """

    data: bytes
    size: int
    describe: Callable[[], BlockInfo]
    checksums: Checksums | None = None
    page_sums: PageSums | None = None

    @property
    def info(self) -> BlockInfo:
        """The block that the bytes are of: read from the reply only when it is requested."""
        return self.describe()


class Part(NamedTuple):
    """A part of an object that is uploaded: `number` from 1 on, and `size` in bytes.

    `etag` is what the store knows it by. `crc32c` is that of its bytes, None where the store copied
    them and did not say it; `verified` is whether the store said the same of what it has.
    """

    number: int
    size: int
    crc32c: int | None
    etag: str
    verified: bool = False


class Upload(NamedTuple):
    """An upload in parts that was begun: `id` is the store's name of it.

    `started` is when, in UTC; None where the store does not say.
    """

    key: str
    id: str
    started: datetime | None = None


@dataclass(frozen=True, slots=True)
class UploadPage:
    """One page of a listing of uploads; `next_token` is None on the last one."""

    uploads: list[Upload]
    next_token: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing, in key order; `next_token` is None on the last one.

    `folders` are the keys up to the next `/` behind the prefix, of a listing by folder.
    """

    blocks: list[BlockInfo]
    next_token: str | None
    folders: list[str] = field(default_factory=list[str])


@dataclass(frozen=True, slots=True)
class FolderListing:
    """What lies directly in a folder, in key order.

    `blocks` are those whose keys have no further `/`; `folders` are the prefixes, `/` included,
    of the folders in it that hold blocks.
    """

    blocks: list[BlockInfo]
    folders: list[str]


@dataclass(frozen=True, slots=True)
class DeleteResult:
    """What became of each key of a delete.

    `deleted` holds the keys that are gone (or, in a dry run, would be), in request order;
    a key that was not there counts as deleted. `failed` maps every other key to its error.
    """

    deleted: list[str] = field(default_factory=list)
    failed: Mapping[str, BlockStoreError] = field(default_factory=dict[str, BlockStoreError])

    def raise_for_failures(self) -> None:
        """Raise `PartialDeleteError` when any key failed."""
        if not self.failed:
            return
        key, error = next(iter(self.failed.items()))
        raise PartialDeleteError(
            f"delete: {len(self.failed)} of {len(self.failed) + len(self.deleted)} keys "
            f"could not be deleted; the first is {key!r}: {error}",
            self,
        ) from error


@dataclass(frozen=True, slots=True)
class HealthReport:
    """The answer of `health_check`: the bucket or folder can be used.

    `latency` is the seconds that the check took; `store` says what was checked, without secrets;
    `server` is what the service calls itself, "" where it does not say.
    """

    latency: float
    store: str
    server: str = ""


@dataclass(slots=True)
class CacheStats:
    """What a cache has done so far; threads may lose a count.

    `memory_hits` and `disk_hits` count reads that were answered from there; `revalidated` those of
    entries that the store was asked about and still held; `partial_hits` those that found the block
    but not all that was requested, and `misses` those that found nothing. `coalesced` of these
    waited for the same read of another. `filled` counts what was kept, `dropped` what was not since
    too much was waiting to be, `evicted` what left for lack of room, `damaged` what did not match
    its checksum. `memory_used` is in bytes. `staged` blocks are in the folder and not in the store
    yet, the oldest since `oldest_staged` seconds; None where the mode is not write_back.
    """

    memory_hits: int = 0
    disk_hits: int = 0
    revalidated: int = 0
    partial_hits: int = 0
    misses: int = 0
    coalesced: int = 0
    filled: int = 0
    dropped: int = 0
    evicted: int = 0
    damaged: int = 0
    memory_used: int = 0
    staged: int | None = None
    oldest_staged: float = 0.0


class StagedBlock(NamedTuple):
    """A block that was written to a cache in write-back mode, and is not in the store yet.

    `size` is in bytes, `staged_at` in UTC. `error` says why this process could not upload it when
    it last tried; None where it has not tried, or another process does.
    """

    key: str
    size: int
    staged_at: datetime
    error: str | None = None


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What an open store has sent so far, and what it has learnt that changes what calls do.

    Of S3 alone: folders and memory count nothing. `succeeded`, `error_responses`, `throttled` and
    `lost` (no usable reply came) count requests by their outcome, `retries` those that were made
    since another one failed, `hedges` second requests for a read and `hedges_won` those that were
    answered first; threads may lose a count. `connections_taken` are in use now, and
    `connections_idle` are kept for the next requests.
    `concurrency_limit` is how many requests may be in flight since the service throttled, None
    while it does not, and `retry_tokens` are left in the retry token bucket, of 500. `region` is
    that requests are signed for; `clock_offset` the seconds that the service's clock is ahead;
    `page_size` the bytes that ranged reads are widened to. `capabilities` is what the service has
    (True), has not (False), or may have (None). `cache` counts what a cache did, if there is one.
    """

    succeeded: int = 0
    error_responses: int = 0
    throttled: int = 0
    lost: int = 0
    retries: int = 0
    hedges: int = 0
    hedges_won: int = 0
    connections_taken: int = 0
    connections_idle: int = 0
    concurrency_limit: float | None = None
    retry_tokens: float = 0.0
    region: str = ""
    clock_offset: float = 0.0
    page_size: int = 0
    capabilities: Mapping[str, bool | None] = field(default_factory=dict[str, bool | None])
    cache: CacheStats | None = None


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What became of each block that was read to be verified.

    `verified` counts the blocks whose bytes are right, by what they were verified against: "page
    checksums", "x-amz-checksum-crc32c" and its like, "ETag", "manifest" for those of contents in a
    folder, which have a checksum of their own. `unverifiable` counts those with
    nothing to hold them to. `damaged` maps the keys of blocks that are not as they were stored to
    their errors, `unreadable` those of blocks that could not be read. `size` is what was read and
    not found damaged, in bytes.
    """

    verified: Mapping[str, int]
    unverifiable: int
    damaged: Mapping[str, BlockStoreError]
    unreadable: Mapping[str, BlockStoreError]
    size: int
