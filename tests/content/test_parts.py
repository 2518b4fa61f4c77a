"""Contents over a network: blocks at both ends are read in parts, and are whole all the same."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blockyard
from blockyard import BlockStore, IntegrityError
from blockyard.content.extents import LEAST_PART
from blockyard.content.layout import Layout
from blockyard.content.manifest import Manifest
from blockyard.content.reading import PartSums
from blockyard.context import Context
from blockyard.crc32c import crc32c
from blockyard.model import MIB, Block
from blockyard.stores.base import ReadRequest
from blockyard.stores.memory import MemoryStore
from tests.hooked_store import HookedStore

BLOCK = 4 * MIB
SIZE = 5 * BLOCK + 1_234_567
DATA = random.Random(16).randbytes(SIZE)  # noqa: S311 - sample data
PLACES = 4


class Network(HookedStore):
    """Notes what is read of blocks, which it keeps without checksums, and may damage a part."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.lengths: list[int] = []
        self.under_way = self.most = 0
        self.damaged: tuple[int, int] | None = None

    @property
    def reads_in_parts(self) -> bool:
        return True

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        if request.key.endswith(".blockyard"):
            return await self.inner.read(ctx, request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await ctx.runtime.sleep(0)
        self.under_way -= 1
        block = await self.inner.read(ctx, request)
        data = block.data
        self.lengths.append(len(data))
        if (int(request.key[-4:]), request.offset or 0) == self.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        return Block(data, block.size, lambda: block.info)


@pytest.fixture
def network() -> Network:
    return Network()


@pytest.fixture
def store(network: Network) -> Iterator[BlockStore]:
    with blockyard.open_store(network) as opened:
        _ = opened.write_content("film", DATA)
        yield opened.with_options(concurrency=PLACES)


def in_an_asyncio_loop(store: BlockStore) -> bytes:
    async def read() -> bytes:
        async with await blockyard.open_async_store(store) as both:
            narrow = both.with_options(concurrency=PLACES)
            return b"".join([block async for block in narrow.iter_content("film")])

    return asyncio.run(read())


def to_a_stream(store: BlockStore) -> bytes:
    target = io.BytesIO()
    _ = store.read_content_into("film", target)
    return target.getvalue()


def to_a_file(store: BlockStore, path: Path) -> bytes:
    _ = store.read_content_into("film", path)
    return path.read_bytes()


def as_an_open_file(store: BlockStore) -> bytes:
    pieces: list[bytes] = []
    with store.open_content("film") as file:
        while piece := file.read(100_000):
            pieces.append(piece)
    return b"".join(pieces)


READS: dict[str, Callable[[BlockStore, Path], bytes]] = {
    "read_content": lambda store, _: store.read_content("film"),
    "iter_content": lambda store, _: b"".join(store.iter_content("film")),
    "iter_content, asyncio": lambda store, _: in_an_asyncio_loop(store),
    "into a stream": lambda store, _: to_a_stream(store),
    "into a file": lambda store, folder: to_a_file(store, folder / "film"),
    "open_content": lambda store, _: as_an_open_file(store),
}


@pytest.mark.parametrize("how", READS)
def test_the_last_blocks_come_in_parts(
    how: str, store: BlockStore, network: Network, tmp_path: Path
) -> None:
    assert READS[how](store, tmp_path) == DATA
    assert sum(network.lengths) == SIZE
    assert max(network.lengths[: 2 * PLACES]) >= BLOCK // 2
    assert sum(LEAST_PART <= length <= MIB for length in network.lengths) >= PLACES
    assert network.most <= PLACES


@pytest.mark.parametrize("how", ["iter_content", "iter_content, asyncio", "into a stream"])
def test_so_do_the_first_where_one_waits_for_them(
    how: str, store: BlockStore, network: Network, tmp_path: Path
) -> None:
    assert READS[how](store, tmp_path) == DATA
    assert network.lengths[:PLACES] == [LEAST_PART] * PLACES
    assert sum(length == LEAST_PART for length in network.lengths) <= 3 * PLACES


def test_a_first_part_ends_where_others_do(store: BlockStore, network: Network) -> None:
    first = next(store.iter_content("film", 100_000))
    assert first == DATA[100_000:BLOCK]
    assert network.lengths[:2] == [LEAST_PART - 100_000, LEAST_PART]


@pytest.mark.parametrize("how", READS)
@pytest.mark.parametrize("damaged", [(0, 0), (4, 0), (4, 2 * MIB), (5, MIB)])
def test_a_block_in_parts_is_held_to_the_manifest(
    how: str, damaged: tuple[int, int], store: BlockStore, network: Network, tmp_path: Path
) -> None:
    network.damaged = damaged
    with pytest.raises(IntegrityError, match=f"block-000{damaged[0]}"):
        _ = READS[how](store, tmp_path)
    assert not (tmp_path / "film").exists()


def test_blocks_are_given_out_whole(store: BlockStore) -> None:
    sizes = [len(block) for block in store.iter_content("film")]
    assert sizes == [BLOCK] * 5 + [SIZE - 5 * BLOCK]


def test_a_range_of_few_blocks_takes_no_more_requests(store: BlockStore, network: Network) -> None:
    assert store.read_content("film", BLOCK, 4 * BLOCK) == DATA[BLOCK : 5 * BLOCK]
    assert network.lengths == [BLOCK] * 4


def test_an_error_in_the_middle_of_a_block_loses_nothing(
    store: BlockStore, network: Network
) -> None:
    network.damaged = 4, MIB
    iterator = store.iter_content("film")
    start = b"".join(next(iterator) for _ in range(4))
    with pytest.raises(IntegrityError):
        _ = next(iterator)
    network.damaged = None
    assert start + b"".join(iterator) == DATA


@pytest.mark.parametrize("block_size", [MIB, 3 * MIB + 7, BLOCK, 64 * MIB])
@pytest.mark.parametrize("places", [1, 3, 16, 1000])
def test_pieces_are_all_of_a_range(block_size: int, places: int) -> None:
    size = 20 * block_size + 5
    manifest = Manifest(
        "v", size=size, block_size=block_size, layout="generation", checksums=bytes(4 * 21)
    )
    layout = Layout.of_manifest("test", "film", manifest, None)
    for start, stop in [(0, size), (block_size - 1, size), (17, 3 * block_size), (5, 6)]:
        at = start
        for piece in layout.pieces(start, stop, places):
            assert piece.index * block_size + piece.offset == at
            assert piece.position == at - start
            at += piece.length
            shortened = piece.position == 0 or at == stop or at % block_size == 0
            assert shortened or piece.length >= LEAST_PART
        assert at == stop


def test_parts_in_any_order_have_the_checksum_of_their_block() -> None:
    manifest = Manifest(
        "v", size=4 * BLOCK, block_size=BLOCK, layout="generation", checksums=bytes(16)
    )
    layout = Layout.of_manifest("test", "film", manifest, None)
    pieces = layout.pieces(0, 4 * BLOCK, 16)
    chance = random.Random(3)  # noqa: S311 - an order
    chance.shuffle(pieces)
    sums, found = PartSums(), dict[int, int]()
    for piece in pieces:
        start = piece.index * BLOCK + piece.offset
        whole = sums.add(piece, crc32c(DATA[start : start + piece.length]))
        if whole is not None:
            found[piece.index] = whole
    assert found == {n: crc32c(DATA[n * BLOCK : (n + 1) * BLOCK]) for n in range(4)}
