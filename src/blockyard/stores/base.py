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
    BlockTooLargeError,
    BufferTooSmallError,
    NotModifiedError,
    PreconditionFailedError,
    UnsupportedError,
)
from blockyard.keys import range_past_end
from blockyard.merging import Range
from blockyard.model import (
    MAX_BLOCK_SIZE,
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
    """What to read of the block `key`, all in bytes.

    All of it; or `length` bytes from `offset` (to the end when None), clamped at the block's end;
    or its last `suffix` bytes, all of a shorter block. They are to go to the start of `into`
    (writable, flat) where that is given. `if_match` and `if_none_match` are ETags as
    `BlockInfo` has them. `operation` is what errors name. `page_sums` asks for
    `Block.page_sums`, where the block was stored with page checksums. `lifetime` is for caches: an
    "immutable" block is never written twice, so none asks again whether it has changed; of a
    "mutable" one the latest version matters, so even one asks that is told never to. Without
    `with_info` nobody looks at more of `Block.info` than its size. With `or_empty` the offset 0 is
    within an empty block as well.
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

    With `if_absent` only where there is no block, with `if_match` only in place of the block that
    has that ETag, as `BlockInfo` has it; one of the two at most. A store that can't keep something
    of `options` raises `UnsupportedError`, and stores nothing. `operation` is what errors name.
    `through` is for caches: what comes after it rests on the block being in the store.
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
        """Whether it depends on the block that is there now."""
        return self.if_absent or self.if_match is not None


Data: TypeAlias = bytes | bytearray | memoryview


@dataclass(slots=True, eq=False)
class UploadRequest:
    """What is to be stored in parts as the block `key`, whatever its size.

    The conditions and options are those of `WriteRequest`; the conditions hold at the end of it.
    """

    key: str
    if_absent: bool = False
    if_match: str | None = None
    options: PutOptions | None = None
    operation: str = "write_object"

    @property
    def conditional(self) -> bool:
        """Whether it depends on the block that is there at the end."""
        return self.if_absent or self.if_match is not None


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """An upload that `start_upload` has begun; `state` is what the store itself has to know."""

    upload: Upload
    request: UploadRequest
    state: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True, eq=False)
class PresignRequest:
    """A request of the block `key` that holds for `expires` seconds; `options` are for a PUT."""

    key: str
    method: Method
    expires: int
    options: PutOptions | None = None


@dataclass(slots=True, eq=False)
class ListRequest:
    """Which page of a listing: blocks whose keys begin with the literal `prefix`.

    At most `page_size` (1 to 1000) of them; those after the key `start_after` alone. `token` is
    None for the first page, then the `next_token` of the page before. With the delimiter `/` keys
    that have one behind the prefix are not listed, but what they begin with up to there is, once,
    as one of `Page.folders`.
    """

    prefix: str
    token: str | None = None
    page_size: int = 1000
    delimiter: Literal["", "/"] = ""
    start_after: str = ""
    operation: str = "list_by_prefix"


def changed(where: str, if_match: str | None, etag: str | None = None) -> PreconditionFailedError:
    """The error for a block with another ETag than was asked for: `etag`, where it is known."""
    found = "" if etag is None else f"{etag!r}, "
    return PreconditionFailedError(f"{where}: its ETag is {found}not {if_match!r}")


def unchanged(where: str, etag: str | None) -> NotModifiedError:
    """The error for a block that still has the ETag which it was not to have."""
    return NotModifiedError(f"{where}: its ETag is still {etag!r}")


def check_match(where: str, if_match: str | None, etag: str) -> None:
    """Raise `PreconditionFailedError` for a block with another `etag` than was asked for."""
    if if_match not in {None, etag}:
        raise changed(where, if_match, etag)


def check_options(request: WriteRequest | UploadRequest, *kept: str) -> None:
    """Raise `UnsupportedError` for options that a store has no place for but `kept`.

    Empty metadata and tags, which say that there are none, take no place.
    """
    if request.options is None:
        return
    for name, value in request.options.given().items():
        if name not in kept and value:
            error = UnsupportedError(
                f"{request.operation} {request.key!r}: options: {name}: this store can't keep it"
            )
            error.of_options = True
            try:
                raise error
            finally:
                del error  # which its traceback refers to


def check_conditions(request: ReadRequest, etag: str) -> None:
    """Raise the error for a block with `etag` that the request's conditions refuse."""
    where = f"{request.operation} {request.key!r}"
    check_match(where, request.if_match, etag)
    if request.if_none_match == etag:
        raise unchanged(where, etag)


def within(size: int, offset: int, length: int | None, suffix: int | None) -> tuple[int, int]:
    """The first byte of a range, and the one after the last, in a block of `size` bytes."""
    if suffix is not None:
        return max(0, size - suffix), size
    return offset, size if length is None else min(offset + length, size)


def requested_range(request: ReadRequest, size: int) -> tuple[int, int]:
    """The first byte requested, and the one after the last, of a block of `size` bytes.

    Raises `InvalidRangeError` for an offset at or past the end, `BufferTooSmallError`.
    """
    offset = request.offset or 0
    if request.is_past_end(size):
        raise range_past_end(request.operation, request.key, offset, size)
    begin, end = within(size, offset, request.length, request.suffix)
    if request.into is not None and end - begin > len(request.into):
        raise buffer_too_small(request, end - begin)
    return begin, end


def buffer_too_small(request: ReadRequest, size: int) -> BufferTooSmallError:
    """The error for a buffer that can't hold the `size` bytes that were requested."""
    capacity = 0 if request.into is None else len(request.into)
    what = "the block has" if request.whole else "the range has"
    return BufferTooSmallError(
        f"{request.operation} {request.key!r}: {what} {size} bytes, the buffer {capacity}"
    )


def check_size(request: ReadRequest, size: int) -> None:
    """Raise `BlockTooLargeError` for more bytes than a read gives at once."""
    if request.into is None and size > MAX_BLOCK_SIZE:
        raise BlockTooLargeError(
            f"{request.operation} {request.key!r}: {size} bytes, the limit is {MAX_BLOCK_SIZE}"
        )


class Store(ABC):
    """Blocks under keys."""

    @abstractmethod
    def write(self, ctx: Context, request: WriteRequest) -> Coroutine[Any, Any, BlockInfo]:
        """Store the block, durably once this returns, replacing what was there.

        Readers see the old block or the new one, never a mixture and never a short one. With
        `if_absent` exactly one of several racing writers wins; the others get
        `BlockExistsError` and change nothing. With `if_match` exactly one of several that race to
        replace one block wins; the others get `PreconditionFailedError`, or
        `BlockNotFoundError` where there is none, and change nothing. A store that can't hold a
        write to its condition raises `UnsupportedError`.
        """

    def check_write(self, request: WriteRequest) -> None:
        """Raise what `write` raises for a block that the store never takes, whatever is there.

        Asks nobody. Who keeps a block to write it later asks first: nobody would be told then.
        """
        return

    @abstractmethod
    def read(self, ctx: Context, request: ReadRequest) -> Coroutine[Any, Any, Block]:
        """The bytes requested, all of one version of the block, verified where there are checksums.

        `BlockNotFoundError`; `BlockTooLargeError` over MAX_BLOCK_SIZE; `BufferTooSmallError` when
        `into` can't hold them, and after any error its content is undefined.
        `InvalidRangeError` when `offset` is at or past the end, which every offset of an empty
        block is, but for 0 with `or_empty`; a length of 0 within the block, or a suffix of 0, gives
        no bytes.
        `PreconditionFailedError` when the block has another ETag than `if_match`,
        `NotModifiedError` when it has that of `if_none_match`.
        """

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        """What `read` gives or raises, where that takes no wait, as of what is in a cache; or None.

        Whoever asks for many blocks is answered on the spot then.
        """
        return None

    def ranges_at_once(self, ctx: Context, wanted: Sequence[Range]) -> list[bytes | None]:
        """The bytes that `read_at_once` gives of each range.

        By default it is asked for one after the other.
        """
        found: list[bytes | None] = []
        for key, offset, length in wanted:
            request = ReadRequest(key, offset, length, operation="read_block_range")
            block = self.read_at_once(ctx, request)
            found.append(None if block is None else block.data)
        return found

    @property
    def reads_in_parts(self) -> bool:
        """Whether a block comes sooner when ranges of it are read side by side."""
        return False

    async def verify_block(self, ctx: Context, key: str) -> str | None:
        """Read the whole block and verify it against every checksum that it is kept with.

        Returns the name of what it was verified against, None when there is nothing; raises
        `IntegrityError` when it does not match. The default, for stores that keep no checksums,
        only shows that it can be read.
        """
        _ = await self.read(ctx, ReadRequest(key, operation="verify_block"))
        return None

    @property
    def keeps_crc32c(self) -> bool:
        """Whether `kept_crc32c` may know one."""
        return False

    async def kept_crc32c(self, ctx: Context, operation: str, key: str, etag: str) -> int | None:
        """The CRC32C that the store itself keeps of all bytes of this version of the block.

        For who reads all of it in parts. None, as by default, where that is not known.
        """
        return None

    async def start_upload(self, ctx: Context, request: UploadRequest) -> OpenUpload:
        """Begin to store the block in parts: nobody sees anything of it before its end.

        What `write` refuses for its conditions or options may be refused here, or at the end. The
        default of this and of the others is for stores that have no such thing.
        """
        raise UnsupportedError(f"write_object {request.key!r}: {self.name} takes no parts")

    async def upload_part(
        self, ctx: Context, upload: OpenUpload, number: int, offset: int, data: Data
    ) -> Part:
        """Send the part `number`, from 1 to `MAX_PARTS`: `data`, that begins at byte `offset`.

        Parts come in any order and at the same time; all but the last have `MIN_PART_SIZE` bytes
        at least. Once this returns the store has its bytes, verified where it can.
        """
        raise UnsupportedError(f"write_object {upload.upload.key!r}: {self.name} takes no parts")

    async def complete_upload(
        self, ctx: Context, upload: OpenUpload, parts: Sequence[Part]
    ) -> BlockInfo:
        """Put the block in place in one step, of all of `parts` in their order.

        Promises and raises what `write` does, and `IntegrityError` where the store says that it
        holds other bytes than were sent; `OutcomeUnknownError` when replies were lost and it can't
        be told whether it was done.
        """
        raise UnsupportedError(f"write_object {upload.upload.key!r}: {self.name} takes no parts")

    async def start_copy(
        self, ctx: Context, source_key: str, target_key: str
    ) -> tuple[OpenUpload, BlockInfo]:
        """Begin a copy in parts, for what `copy_block` refuses as too large; and its source.

        The parts are those of `copy_part`, and what ends it the same as of an upload, which raises
        `PreconditionFailedError` where the source is another one by then, and stores nothing.
        """
        raise UnsupportedError(f"copy_block {source_key!r}: {self.name} takes no parts")

    async def copy_part(
        self, ctx: Context, upload: OpenUpload, number: int, source: BlockInfo, span: range
    ) -> Part:
        """Copy the bytes `span` of this version of the source, or `PreconditionFailedError`."""
        raise UnsupportedError(f"copy_block {source.key!r}: {self.name} takes no parts")

    async def abort_upload(self, ctx: Context, upload: Upload) -> None:
        """Give an upload up, and free what its parts take. No error when there is none."""
        raise UnsupportedError(f"abort_upload {upload.key!r}: {self.name} takes no parts")

    async def list_uploads(self, ctx: Context, prefix: str, token: str | None) -> UploadPage:
        """One page of the uploads that were neither completed nor aborted, in the order of keys.

        Those whose keys begin with the literal `prefix`; `token` is that of the page before.
        """
        return UploadPage([], None)

    @abstractmethod
    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        """Size, ETag and time of the block, and its metadata: {} where it has none.

        `BlockNotFoundError`.
        """

    async def options_of(self, ctx: Context, key: str) -> tuple[PutOptions, BlockInfo]:
        """What a write elsewhere says for its object to be as this one, and what this is.

        That is what a copy within the store carries along by itself. Errors as of `stat_block`.
        """
        info = await self.stat_block(ctx, key)
        kind, metadata = info.content_type or None, info.metadata or None
        return PutOptions(content_type=kind, metadata=metadata), info

    @abstractmethod
    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        """Copy within the store, no bytes through the client; the keys differ.

        Replaces the target as `write_block` does, and returns its new version.
        `BlockNotFoundError` names the source key; `BlockTooLargeError` says that it takes parts.
        """

    @abstractmethod
    async def delete_block(self, ctx: Context, key: str, if_match: str | None = None) -> None:
        """Delete the block. No error when it is absent.

        With `if_match` only the version with that ETag: `PreconditionFailedError` when there is
        another, `BlockNotFoundError` when there is none, and nothing is changed. Of several that
        delete or replace one version, one succeeds. A store that can't hold a delete to that
        raises `UnsupportedError`, and deletes nothing.
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

        For a store that can tell keys for less; the default reads the page.
        """
        page = await self.list(ctx, request)
        return [block.key for block in page.blocks], page.next_token

    @property
    def name(self) -> str:
        """What the store is, for people to read: no secret is in it."""
        return type(self).__name__

    @property
    def identity(self) -> str:
        """What tells the store from others in a cache's folder: no secret is in it either.

        It is the same whichever of its names the store was opened by, as far as that can be known.
        """
        return self.name

    @abstractmethod
    async def health_check(self, ctx: Context) -> HealthReport:
        """Show that the store can be used now, or raise the typed error that says why not."""

    async def presign(self, ctx: Context, request: PresignRequest) -> PresignedRequest:
        """A request that holds for `expires` seconds. The default is for stores without any."""
        raise UnsupportedError(f"presign {request.key!r}: {self.name} takes no requests")

    async def pending(self, ctx: Context) -> builtins.list[StagedBlock]:
        """The blocks that wait to be uploaded, the oldest first; none by default."""
        return []

    async def drain(self, ctx: Context) -> builtins.list[StagedBlock]:
        """Upload them, and return those that could not be: `pending`."""
        return []

    def date(self, ctx: Context) -> datetime | None:
        """The store's clock at the last reply under this context, error responses included.

        In UTC; None where there was no reply that told. The default is for stores of this machine.
        """
        return datetime.fromtimestamp(ctx.runtime.wall_time(), UTC)

    async def clock(self, ctx: Context) -> datetime | None:
        """What the time is by the clock that `last_modified` of blocks is by.

        None, as by default, where it is `date`, or can't be asked.
        """
        return None

    def stats(self) -> StoreStats:
        """What was sent and learnt so far; nothing by default."""
        return StoreStats()

    @property
    def waits_to_close(self) -> bool:
        """Whether `close` may wait, as for a disk: then no event loop is to wait with it."""
        return False

    def close(self) -> None:  # noqa: B027 - a store need not hold anything
        """Let go of what the store holds. Called once; the default holds nothing."""
