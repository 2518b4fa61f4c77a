"""What contents hold in memory is bounded by what may be in flight, not by their size."""

from __future__ import annotations

import io
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockyard.atomic_dict import FREE_THREADED
from blockyard.context import Context
from blockyard.model import Block, BlockInfo, Page
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import open_client
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 256 * 1024
COUNT = 160
SIZE = COUNT * BLOCK
CONCURRENCY = 8
BESIDES = 1_000_000  # bytes that are no blocks: listings, tasks, what Python imports meanwhile


class HollowStore(HookedStore):
    """Forgets what it is given, and makes up what it is asked for: blocks in the plain layout."""

    def __init__(self, blocks: int) -> None:
        super().__init__(MemoryStore())
        self._blocks = blocks
        self.written = 0

    async def write(self, ctx: Context, request: WriteRequest) -> BlockInfo:
        if not request.key.endswith(".blockyard"):
            self.written += len(request.data)
        await ctx.runtime.sleep(0)
        return BlockInfo(request.key, len(request.data), "etag")

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if request.key.endswith(".blockyard"):
            return await self.inner.read(ctx, request)
        await ctx.runtime.sleep(0)
        data = bytes(BLOCK)[request.offset :][: request.length]
        return Block(data, len(data), lambda: BlockInfo(request.key, BLOCK, "etag"))

    async def list(self, ctx: Context, request: ListRequest) -> Page:
        keys = (f"movie/chunk-{index // 16}/block-{index % 16}" for index in range(self._blocks))
        blocks = [BlockInfo(key, BLOCK, "etag") for key in keys if key.startswith(request.prefix)]
        return Page(blocks, None)


class Nowhere(io.RawIOBase):
    def write(self, data: memoryview) -> int:
        return len(data)


def opened(store: HollowStore) -> Iterator[BlockStore]:
    with open_client("blocking", store) as client:
        narrow = client.store.with_options(concurrency=CONCURRENCY)
        shrink_blocks(narrow, BLOCK)
        yield narrow


@pytest.fixture
def empty() -> HollowStore:
    return HollowStore(0)


@pytest.fixture
def writer(empty: HollowStore) -> Iterator[BlockStore]:
    yield from opened(empty)


@pytest.fixture
def reader() -> Iterator[BlockStore]:
    yield from opened(HollowStore(COUNT))


def peak(call: Callable[[], object]) -> int:
    """The most bytes that were in use at a time.

    Without the GIL a block that another thread drops goes once its own thread runs again: up to
    three times as many are in use on a busy machine, however long the content is.
    """
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] // (4 if FREE_THREADED else 1)
    finally:
        tracemalloc.stop()


class TestWriting:
    LIMIT = (CONCURRENCY + 3) * BLOCK + BESIDES  # and block 0, one being drawn, one its source

    def test_from_an_iterator(self, writer: BlockStore, empty: HollowStore) -> None:
        parts = (bytes(100_000) for _ in range(SIZE // 100_000))
        assert peak(lambda: writer.write_content("movie", parts)) < self.LIMIT
        assert empty.written == SIZE // 100_000 * 100_000

    def test_from_a_path(self, writer: BlockStore, empty: HollowStore, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(SIZE)
        assert peak(lambda: writer.write_content("movie", path)) < self.LIMIT
        assert empty.written == SIZE


class TestReading:
    LIMIT = (2 * CONCURRENCY + 1) * BLOCK + BESIDES  # as many may wait for one that is slow

    def test_into_a_stream(self, reader: BlockStore) -> None:
        assert peak(lambda: reader.read_content_into("movie", Nowhere())) < self.LIMIT

    def test_into_a_file(self, reader: BlockStore, tmp_path: Path) -> None:
        assert peak(lambda: reader.read_content_into("movie", tmp_path / "out")) < self.LIMIT
        assert (tmp_path / "out").stat().st_size == SIZE

    def test_block_by_block(self, reader: BlockStore) -> None:
        sizes: list[int] = []

        def count() -> None:
            for block in reader.iter_content("movie"):
                sizes.append(len(block))  # noqa: PERF401 - a comprehension would hold nothing back

        assert peak(count) < self.LIMIT
        assert sum(sizes) == SIZE

    def test_as_an_open_file(self, reader: BlockStore) -> None:
        def read_through() -> None:
            with reader.open_content("movie") as file:
                while file.read(100_000):
                    pass

        assert peak(read_through) < self.LIMIT


class TestBytesInFlight:
    """Fewer blocks at once where so many as `concurrency` allows would hold too much."""

    IN_FLIGHT = 6 * BLOCK
    LIMIT = IN_FLIGHT + BESIDES

    @pytest.fixture
    def wide(self, request: pytest.FixtureRequest) -> Iterator[BlockStore]:
        with open_client("blocking", request.param) as client:
            shrink_blocks(client.store, BLOCK)
            client.store._operations.in_flight = self.IN_FLIGHT
            yield client.store

    @pytest.mark.parametrize("wide", [HollowStore(0)], indirect=True)
    def test_of_what_is_written(self, wide: BlockStore, tmp_path: Path) -> None:
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(SIZE)
        assert peak(lambda: wide.write_content("movie", path)) < self.LIMIT
        parts = (bytes(100_000) for _ in range(SIZE // 100_000))
        assert peak(lambda: wide.write_content("movie", parts)) < self.LIMIT
        blocks = ((f"block-{n}", bytes(BLOCK)) for n in range(COUNT))
        assert peak(lambda: wide.write_blocks(blocks)) < self.LIMIT + BLOCK

    @pytest.mark.parametrize("wide", [HollowStore(COUNT)], indirect=True)
    def test_of_what_is_read(self, wide: BlockStore, tmp_path: Path) -> None:
        assert peak(lambda: wide.read_content_into("movie", Nowhere())) < self.LIMIT
        assert peak(lambda: wide.read_content_into("movie", tmp_path / "out")) < self.LIMIT
        assert peak(lambda: deque(wide.iter_content("movie"), maxlen=0)) < self.LIMIT + BLOCK
        assert peak(lambda: wide.verify_by_prefix("movie")) < self.LIMIT

    @pytest.mark.parametrize("wide", [HollowStore(0)], indirect=True)
    def test_a_block_larger_than_all_of_it_goes_alone(self, wide: BlockStore) -> None:
        large = ((f"block-{n}", bytes(8 * BLOCK)) for n in range(12))
        assert peak(lambda: wide.write_blocks(large)) < 2 * 8 * BLOCK + BESIDES
        none = ((f"block-{n}", b"") for n in range(50))
        assert len(wide.write_blocks(none)) == 50
