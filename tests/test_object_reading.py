"""`read_object_into` and `iter_object`: parts of one version, bounded, whole or not at all."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import tracemalloc
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.atomic_dict import FREE_THREADED
from blockyard.cache.store import CacheStore
from blockyard.config import StoreConfig
from blockyard.context import Context
from blockyard.crc32c import JoinedSum, crc32c
from blockyard.errors import (
    BlockNotFoundError,
    DeadlineExceededError,
    IntegrityError,
    LocalStorageError,
    PreconditionFailedError,
    ServerError,
)
from blockyard.model import MIB, MIN_READ_PART, PART_SIZE, Block, BlockInfo
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, ClientName, open_client
from blockyard.testing.samples import content
from tests.s3.counting_service import CountingService
from tests.s3.test_round_trips import config

PART = MIN_READ_PART
DATA = content(12 * PART + 5)
OTHER = content(12 * PART + 5, seed=2)
KEY = "file"

Hook = Callable[[int], Awaitable[None]]


async def nothing(number: int) -> None:
    """Lets every read pass."""


class Watched(WrapperStore):
    """Awaits `hook(part)` before each read, and remembers what was asked for."""

    def __init__(self, hook: Hook = nothing) -> None:
        super().__init__(MemoryStore())
        self.hook = hook
        self.asked: list[ReadRequest] = []
        self.stats_asked = self.under_way = self.most = self.ended = 0

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        self.asked.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await self.hook((request.offset or 0) // PART)
            return await super().read(ctx, request)
        finally:
            self.under_way -= 1

    async def stat_block(self, ctx: Context, key: str) -> BlockInfo:
        self.stats_asked += 1
        return await super().stat_block(ctx, key)

    async def replace(self, data: bytes = OTHER) -> None:
        """As somebody else does."""
        memory: Any = self.inner
        request = WriteRequest(KEY, data)
        memory._blocks[KEY] = memory._blocks[KEY]._replace(data=data)
        info = memory._blocks[KEY].info
        memory._blocks[KEY] = memory._blocks[KEY]._replace(
            info=info._replace(etag=f"{info.etag}-next", size=len(request.data))
        )


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "targets" / "target"
    path.parent.mkdir()
    path.write_bytes(b"before")
    return path


def untouched(target: Path) -> bool:
    return target.read_bytes() == b"before" and os.listdir(target.parent) == [target.name]


@pytest.fixture(params=CLIENTS)
def opened(request: pytest.FixtureRequest) -> Iterator[tuple[BlockStore, Watched]]:
    watched = Watched()
    with open_client(request.param, watched) as client:
        _ = client.store.write_block(KEY, DATA)
        yield client.store, watched


Opened = tuple[BlockStore, Watched]


def ranges(watched: Watched) -> list[tuple[int, int]]:
    asked = [(each.offset or 0, each.length or 0) for each in watched.asked]
    watched.asked.clear()
    return asked


# What is asked for.


@pytest.mark.parametrize("size", [0, 1, PART])
def test_what_fits_in_a_part_takes_one_request(opened: Opened, target: Path, size: int) -> None:
    store, watched = opened
    _ = store.write_block(KEY, DATA[:size])
    info = store.read_object_into(KEY, target, part_size=PART)
    assert (info.size, target.read_bytes()) == (size, DATA[:size])
    assert b"".join(store.iter_object(KEY, part_size=PART)) == DATA[:size]
    assert ranges(watched) == [(0, PART)] * 2
    assert watched.stats_asked == 0


def test_a_range_that_fits_in_a_part_takes_one_request(opened: Opened) -> None:
    store, watched = opened
    stream = io.BytesIO()
    _ = store.read_object_into(KEY, stream, offset=PART - 5, length=PART, part_size=PART)
    assert stream.getvalue() == DATA[PART - 5 :][:PART]
    assert ranges(watched) == [(PART - 5, PART)]


def test_parts_lie_on_edges_and_are_of_the_version_of_the_first(opened: Opened) -> None:
    store, watched = opened
    etag = store.stat_block(KEY).etag
    watched.stats_asked = 0
    stream = io.BytesIO()
    _ = store.read_object_into(KEY, stream, offset=100, length=4 * PART, part_size=PART)
    assert stream.getvalue() == DATA[100:][: 4 * PART]
    conditions = [each.if_match for each in watched.asked]
    assert (conditions, watched.stats_asked) == ([None, *[etag] * 4], 0)
    assert sorted(ranges(watched)) == [
        (100, PART),
        (PART + 100, PART - 100),
        (2 * PART, PART),
        (3 * PART, PART),
        (4 * PART, 100),
    ]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("concurrency", [1, 3, None])
@pytest.mark.parametrize("kind", ["path", "stream"])
def test_parts_are_read_side_by_side(
    client: ClientName, concurrency: int | None, kind: str, target: Path
) -> None:
    expected = concurrency or 8

    async def until_all_are_under_way(number: int) -> None:
        for _ in range(500):
            if number == 0 or store.most >= expected:
                return
            await asyncio.sleep(0.01)

    store = Watched(until_all_are_under_way)
    with open_client(client, store) as opened:
        _ = opened.store.write_block(KEY, DATA)
        narrow = opened.store.with_options(concurrency=8)
        with target.open("wb") as stream:
            into: Any = target if kind == "path" else stream
            _ = narrow.read_object_into(KEY, into, part_size=PART, concurrency=concurrency)
    assert (store.most, target.read_bytes()) == (expected, DATA)


def test_parts_are_read_ahead_of_an_iterator(opened: Opened) -> None:
    store, watched = opened
    parts = store.iter_object(KEY, part_size=PART)
    got, begun = list[bytes](), list[int]()
    for each in parts:
        got.append(each)
        begun.append(len(watched.asked))
    assert b"".join(got) == DATA
    assert [len(each) for each in got] == [PART] * 12 + [5]
    assert begun[0] == 2
    assert len(watched.asked) == 13


# Where it goes.


def test_targets_of_every_kind(opened: Opened, tmp_path: Path) -> None:
    store, _ = opened
    path, pipe, done = tmp_path / "file", tmp_path / "pipe", list[int]()
    for target in (path, str(path)):
        info = store.read_object_into(KEY, target, part_size=PART, progress=done.append)
        assert (path.read_bytes(), info.size, done[-1]) == (DATA, len(DATA), len(DATA))
        path.unlink()
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    _ = store.read_object_into(KEY, pipe, part_size=PART)
    reader.join()
    assert got == [DATA]
    _ = store.read_object_into(KEY, "/dev/null", part_size=PART)


@pytest.mark.parametrize("answer", [None, 0])
def test_errors_of_a_target_name_the_operation(opened: Opened, tmp_path: Path, answer: Any) -> None:
    store, watched = opened

    class Full(io.RawIOBase):
        def write(self, data: Any) -> Any:
            return answer

    with pytest.raises(LocalStorageError, match="read_object_into: target: write of Full"):
        _ = store.read_object_into(KEY, Full(), part_size=PART)
    with pytest.raises(LocalStorageError, match=r"read_object_into: .*absent"):
        _ = store.read_object_into(KEY, tmp_path / "absent" / "file", part_size=PART)
    assert watched.under_way == 0


# Another version meanwhile.


def replacing(watched: Watched, at: int, times: int) -> Hook:
    """Before the read of a part, so often."""
    left = [content(12 * PART + 5, seed=seed) for seed in range(10, 10 + times)]

    async def hook(number: int) -> None:
        if number == at and left:
            await watched.replace(left.pop())

    return hook


def test_a_file_is_read_once_more_when_the_object_is_replaced(opened: Opened, target: Path) -> None:
    store, watched = opened
    done: list[int] = []
    watched.hook = replacing(watched, 5, times=1)
    info = store.read_object_into(KEY, target, part_size=PART, progress=done.append)
    assert target.read_bytes() == content(12 * PART + 5, seed=10)
    assert info.etag == store.stat_block(KEY).etag
    assert done[-1] == len(DATA)


def test_an_object_that_is_replaced_again_is_an_error(opened: Opened, target: Path) -> None:
    store, watched = opened
    watched.hook = replacing(watched, 5, times=2)
    with pytest.raises(
        PreconditionFailedError,
        match=f"read_object_into '{KEY}': the object was replaced while it was read",
    ):
        _ = store.read_object_into(KEY, target, part_size=PART)
    assert untouched(target)


def test_what_was_asked_for_is_not_read_of_another(opened: Opened, target: Path) -> None:
    store, watched = opened
    etag = store.stat_block(KEY).etag
    watched.hook = replacing(watched, 5, times=1)
    with pytest.raises(PreconditionFailedError, match=f"read_object_into '{KEY}'"):
        _ = store.read_object_into(KEY, target, part_size=PART, if_match=etag)
    with pytest.raises(PreconditionFailedError, match=f"read_object_into '{KEY}'"):
        _ = store.read_object_into(KEY, target, part_size=PART, if_match=etag)
    assert untouched(target)


def test_a_stream_gets_nothing_of_another_version(opened: Opened) -> None:
    store, watched = opened
    watched.hook = replacing(watched, 5, times=1)
    stream = io.BytesIO()
    with pytest.raises(PreconditionFailedError, match=f"read_object_into '{KEY}'"):
        _ = store.read_object_into(KEY, stream, part_size=PART)
    assert DATA.startswith(stream.getvalue())
    assert watched.under_way == 0


@pytest.mark.parametrize("shorter", [False, True])
def test_an_iterator_gives_nothing_of_another_version(opened: Opened, shorter: bool) -> None:
    store, watched = opened
    parts, got = store.iter_object(KEY, part_size=PART), list[bytes]()
    watched.hook = replacing(watched, 9, times=1)
    if shorter:
        watched.hook = nothing
        got.append(next(parts))
        asyncio.run(watched.replace(b"short"))
    for _ in range(3):
        with pytest.raises(PreconditionFailedError, match=f"iter_object '{KEY}'"):
            got.extend(parts)
    assert DATA.startswith(b"".join(got))


def test_an_object_that_is_deleted_meanwhile_is_not_there(opened: Opened, target: Path) -> None:
    store, watched = opened

    async def delete(number: int) -> None:
        memory: Any = watched.inner
        if number == 5:
            _ = memory._blocks.pop(KEY, None)

    watched.hook = delete
    with pytest.raises(BlockNotFoundError, match=f"read_object_into '{KEY}'"):
        _ = store.read_object_into(KEY, target, part_size=PART)
    assert untouched(target)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_cache_with_a_part_of_an_old_version(client: ClientName, target: Path) -> None:
    """It is told of that by the store's refusal, and gives the old part no more."""
    watched = Watched()
    with open_client(client, CacheStore(watched, memory=1 << 24)) as opened:
        store = opened.store
        _ = store.write_block(KEY, DATA)
        for into_a_file in (True, False):
            _ = store.read_block_range(KEY, 0, PART)
            asyncio.run(watched.replace())
            if into_a_file:
                _ = store.read_object_into(KEY, target, part_size=PART)
                assert target.read_bytes() == OTHER
                asyncio.run(watched.replace(DATA))
                continue
            stream = io.BytesIO()
            with pytest.raises(PreconditionFailedError):
                _ = store.read_object_into(KEY, stream, part_size=PART)
            stream = io.BytesIO()
            _ = store.read_object_into(KEY, stream, part_size=PART)
            assert stream.getvalue() == OTHER


def test_what_a_cache_holds_takes_no_request() -> None:
    watched = Watched()
    with open_client("blocking", CacheStore(watched, memory=1 << 24)) as opened:
        _ = opened.store.write_block(KEY, DATA)
        for _ in range(2):
            stream = io.BytesIO()
            _ = opened.store.read_object_into(KEY, stream, part_size=PART)
            assert stream.getvalue() == DATA
            asked = len(watched.asked)
        watched.asked.clear()
        _ = opened.store.write_block(KEY, b"")
        for _ in range(2):
            assert list(opened.store.iter_object(KEY)) == []
        assert len(watched.asked) == 1
    assert asked <= 13


# Whatever ends the call.


@pytest.mark.parametrize("at", [0, 1, 7, 12])
@pytest.mark.parametrize("kind", ["path", "stream"])
def test_a_part_that_fails(opened: Opened, target: Path, at: int, kind: str) -> None:
    store, watched = opened

    async def fail(number: int) -> None:
        if number == at:
            raise ServerError(f"read_object_into '{KEY}': it failed", status=500)

    watched.hook = fail
    stream = io.BytesIO()
    with pytest.raises(ServerError, match="it failed") as raised:
        _ = store.read_object_into(KEY, target if kind == "path" else stream, part_size=PART)
    assert not hasattr(raised.value, "__notes__")
    assert untouched(target)
    assert DATA[: at * PART].startswith(stream.getvalue())
    assert watched.under_way == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_deadline_that_passes(client: ClientName, target: Path) -> None:
    async def hang(number: int) -> None:
        if number == 3:
            raise DeadlineExceededError("too late")

    watched = Watched(hang)
    with open_client(client, watched) as opened:
        _ = opened.store.write_block(KEY, DATA)
        hasty = opened.store.with_options(deadline=5)
        with pytest.raises(DeadlineExceededError):
            _ = hasty.read_object_into(KEY, target, part_size=PART)
    assert untouched(target)


def test_a_read_that_is_cancelled_leaves_nothing(target: Path) -> None:
    begun = asyncio.Event()

    async def hang(number: int) -> None:
        if number == 2:
            begun.set()
            await asyncio.sleep(60)

    watched = Watched(hang)

    async def main() -> None:
        async with blockyard.open_async_store(watched) as store:
            _ = await store.write_block(KEY, DATA)
            for into in (target, io.BytesIO()):
                begun.clear()
                reading = asyncio.ensure_future(store.read_object_into(KEY, into, part_size=PART))
                _ = await begun.wait()
                _ = reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    _ = await reading
                assert watched.under_way == 0

    asyncio.run(main())
    assert untouched(target)


# Memory.


class Hollow(WrapperStore):
    """Makes up an object."""

    def __init__(self, size: int) -> None:
        super().__init__(MemoryStore())
        self._size = size

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        await ctx.runtime.sleep(0)
        start = request.offset or 0
        size = min(request.length or self._size, self._size - start)
        return Block(bytes(size), size, lambda: BlockInfo(request.key, self._size, "etag"))


class Nowhere(io.RawIOBase):
    def write(self, data: memoryview) -> int:
        return len(data)


READS: dict[str, Callable[[BlockStore, Path], object]] = {
    "stream": lambda store, _: store.read_object_into(KEY, Nowhere(), part_size=MIB),
    "path": lambda store, path: store.read_object_into(KEY, path, part_size=MIB),
    "iterator": lambda store, _: deque(store.iter_object(KEY, part_size=MIB), maxlen=0),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_no_more_is_held_than_may_be_in_flight(
    read: Callable[[BlockStore, Path], object], tmp_path: Path
) -> None:
    in_flight = 6 * MIB
    with open_client("blocking", Hollow(60 * MIB)) as opened:
        opened.store._operations.in_flight = in_flight
        _ = opened.store.read_object_into(KEY, Nowhere(), length=10)  # so that all is imported
        tracemalloc.start()
        try:
            _ = read(opened.store, tmp_path / "target")
            most = tracemalloc.get_traced_memory()[1] // (4 if FREE_THREADED else 1)
        finally:
            tracemalloc.stop()
    assert most < in_flight + 2 * MIB + MIB


# What verifies it.


def test_sums_of_parts_in_any_order() -> None:
    for order in ([0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]):
        joined = JoinedSum()
        for part in order:
            piece = DATA[part * PART :][: PART if part < 3 else None]
            joined.add(part * PART, crc32c(piece), len(piece))
            joined.add(len(DATA), 0, 0)
        assert (joined.value, joined.size) == (crc32c(DATA), len(DATA))


def kept(data: bytes, kind: str = "FULL_OBJECT") -> dict[str, str]:
    checksum = b64encode(crc32c(data).to_bytes(4, "big")).decode()
    if kind == "COMPOSITE":
        return {"x-amz-checksum-crc32c": f"{checksum}-3", "x-amz-checksum-type": kind}
    return {"x-amz-checksum-crc32c": checksum, "x-amz-checksum-type": kind}


@pytest.fixture(params=CLIENTS)
def service(request: pytest.FixtureRequest) -> Iterator[tuple[BlockStore, CountingService]]:
    """A store that knows that its service says checksums."""
    with (
        CountingService(0) as server,
        open_client(request.param, StoreConfig(s3=config(server))) as opened,
    ):
        learnt: Any = getattr(opened.store, "_store", opened.store)
        learnt._operations.store._caller.capabilities.checksum_mode = True
        yield opened.store, server


def test_an_object_in_parts_is_held_to_the_checksum_of_all_of_it(
    service: tuple[BlockStore, CountingService], target: Path
) -> None:
    store, server = service
    _ = server.bucket.put(KEY, DATA, kept(DATA))
    stream = io.BytesIO()
    for into in (target, stream):
        server.reset()
        _ = store.read_object_into(KEY, into, part_size=4 * PART)
        assert sorted(server.cost.requests) == ["GET file"] * 4 + ["HEAD file"]
    assert target.read_bytes() == stream.getvalue() == DATA
    target.write_bytes(b"before")
    _ = server.bucket.put(KEY, DATA[:-1] + b"x", kept(DATA))
    stream = io.BytesIO()
    for into in (target, stream):
        with pytest.raises(IntegrityError, match=f"read_object_into '{KEY}': the object: .*CRC32C"):
            _ = store.read_object_into(KEY, into, part_size=4 * PART)
    assert untouched(target)
    assert len(stream.getvalue()) < len(DATA)


def test_what_is_held_to_no_checksum(service: tuple[BlockStore, CountingService]) -> None:
    store, server = service
    calls: list[tuple[dict[str, str], dict[str, Any], int]] = [
        (kept(b"", "COMPOSITE"), {"part_size": 4 * PART}, 1),
        ({}, {"part_size": 4 * PART}, 1),
        (kept(b""), {"part_size": 4 * PART, "offset": 1}, 0),
        (kept(b""), {"part_size": 4 * PART, "length": len(DATA) - 1}, 0),
        (kept(b""), {"part_size": PART_SIZE}, 0),
    ]
    for headers, options, heads in calls:
        _ = server.bucket.put(KEY, DATA, headers)
        server.reset()
        _ = store.read_object_into(KEY, Nowhere(), **options)
        assert server.cost.requests.count("HEAD file") == heads, (headers, options)


def test_blocks_with_page_checksums_are_verified_part_by_part(
    service: tuple[BlockStore, CountingService], target: Path
) -> None:
    store, server = service
    _ = store.write_block(KEY, DATA)
    server.reset()
    _ = store.read_object_into(KEY, target, part_size=4 * PART)
    assert (target.read_bytes(), server.cost.requests) == (DATA, ("GET file",) * 4)
    target.write_bytes(b"before")
    damaged = bytearray(DATA)
    damaged[9 * PART] ^= 1
    headers = server.bucket._objects[KEY].headers
    _ = server.bucket.put(KEY, bytes(damaged), headers)
    with pytest.raises(IntegrityError, match=f"read_object_into '{KEY}': page "):
        _ = store.read_object_into(KEY, target, part_size=4 * PART)
    assert untouched(target)
