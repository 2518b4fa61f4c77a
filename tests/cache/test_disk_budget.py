"""The disk tier's budget: the folder's, in allocated bytes; what is used stays longest."""

from __future__ import annotations

import os
import random
from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

from blockyard.cache.budget import SMALLEST
from blockyard.cache.disk import RETRY_AFTER
from blockyard.model import KIB, MIB
from blockyard.stores.base import ReadRequest
from blockyard.testing.samples import content
from blockyard_faults.cache_folder import allocated
from tests.cache.disk_tier import IDENTITY, Tier, later, pages_of, tier

BLOCK = content(200 * KIB)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def test_the_folder_never_has_more_than_its_budget(root: Path) -> None:
    with tier(root, SMALLEST) as one, tier(root, SMALLEST) as two:
        for number in range(100):
            disk = one if number % 2 else two
            disk.fill(pages_of(f"k{number}", BLOCK[: number * 2 * KIB]))
            disk.fill(pages_of(f"ranges {number}", BLOCK, 32 * KIB, 48 * KIB))
            disk.fill(pages_of(f"ranges {number}", BLOCK, 64 * KIB, 192 * KIB))
            disk.cache.change([f"k{number - 3}"])
            assert allocated(root) <= SMALLEST
        assert allocated(root) > 0.5 * SMALLEST
        assert one.stats["evicted"] + two.stats["evicted"] > 20
        assert disk.read(f"k{number}") == BLOCK[: number * 2 * KIB]


def test_a_smaller_budget_than_before_is_kept_to(root: Path) -> None:
    with tier(root, 32 * MIB) as disk:
        for number in range(100):
            disk.fill(pages_of(f"k{number}", BLOCK))
        assert allocated(root) > 20 * MIB
    with tier(root, SMALLEST) as disk:
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK
        assert allocated(root) <= SMALLEST


def test_a_block_that_would_push_all_others_out_is_not_kept(root: Path) -> None:
    with tier(root, SMALLEST) as disk:
        disk.fill(pages_of("small", BLOCK))
        disk.fill(pages_of("large", content(3 * MIB)))
        assert disk.read("large") is None
        assert disk.read("small") == BLOCK
        assert disk.stats["dropped"] == 1


def test_what_a_killed_writer_left_goes_with_the_next_fill(root: Path) -> None:
    with tier(root, SMALLEST) as disk:
        left = root / "new" / "left"
        _ = left.write_bytes(bytes(SMALLEST))
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK
        assert not left.exists()


def test_what_a_killed_writer_reserved_is_counted_until_it_is_counted_anew(root: Path) -> None:
    with tier(root, SMALLEST) as disk:
        disk.fill(pages_of("k", BLOCK))
        with disk.cache._budget.locked() as usage:
            usage.shards[7] += SMALLEST
            usage.save()
        disk.fill(pages_of("j", BLOCK))
        assert disk.read("j") == BLOCK
        with disk.cache._budget.locked() as usage:
            total = usage.total()
        assert abs(total - allocated(root)) <= 4 * KIB  # that of the counts themselves


@pytest.mark.parametrize("damage", ["removed", "cut", "another boot"])
def test_counts_that_are_lost_are_made_anew(root: Path, damage: str) -> None:
    with tier(root, SMALLEST) as disk:
        for number in range(20):
            disk.fill(pages_of(f"k{number}", BLOCK))
        usage = root / "usage"
        if damage == "removed":
            usage.unlink()
        elif damage == "cut":
            os.truncate(usage, 100)
        else:
            with usage.open("r+b") as file:
                _ = file.seek(8)
                _ = file.write(b"elsewhen")
        with disk.cache._budget.locked() as counted:
            total = counted.total()
        assert abs(total - allocated(root)) <= 4 * KIB  # that of the counts themselves


def test_a_disk_with_little_room_left_is_left_to_others(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tier(root, SMALLEST) as disk:
        disk.fill(pages_of("k", BLOCK))
        statvfs = os.statvfs

        def nearly_full(path: Path) -> os.statvfs_result:
            known = list(statvfs(path))
            known[4] = known[2] // 100  # bavail of blocks
            return os.statvfs_result(known)

        monkeypatch.setattr(os, "statvfs", nearly_full)
        disk.fill(pages_of("j", BLOCK))
        assert disk.read("j") is None
        monkeypatch.undo()
        later(disk, monkeypatch, RETRY_AFTER + 1)
        disk.fill(pages_of("j", BLOCK))
        assert disk.read("j") == BLOCK


def test_inodes_are_left_to_others_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tier(root, SMALLEST) as disk:
        statvfs = os.statvfs

        def no_inodes(path: Path) -> os.statvfs_result:
            known = list(statvfs(path))
            known[5], known[7] = 1000, 10  # files, favail
            return os.statvfs_result(known)

        monkeypatch.setattr(os, "statvfs", no_inodes)
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") is None


def test_a_hit_is_counted_once_a_pass_and_thrice_at_most(root: Path) -> None:
    with tier(root) as disk:
        disk.fill(pages_of("k", BLOCK))

        def hits() -> int:
            disk.cache._note_hits()
            return disk.path("k").stat().st_atime_ns % 1000

        for offset in range(0, 160 * KIB, 16 * KIB):
            assert disk.read("k", offset, 16 * KIB)
        assert hits() == 1
        for _ in range(10):
            assert disk.read("k", 0, 100)
        assert hits() == 3


# Hit ratios


def trace(requests: int, keys: int) -> Iterator[int]:
    """Zipf 0.9, with scans of keys that come only once beside it."""
    chance = random.Random(16)  # noqa: S311 - to be repeated
    weights = list(accumulate(1 / (rank + 1) ** 0.9 for rank in range(keys)))
    ranks = list(range(keys))
    chance.shuffle(ranks)
    scanned = keys
    while requests > 0:
        if chance.random() < 1 / 1000:
            yield from range(scanned, scanned + 200)
            scanned += 200
            requests -= 200
        yield chance.choices(ranks, cum_weights=weights)[0]
        requests -= 1


def lru_hits(requests: list[int], capacity: int) -> int:
    kept: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for key in requests:
        hits += key in kept
        kept[key] = None
        kept.move_to_end(key)
        if len(kept) > capacity:
            _ = kept.popitem(last=False)
    return hits


def hits_of(disk: Tier, requests: list[int]) -> int:
    hits = 0
    block = BLOCK[:30_000]
    for key in requests:
        if disk.cache.get(ReadRequest(str(key)), wait=True) is None:
            disk.fill(pages_of(str(key), block))
        else:
            hits += 1
    return hits


@pytest.mark.thorough
def test_more_is_hit_than_by_an_lru_of_the_same_size(root: Path) -> None:
    requests = list(trace(3000, 1200))
    with tier(root, SMALLEST, IDENTITY) as disk:
        hits = hits_of(disk, requests)
    kept = sum(len(files) for _, _, files in os.walk(root / "blocks"))
    assert kept > 100
    assert hits > lru_hits(requests, kept)
