"""Keys as files, and what a file system asks of whatever its files are."""

from __future__ import annotations

from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

from blockyard import arguments
from blockyard.aio import AsyncBlockStore
from blockyard.buffer import Buffer
from blockyard.content.targets import NewFile, is_written_in_order
from blockyard.errors import BlockTooLargeError, InvalidRangeError, UnsupportedError
from blockyard.keys import begins_keys
from blockyard.model import MAX_BLOCK_SIZE, MIB, BlockInfo
from blockyard.prefixes import all_pages
from blockyard.stores.base import ListRequest

Result = TypeVar("Result")

PIECE = 16 * MIB
"""Bytes to a request of a file that is read piece by piece."""


class Entry(NamedTuple):
    """A file: its size in bytes, None where a listing does not tell, and its version, "" there."""

    name: str
    size: int | None
    version: str = ""
    modified: datetime | None = None


class Folder(NamedTuple):
    """What lies directly in a folder: its files, and the names of its folders, without a slash."""

    files: Sequence[Entry]
    folders: Sequence[str]


class Files(Protocol):
    """Files of one store under their names. Errors are blockyard's."""

    have_markers: bool
    """Whether the name of a folder and a slash may be that of an object, which marks the folder."""
    takes: frozenset[str]
    """The names of options that `write` and `upload` take."""

    async def stat(self, name: str) -> Entry:
        """Raises `BlockNotFoundError`."""
        ...

    async def read(self, name: str) -> bytes:
        """All of a file."""
        ...

    async def read_range(
        self, name: str, offset: int, length: int, version: str = ""
    ) -> tuple[bytes, str]:
        """A part of a file, clamped at its end, and the version that it is of.

        Of `version` alone, if it is given. `length` is 1 or more.
        """
        ...

    async def download(self, name: str, path: str, callback: Any) -> None:
        """Write all of one version to a local file, which appears when it is complete.

        fsspec's `callback` is told the bytes transferred, here and in `upload`.
        """
        ...

    async def upload(
        self, name: str, path: str, if_absent: bool, callback: Any, **options: Any
    ) -> None:
        """Store a local file. See `write`."""
        ...

    async def read_suffix(self, name: str, length: int) -> bytes:
        """The last bytes of a file."""
        ...

    async def carried(self, name: str) -> tuple[dict[str, Any], str]:
        """What a copy elsewhere has beside the bytes, as options of `write`, and the version."""
        ...

    def pieces(self, name: str, version: str = "") -> AsyncIterator[bytes]:
        """All of one version of a file, piece by piece: of `version`, if it is given."""
        ...

    async def write(
        self, name: str, data: Buffer | AsyncIterable[Buffer], if_absent: bool, **options: Any
    ) -> None:
        """Store a file, which appears when it is whole. Raises as `write_block` does."""
        ...

    async def signed_url(self, name: str, seconds: float) -> str:
        """A URL by which whoever has it may read a file. Raises `UnsupportedError`."""
        ...

    async def copy(self, name: str, to: str) -> None:
        """Copy within the store."""
        ...

    async def delete(self, names: Sequence[str]) -> None:
        """Delete files, those that are there."""
        ...

    async def delete_copied(self, copied: Entry) -> None:
        """Delete a file that was copied after `stat` had said that of it.

        Raises `PreconditionFailedError` for another version, which has come since.
        """
        ...

    async def delete_below(self, prefix: str) -> bool:
        """Delete all whose names begin with `prefix`; whether there were some."""
        ...

    async def exist_below(self, prefix: str) -> bool:
        """Whether names begin with `prefix`."""
        ...

    async def folder(self, prefix: str) -> Folder:
        """The files whose names begin with `prefix`, up to their next slash."""
        ...

    async def below(self, prefix: str) -> Sequence[Entry]:
        """The files whose names begin with `prefix`; a name ending with a slash marks a folder."""
        ...


_OF_PARTS = ("part_size", "concurrency")
"""Options of what is stored in parts, where it is large."""


class BlockFiles:
    """The blocks of a store: plain objects, each a file under its key."""

    have_markers = True
    takes = frozenset({"options", "if_match", *_OF_PARTS})

    def __init__(self, store: AsyncBlockStore) -> None:
        self._store = store

    async def stat(self, name: str) -> Entry:
        return _entry(await self._store.stat_block(name))

    async def read(self, name: str) -> bytes:
        try:
            return await self._store.read_block(name)
        except BlockTooLargeError:  # to be read, or written, at once
            return b"".join([piece async for piece in self.pieces(name)])

    async def read_range(
        self, name: str, offset: int, length: int, version: str = ""
    ) -> tuple[bytes, str]:
        first = length if length < 2 * PIECE else PIECE
        try:
            data, info = await self._store.read_block_with_info(
                name, offset, first, if_match=version or None
            )
        except InvalidRangeError:  # past its end
            return b"", version
        if len(data) < first or first == length:
            return data, info.etag
        spans = _spans(offset + first, min(offset + length, info.size))
        rest = await self._gather(lambda span: self._piece(name, span, info.etag), spans)
        return b"".join([data, *rest]), info.etag

    async def download(self, name: str, path: str, callback: Any) -> None:
        if is_written_in_order(path):
            _ = await self._store.read_object_into(name, path, part_size=PIECE)
            return
        data, size, version = await self._first(name)
        callback.set_size(size)
        file = NewFile(path, "get")
        done = 0

        async def copy(span: tuple[int, int]) -> None:
            nonlocal done
            piece = await self._piece(name, span, version) if span[0] else data
            await self._blocking(partial(file.write_at, span[0], piece))
            done += len(piece)
            callback.absolute_update(done)

        try:
            await self._blocking(file.create)
            _ = await self._gather(copy, _spans(0, size))
            await self._blocking(file.commit)
        finally:
            file.close()

    async def read_suffix(self, name: str, length: int) -> bytes:
        try:
            return (await self._store.read_block_with_info(name, suffix=length))[0]
        except InvalidRangeError:  # of nothing
            return b""

    async def carried(self, name: str) -> tuple[dict[str, Any], str]:
        operations, ctx = self._store._operations, self._store._context()  # pyright: ignore[reportPrivateUsage]
        operations.check_open("copy_block", ctx)
        key = arguments.key("copy_block", name)
        options, info = await operations.store.options_of(ctx, key)
        return {"options": options}, info.etag

    async def pieces(self, name: str, version: str = "") -> AsyncIterator[bytes]:
        parts = self._store.iter_object(name, part_size=PIECE, if_match=version or None)
        try:
            async for part in parts:
                yield part
        finally:
            await parts.aclose()

    async def write(
        self, name: str, data: Buffer | AsyncIterable[Buffer], if_absent: bool, **options: Any
    ) -> None:
        if isinstance(data, AsyncIterable) or memoryview(data).nbytes > MAX_BLOCK_SIZE:
            _ = await self._store.write_object(name, data, if_absent=if_absent, **options)
        else:
            options = {each: value for each, value in options.items() if each not in _OF_PARTS}
            _ = await self._store.write_block(name, data, if_absent=if_absent, **options)

    async def upload(
        self, name: str, path: str, if_absent: bool, callback: Any, **options: Any
    ) -> None:
        _ = await self._store.write_object(
            name, path, if_absent=if_absent, progress=callback.absolute_update, **options
        )

    async def signed_url(self, name: str, seconds: float) -> str:
        signed = await self._store.presign(name, "GET", seconds)
        if signed.headers:
            raise UnsupportedError(
                f"sign {name!r}: a read needs headers beside the URL: {', '.join(signed.headers)}; "
                "`presign` of the store gives both"
            )
        return signed.url

    async def copy(self, name: str, to: str) -> None:
        _ = await self._store.copy_block(name, to)

    async def delete(self, names: Sequence[str]) -> None:
        if len(names) == 1:
            await self._store.delete_block(names[0])
        else:
            _ = await self._store.delete_blocks(names)

    async def delete_copied(self, copied: Entry) -> None:
        operations, ctx = self._store._operations, self._store._context()  # pyright: ignore[reportPrivateUsage]
        await operations.delete_copied(ctx, copied.name, copied.version)

    async def delete_below(self, prefix: str) -> bool:
        if not begins_keys(prefix):
            return False
        return bool((await self._store.delete_by_prefix(prefix, literal=True)).deleted)

    async def exist_below(self, prefix: str) -> bool:
        if not begins_keys(prefix):
            return False
        operations, ctx = self._store._operations, self._store._context()  # pyright: ignore[reportPrivateUsage]
        operations.check_open("list_folder", ctx)
        request = ListRequest(prefix, page_size=1, operation="list_folder")
        return bool((await operations.store.list(ctx, request)).blocks)

    async def folder(self, prefix: str) -> Folder:
        if not begins_keys(prefix):
            return Folder((), ())
        operations, ctx = self._store._operations, self._store._context()  # pyright: ignore[reportPrivateUsage]
        request = ListRequest(prefix, delimiter="/", operation="list_folder")
        pages = await all_pages(operations, ctx, request)
        return Folder(
            [_entry(block) for page in pages for block in page.blocks],
            [folder.removesuffix("/") for page in pages for folder in page.folders],
        )

    async def below(self, prefix: str) -> Sequence[Entry]:
        if not begins_keys(prefix):
            return ()
        return [_entry(block) async for block in self._store.iter_blocks(prefix)]

    async def _first(self, name: str) -> tuple[bytes, int, str]:
        """The first bytes of a file, its size and its version."""
        try:
            data, info = await self._store.read_block_with_info(name, 0, PIECE)
        except InvalidRangeError:  # of an empty one
            return b"", 0, ""
        return data, info.size, info.etag

    async def _piece(self, name: str, span: tuple[int, int], version: str) -> bytes:
        offset, length = span
        data, _ = await self._store.read_block_with_info(name, offset, length, if_match=version)
        return data

    async def _blocking(self, call: Callable[[], Result]) -> Result:
        """Run a call that waits for a disk on a thread."""
        return await self._store._runtime.blocking(call)  # pyright: ignore[reportPrivateUsage]

    async def _gather(
        self,
        read: Callable[[tuple[int, int]], Coroutine[Any, Any, Result]],
        spans: Iterable[tuple[int, int]],
    ) -> list[Result]:
        """Run operations concurrently, as many as the store may hold in memory."""
        ctx = self._store._context()  # pyright: ignore[reportPrivateUsage]
        at_once = self._store._operations.blocks_in_flight(ctx, PIECE)  # pyright: ignore[reportPrivateUsage]
        return await ctx.runtime.gather(read, spans, at_once)


def _spans(start: int, stop: int) -> list[tuple[int, int]]:
    """Offsets and lengths of the pieces from `start` to `stop`."""
    return [(offset, min(PIECE, stop - offset)) for offset in range(start, stop, PIECE)]


def _entry(block: BlockInfo) -> Entry:
    return Entry(block.key, block.size, block.etag, block.last_modified)
