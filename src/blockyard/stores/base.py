"""The contract of a store. The comment on each method is what callers may rely on.

A new store implements `Store` and passes `blockyard.testing.conformance`. Keys, ranges and
buffers reach it already checked (`operations.py`), and conveniences (bulk calls, delete by
prefix, whole listings) are built once on top of it, there. A store is shared by threads and by
event loops at the same time, so it holds no lock across an await and keeps no I/O of its own:
that comes with the context.
"""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from blockyard.context import Context, Lifetime
from blockyard.errors import (
    UnsupportedError,
)
from blockyard.merging import Range
from blockyard.model import (
    Block,
    BlockInfo,
    CopyResult,
    DeleteResult,
    HealthReport,
    Method,
    Page,
    Part,
    PresignedRequest,
    StagedBlock,
    StoreStats,
    Upload,
    UploadPage,
)
from blockyard.put_options import PutOptions


@dataclass(slots=True, eq=False)
class ReadRequest:
    """What to read of the block `key`: all of it, a range, or a suffix. All sizes in bytes.

    offset, length: the range, to the block's end when `length` is None, clamped there
    suffix: the last bytes instead; all of a shorter block
    into: flat writable memory that the bytes go to the start of
    if_match, if_none_match: ETags as `BlockInfo` has them
    operation: the name of the operation in errors
    page_sums: whether `Block.page_sums` is wanted, where the block has page checksums
    lifetime: for caches: an "immutable" block is never written twice, so it is not revalidated; a
        "mutable" one is, even by a cache that is configured never to
    with_info: whether more of `Block.info` than its size is wanted
    or_empty: whether the offset 0 is valid in an empty block as well
    """

    key: str
    offset: int | None = None
    length: int | None = None
    suffix: int | None = None
    into: memoryview | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    operation: str = "read_block"
    page_sums: bool = False
    lifetime: Lifetime = "default"
    with_info: bool = False
    or_empty: bool = False

    @property
    def whole(self) -> bool:
        """Whether all of the block is requested."""
        return self.offset is None and self.suffix is None

    def is_past_end(self, size: int) -> bool:
        """Whether the range begins at or past the end of a block of `size` bytes."""
        offset = self.offset
        if offset is None or offset < size:
            return False
        return not (self.or_empty and offset == size == 0)


@dataclass(slots=True, eq=False)
class WriteRequest:
    """What to store: the flat bytes `data` as the block `key`.

    if_absent: only where there is no block
    if_match: only in place of the block with that ETag, as `BlockInfo` has it; not with `if_absent`
    options: a store that can't keep one of them raises `UnsupportedError`, and stores nothing
    operation: the name of the operation in errors
    through: for write-back caches: the caller relies on the block being in the store afterwards
    """

    key: str
    data: bytes | memoryview
    if_absent: bool = False
    if_match: str | None = None
    options: PutOptions | None = None
    operation: str = "write_block"
    through: bool = False

    @property
    def conditional(self) -> bool:
        """Whether the write has a condition."""
        return self.if_absent or self.if_match is not None


Data: TypeAlias = bytes | bytearray | memoryview


@dataclass(slots=True, eq=False)
class UploadRequest:
    """What to store in parts as the block `key`, whatever its size.

    Conditions and options are those of `WriteRequest`; the conditions are checked at the
    completion.
    """

    key: str
    if_absent: bool = False
    if_match: str | None = None
    options: PutOptions | None = None
    operation: str = "write_object"

    @property
    def conditional(self) -> bool:
        """Whether the completion has a condition."""
        return self.if_absent or self.if_match is not None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload begun by `start_upload`; `state` is the store's own."""

    upload: Upload
    request: UploadRequest
    state: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class PresignRequest:
    """A request to sign that is valid for `expires` seconds; `options` are for a PUT."""

    key: str
    method: Method
    expires: int
    options: PutOptions | None = None


@dataclass(slots=True, eq=False)
class ListRequest:
    """Which page of a listing: blocks whose keys begin with the literal `prefix`.

    page_size: the most entries, 1 to 1000 start_after: only keys after this one token: None for the
    first page, then the `next_token` of the page before delimiter: with "/", keys with a further
    "/" after the prefix are not listed, but what they begin
        with up to there is, once, as one of `Page.folders`
    """

    prefix: str
    token: str | None = None
    page_size: int = 1000
    delimiter: Literal["", "/"] = ""
    start_after: str = ""
    operation: str = "list_by_prefix"


class Store(ABC):
    """Blocks under keys."""

    @abstractmethod
    def write(self, ctx: Context, request: WriteRequest) -> Coroutine[Any, Any, BlockInfo]:
        """Store the block, durably once this returns, replacing what was there.

        Readers see the old block or the new one, never a mixture and never a short one. With
        `if_absent` exactly one of several racing writers wins; the others get
        `BlockExistsError` and change nothing. With `if_match` exactly one of several that race to
        replace one block wins; the others get `PreconditionFailedError`, or
        `BlockNotFoundError` where there is none, and change nothing. A store that can't enforce
        the condition raises `UnsupportedError`.
        """

    def check_write(self, request: WriteRequest) -> None:
        """Raise what `write` raises for a block that the store never takes, whatever is there.

        Asks nobody. Who keeps a block to write it later asks first: nobody would be told then.
        """
        return

    @abstractmethod
    def read(self, ctx: Context, request: ReadRequest) -> Coroutine[Any, Any, Block]:
        """Read the bytes requested, of one version of the block, verified where it has checksums.

        Raises `BlockNotFoundError`; `BlockTooLargeError` over MAX_BLOCK_SIZE; `BufferTooSmallError`
        when `into` is too small for them. After any error the content of `into` is undefined.
        `InvalidRangeError` when `offset` is at or past the end, which every offset of an empty
        block is, but for 0 with `or_empty`. A length of 0 within the block, or a suffix of 0, gives
        no bytes. `PreconditionFailedError` when the block has another ETag than `if_match`,
        `NotModifiedError` when it has that of `if_none_match`.
        """

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """`read` if that needs no wait, as from a cache in memory; else None.

        Bulk calls ask this first, before they start tasks.
        """
        return None

    def ranges_at_once(self, ctx: Context, wanted: Sequence[Range]) -> list[bytes | None]:
        """`read_at_once` for each of many ranges.

        The default calls it for one after the other.
        """
        found: list[bytes | None] = []
        for key, offset, length in wanted:
            request = ReadRequest(key, offset, length, operation="read_block_range")
            block = self.read_at_once(ctx, request)
            found.append(None if block is None else block.data)
        return found

    @property
    def reads_in_parts(self) -> bool:
        """Whether a large block is read faster as several ranges in parallel."""
        return False

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        """Read the whole block and verify it against every checksum that the store has for it.

        Returns the name of that kind of checksum, None when there is none; raises `IntegrityError`
        when it does not match. The default, for stores that keep no checksums, only reads the
        block.
        """
        _ = await self.read(ctx, ReadRequest(key, operation="verify_block"))
        return None

    @property
    def keeps_crc32c(self) -> bool:
        """Whether `kept_crc32c` may return a checksum."""
        return False

    async def kept_crc32c(self, ctx: Context, operation: str, key: str, etag: str) -> int | None:
        """The CRC32C that the store itself keeps of all bytes of this version of the block.

        To verify a block that was read in parts. None where there is none, as by default.
        """
        return None

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        """Begin to store a block in parts; readers see nothing of it before the completion.

        A condition or option that `write` would refuse is refused here or at the completion. The
        defaults of the methods for parts are for stores without multipart uploads.
        """
        raise UnsupportedError(f"write_object {request.key!r}: {self.name} takes no parts")

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        """Send part `number`, 1 to `MAX_PARTS`: `data`, which begins at byte `offset` of the block.

        Parts come in any order and concurrently; all but the last have at least `MIN_PART_SIZE`
        bytes. Once this returns the store has the bytes, verified where it can.
        """
        raise UnsupportedError(f"write_object {upload.upload.key!r}: {self.name} takes no parts")

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        """Put the block, made of `parts` in their order, in place in one step.

        Promises and raises what `write` does, and `IntegrityError` where the store holds other
        bytes than were sent; `OutcomeUnknownError` when replies were lost and it is not known
        whether it was done.
        """
        raise UnsupportedError(f"write_object {upload.upload.key!r}: {self.name} takes no parts")

    async def start_copy(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        """Begin a copy in parts of a block that `copy_block` refuses as too large; also its info.

        The parts are made by `copy_part`. The completion raises `PreconditionFailedError` where the
        source was replaced since, and stores nothing then.
        """
        raise UnsupportedError(f"copy_block {source_key!r}: {self.name} takes no parts")

    async def copy_part(
        self, ctx: Context, upload: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        """Copy the bytes `span` of this version of the source. Raises `PreconditionFailedError`."""
        raise UnsupportedError(f"copy_block {source.key!r}: {self.name} takes no parts")

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        """Give up an upload, and free its parts. No error when there is none."""
        raise UnsupportedError(f"abort_upload {upload.key!r}: {self.name} takes no parts")

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        """One page of the uploads that were neither completed nor aborted, in the order of keys.

        Only those whose keys begin with the literal `prefix`; `token` is that of the page before.
        """
        return UploadPage([], None)

    @abstractmethod
    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        """Size, ETag and time of the block, and its metadata: {} where it has none.

        `BlockNotFoundError`.
        """

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        """The options that make a write to another store equal to a copy; also the info.

        Raises what `stat_block` does.
        """
        info = await self.stat_block(ctx, key)
        kind, metadata = info.content_type or None, info.metadata or None
        return PutOptions(content_type=kind, metadata=metadata), info

    @abstractmethod
    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        """Copy within the store, no bytes through the client; the keys differ.

        Replaces the target as `write_block` does, and returns its new version. Raises
        `BlockNotFoundError` with the source key; `BlockTooLargeError` where the copy takes parts.
        """

    @abstractmethod
    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        """Delete the block. No error when it is absent.

        With `if_match` only the version with that ETag: `PreconditionFailedError` when there is
        another, `BlockNotFoundError` when there is none, and nothing is changed. Of several that
        delete or replace one version, one succeeds. A store that can't enforce the condition raises
        `UnsupportedError`, and deletes nothing.
        """

    @abstractmethod
    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        """Delete many, each key with its own outcome, duplicates reported once.

        Raises only when nothing could be attempted (say, no access to the bucket at all);
        otherwise every key is in exactly one of `deleted` and `failed`.
        """

    @abstractmethod
    async def list(self, ctx: Context, request: ListRequest) -> Page:
        """One page of a listing. Keys come in the order of their UTF-8 bytes, over all pages."""

    async def list_keys(
        self, ctx: Context, request: ListRequest
    ) -> tuple[builtins.list[str], str | None]:
        """The keys of the same `list` without a delimiter, and its `next_token`.

        For a store that lists keys alone faster; the default reads the page.
        """
        page = await self.list(ctx, request)
        return [block.key for block in page.blocks], page.next_token

    @property
    def name(self) -> str:
        """The store's name in messages and reprs, without secrets."""
        return type(self).__name__

    @property
    def identity(self) -> str:
        """Identifies the store in the folder of a cache, without secrets.

        Equal for all names that the same store can be opened by, as far as that can be known.
        """
        return self.name

    @abstractmethod
    async def health_check(self, ctx: Context) -> HealthReport:
        """Show that the store can be used now, or raise the typed error that says why not."""

    async def presign(self, ctx: Context, request: PresignRequest) -> PresignedRequest:
        """Sign a request for others to send. The default is for stores without presigned URLs."""
        raise UnsupportedError(f"presign {request.key!r}: {self.name} takes no requests")

    async def pending(self, ctx: Context) -> builtins.list[StagedBlock]:
        """The blocks of a write-back cache that wait for upload, oldest first; none by default."""
        return []

    async def drain(self, ctx: Context) -> builtins.list[StagedBlock]:
        """Upload the `pending` blocks, and return those that could not be."""
        return []

    def date(self, ctx: Context) -> datetime | None:
        """The store's clock in UTC, by the last reply (or error response) under this context.

        None where no reply had it. The default, for stores of this machine, is the machine's clock.
        """
        return datetime.fromtimestamp(ctx.runtime.wall_time(), UTC)

    async def clock(self, ctx: Context) -> datetime | None:
        """The current time by the clock that sets `last_modified` of blocks.

        None, as by default, where that is the clock of `date`, or it can't be asked.
        """
        return None

    def stats(self) -> StoreStats:
        """Counters and what was learnt of the service so far; empty by default."""
        return StoreStats()

    @property
    def waits_to_close(self) -> bool:
        """Whether `close` may block, as on a disk: an event loop then runs it on a thread."""
        return False

    def close(self) -> None:  # noqa: B027 - a store need not hold anything
        """Release what the store holds. Called once; the default has nothing to release."""
