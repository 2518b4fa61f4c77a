"""Many ranges by one call: what a cache answers of them on the spot, and by how many reads."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

import blockyard
from blockyard import BlockStore, InvalidRangeError, WrapperStore, open_store
from blockyard.context import Context
from blockyard.model import KIB, Block, CacheStats
from blockyard.stores.base import ReadRequest
from tests.transport.runtimes import eventually

PAGE = 16 * KIB
SIZE = 40 * PAGE + 77
BLOCKS = {name: Random(name).randbytes(SIZE) for name in ("a", "b")}  # noqa: S311
TIERS = {
    "memory": {"memory": "8MiB"},
    "disk": {"memory": 0, "disk": {"size": "64MiB"}},
    "both": {"memory": "8MiB", "disk": {"size": "64MiB"}},
    "both, memory for little": {"memory": "100KiB", "disk": {"size": "64MiB"}},
}
Range = tuple[str, int, int | None]


@pytest.fixture(params=TIERS)
def tiers(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """A cache that asks nobody again."""
    cache: dict[str, Any] = {**TIERS[request.param], "revalidate": "never"}
    if "disk" in cache:
        cache["disk"] = {**cache["disk"], "path": str(tmp_path / "cache")}
    return cache


@pytest.fixture
def store(tmp_path: Path, tiers: dict[str, Any]) -> Iterator[BlockStore]:
    """Both blocks are in the cache, and the store behind it has got others of that size."""
    with open_store(f"file://{tmp_path}/blocks", cache=tiers) as store:
        for name, data in BLOCKS.items():
            _ = store.write_block(name, data)
            assert eventually(partial(_found_again, store, name), 60)
        with open_store(f"file://{tmp_path}/blocks") as behind:
            for name in BLOCKS:
                _ = behind.write_block(name, bytes(SIZE))
        yield store


def _counts(store: BlockStore) -> CacheStats:
    counts = store.stats().cache
    assert counts is not None
    return counts


def _hits(store: BlockStore) -> int:
    return _counts(store).memory_hits + _counts(store).disk_hits


def _found_again(store: BlockStore, name: str) -> bool:
    before = _hits(store)
    _ = store.read_block(name)
    return _hits(store) > before


def _cut(place: Range) -> bytes:
    name, offset, length = place
    return BLOCKS[name][offset : None if length is None else offset + length]


def _any_range(chance: Random) -> Range:
    offset = chance.choice([0, PAGE, SIZE - 1, chance.randrange(SIZE)])
    length = chance.choice([None, 0, 1, PAGE, chance.randrange(SIZE), 2 * SIZE])
    return chance.choice("ab"), offset, length


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(5, 20))]
)
def test_each_range_gets_its_own_bytes_from_the_cache(store: BlockStore, seed: int) -> None:
    chance = Random(seed)  # noqa: S311
    wanted = [_any_range(chance) for _ in range(30)]
    wanted += [("a", PAGE * number, PAGE) for number in range(41)]
    before = _counts(store)

    assert store.read_block_ranges(wanted) == [_cut(place) for place in wanted]

    some = sum(length != 0 for _, _, length in wanted)  # of an empty one there is nothing to keep
    assert _counts(store).misses - before.misses <= len(wanted) - some
    assert _hits(store) > before.memory_hits + before.disk_hits


def test_one_that_begins_past_the_end_is_refused_by_its_place(store: BlockStore) -> None:
    for wanted in ([("b", SIZE, 1)], [("a", 0, 5), ("b", SIZE - 1, 5), ("b", SIZE, 5)]):
        with pytest.raises(InvalidRangeError, match="'b'"):
            _ = store.read_block_ranges(wanted)


def test_what_was_written_meanwhile_is_read(store: BlockStore) -> None:
    new = Random(9).randbytes(SIZE)  # noqa: S311
    _ = store.write_block("a", new)
    wanted: list[Range] = [("a", PAGE * number, PAGE) for number in range(40)]
    assert store.read_block_ranges(wanted) == [new[at : at + PAGE] for _, at, _ in wanted]


def test_a_damaged_page_is_read_again(store: BlockStore, tmp_path: Path) -> None:
    entries = [path for path in (tmp_path / "cache").glob("blocks/*/*") if path.is_file()]
    for path in entries:
        data = bytearray(path.read_bytes())
        data[-PAGE] ^= 1
        _ = path.write_bytes(data)
    wanted: list[Range] = [("b", PAGE * number, PAGE) for number in range(41)]
    zeros = [bytes(len(_cut(place))) for place in wanted]
    found = store.read_block_ranges(wanted)
    ours = [_cut(place) for place in wanted]
    assert all(
        data in pair for data, pair in zip(found, zip(ours, zeros, strict=True), strict=True)
    )
    if _counts(store).damaged:
        assert found[39] == zeros[39]


asked: list[str] = []


class Counting(WrapperStore):
    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        asked.append("read")
        return await super().read(ctx, request)


class Asked(WrapperStore):
    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        asked.append("at once")
        return super().read_at_once(ctx, request)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(WrapperStore, []), (Counting, ["read"] * 2), (Asked, ["at once"] * 2)],
)
def test_who_reads_in_another_way_is_not_passed_by(
    store: BlockStore, kind: type[WrapperStore], expected: list[str]
) -> None:
    asked.clear()
    inner = store._operations.store  # pyright: ignore[reportPrivateUsage]
    wanted: list[Range] = [("a", 0, 5), ("b", 7, 5)]
    wrapped = open_store(kind(inner))
    assert wrapped.read_block_ranges(wanted) == [_cut(place) for place in wanted]
    wrapped.close()
    assert asked == expected


def test_ranges_of_what_is_not_cached_are_read_from_the_store(
    tmp_path: Path, tiers: dict[str, Any]
) -> None:
    with open_store(f"file://{tmp_path}/blocks") as plain:
        for name, data in BLOCKS.items():
            _ = plain.write_block(name, data)
    with open_store(f"file://{tmp_path}/blocks", cache=tiers) as store:
        wanted: list[Range] = [("a", 10, 5), ("b", 0, None), ("a", 20, 5)]
        assert store.read_block_ranges(wanted) == [_cut(place) for place in wanted]
        with pytest.raises(blockyard.BlockNotFoundError, match="'c'"):
            _ = store.read_block_ranges([*wanted, ("c", 0, 1)])
