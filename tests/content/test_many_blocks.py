"""Contents and objects of very many blocks, and very many reads of one: what is held for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.content.downloads import Download
from blockyard.content.extents import LEAST_PART, Extent, Piece
from blockyard.content.manifest import MOST_BLOCKS, Manifest
from blockyard.content.reading import PartSums
from blockyard.content.transfers import Tally
from blockyard.content.upload import ContentUpload
from blockyard.content.window import Width
from blockyard.context import Context
from blockyard.crc32c import crc32c
from blockyard.errors import BlockNotFoundError
from blockyard.model import KIB, MAX_BLOCK_SIZE, MIB, BlockInfo
from blockyard.object_reading import ObjectExtent
from blockyard.stores.memory import MemoryStore
from blockyard.testing.clients import open_client
from blockyard.testing.samples import content
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from tests.hooked_store import shrink_blocks

TIB = 1024 * 1024 * MIB
BLOCK = 4 * MIB


def part(offset: int, length: int, size: int = BLOCK) -> Piece:
    return Piece(0, "k", size, offset, length, 0)


def held(sums: PartSums) -> int:
    return sum(map(len, sums._parts.values()))  # pyright: ignore[reportPrivateUsage]


def test_reads_here_and_there_in_a_block_are_not_all_remembered() -> None:
    """As those of a file that is open for as long as a program runs."""
    sums = PartSums()
    for n in range(20_000):
        assert sums.add(part(1 + n * 7919 % (BLOCK // 2), 7), 1) is None
    assert held(sums) <= 256


def test_a_block_is_verified_that_was_read_here_and_there_before() -> None:
    data = content(BLOCK)
    sums = PartSums()
    for offset in range(1, 3000):
        _ = sums.add(part(offset, 7), 1)
    step = 128 * KIB
    found = [
        sums.add(part(offset, step), crc32c(data[offset : offset + step]))
        for offset in range(0, BLOCK, step)
    ]
    assert found == [*[None] * (BLOCK // step - 1), crc32c(data)]
    assert held(sums) == 0


def test_a_large_block_is_verified_whatever_it_is_cut_into() -> None:
    """With thousands of connections into the smallest parts, which may come in any order."""
    sums = PartSums()
    offsets = range(MAX_BLOCK_SIZE - LEAST_PART, -1, -LEAST_PART)
    found = [sums.add(part(offset, LEAST_PART, MAX_BLOCK_SIZE), 1) for offset in offsets]
    assert found[-1] is not None
    assert held(sums) == 0


def test_what_is_remembered_of_a_content_does_not_grow_with_its_blocks() -> None:
    with open_client("blocking", MemoryStore()) as client:
        store = client.store
        shrink_blocks(store, 16)
        _ = store.write_content("movie", content(16 * 500))
        ((_, found),) = store._writer._register.last_written.items()
        assert found.manifest is not None
        assert (found.manifest.checksums, found.manifest.etags) == (b"", ())
        assert found.manifest.blocks == 500
        _ = store.write_content("movie", content(16 * 300))
        assert store.read_content("movie") == content(16 * 300)
        store.delete_content("movie")
        with pytest.raises(BlockNotFoundError):
            _ = store.read_content("movie")


def test_a_write_holds_four_bytes_of_each_block(monkeypatch: pytest.MonkeyPatch) -> None:
    uploads: list[Any] = []
    complete = ContentUpload.complete

    async def noted(self: Any) -> Manifest:
        uploads.append((len(self._sums) * self._sums.itemsize, dict(self._whole._ahead)))
        return await complete(self)

    monkeypatch.setattr(ContentUpload, "complete", noted)
    data = content(16 * 1000 + 5)
    with open_client("blocking", MemoryStore()) as client:
        store = client.store
        shrink_blocks(store, 16)
        info = store.write_content("movie", data)
        assert uploads == [(4 * 1001, {})]
        assert (info.size, info.crc32c) == (len(data), crc32c(data))
        assert store.read_content("movie") == data
        assert store.read_content("movie", 16_000, 5) == data[16_000:]


class Counted(Extent):
    """Counts the pieces that were made."""

    operation = "read_content_into"

    def __init__(self) -> None:
        self.made = 0

    @property
    def block_size(self) -> int:
        return MIB

    def _piece(self, index: int, first: int, last: int, start: int) -> Piece:
        self.made += 1
        return Piece(index, "k", MIB, first % MIB, last - first, first - start)


@pytest.mark.parametrize("parts", [None, 8])
def test_a_download_holds_no_list_of_all_its_pieces(tmp_path: Path, parts: int | None) -> None:
    extent = Counted()

    async def read(ctx: Context, extent: Counted, piece: Piece) -> bytes:
        if extent.made > 20:
            raise BlockNotFoundError("gone")
        return b"\0" * piece.length

    ctx = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))
    download = Download(extent, (0, TIB), read, Width(8, 8, parts))
    with pytest.raises(BlockNotFoundError):
        run_to_end(download.into(ctx, str(tmp_path / "file"), Tally(ctx, None)))
    assert extent.made < 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("size", "part_size"),
    [(5 * TIB, 16 * MIB), (2**53 + 1, 64 * MIB), (2**63 - 1, 5 * MIB + 1), (2**31 + 1, 2**31)],
)
def test_pieces_of_very_large_objects_join(size: int, part_size: int) -> None:
    extent = ObjectExtent("read_object_into", BlockInfo("k", size, "etag"), part_size)
    for start in (0, 2**31 - 1, 2**32 + 1, size - 3 * part_size - 1):
        if 0 <= start < size:
            pieces = extent.walk(start, size, 8)
            at = start
            for piece in first(pieces, 50):
                assert (piece.offset, piece.position) == (at, at - start)
                assert 0 < piece.length <= part_size
                at += piece.length


def test_the_largest_manifest_s_blocks_are_named() -> None:
    extent = Counted()
    pieces = extent.walk((MOST_BLOCKS - 2) * MIB, MOST_BLOCKS * MIB)
    assert [piece.index for piece in pieces] == [MOST_BLOCKS - 2, MOST_BLOCKS - 1]


def first(pieces: Iterator[Piece], count: int) -> Iterator[Piece]:
    return (piece for piece, _ in zip(pieces, range(count), strict=False))
