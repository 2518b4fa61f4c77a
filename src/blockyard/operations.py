"""The public operations, each written once, over any store.

Arguments are checked here, before anything is sent or lost, so that a store may rely on them;
what a store can't do better itself (bulk calls, whole listings, delete by prefix) is built
here from what it can. Both clients call these and add nothing but the way to run them.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from blockyard import arguments, bulk_reads, prefixes
from blockyard.buffer import Buffer
from blockyard.bulk_reads import BulkRead
from blockyard.context import Context, Lifetime, UserItems
from blockyard.errors import (
    BlockNotFoundError,
    BlockTooLargeError,
    IntegrityError,
    StoreClosedError,
    TransportError,
    UnsupportedError,
)
from blockyard.iterators import Fetch, Fetched
from blockyard.keys import below
from blockyard.large_copies import copy_in_parts
from blockyard.model import (
    DEFAULT_IN_FLIGHT,
    BlockInfo,
    CopyResult,
    DeleteResult,
    FolderListing,
    HealthReport,
    Method,
    Page,
    PresignedRequest,
    StagedBlock,
)
from blockyard.put_options import PutOptions
from blockyard.sharing import Holder, SharedStore
from blockyard.stores.base import ListRequest, PresignRequest, ReadRequest, Store, WriteRequest
from blockyard.stores.checks import etag_mismatch

Result = TypeVar("Result")


class Operations:
    """The operations of one open store. Shared by every client and view that closes with it.

    Clients that came in pickles have their own each, over a store that they share.
    """

    def __init__(
        self,
        store: Store,
        in_flight: int = DEFAULT_IN_FLIGHT,
        shared: SharedStore | None = None,
    ) -> None:
        self.store = store
        self.held = Holder(SharedStore(store, in_flight) if shared is None else shared)
        self.in_flight = in_flight
        """Most bytes of blocks that one call holds in memory; one block is always allowed."""
        self.copying_works = False
        """Whether a copy has succeeded, so that the service supports copies."""
        self._refusing = False
        self._closed = False

    def blocks_in_flight(self, ctx: Context, size: int) -> int:
        """How many blocks of `size` bytes a call may hold in memory at a time."""
        return min(ctx.concurrency, max(1, self.in_flight // max(1, size)))

    def write_block(
        self,
        ctx: Context,
        key: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        options: PutOptions | None = None,
        through: bool = False,
    ) -> Coroutine[Any, Any, BlockInfo]:
        self.check_open("write_block", ctx)
        key = arguments.key("write_block", key)
        block = arguments.data("write_block", key, data)
        absent, match = arguments.conditions("write_block", key, if_absent, if_match)
        given = arguments.put_options("write_block", options)
        return self.store.write(
            ctx, WriteRequest(key, block, absent, match, given, through=through)
        )

    async def read_block(self, ctx: Context, key: str) -> bytes:
        self.check_open("read_block", ctx)
        block = await self.store.read(ctx, ReadRequest(arguments.key("read_block", key)))
        return block.data

    async def read_block_into(self, ctx: Context, key: str, buffer: Buffer) -> int:
        self.check_open("read_block_into", ctx)
        key = arguments.key("read_block_into", key)
        into = arguments.writable("read_block_into", buffer)
        request = ReadRequest(key, into=into, operation="read_block_into")
        block = await self.store.read(ctx, request)
        return block.size

    async def read_block_range(
        self, ctx: Context, key: str, offset: int, length: int | None = None
    ) -> bytes:
        self.check_open("read_block_range", ctx)
        key = arguments.key("read_block_range", key)
        offset, length = arguments.span("read_block_range", key, offset, length)
        request = ReadRequest(key, offset, length, operation="read_block_range")
        block = await self.store.read(ctx, request)
        return block.data

    async def read_block_with_info(
        self,
        ctx: Context,
        key: str,
        offset: int = 0,
        length: int | None = None,
        *,
        suffix: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        lifetime: Lifetime = "default",
    ) -> tuple[bytes, BlockInfo]:
        operation = "read_block_with_info"
        self.check_open(operation, ctx)
        key = arguments.key(operation, key)
        begin, length = arguments.span(operation, key, offset, length)
        request = ReadRequest(
            key,
            suffix=arguments.suffix(operation, key, suffix, begin),
            if_match=arguments.etag(operation, if_match, "if_match"),
            if_none_match=arguments.etag(operation, if_none_match, "if_none_match"),
            operation=operation,
            lifetime=arguments.lifetime(operation, lifetime),
            with_info=True,
        )
        if request.suffix is None and (begin or length is not None):
            request.offset, request.length = begin, length
        block = await self.store.read(ctx, request)
        return block.data, block.info

    def read_blocks(self, ctx: Context, keys: Iterable[str]) -> BulkRead:
        self.check_open("read_blocks", ctx)
        return bulk_reads.of_blocks(self, ctx, arguments.keys("read_blocks", keys))

    def read_block_ranges(
        self, ctx: Context, ranges: Iterable[tuple[str, int, int | None]]
    ) -> BulkRead:
        self.check_open("read_block_ranges", ctx)
        return bulk_reads.of_ranges(self, ctx, arguments.ranges("read_block_ranges", ranges))

    def write_blocks(
        self,
        ctx: Context,
        blocks: Iterable[tuple[str, Buffer]],
        *,
        options: PutOptions | None = None,
    ) -> Coroutine[Any, Any, list[BlockInfo]]:
        self.check_open("write_blocks", ctx)
        options = arguments.put_options("write_blocks", options)
        given = arguments.blocks("write_blocks", blocks)
        if not isinstance(given, list):
            given = UserItems(given, ctx.deadline, _size, self.in_flight)
        return ctx.gather(lambda block: self._write_one(ctx, *block, options), given, in_turn=_key)

    def stat_block(self, ctx: Context, key: str) -> Coroutine[Any, Any, BlockInfo]:
        self.check_open("stat_block", ctx)
        return self.store.stat_block(ctx, arguments.key("stat_block", key))

    async def presign(
        self,
        ctx: Context,
        key: str,
        method: Method = "GET",
        expires: float = 3600,
        *,
        options: PutOptions | None = None,
    ) -> PresignedRequest:
        self.check_open("presign", ctx)
        key = arguments.key("presign", key)
        method, seconds = arguments.presigned("presign", method, expires)
        given = arguments.put_options("presign", options)
        if given is not None and method != "PUT":
            raise ValueError(f"presign {key!r}: options: expected none for a {method}")
        return await self.store.presign(ctx, PresignRequest(key, method, seconds, given))

    async def block_exists(self, ctx: Context, key: str) -> bool:
        self.check_open("block_exists", ctx)
        key = arguments.key("block_exists", key)
        try:
            _ = await self.store.stat_block(ctx, key)
        except BlockNotFoundError:
            return False
        except IntegrityError:  # it exists, though damaged
            return True
        return True

    async def copy_block(self, ctx: Context, source_key: str, target_key: str) -> CopyResult:
        self.check_open("copy_block", ctx)
        source_key = arguments.key("copy_block", source_key, "source_key")
        target_key = arguments.key("copy_block", target_key, "target_key")
        if source_key == target_key:
            return await self._copy_onto_itself(ctx, source_key)
        try:
            return await self.store.copy_block(ctx, source_key, target_key)
        except BlockTooLargeError:
            if not ctx.runtime.suspends:  # it would copy one part after the other
                raise
        return await copy_in_parts(self.store, ctx, source_key, target_key)

    async def _copy_onto_itself(self, ctx: Context, key: str) -> CopyResult:
        """Nothing is to be done, but for a look whether it is there."""
        try:
            same = await self.store.stat_block(ctx, key)
        except BlockNotFoundError as error:
            raise BlockNotFoundError(f"copy_block {key!r}: there is no such block") from error
        return CopyResult(same.key, same.etag, same.last_modified)

    def delete_block(
        self, ctx: Context, key: str, *, if_match: str | None = None
    ) -> Coroutine[Any, Any, None]:
        self.check_open("delete_block", ctx)
        key = arguments.key("delete_block", key)
        match = arguments.etag("delete_block", if_match, "if_match")
        return self.store.delete_block(ctx, key, match)

    async def delete_copied(self, ctx: Context, key: str, version: str) -> None:
        """Delete the source of a move: a block that had the ETag `version` when it was copied.

        Raises `PreconditionFailedError` when another version has come since. A store without
        conditional deletes is asked for the ETag first: a version written just then is deleted.
        """
        try:
            await self.store.delete_block(ctx, key, version)
        except BlockNotFoundError:
            return
        except (UnsupportedError, TransportError) as error:
            try:
                now = (await self.store.stat_block(ctx, key)).etag
            except BlockNotFoundError:  # deleted, though no reply said so
                return
            if isinstance(error, TransportError):
                raise
            if now != version:
                raise etag_mismatch(f"delete_block {key!r}", version, now) from None
            await self.store.delete_block(ctx, key)

    def delete_blocks(
        self, ctx: Context, keys: Iterable[str], *, raise_on_failure: bool = True
    ) -> Coroutine[Any, Any, DeleteResult]:
        self.check_open("delete_blocks", ctx)
        raising = arguments.flag("delete_blocks", raise_on_failure, "raise_on_failure")
        unique = dict.fromkeys(
            arguments.keys("delete_blocks", keys)
        )  # the iterable is consumed on the calling thread
        return self._delete_unique(ctx, list(unique), raising)

    async def delete_by_prefix(
        self,
        ctx: Context,
        prefix: str,
        *,
        literal: bool = False,
        dry_run: bool = False,
        raise_on_failure: bool = True,
    ) -> DeleteResult:
        self.check_open("delete_by_prefix", ctx)
        prefix = arguments.prefix("delete_by_prefix", prefix)
        literal = arguments.flag("delete_by_prefix", literal, "literal")
        dry_run = arguments.flag("delete_by_prefix", dry_run, "dry_run")
        raising = arguments.flag("delete_by_prefix", raise_on_failure, "raise_on_failure")
        arguments.check_not_all("delete_by_prefix", prefix, literal)
        result = await prefixes.delete_below(self, ctx, prefix, literal=literal, dry_run=dry_run)
        if raising:
            result.raise_for_failures()
        return result

    async def list_by_prefix(self, ctx: Context, prefix: str = "") -> list[str]:
        prefix = arguments.prefix("list_by_prefix", prefix)
        keys, _ = await prefixes.keys_of_pages(self, ctx, "list_by_prefix", prefix)
        return keys

    async def list_folder(self, ctx: Context, prefix: str = "") -> FolderListing:
        folder = arguments.prefix("list_folder", prefix)
        request = ListRequest(
            below(folder) if folder else "", delimiter="/", operation="list_folder"
        )
        pages = await prefixes.all_pages(self, ctx, request)
        return FolderListing(
            [block for page in pages for block in page.blocks],
            [name for page in pages for name in page.folders],
        )

    def list_page(self, ctx: Context, request: ListRequest) -> Coroutine[Any, Any, Page]:
        """One page of a listing, of at most 1000 entries."""
        self.check_open(request.operation, ctx)
        request.page_size = prefixes.PAGE_SIZE
        return self.store.list(ctx, request)

    def pages(self, prefix: str, start_after: str) -> Fetch[BlockInfo]:
        """The pages of a listing, which the clients' `iter_blocks` iterate over."""
        self.check_open("iter_blocks")
        request = ListRequest(
            arguments.prefix("iter_blocks", prefix),
            start_after=arguments.prefix("iter_blocks", start_after, "start_after"),
            operation="iter_blocks",
        )
        return partial(self._fetch_page, request)

    def health_check(self, ctx: Context) -> Coroutine[Any, Any, HealthReport]:
        self.check_open("health_check", ctx)
        return self.store.health_check(ctx)

    async def pending(self, ctx: Context) -> list[StagedBlock]:
        self.check_open("pending")
        ctx.check_deadline_of("pending")
        return await self.store.pending(ctx)

    async def drain(self, ctx: Context, timeout: float | None) -> list[StagedBlock]:
        self.check_open("drain")
        ctx.check_deadline_of("drain")
        seconds = arguments.seconds("drain", "timeout", timeout)
        if seconds is not None:
            ends = ctx.runtime.now() + seconds
            ctx = replace(ctx, deadline=ends if ctx.deadline is None else min(ends, ctx.deadline))
        return await self.store.drain(ctx)

    @property
    def closed(self) -> bool:
        """Whether the store was closed, or is being."""
        return self._refusing or self._closed

    def describe(self, kind: str, deadline: float | None, concurrency: int) -> str:
        """The `repr` of a client of this store."""
        limits = "" if deadline is None else f", deadline {deadline:g} s"
        closed = ", closed" if self.closed else ""
        return f"<{kind} {self.store.name}{limits}, concurrency {concurrency}{closed}>"

    @property
    def waits_to_close(self) -> bool:
        """Whether `close` may wait: see `Store.waits_to_close`."""
        return self.store.waits_to_close

    def refuse_more(self) -> None:
        """Refuse new calls with `StoreClosedError`, except those that tidy up."""
        self._refusing = True

    def close(self) -> None:
        """Release the store, when no call is under way; the last of its holders closes it."""
        self._closed = True
        if self.held.let_go():
            self.store.close()

    def check_open(self, operation: str, ctx: Context | None = None) -> None:
        """Raise `StoreClosedError` once the store is being closed, except for what tidies up."""
        if self._refusing and not (ctx and ctx.tidying):
            raise StoreClosedError(f"{operation}: the store is closed")

    def _write_one(
        self, ctx: Context, key: str, data: bytes | memoryview, options: PutOptions | None
    ) -> Coroutine[Any, Any, BlockInfo]:
        self.check_open("write_blocks", ctx)
        return self.store.write(ctx, WriteRequest(key, data, options=options))

    async def _fetch_page(self, request: ListRequest, ctx: Context) -> Fetched[BlockInfo]:
        page = await self.list_page(ctx, request)
        if page.next_token is None:
            return Fetched(page.blocks, None)
        following = replace(request, token=page.next_token)
        return Fetched(page.blocks, partial(self._fetch_page, following))

    async def _delete_unique(self, ctx: Context, keys: list[str], raising: bool) -> DeleteResult:
        result = await self.store.delete_blocks(ctx, keys)
        if raising:
            result.raise_for_failures()
        return result


def _key(block: tuple[str, Buffer]) -> str:
    return block[0]


def _size(block: tuple[str, Buffer]) -> int:
    """The bytes of a block of the caller's; 0 for an invalid one, which is refused later."""
    try:
        return memoryview(block[1]).nbytes
    except (TypeError, ValueError, LookupError, BufferError):
        return 0
