"""Zarr version 3 stores (https://zarr.readthedocs.io): `BlockyardStore`. Needs the extra `zarr`.

Each key of a Zarr hierarchy is a block, as every other tool would store it.
"""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from typing import Any, Self, Unpack, cast

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from blockyard.both_clients import BothClients
from blockyard.client import Client
from blockyard.config import Settings
from blockyard.config.loading import Source
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    InvalidRangeError,
    UnsupportedError,
)
from blockyard.merging import merged, part
from blockyard.model import MIB, BlockInfo
from blockyard.stores.base import Store as OwnStore

_METADATA = (".zarray", ".zattrs", ".zgroup", ".zmetadata", "zarr.json")


class BlockyardStore(Store):
    """A Zarr store whose keys are blocks.

    `source` and `settings` are those of `blockyard.open_store`; an open client of either kind is
    shared, and stays its owner's to close. Reads are verified, and with a cache each chunk comes
    from there; metadata (`zarr.json` and the files of version 2) is asked for again even where
    `revalidate` is never. Pickles as a client does: each copy closes on its own. Zarr's own errors
    are raised for a missing key (`FileNotFoundError`) and for writing to a read-only store
    (`ValueError`), else blockyard's.
    """

    def __init__(
        self,
        source: Source | OwnStore | Client[Any] | BothClients,
        *,
        read_only: bool = False,
        **settings: Unpack[Settings],
    ) -> None:
        super().__init__(read_only=read_only)
        self._shared = isinstance(source, BothClients)
        self._clients = source if isinstance(source, BothClients) else BothClients(source, settings)

    def with_read_only(self, read_only: bool = False) -> Self:
        """The same store, read-only or not. Closing it leaves the other one open."""
        return type(self)(self._clients, read_only=read_only)

    def close(self) -> None:
        """Close the store, unless it was given as an open client."""
        super().close()
        if not self._shared:
            self._clients.close()

    @property
    def supports_writes(self) -> bool:
        """Yes, unless it is read-only."""
        return True

    @property
    def supports_deletes(self) -> bool:
        """Yes, unless it is read-only."""
        return True

    @property
    def supports_listing(self) -> bool:
        """Yes."""
        return True

    __hash__ = None  # pyright: ignore[reportAssignmentType]  # as Zarr's own stores

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, BlockyardStore)
            and self._clients == other._clients
            and self.read_only == other.read_only
        )

    def __repr__(self) -> str:
        return f"BlockyardStore({self._clients!r}{', read-only' if self.read_only else ''})"

    __str__ = __repr__

    async def _ensure_open(self) -> None:
        self._is_open = True  # threads and tasks may come at once

    # With asyncio.

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """The value, or the requested part of it; None where there is none."""
        await self._ensure_open()
        try:
            data = await _read(self._clients.asyncio, key, byte_range)
        except BlockNotFoundError:
            return None
        except InvalidRangeError:  # past the end of it, of which Zarr's own stores give nothing
            if not await self.exists(key):
                return None
            data = b""
        return _buffer(prototype, data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> builtins.list[Buffer | None]:
        """Many values or parts of them, all at once."""
        gets = [self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
        return await asyncio.gather(*gets)

    async def exists(self, key: str) -> bool:
        """Whether there is such a key."""
        await self._ensure_open()
        return await self._clients.asyncio.block_exists(key)

    async def getsize(self, key: str) -> int:
        """The size of the value in bytes, by one request for its metadata."""
        await self._ensure_open()
        try:
            return (await self._clients.asyncio.stat_block(key)).size
        except BlockNotFoundError:
            raise FileNotFoundError(key) from None

    async def getsize_prefix(self, prefix: str) -> int:
        """The bytes of all values in a folder and below, from their listing."""
        await self._ensure_open()
        blocks = self._clients.asyncio.iter_blocks(_folder(prefix))
        return sum([block.size async for block in blocks])

    async def set(self, key: str, value: Buffer) -> None:
        """Store a value."""
        self._check_writable()
        await self._ensure_open()
        _ = await self._clients.asyncio.write_block(key, _bytes(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Store a value unless there is one: atomically, where the service can."""
        self._check_writable()
        await self._ensure_open()
        try:
            _ = await self._clients.asyncio.write_block(key, _bytes(value), if_absent=True)
        except BlockExistsError:
            pass
        except UnsupportedError as error:
            if error.of_options:
                raise
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete a value, if there is one."""
        self._check_writable()
        await self._ensure_open()
        await self._clients.asyncio.delete_block(key)

    async def delete_dir(self, prefix: str) -> None:
        """Delete all below a prefix, a thousand keys a request."""
        self._check_writable()
        await self._ensure_open()
        _ = await self._clients.asyncio.delete_by_prefix(_folder(prefix), literal=True)

    async def list(self) -> AsyncIterator[str]:
        """All keys."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """The keys that begin with a prefix."""
        await self._ensure_open()
        async for block in self._clients.asyncio.iter_blocks(prefix):
            yield block.key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names directly below a prefix, by one request a thousand of them.

        The key of the folder itself, which consoles make, is none of them.
        """
        await self._ensure_open()
        folder = _folder(prefix)
        found = await self._clients.asyncio.list_folder(folder)
        keys = (*found.folders, *(block.key for block in found.blocks))
        for name in dict.fromkeys(key.removeprefix(folder).rstrip("/") for key in keys):
            if name:
                yield name

    # Blocking.

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """`get`, blocking."""
        try:
            data = _read(self._clients.blocking, key, byte_range)
        except BlockNotFoundError:
            return None
        except InvalidRangeError:
            if not self._clients.blocking.block_exists(key):
                return None
            data = b""
        return _buffer(prototype, data)

    def get_ranges_sync(
        self,
        key: str,
        byte_ranges: Sequence[ByteRequest | None],
        *,
        prototype: BufferPrototype,
        max_gap_bytes: int = 1 * MIB,
        max_coalesced_bytes: int = 16 * MIB,
    ) -> Sequence[tuple[int, Buffer | None]]:
        """Parts of one value, side by side, with their places in `byte_ranges`.

        Those that lie at most `max_gap_bytes` apart are read together, up to
        `max_coalesced_bytes`. Raises an `ExceptionGroup` with a `FileNotFoundError` in it.
        """
        ranges: dict[int, tuple[str, int, int | None]] = {}
        results: dict[int, Buffer | None] = {}
        for index, each in enumerate(byte_ranges):
            if isinstance(each, RangeByteRequest):
                ranges[index] = (key, each.start, each.end - each.start)
            else:
                results[index] = self.get_sync(key, prototype=prototype, byte_range=each)
        places, wanted = [*ranges], [*ranges.values()]
        reads = merged(wanted, max_gap_bytes, max_coalesced_bytes)
        spans = [(key, read.offset, read.length) for read in reads]
        try:
            found = self._clients.blocking.read_block_ranges(spans)
        except (BlockNotFoundError, InvalidRangeError):
            reads, found = [], []  # the range at fault is found below
        for read, data in zip(reads, found, strict=True):
            for index in read.indices:
                piece = part(read, data, wanted[index])
                if piece is not None:
                    results[places[index]] = _buffer(prototype, piece)
        for index in ranges.keys() - results.keys():
            each = byte_ranges[index]
            results[index] = self.get_sync(key, prototype=prototype, byte_range=each)
        if None in results.values():
            raise ExceptionGroup("chunks could not be read", [FileNotFoundError(key)])
        return [*results.items()]

    def set_sync(self, key: str, value: Buffer) -> None:
        """`set`, blocking."""
        self._check_writable()
        _ = self._clients.blocking.write_block(key, _bytes(value))

    def delete_sync(self, key: str) -> None:
        """`delete`, blocking."""
        self._check_writable()
        self._clients.blocking.delete_block(key)


def _read(store: Any, key: str, byte_range: ByteRequest | None) -> Any:
    """Read with a client; the result of the asyncio client is a coroutine."""
    metadata = key.rpartition("/")[2] in _METADATA
    match byte_range:
        case None:
            span: tuple[int, ...] = ()
        case RangeByteRequest(start, end):
            span = start, end - start
        case OffsetByteRequest(offset):
            span = (offset,)
        case SuffixByteRequest(suffix):
            lifetime = "mutable" if metadata else "default"
            return _data(store.read_block_with_info(key, suffix=suffix, lifetime=lifetime))
        case _:  # pyright: ignore[reportUnnecessaryComparison]
            raise ValueError(f"Unexpected byte_range, got {byte_range!r}")
    if metadata:
        return _data(store.read_block_with_info(key, *span, lifetime="mutable"))
    return store.read_block_range(key, *span) if span else store.read_block(key)


def _data(read: Any) -> Any:
    """The bytes of what comes with the block's metadata."""
    return cast("tuple[bytes, BlockInfo]", read)[0] if isinstance(read, tuple) else _awaited(read)


async def _awaited(read: Coroutine[Any, Any, tuple[bytes, BlockInfo]]) -> bytes:
    return (await read)[0]


def _folder(prefix: str) -> str:
    return prefix.rstrip("/") + "/" if prefix.strip("/") else ""


def _bytes(value: Buffer) -> Any:
    if not isinstance(value, Buffer):
        raise TypeError(f"set: value: expected a zarr Buffer, got {type(value).__name__}")
    return value.as_buffer_like()


def _buffer(prototype: BufferPrototype | None, data: bytes | memoryview) -> Buffer:
    return (prototype or default_buffer_prototype()).buffer.from_bytes(data)
