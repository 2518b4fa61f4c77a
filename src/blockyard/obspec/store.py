"""`ObspecStore`: each protocol as a method, in both forms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, Unpack, cast

from obspec import Attributes, GetOptions, ListResult, ObjectMeta, PutMode, PutResult

from blockyard.both_clients import BothClients
from blockyard.buffer import Buffer
from blockyard.client import Client
from blockyard.config import Settings
from blockyard.config.loading import Source
from blockyard.errors import InvalidRangeError
from blockyard.obspec.results import PIECE, GetResult, GetResultAsync, Wanted
from blockyard.obspec.values import (
    bytes_of,
    check_overwrite,
    folder_of,
    how_to_put,
    length_of,
    listing_of,
    meta_of,
    parts_of,
    put_result,
    ranges_of,
    source_of_put,
    translated,
    whole_if,
)
from blockyard.stores.base import Store
from blockyard.transport.blocking import run_to_end

_LISTED = 1000
AT_ONCE = 8
"""Parts of an object that a put sends at a time, unless it is told."""


class ObspecStore:
    """Every protocol of obspec 0.1, blocking and asynchronous, over one store.

    `source` and `settings` are those of `blockyard.open_store`; an open client of either kind is
    shared, and stays its owner's to close. What is read is verified, and comes without a copy.
    Raises obspec's exceptions where it has one (`NotFoundError` for a missing block alone), else
    blockyard's. ETags have their quotes, as HTTP has them; a version is always None.
    """

    def __init__(
        self, source: Source | Store | Client[Any] = None, **settings: Unpack[Settings]
    ) -> None:
        self._clients = BothClients(source, settings)

    def close(self) -> None:
        """Close the store, unless it was given as an open client."""
        self._clients.close()

    def __repr__(self) -> str:
        return f"ObspecStore({self._clients!r})"

    # Reading.

    def get(self, path: str, *, options: GetOptions | None = None) -> GetResult:
        """The object, or a part of it, as it was when this returned: see `obspec.Get`."""
        wanted = Wanted(path, options)
        store = self._clients.blocking
        with translated():
            try:
                if not wanted.head:
                    data, info = store.read_block_with_info(
                        path, wanted.start, wanted.first_length, **wanted.conditions
                    )
                    return GetResult(store, wanted, info, data)
            except InvalidRangeError:
                if not wanted.whole:
                    raise
            info = store.stat_block(path)  # of an object without bytes, too
            wanted.check(info)
            return GetResult(store, wanted, info, b"")

    async def get_async(self, path: str, *, options: GetOptions | None = None) -> GetResultAsync:
        """See `get`."""
        wanted = Wanted(path, options)
        store = self._clients.asyncio
        with translated():
            try:
                if not wanted.head:
                    data, info = await store.read_block_with_info(
                        path, wanted.start, wanted.first_length, **wanted.conditions
                    )
                    return GetResultAsync(store, wanted, info, data)
            except InvalidRangeError:
                if not wanted.whole:
                    raise
            info = await store.stat_block(path)
            wanted.check(info)
            return GetResultAsync(store, wanted, info, b"")

    def get_range(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> Buffer:
        """A part of the object: see `obspec.GetRange`."""
        with translated():
            size = length_of("get_range", start, end, length)
            return self._clients.blocking.read_block_range(path, start, size)

    async def get_range_async(
        self, path: str, *, start: int, end: int | None = None, length: int | None = None
    ) -> Buffer:
        """See `get_range`."""
        with translated():
            size = length_of("get_range", start, end, length)
            return await self._clients.asyncio.read_block_range(path, start, size)

    def get_ranges(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Sequence[Buffer]:
        """Parts of the object, neighbours read together: see `obspec.GetRanges`."""
        with translated():
            ranges = ranges_of(path, starts, ends, lengths)
            return self._clients.blocking.read_block_ranges(ranges)

    async def get_ranges_async(
        self,
        path: str,
        *,
        starts: Sequence[int],
        ends: Sequence[int] | None = None,
        lengths: Sequence[int] | None = None,
    ) -> Sequence[Buffer]:
        """See `get_ranges`."""
        with translated():
            ranges = ranges_of(path, starts, ends, lengths)
            return await self._clients.asyncio.read_block_ranges(ranges)

    def head(self, path: str) -> ObjectMeta:
        """Size, ETag and time of the object: see `obspec.Head`."""
        with translated():
            return meta_of(self._clients.blocking.stat_block(path))

    async def head_async(self, path: str) -> ObjectMeta:
        """See `head`."""
        with translated():
            return meta_of(await self._clients.asyncio.stat_block(path))

    # Writing.

    def put(
        self,
        path: str,
        file: IO[bytes] | Path | bytes | Buffer | Iterator[Buffer] | Iterable[Buffer],
        *,
        attributes: Attributes | None = None,
        tags: dict[str, str] | None = None,
        mode: PutMode | None = None,
        use_multipart: bool | None = None,
        chunk_size: int = PIECE,
        max_concurrency: int = AT_ONCE,
    ) -> PutResult:
        """Store an object: see `obspec.Put`.

        What is larger than `chunk_size` (5 MiB at least) goes in parts of that size,
        `max_concurrency` of them at a time, in memory for so many; with `use_multipart=False` in
        one request, held in memory.
        """
        with translated():
            how = how_to_put(attributes, tags, mode)
            store = self._clients.blocking
            data = whole_if(file, use_multipart, chunk_size)
            if data is not None:
                return put_result(store.write_block(path, data, **how))
            parts = parts_of(chunk_size, max_concurrency)
            return put_result(store.write_object(path, source_of_put(file), **parts, **how))

    async def put_async(
        self,
        path: str,
        file: IO[bytes]
        | Path
        | bytes
        | Buffer
        | AsyncIterator[Buffer]
        | AsyncIterable[Buffer]
        | Iterator[Buffer]
        | Iterable[Buffer],
        *,
        attributes: Attributes | None = None,
        tags: dict[str, str] | None = None,
        mode: PutMode | None = None,
        use_multipart: bool | None = None,
        chunk_size: int = PIECE,
        max_concurrency: int = AT_ONCE,
    ) -> PutResult:
        """See `put`. Files and iterators are read on a thread of their own."""
        with translated():
            how = how_to_put(attributes, tags, mode)
            store = self._clients.asyncio
            if isinstance(file, AsyncIterable) and use_multipart is False:
                pieces = [bytes_of(each) async for each in cast("AsyncIterable[Buffer]", file)]
                data = b"".join(pieces)
            else:
                data = await asyncio.to_thread(whole_if, file, use_multipart, chunk_size)
            if data is not None:
                return put_result(await store.write_block(path, data, **how))
            parts = parts_of(chunk_size, max_concurrency)
            return put_result(await store.write_object(path, source_of_put(file), **parts, **how))

    def delete(self, paths: str | Sequence[str]) -> None:
        """Delete objects, many by one request; no error when one is absent: see `obspec.Delete`."""
        with translated():
            if isinstance(paths, str):
                self._clients.blocking.delete_block(paths)
            else:
                _ = self._clients.blocking.delete_blocks(paths)

    async def delete_async(self, paths: str | Sequence[str]) -> None:
        """See `delete`."""
        with translated():
            if isinstance(paths, str):
                await self._clients.asyncio.delete_block(paths)
            else:
                _ = await self._clients.asyncio.delete_blocks(paths)

    def copy(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """Copy an object inside the service: see `obspec.Copy`.

        S3 has no copy that leaves an object alone, so without `overwrite` it is a
        `NotSupportedError`.
        """
        with translated():
            check_overwrite("copy", overwrite)
            _ = self._clients.blocking.copy_block(from_, to)

    async def copy_async(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """See `copy`."""
        with translated():
            check_overwrite("copy", overwrite)
            _ = await self._clients.asyncio.copy_block(from_, to)

    def rename(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """Copy an object, then delete the first one: see `obspec.Rename`, and `copy`.

        A version of it that came meanwhile stays, and is a `PreconditionError`.
        """
        with translated():
            check_overwrite("rename", overwrite)
            if from_ != to:
                store = self._clients.blocking
                version = store.stat_block(from_).etag
                _ = store.copy_block(from_, to)
                run_to_end(store._operations.delete_copied(store._context(), from_, version))  # pyright: ignore[reportPrivateUsage]

    async def rename_async(self, from_: str, to: str, *, overwrite: bool = True) -> None:
        """See `rename`."""
        with translated():
            check_overwrite("rename", overwrite)
            if from_ != to:
                store = self._clients.asyncio
                version = (await store.stat_block(from_)).etag
                _ = await store.copy_block(from_, to)
                await store._operations.delete_copied(store._context(), from_, version)  # pyright: ignore[reportPrivateUsage]

    # Listing.

    def list(
        self, prefix: str | None = None, *, offset: str | None = None
    ) -> Iterator[Sequence[ObjectMeta]]:
        """The objects in a folder and below, a thousand at a time: see `obspec.List`."""
        with translated():
            blocks = self._clients.blocking.iter_blocks(folder_of(prefix), start_after=offset or "")
            while True:
                batch = [meta_of(block) for block in islice(blocks, _LISTED)]
                if not batch:
                    return
                yield batch

    async def list_async(
        self, prefix: str | None = None, *, offset: str | None = None
    ) -> AsyncIterator[Sequence[ObjectMeta]]:
        """See `list`."""
        with translated():
            folder, after = folder_of(prefix), offset or ""
            batch: Sequence[ObjectMeta] = []
            async for block in self._clients.asyncio.iter_blocks(folder, start_after=after):
                batch = [*batch, meta_of(block)]
                if len(batch) == _LISTED:
                    yield batch
                    batch = []
            if batch:
                yield batch

    def list_with_delimiter(self, prefix: str | None = None) -> ListResult[Sequence[ObjectMeta]]:
        """What lies directly in a folder: see `obspec.ListWithDelimiter`."""
        with translated():
            found = self._clients.blocking.list_folder(folder_of(prefix))
            return listing_of(found.folders, found.blocks)

    async def list_with_delimiter_async(
        self, prefix: str | None = None
    ) -> ListResult[Sequence[ObjectMeta]]:
        """See `list_with_delimiter`."""
        with translated():
            found = await self._clients.asyncio.list_folder(folder_of(prefix))
            return listing_of(found.folders, found.blocks)
