"""What a cache does and holds for each key does not grow with the number of the others."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from blockyard.cache import stage, write_back
from blockyard.cache import store as cache_store
from blockyard.cache.epochs import Change, Epochs
from blockyard.cache.in_doubt import SETTLE_SECONDS
from blockyard.cache.key_locks import KeyLocks
from blockyard.cache.stage import Stage, Staged
from blockyard.context import Context
from blockyard.errors import AccessDeniedError, BlockNotFoundError, BlockStoreError
from blockyard.managing import asynccontextmanager
from blockyard.model import DeleteResult
from blockyard.stores.base import ListRequest
from blockyard.stores.memory import MemoryStore
from blockyard.stores.wrapper import WrapperStore
from blockyard.transport.blocking import run_to_end
from tests.cache.staging import Process, Service
from tests.cache.stores import Cached

REFUSED = AccessDeniedError("no", status=403)


class Batches(WrapperStore):
    """Keeps how many keys are deleted at a time; the next batches fail as `errors` says."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.sizes: list[int] = []
        self.errors: list[BlockStoreError | None] = []

    async def delete_blocks(self, ctx: Context, keys: Sequence[str]) -> DeleteResult:
        self.sizes.append(len(keys))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return await self.inner.delete_blocks(ctx, keys)


def delete(cached: Cached, keys: Sequence[str]) -> DeleteResult:
    return run_to_end(cached.store.delete_blocks(cached.ctx, keys))


def test_a_delete_of_many_keys_has_few_of_them_changing_at_a_time() -> None:
    """For as long as an epoch changes no key that shares it is answered from the cache."""
    batches = Batches()
    cached = Cached(batches)
    keys = [f"k{n}" for n in range(25_000)]
    result = delete(cached, keys)
    assert result.deleted == keys
    assert batches.sizes == [10_000, 10_000, 5_000]


def test_keys_given_twice_are_deleted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_store, "_DELETED_TOGETHER", 2)
    batches = Batches()
    assert delete(Cached(batches), ["a", "b", "a", "c", "b"]).deleted == ["a", "b", "c"]
    assert batches.sizes == [2, 1]


def test_what_fails_after_the_first_batch_is_told_of_its_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cache_store, "_DELETED_TOGETHER", 2)
    batches = Batches()
    cached = Cached(batches)
    batches.errors = [None, REFUSED]
    result = delete(cached, ["a", "b", "c", "d", "e"])
    assert (result.deleted, result.failed) == (["a", "b", "e"], {"c": REFUSED, "d": REFUSED})
    batches.errors = [REFUSED]
    with pytest.raises(AccessDeniedError):
        _ = delete(cached, ["a", "b", "c"])
    assert batches.sizes == [2, 2, 1, 2]


def test_a_delete_of_many_keys_holds_few_locks_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system looks through all that are held for each that is taken."""
    held: list[int] = []
    taken = KeyLocks.taken

    @asynccontextmanager
    async def counted(self: KeyLocks, ctx: Context, names: Sequence[bytes]) -> AsyncGenerator[None]:
        held.append(len(names))
        async with taken(self, ctx, names):
            yield

    monkeypatch.setattr(KeyLocks, "taken", counted)
    monkeypatch.setattr(write_back, "_DELETED_TOGETHER", 40)
    service = Service()
    process = Process(tmp_path, service)
    keys = [f"k{n}" for n in range(100)]
    for key in keys[:3]:
        _ = process.write(key, b"data")
    result = run_to_end(process.store.delete_blocks(process.ctx, keys))
    assert (result.deleted, result.failed) == (keys, {})
    assert held == [40, 40, 20]
    assert process.staged == []
    with pytest.raises(BlockNotFoundError):
        _ = process.read(keys[0])


class CountedSlots(frozenset[int]):
    """How often any of them was looked into."""

    looks = 0

    def __contains__(self, slot: object) -> bool:
        CountedSlots.looks += 1
        return super().__contains__(slot)


@pytest.mark.parametrize("known", [None, False])
def test_a_read_looks_at_few_of_the_changes(known: bool | None) -> None:
    """Of those under way in other calls, and of those in doubt in an outage."""
    epochs = Epochs()
    for n in range(20_000):
        change = Change([f"k{n}"])
        change.slots = CountedSlots(change.slots)
        epochs.begin(change)
        if known is not None:
            epochs.end(change, 1.0, known=known)
    CountedSlots.looks = 0
    for n in range(100):
        _ = epochs.is_changing(f"other{n}", 2.0)
    assert CountedSlots.looks < 100 * 20_000 / 256
    assert epochs.is_changing("k7", 2.0)


def test_changes_in_doubt_are_forgotten_though_nobody_reads() -> None:
    epochs = Epochs()
    for n in range(20_000):
        change = Change([f"k{n}"])
        epochs.begin(change)
        epochs.end(change, float(n), known=False)
    kept = sum(map(len, epochs._changes))  # pyright: ignore[reportPrivateUsage]
    assert kept < 3000
    assert epochs.is_changing("k19999", 19_999.0 + SETTLE_SECONDS - 1)
    assert not epochs.is_changing("k19999", 19_999.0 + SETTLE_SECONDS + 1)


def test_what_another_store_has_staged_is_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(Service):
        @property
        def identity(self) -> str:
            return "another"

    opened: list[bytes] = []
    find = Stage.find_of_any_store

    def counted(self: Stage, name: bytes) -> Staged | None:
        opened.append(name)
        return find(self, name)

    other = Process(tmp_path, Other())
    for n in range(20):
        _ = other.write(f"k{n}", b"data")
    mine = Process(tmp_path, Service())
    _ = mine.write("k", b"data")
    monkeypatch.setattr(Stage, "find_of_any_store", counted)
    for _ in range(3):
        assert mine.staged == ["k"]
        assert mine.store.stats().cache is not None
    assert len(opened) <= 21
    assert len(other.staged) == 20


def test_a_listing_looks_at_no_staged_file_that_it_does_not_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There may be 100,000, and a listing of as many keys has a hundred pages."""
    process = Process(tmp_path, Service())
    for n in range(20):
        _ = process.write(f"a/{n}", b"data")
    _ = process.write("b/0", b"data")
    assert len(process.staged) == 21
    looks: list[os.stat_result] = []
    size_of = stage._size_of

    def counted(known: os.stat_result) -> int:
        looks.append(known)
        return size_of(known)

    monkeypatch.setattr(stage, "_size_of", counted)
    for _ in range(3):
        page = run_to_end(process.store.list(process.ctx, ListRequest("c/")))
        assert page.blocks == []
    assert looks == []
    page = run_to_end(process.store.list(process.ctx, ListRequest("b/")))
    assert [block.key for block in page.blocks] == ["b/0"]
    assert len(looks) == 1
