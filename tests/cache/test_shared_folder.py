"""Clients that share a cache's folder, as processes do: none gives out what another has changed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockyard import BlockStore, open_store
from blockyard.cache.disk import DiskCache
from blockyard.cache.folder import Folder
from blockyard.cache.store import CacheStore
from blockyard.context import Context
from blockyard.model import KIB, MIB, Block
from blockyard.stores.base import ReadRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.stores.wrapper import WrapperStore
from tests.cache.disk_tier import SIZE, pages_of, tier


class LateStore(WrapperStore):
    """Calls `meanwhile`, once, between a read of the store and its return."""

    meanwhile: Callable[[], object] | None = None

    def read_at_once(self, ctx: Context, request: ReadRequest) -> Block | None:
        return None

    async def read(self, ctx: Context, request: ReadRequest) -> Block:
        block = await self.inner.read(ctx, request)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            _ = meanwhile()
        return block


class Shared:
    """A store's folder and a cache's, for any number of clients."""

    def __init__(self, root: Path) -> None:
        self.data, self.cache = root / "data", root / "cache"
        self.late = LateStore(FilesystemStore(self.data))

    @contextmanager
    def client(self, *, memory: int | None = None, late: bool = False) -> Generator[BlockStore]:
        inner = self.late if late else FilesystemStore(self.data)
        self.disk = disk = DiskCache(self.cache, SIZE, "store")
        with open_store(CacheStore(inner, memory=memory, disk=disk, revalidate="never")) as store:
            yield store

    def remove(self) -> None:
        """Remove the cache's folder, once nothing is being written there."""
        assert self.disk._queue.wait(20)
        shutil.rmtree(self.cache)

    def write(self, data: bytes) -> None:
        with self.client() as other:
            _ = other.write_block("k", data)

    def read_twice(self) -> list[bytes]:
        """What a client reads who begins now: from the store or the folder, then the folder."""
        with self.client() as other:
            return [other.read_block("k"), other.read_block("k")]


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    return Shared(tmp_path)


def hits(store: BlockStore) -> int:
    cache = store.stats().cache
    assert cache is not None
    return cache.memory_hits + cache.disk_hits


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_read_from_before_the_folder_was_removed_puts_nothing_old_in(shared: Shared) -> None:
    shared.write(b"old")

    def meanwhile() -> None:
        shared.remove()
        shared.write(b"new")

    with shared.client(late=True) as early:
        shared.late.meanwhile = meanwhile
        assert early.read_block("k") == b"old"
    assert shared.read_twice() == [b"new"] * 2


def test_one_that_could_not_make_the_folder_ready_puts_nothing_old_in(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("blockyard.syscalls.write_all_at", full)
        store = CacheStore(
            shared.late, disk=DiskCache(shared.cache, SIZE, "store"), revalidate="never"
        )
    with open_store(store) as early:
        shared.write(b"old")
        shared.late.meanwhile = lambda: shared.write(b"new")
        assert early.read_block("k") == b"old"
    assert shared.read_twice() == [b"new"] * 2


@pytest.mark.parametrize("read", ["read_block", "read_block_ranges"])
def test_memory_is_not_answered_from_once_the_folder_is_gone(shared: Shared, read: str) -> None:
    def answer(store: BlockStore) -> bytes:
        if read == "read_block":
            return store.read_block("k")
        return store.read_block_ranges([("k", 0, 3)])[0]

    shared.write(b"old")
    with shared.client(memory=MIB) as store:
        assert [answer(store), answer(store)] == [b"old"] * 2
        assert hits(store) == 1
        shared.remove()
        shared.write(b"new")
        assert answer(store) == b"new"
        shared.write(b"too")
        assert answer(store) == b"too"


def test_the_folder_is_made_again_by_a_read_and_then_used(shared: Shared) -> None:
    shared.write(b"old")
    with shared.client(memory=MIB) as store:
        assert store.read_block("k") == b"old"
        shared.remove()
        for _ in range(200):
            before = hits(store)
            assert store.read_block("k") == b"old"
            if hits(store) > before:
                break
            assert shared.disk._queue.wait(20)
        else:
            pytest.fail("the cache is not used again")
        shared.write(b"new")
        assert store.read_block("k") == b"new"


def test_what_is_read_between_the_epoch_and_the_removal_is_not_kept_in_memory(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that a change is about to remove, whose key has its new epoch already."""
    shared.write(b"old")
    assert shared.read_twice() == [b"old"] * 2
    with shared.client(memory=MIB) as reader, tier(shared.cache, identity="store") as changing:
        remove, read = Folder.remove, list[bytes]()

        def late(folder: Folder, path: str) -> bool:
            read.append(reader.read_block("k"))
            return remove(folder, path)

        with open_store(FilesystemStore(shared.data)) as store:
            _ = store.write_block("k", b"new")
        monkeypatch.setattr(Folder, "remove", late)
        changing.cache.change(["k"])
        monkeypatch.undo()
        assert read == [b"old"]
        assert reader.read_block("k") == b"new"


def test_evicted_and_replaced_entries_take_no_bytes_though_they_are_open(tmp_path: Path) -> None:
    block = bytes(256 * KIB)
    with tier(tmp_path / "cache", 8 * MIB) as one, tier(tmp_path / "cache", 8 * MIB) as two:
        opened = list[Any]()
        for number in range(60):
            one.fill(pages_of(f"k{number}", block))
            assert two.read(f"k{number}") == block
            opened += [disk.cache._kept.get(f"k{number}") for disk in (one, two)]
        one.fill(pages_of("k59", block[1:], etag="v2", at=2.0))
        assert one.stats["evicted"] > 20
        kept = [each._file.number for each in opened if each is not None]
        sizes = {os.fstat(number).st_nlink: os.fstat(number).st_blocks for number in kept}
        assert sizes[0] == 0


def test_an_entry_that_goes_while_it_is_read_is_a_miss_and_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = bytes(100 * KIB)
    with tier(tmp_path / "cache") as one, tier(tmp_path / "cache") as two:
        one.fill(pages_of("k", block))
        assert two.read("k") == block
        current = type(two.cache._kept["k"]).current

        def late(entry: Any, folder: Folder) -> bool:
            found = current(entry, folder)
            one.fill(pages_of("k", block[1:], etag="v2", at=2.0))
            return found

        monkeypatch.setattr(type(two.cache._kept["k"]), "current", late)
        assert two.cache.get(ReadRequest("k"), wait=True) is None
        monkeypatch.undo()
        assert two.read("k") == block[1:]
        assert two.stats["damaged"] == 0
