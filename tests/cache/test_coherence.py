"""What is changed through a cache is what is read through it, whatever is under way meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from time import sleep
from typing import Any

import pytest

from blockyard import open_async_store, open_store
from blockyard.aio import AsyncBlockStore
from blockyard.cache.epochs import Change, Epochs
from blockyard.cache.in_doubt import SETTLE_SECONDS
from blockyard.cache.memory import MemoryTier
from blockyard.cache.store import CacheStore
from blockyard.cache.tier import Pages
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockStoreError,
    PreconditionFailedError,
    TransportError,
)
from blockyard.model import KIB
from blockyard.stores.base import ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.connections import Connections
from tests.cache.stores import Cached, HeldStore
from tests.hooked_store import HookedStore

Changing = Callable[[AsyncBlockStore], Coroutine[Any, Any, object]]
Read = Callable[[AsyncBlockStore], Coroutine[Any, Any, bytes]]

OLD, NEW = b"old" * 10_000, b"new" * 10_000

CHANGES: dict[str, Changing] = {
    "write_block": lambda store: store.write_block("a/k", NEW),
    "write_blocks": lambda store: store.write_blocks([("a/other", b""), ("a/k", NEW)]),
    "copy_block": lambda store: store.copy_block("new", "a/k"),
    "delete_block": lambda store: store.delete_block("a/k"),
    "delete_blocks": lambda store: store.delete_blocks(["a/other", "a/k"]),
    "delete_by_prefix": lambda store: store.delete_by_prefix("a"),
}
READS: dict[str, Read] = {
    "whole": lambda store: store.read_block("a/k"),
    "range": lambda store: store.read_block_range("a/k", 0, 30_000),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
each_read = pytest.mark.parametrize("read", READS.values(), ids=READS)


class Setup:
    """A cache in front of a store whose calls can be held, and its asyncio client."""

    def __init__(self) -> None:
        self.inner = HeldStore()
        self.cache = CacheStore(self.inner, memory=1 << 24, revalidate="never")

    def run(self, test: Callable[[AsyncBlockStore], Coroutine[Any, Any, None]]) -> None:
        async def prepared() -> None:
            async with open_async_store(self.cache) as store:
                _ = await store.write_block("a/k", OLD)
                _ = await store.write_block("new", NEW)
                await test(store)

        asyncio.run(prepared())

    async def held_read(
        self, store: AsyncBlockStore, read: Read
    ) -> tuple[asyncio.Task[bytes | None], asyncio.Event]:
        """A read that has its bytes, and is told to go on by the event."""
        self.inner.hold_reads = True
        early = asyncio.create_task(outcome(read, store))
        await self.inner.until_held(1)
        self.inner.hold_reads = False
        return early, self.inner.held[0]

    async def there_is(self) -> bytes | None:
        """What the store has as the block, whatever the cache has; None where there is none."""
        ctx = Context(BlockingRuntime(Connections(HttpConfig(), TimeoutConfig())))
        try:
            return (await self.inner.inner.read(ctx, ReadRequest("a/k"))).data
        except BlockNotFoundError:
            return None


async def outcome(read: Read, store: AsyncBlockStore) -> bytes | None:
    """None where there is no block."""
    try:
        return await read(store)
    except BlockNotFoundError:
        return None


@each_change
@each_read
def test_a_read_that_began_before_a_change_puts_nothing_back(change: Changing, read: Read) -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        early, go_on = await setup.held_read(store, read)
        _ = await change(store)
        go_on.set()
        assert await early == OLD

        for _ in range(2):
            assert await outcome(read, store) == await setup.there_is() != OLD

    setup.run(test)


@each_change
@each_read
def test_a_read_that_began_in_the_middle_of_a_change_is_not_kept(
    change: Changing, read: Read
) -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        _ = await read(store)
        assert await read(store) == OLD
        setup.inner.hold_changes = True
        changing = asyncio.create_task(change(store))
        await setup.inner.until_held(1)
        setup.inner.hold_changes = False
        assert await outcome(read, store) == OLD
        counted = setup.inner.read_count
        for each in setup.inner.held:
            each.set()
        _ = await changing

        assert await outcome(read, store) == await setup.there_is() != OLD
        assert setup.inner.read_count == counted + 1

    setup.run(test)


@each_change
@each_read
def test_a_reader_who_comes_after_a_change_waits_for_no_read_from_before(
    change: Changing, read: Read
) -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        early, go_on = await setup.held_read(store, read)
        _ = await change(store)

        late = await asyncio.wait_for(outcome(read, store), 60)

        assert late == await setup.there_is() != OLD
        go_on.set()
        assert await early == OLD

    setup.run(test)


@each_change
def test_nothing_is_kept_while_it_is_unknown_what_became_of_a_change(change: Changing) -> None:
    """Such a request may take effect later."""
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        read = READS["whole"]
        setup.inner.fail_changes = TransportError("the reply was lost")
        with pytest.raises(BlockStoreError):
            _ = await change(store)
        setup.inner.fail_changes = None

        counted = setup.inner.read_count
        for _ in range(3):
            _ = await outcome(read, store)
        assert setup.inner.read_count == counted + 3

    setup.run(test)


def test_it_is_kept_again_once_such_a_request_is_over() -> None:
    cached = Cached(HeldStore())
    held = cached.inner.inner
    assert isinstance(held, HeldStore)
    _ = cached.write("k", b"1")
    held.fail_changes = TransportError("the reply was lost")
    with pytest.raises(TransportError):
        _ = cached.write("k", b"2")
    held.fail_changes = None

    cached.wait(SETTLE_SECONDS - 1)
    assert [cached.read("k"), cached.read("k")] == [b"2", b"2"]
    assert len(cached.reads) == 2
    cached.wait(2)
    assert [cached.read("k"), cached.read("k")] == [b"2", b"2"]
    assert len(cached.reads) == 1


def test_a_forked_child_takes_a_change_of_its_parent_s_for_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody ends it there."""
    cached = Cached()

    class Forking(MemoryStore):
        async def write(self, ctx: Context, request: WriteRequest) -> Any:
            changes.update(*epochs._changes)  # pyright: ignore[reportPrivateUsage]
            return await super().write(ctx, request)

    epochs = cached.store._epochs  # pyright: ignore[reportPrivateUsage]
    changes: set[Any] = set()
    cached.inner.inner = Forking()
    _ = cached.write("k", b"1")
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    assert len(changes) == 1
    epochs.begin(changes.pop())

    assert [cached.read("k"), cached.read("k")] == [b"1"] * 2
    assert len(cached.reads) == 2
    cached.wait(SETTLE_SECONDS + 1)
    assert [cached.read("k"), cached.read("k")] == [b"1"] * 2
    assert len(cached.reads) == 1


def test_a_forked_child_waits_for_the_end_of_a_change_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long that takes: what is read meanwhile may be what was there before."""
    epochs, child = Epochs(), os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    change = Change(["k"])
    epochs.begin(change)
    assert epochs.is_changing("k", 0.0)
    assert epochs.is_changing("k", 10 * SETTLE_SECONDS)
    epochs.end(change, 10 * SETTLE_SECONDS, known=True)
    assert not epochs.is_changing("k", 10 * SETTLE_SECONDS)


def test_a_retry_hidden_in_a_change_that_succeeded_is_unknown_too() -> None:
    class Retrying(MemoryStore):
        async def write(self, ctx: Context, request: WriteRequest) -> Any:
            ctx.unknown_attempts += 1
            return await super().write(ctx, request)

    cached = Cached(Retrying())
    _ = cached.write("k", b"1")

    assert [cached.read("k"), cached.read("k")] == [b"1", b"1"]
    assert len(cached.reads) == 2


def test_a_refused_change_leaves_the_cache_in_use() -> None:
    cached = Cached()
    info = cached.write("k", b"1")
    for refused, how in (
        (BlockExistsError, {"if_absent": True}),
        (PreconditionFailedError, {"if_match": "another"}),
    ):
        with pytest.raises(refused):
            _ = cached.write("k", b"2", **how)
        assert [cached.read("k") for _ in range(3)] == [b"1"] * 3
        assert len(cached.reads) == 1
    _ = cached.write("k", b"3", if_match=info.etag)
    assert cached.read("k") == b"3"


def test_a_change_of_one_key_leaves_others_alone() -> None:
    cached = Cached()
    for key in "ab":
        _ = cached.write(key, key.encode())
        _ = cached.read(key)
    _ = cached.write("a", b"new")

    assert cached.reads == [(None, None)] * 2
    assert cached.read("b") == b"b"
    assert cached.reads == []


def test_threads_never_see_what_was_there_before_a_write_they_know_of() -> None:
    """Some read and some write; the versions in a block never go back for anybody."""
    keys = [f"k{number}" for number in range(6)]
    cache = CacheStore(MemoryStore(), memory=300 * KIB, revalidate="never")
    written, wrong = dict.fromkeys(keys, 0), list[str]()

    def write(key: str) -> None:
        for version in range(1, _VERSIONS):
            _ = store.write_block(key, _version(version))
            written[key] = version
            sleep(0.0005)

    def read(number: int) -> None:
        chance = random.Random(number)  # noqa: S311 - a schedule, not a secret
        while any(version < _VERSIONS - 1 for version in written.values()):
            key = chance.choice(keys)
            floor = written[key]
            if chance.random() < 0.5:
                data = store.read_block(key)
            else:
                data = store.read_block_range(key, 0, 8)
            if int(data[:8]) < floor:
                wrong.append(f"{key}: {int(data[:8])}, written was {floor}")

    with open_store(cache) as store:
        _ = store.write_blocks([(key, _version(0)) for key in keys])
        with ThreadPoolExecutor(len(keys) + 4) as threads:
            calls = [threads.submit(write, key) for key in keys]
            calls += [threads.submit(read, number) for number in range(4)]
            for call in calls:
                call.result()
        counts = store.stats().cache
    assert wrong == []
    assert counts is not None
    assert counts.memory_hits > 0


def test_tasks_never_see_what_was_there_before_a_write_they_know_of() -> None:
    chance = random.Random(7)  # noqa: S311
    keys = [f"k{number}" for number in range(4)]

    async def turns(most: int) -> None:
        for _ in range(chance.randrange(most)):
            await asyncio.sleep(0)

    cache = CacheStore(
        HookedStore(MemoryStore(), lambda _, __: turns(4)), memory=300 * KIB, revalidate="never"
    )
    written, wrong = dict.fromkeys(keys, 0), list[str]()

    async def write(store: AsyncBlockStore, key: str) -> None:
        for version in range(1, _VERSIONS):
            _ = await store.write_block(key, _version(version))
            written[key] = version
            await turns(40)

    async def read(store: AsyncBlockStore, key: str) -> None:
        while written[key] < _VERSIONS - 1:
            floor = written[key]
            data = await store.read_block_range(key, 0, 8)
            if int(data) < floor:
                wrong.append(f"{key}: {int(data)}, written was {floor}")
            await turns(4)

    async def main() -> None:
        async with open_async_store(cache) as store:
            _ = await store.write_blocks([(key, _version(0)) for key in keys])
            async with asyncio.TaskGroup() as group:
                for key in keys * 3:
                    _ = group.create_task(read(store, key))
                for key in keys:
                    _ = group.create_task(write(store, key))

    asyncio.run(main())
    assert wrong == []
    counts = cache.stats().cache
    assert counts is not None
    assert counts.memory_hits > 0


_VERSIONS = 100


def _version(number: int) -> bytes:
    return b"%08d" % number + bytes(40_000)


def test_a_hundred_misses_of_one_block_are_one_request() -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        setup.inner.hold_reads = True
        counted = setup.inner.read_count
        tasks = [asyncio.create_task(store.read_block("a/k")) for _ in range(100)]
        await setup.inner.until_held(1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert setup.inner.read_count == counted + 1
        setup.inner.held[0].set()

        assert set(await asyncio.gather(*tasks)) == {OLD}
        assert setup.inner.read_count == counted + 1
        counts = store.stats().cache
        assert counts is not None
        assert counts.coalesced == 99

    setup.run(test)


def test_the_first_of_them_is_cancelled() -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        setup.inner.hold_reads = True
        counted = setup.inner.read_count
        tasks = [asyncio.create_task(store.read_block("a/k")) for _ in range(100)]
        await setup.inner.until_held(1)
        _ = tasks[0].cancel()
        await setup.inner.until_held(2)
        setup.inner.held[1].set()

        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcomes[0], asyncio.CancelledError)
        assert set(outcomes[1:]) == {OLD}
        assert setup.inner.read_count == counted + 2

    setup.run(test)


def test_a_read_of_another_range_is_not_answered_with_this_one() -> None:
    """Two ranges on one page are one request, and each reader gets its own bytes."""
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        setup.inner.hold_reads = True
        ranges = [(0, 10), (1, 3), (100, 16 * KIB - 100)]
        tasks = [asyncio.create_task(store.read_block_range("a/k", *each)) for each in ranges]
        await setup.inner.until_held(1)
        setup.inner.held[0].set()

        assert await asyncio.gather(*tasks) == [OLD[at : at + size] for at, size in ranges]
        assert setup.inner.read_count == 1

    setup.run(test)


def test_a_change_just_as_an_old_block_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    cached, fill = Cached(), MemoryTier.fill

    def late(tier: MemoryTier, pages: Pages, epoch: object, **how: Any) -> None:
        monkeypatch.setattr(MemoryTier, "fill", fill)
        _ = cached.write("k", b"new")
        tier.fill(pages, epoch, **how)

    _ = cached.write("k", b"old")
    monkeypatch.setattr(MemoryTier, "fill", late)

    assert cached.read("k") == b"old"
    assert cached.read("k") == b"new"


def test_an_old_block_takes_no_place_from_the_new_one() -> None:
    setup = Setup()

    async def test(store: AsyncBlockStore) -> None:
        early, go_on = await setup.held_read(store, READS["whole"])
        _ = await store.write_block("a/k", NEW)
        assert await store.read_block("a/k") == NEW
        go_on.set()
        assert await early == OLD

        counted = setup.inner.read_count
        assert await store.read_block("a/k") == NEW
        assert setup.inner.read_count == counted
        counts = store.stats().cache
        assert counts is not None
        assert counts.dropped == 1

    setup.run(test)
