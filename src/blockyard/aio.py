"""The asyncio client: the methods of `BlockStore`, awaited; `iter_blocks` is an async iterator.

A store may be used from one event loop after another: a new loop starts with fresh connections.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Never, Self, TypeVar, Unpack

from blockyard import arguments
from blockyard.arguments import SAME, Same
from blockyard.buffer import Buffer
from blockyard.bulk_reads import BulkRead
from blockyard.client import Client, Stack
from blockyard.config import Settings
from blockyard.config.loading import Source
from blockyard.content.files import AsyncContentFile, Cursor
from blockyard.content.types import (
    AsyncContentSource,
    CleanReport,
    ContentEntry,
    ContentInfo,
    ContentTarget,
    Progress,
)
from blockyard.content.write_options import WriteOptions
from blockyard.context import CacheUse, Context, Lifetime
from blockyard.errors import ConfigError
from blockyard.iterators import AsyncPageIterator
from blockyard.model import (
    PART_SIZE,
    BlockInfo,
    CopyResult,
    DeleteResult,
    FolderListing,
    HealthReport,
    Method,
    PresignedRequest,
    StagedBlock,
    VerifyReport,
)
from blockyard.opening import compose
from blockyard.put_options import PutOptions
from blockyard.stores.base import Store
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.connections import Connections
from blockyard.user_code import deliver

Result = TypeVar("Result")


class AsyncBlockStore(Client[AsyncioRuntime]):
    """An open block store for asyncio. Get one from `await blockyard.open_async_store(...)`.

    What each method does, takes and raises is said at the same method of `BlockStore`.
    A cancelled call leaves nothing behind: its connection is closed, not reused.

    `progress`, keys and ranges run on the event loop. An async source has a task of its own in
    which all of it runs, so a timeout or a cancel scope of its own ends it and not the call. Other
    iterators, and files to read or write, may block, so each has a thread of its own; a call that
    is cancelled or past its deadline waits for half a second until they return, then lets them go.
    All of them run in one copy of the context that the call was made in. A generator that is left
    early is closed where it ran.
    """

    def with_options(
        self,
        *,
        deadline: float | Same | None = SAME,
        concurrency: int | Same = SAME,
        cache: CacheUse | Same = SAME,
    ) -> AsyncBlockStore:
        """See `BlockStore.with_options`."""
        return AsyncBlockStore(
            self._operations,
            self._runtime,
            deadline=arguments.deadline(deadline, self._deadline),
            concurrency=self._concurrency
            if concurrency is SAME
            else arguments.concurrency("with_options", concurrency),
            cache=arguments.cache_use(cache, self._cache),
            source=self._source,
        )

    async def write_block(
        self,
        key: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        options: PutOptions | None = None,
    ) -> BlockInfo:
        """See `BlockStore.write_block`."""
        return await self._operations.write_block(
            self._context(), key, data, if_absent=if_absent, if_match=if_match, options=options
        )

    async def read_block(self, key: str) -> bytes:
        """See `BlockStore.read_block`."""
        return await self._operations.read_block(self._context(), key)

    async def read_block_into(self, key: str, buffer: Buffer) -> int:
        """See `BlockStore.read_block_into`."""
        return await self._operations.read_block_into(self._context(), key, buffer)

    async def read_block_range(self, key: str, offset: int, length: int | None = None) -> bytes:
        """See `BlockStore.read_block_range`."""
        return await self._operations.read_block_range(self._context(), key, offset, length)

    async def read_block_with_info(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        *,
        suffix: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        lifetime: Lifetime = "default",
    ) -> tuple[bytes, BlockInfo]:
        """See `BlockStore.read_block_with_info`."""
        return await self._operations.read_block_with_info(
            self._context(),
            key,
            offset,
            length,
            suffix=suffix,
            if_match=if_match,
            if_none_match=if_none_match,
            lifetime=lifetime,
        )

    async def read_blocks(self, keys: Iterable[str]) -> list[bytes]:
        """See `BlockStore.read_blocks`."""
        ctx = self._context()
        return await self._read_many(ctx, self._operations.read_blocks(ctx, keys))

    async def read_block_ranges(self, ranges: Iterable[tuple[str, int, int | None]]) -> list[bytes]:
        """See `BlockStore.read_block_ranges`."""
        ctx = self._context()
        return await self._read_many(ctx, self._operations.read_block_ranges(ctx, ranges))

    async def write_blocks(
        self, blocks: Iterable[tuple[str, Buffer]], *, options: PutOptions | None = None
    ) -> list[BlockInfo]:
        """See `BlockStore.write_blocks`."""
        write = self._operations.write_blocks(self._context(), blocks, options=options)
        return await self._run_many(write)

    async def stat_block(self, key: str) -> BlockInfo:
        """See `BlockStore.stat_block`."""
        return await self._operations.stat_block(self._context(), key)

    async def block_exists(self, key: str) -> bool:
        """See `BlockStore.block_exists`."""
        return await self._operations.block_exists(self._context(), key)

    async def copy_block(self, source_key: str, target_key: str) -> CopyResult:
        """See `BlockStore.copy_block`."""
        return await self._operations.copy_block(self._context(), source_key, target_key)

    async def presign(
        self,
        key: str,
        method: Method = "GET",
        expires: float = 3600,
        *,
        options: PutOptions | None = None,
    ) -> PresignedRequest:
        """See `BlockStore.presign`."""
        return await self._operations.presign(
            self._context(), key, method, expires, options=options
        )

    async def delete_block(self, key: str, *, if_match: str | None = None) -> None:
        """See `BlockStore.delete_block`."""
        return await self._operations.delete_block(self._context(), key, if_match=if_match)

    async def delete_blocks(
        self, keys: Iterable[str], *, raise_on_failure: bool = True
    ) -> DeleteResult:
        """See `BlockStore.delete_blocks`."""
        return await self._run_many(
            self._operations.delete_blocks(self._context(), keys, raise_on_failure=raise_on_failure)
        )

    async def delete_by_prefix(
        self,
        prefix: str,
        *,
        literal: bool = False,
        dry_run: bool = False,
        raise_on_failure: bool = True,
    ) -> DeleteResult:
        """See `BlockStore.delete_by_prefix`."""
        return await self._run_many(
            self._operations.delete_by_prefix(
                self._context(),
                prefix,
                literal=literal,
                dry_run=dry_run,
                raise_on_failure=raise_on_failure,
            )
        )

    async def list_by_prefix(self, prefix: str = "") -> list[str]:
        """See `BlockStore.list_by_prefix`."""
        return await self._operations.list_by_prefix(self._context(), prefix)

    async def list_folder(self, prefix: str = "") -> FolderListing:
        """See `BlockStore.list_folder`."""
        return await self._operations.list_folder(self._context(), prefix)

    def iter_blocks(
        self, prefix: str = "", *, start_after: str = ""
    ) -> AsyncPageIterator[BlockInfo]:
        """See `BlockStore.iter_blocks`. A step that is cancelled leaves it where it was, too."""
        return AsyncPageIterator(self._operations.pages(prefix, start_after), self._context)

    async def verify_by_prefix(
        self, prefix: str = "", *, progress: Progress | None = None
    ) -> VerifyReport:
        """See `BlockStore.verify_by_prefix`."""
        return await self._run_many(
            self._verifier.verify_by_prefix(self._context(), prefix, progress)
        )

    async def pending(self) -> list[StagedBlock]:
        """See `BlockStore.pending`."""
        return await self._operations.pending(self._context())

    async def drain(self, timeout: float | None = None) -> list[StagedBlock]:
        """See `BlockStore.drain`."""
        return await self._run_many(self._operations.drain(self._context(), timeout))

    async def health_check(self) -> HealthReport:
        """See `BlockStore.health_check`."""
        return await self._operations.health_check(self._context())

    async def write_object(
        self,
        key: str,
        source: AsyncContentSource,
        *,
        part_size: int = PART_SIZE,
        options: PutOptions | None = None,
        if_absent: bool = False,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """See `BlockStore.write_object`. `source` may be an async iterable of buffers, too."""
        return await self._run_many(
            self._objects.write_object(
                self._context(),
                key,
                source=source,
                part_size=part_size,
                options=options,
                if_absent=if_absent,
                if_match=if_match,
                concurrency=concurrency,
                progress=progress,
            )
        )

    async def read_object_into(
        self,
        key: str,
        target: ContentTarget,
        *,
        offset: int = 0,
        length: int | None = None,
        part_size: int = PART_SIZE,
        if_match: str | None = None,
        concurrency: int | None = None,
        progress: Progress | None = None,
    ) -> BlockInfo:
        """See `BlockStore.read_object_into`."""
        return await self._run_many(
            self._object_reader.read_object_into(
                self._context(),
                key,
                target=target,
                offset=offset,
                length=length,
                part_size=part_size,
                if_match=if_match,
                concurrency=concurrency,
                progress=progress,
            )
        )

    def iter_object(
        self,
        key: str,
        offset: int = 0,
        length: int | None = None,
        *,
        part_size: int = PART_SIZE,
        if_match: str | None = None,
    ) -> AsyncPageIterator[bytes]:
        """See `BlockStore.iter_object`. A step that is cancelled leaves it where it was, too."""
        fetch, window = self._object_reader.blocks(key, offset, length, part_size, if_match)
        return AsyncPageIterator(fetch, self._context, window.end)

    async def write_content(
        self,
        content_id: str,
        source: AsyncContentSource,
        *,
        if_absent: bool = False,
        if_match: str | None = None,
        block_size: int | None = None,
        chunk_blocks: int | None = None,
        content_type: str = "",
        modified: datetime | None = None,
        metadata: Mapping[str, str] | None = None,
        options: PutOptions | None = None,
        progress: Progress | None = None,
    ) -> ContentInfo:
        """See `BlockStore.write_content`. `source` may be an async iterable of buffers, too."""
        said = WriteOptions(
            if_absent, if_match, block_size, chunk_blocks, content_type, modified, metadata, options
        )
        return await self._run_many(
            self._writer.write_content(self._context(), content_id, source, progress, said)
        )

    async def read_content(
        self, content_id: str, offset: int = 0, length: int | None = None
    ) -> bytes:
        """See `BlockStore.read_content`."""
        return await self._run_many(
            self._reader.read_content(self._context(), content_id, offset, length)
        )

    async def read_content_into(
        self,
        content_id: str,
        target: ContentTarget,
        *,
        offset: int = 0,
        length: int | None = None,
        progress: Progress | None = None,
    ) -> int:
        """See `BlockStore.read_content_into`."""
        return await self._run_many(
            self._reader.read_content_into(
                self._context(), content_id, target, offset=offset, length=length, progress=progress
            )
        )

    def iter_content(
        self, content_id: str, offset: int = 0, length: int | None = None
    ) -> AsyncPageIterator[bytes]:
        """See `BlockStore.iter_content`. A step that is cancelled leaves it where it was, too."""
        fetch, window = self._reader.blocks(content_id, offset, length)
        return AsyncPageIterator(fetch, self._context, window.end)

    async def open_content(self, content_id: str) -> AsyncContentFile:
        """See `BlockStore.open_content`; the file's `read` and `seek` are awaited."""
        layout = await self._reader.layout(self._context(), content_id, "open_content")
        return AsyncContentFile(Cursor(self._reader, layout), self._context)

    async def stat_content(self, content_id: str) -> ContentInfo:
        """See `BlockStore.stat_content`."""
        return await self._reader.stat_content(self._context(), content_id)

    async def content_exists(self, content_id: str) -> bool:
        """See `BlockStore.content_exists`."""
        return await self._reader.content_exists(self._context(), content_id)

    async def list_contents(self, prefix: str = "") -> list[ContentEntry]:
        """See `BlockStore.list_contents`."""
        return await self._run_many(self._reader.list_contents(self._context(), prefix))

    async def copy_content(
        self, source_id: str, target_id: str, *, progress: Progress | None = None
    ) -> ContentInfo:
        """See `BlockStore.copy_content`."""
        return await self._run_many(
            self._writer.copy_content(self._context(), source_id, target_id, progress)
        )

    async def delete_content(self, content_id: str) -> None:
        """See `BlockStore.delete_content`."""
        return await self._run_many(self._writer.delete_content(self._context(), content_id))

    async def adopt_content(self, content_id: str) -> ContentInfo:
        """See `BlockStore.adopt_content`."""
        return await self._run_many(self._cleaner.adopt_content(self._context(), content_id))

    async def clean_contents(
        self, prefix: str = "", *, dry_run: bool = True, no_writers: bool = False
    ) -> CleanReport:
        """See `BlockStore.clean_contents`."""
        return await self._run_many(
            self._cleaner.clean_contents(
                self._context(), prefix, dry_run=dry_run, no_writers=no_writers
            )
        )

    async def close(self) -> None:
        """See `BlockStore.close`."""
        self._operations.refuse_more()
        then = self._operations.close if self._operations.waits_to_close else None
        try:
            await self._runtime.close(then)
        finally:
            self._operations.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _read_many(self, ctx: Context, read: BulkRead) -> list[bytes]:
        answered = read.answered()
        return await self._run_many(read.complete(ctx)) if answered is None else answered

    async def _run_many(self, operation: Coroutine[Any, Any, Result]) -> Result:
        return await deliver(self._runtime.run(operation))


class OpeningStore(Coroutine[Any, Any, AsyncBlockStore]):
    """What `open_async_store` returns: `await` it, run it, or use it with `async with`."""

    def __init__(self, store: AsyncBlockStore) -> None:
        self._store = store

    def __await__(self) -> Generator[Any, Any, AsyncBlockStore]:
        _check_asyncio()
        return self._store
        yield  # it never waits

    def send(self, value: Any) -> Any:
        """Part of the coroutine protocol: completes at once, with the client."""
        raise StopIteration(self._store)

    def throw(self, kind: Any, error: Any = None, trace: Any = None) -> Any:
        """Part of the coroutine protocol: raises, as a coroutine that has not begun does."""
        try:
            raise kind if error is None else error
        finally:
            del kind, error  # which its traceback refers to

    def close(self) -> None:
        """Part of the coroutine protocol: there is nothing to close."""

    if not TYPE_CHECKING:  # for which there is no such attribute

        def __getattr__(self, name: str) -> Never:
            if hasattr(AsyncBlockStore, name):
                raise AttributeError(
                    f"open_async_store: expected to be awaited before {name!r} is used: "
                    "`store = await open_async_store(...)`, or `async with` it"
                )
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    async def __aenter__(self) -> AsyncBlockStore:
        _check_asyncio()
        return self._store

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._store.close()


def open_async_store(
    source: Source | Store | Client[Any] = None, **settings: Unpack[Settings]
) -> OpeningStore:
    """Open a block store for asyncio: `await` it, or use it with `async with`. See `open_store`."""
    return OpeningStore(asyncio_client(compose("open_async_store", source, settings)))


def _check_asyncio() -> None:
    """Raise `ConfigError` in a task of trio, or of whatever else is not asyncio."""
    try:
        _ = asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "open_async_store: expected to be awaited on an event loop of asyncio, and none is "
            "running here; under trio use open_store, its calls on threads "
            "(trio.to_thread.run_sync)"
        ) from None


def asyncio_client(stack: Stack) -> AsyncBlockStore:
    """A client, with connections of its own unless it is to share some."""
    connections = stack.connections or Connections(stack.http, stack.timeouts)
    return AsyncBlockStore(
        stack.operations,
        AsyncioRuntime(connections),
        deadline=stack.deadline,
        concurrency=stack.concurrency,
        cache=stack.cache,
        source=stack.source,
    )
