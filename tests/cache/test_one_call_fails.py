"""One system call on the cache's folder fails, each that an operation makes in its turn.

Reads have the block all the same. A write that is staged is there or is an error, which says when
it may be there all the same.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from blockyard.cache.disk import DiskCache
from blockyard.cache.maintenance import CacheFolder
from blockyard.cache.store import CacheStore
from blockyard.context import Context
from blockyard.errors import BlockNotFoundError, BlockStoreError, LocalStorageError
from blockyard.model import MIB
from blockyard.stores.base import ListRequest, ReadRequest, WriteRequest
from blockyard.stores.memory import MemoryStore
from blockyard.testing.samples import content
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from tests.cache.disk_tier import runtime
from tests.cache.failing_calls import FailingCalls, open_files
from tests.cache.staging import Process, Service

pytestmark = pytest.mark.thorough

IN_STORE = {"k": b"old" * 20_000, "other": b"other" * 20_000}
STAGED = {"k": b"staged" * 10_000, "j": b"j" * 50_000}
NEW = b"new!" * 20_000
STAGE = 4 * MIB
LARGE = content(STAGE // 4 + 1)

Change = Callable[[Process], object]
CHANGES: dict[str, tuple[Change, dict[str, bytes | None]]] = {
    "write": (lambda one: one.write("k", NEW), {"k": NEW}),
    "write if absent": (lambda one: one.write("new", NEW, if_absent=True), {"new": NEW}),
    "large write": (lambda one: one.write("k", LARGE), {"k": LARGE}),
    "delete": (lambda one: one.delete("k"), {"k": None}),
    "delete many": (
        lambda one: run_to_end(one.store.delete_blocks(one.ctx, ["k", "j"])),
        {"k": None, "j": None},
    ),
    "copy": (
        lambda one: run_to_end(one.store.copy_block(one.ctx, "other", "k")),
        {"k": IN_STORE["other"]},
    ),
    "drain": (lambda one: one.drain(), {}),
    "list": (lambda one: run_to_end(one.store.list(one.ctx, ListRequest(""))), {}),
}


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of syncs cost nothing, and no record of the log keeps an error with its files."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    monkeypatch.setattr(logging.getLogger("blockyard.cache"), "disabled", True)


def found(process: Process) -> dict[str, bytes | None]:
    blocks: dict[str, bytes | None] = {}
    for key in ("k", "j", "other", "new"):
        try:
            blocks[key] = process.read(key)
        except BlockNotFoundError:
            blocks[key] = None
    return blocks


@pytest.mark.parametrize(("change", "expected"), CHANGES.values(), ids=CHANGES.keys())
def test_a_change_in_write_back(
    change: Change, expected: dict[str, bytes | None], tmp_path: Path
) -> None:
    nth, failed = 0, "not yet"
    while failed:
        nth += 1
        root = tmp_path / str(nth)
        calls = FailingCalls(root, errno.EIO, nth=nth)
        failed = change_with_failure(change, expected, calls, root)
        assert open_files(root) == []
    assert nth > 15


def change_with_failure(
    change: Change, expected: dict[str, bytes | None], calls: FailingCalls, root: Path
) -> str:
    service = Service()
    one = Process(root, service, size=STAGE)
    for key, block in IN_STORE.items():
        _ = run_to_end(service.inner.write(one.ctx, WriteRequest(key, block)))
    for key, block in STAGED.items():
        one.write(key, block)
    before = found(one)
    allowed = [before | expected]
    try:
        with calls.made():
            _ = change(one)
    except BlockStoreError as error:
        if not error.unknown_attempts:
            allowed.clear()
        allowed.append(before)
    now = found(one)
    for key, block in now.items():
        assert block in [each[key] for each in allowed], calls.failed

    restarted = Process(root, service)
    assert found(restarted) == now, calls.failed
    assert restarted.staged == one.staged
    restarted.wait(61)
    assert restarted.drain() == []
    assert one.staged == []
    restarted.write("k", b"last")
    assert found(one) == now | {"k": b"last"}
    assert restarted.drain() == []
    stored = {key: block for key, block in (now | {"k": b"last"}).items() if block is not None}
    for key, block in stored.items():
        below = run_to_end(service.inner.read(one.ctx, ReadRequest(key)))
        assert below.data == block, calls.failed
    for process in (one, restarted):
        process.store.close()
    return calls.failed


class Cache:
    """A cache of `service` in the folder `root`, whose fills are waited for."""

    def __init__(self, root: Path, service: MemoryStore) -> None:
        self.disk = DiskCache(root, 16 * MIB, "store")
        self.store = CacheStore(service, disk=self.disk, revalidate="never")
        self.runtime: BlockingRuntime = runtime()

    @property
    def ctx(self) -> Context:
        return Context(self.runtime)

    def settle(self) -> None:
        assert self.disk._queue.wait(60)

    def check(self, blocks: dict[str, bytes]) -> None:
        """Read them as they are, whole and in ranges."""
        for key, block in blocks.items():
            for offset, length in ((40_000, 100), (None, None), (0, 10)):
                request = ReadRequest(key, offset, length)
                data = run_to_end(self.store.read(self.ctx, request)).data
                assert data == (block if offset is None else block[offset:][:length])
                self.settle()

    def change(self, blocks: dict[str, bytes]) -> None:
        """Write one block anew, delete another one."""
        _ = run_to_end(self.store.write(self.ctx, WriteRequest("k", NEW)))
        run_to_end(self.store.delete_block(self.ctx, "other"))
        blocks["k"] = NEW
        del blocks["other"]


def cold(cache: Cache, blocks: dict[str, bytes]) -> None:
    cache.check(blocks)


def warm(cache: Cache, blocks: dict[str, bytes]) -> None:
    cache.disk._kept.clear()
    cache.check(blocks)


def changed(cache: Cache, blocks: dict[str, bytes]) -> None:
    cache.change(blocks)
    cache.check(blocks)


def evicting(cache: Cache, blocks: dict[str, bytes]) -> None:
    cache.disk._budget.size = 5 * MIB // 2
    more = {f"e{number}": content(MIB // 2) for number in range(2)}
    for key, block in more.items():
        _ = run_to_end(cache.store.write(cache.ctx, WriteRequest(key, block)))
    cache.check(more)
    blocks |= more


def looked_after(cache: Cache, _: dict[str, bytes]) -> None:
    for call in (CacheFolder.use, CacheFolder.verify, CacheFolder.clear):
        try:
            _ = call(CacheFolder(cache.disk._folder.root))
        except LocalStorageError:
            continue


@pytest.mark.parametrize("does", [cold, warm, changed, evicting, looked_after])
def test_reads_go_on(does: Callable[[Cache, dict[str, bytes]], None], tmp_path: Path) -> None:
    nth, failed = 0, "not yet"
    while failed:
        nth += 1
        root = tmp_path / str(nth)
        failed = read_with_failure(does, FailingCalls(root, errno.EIO, nth=nth), root)
        assert open_files(root) == []
    assert nth > 15


def read_with_failure(
    does: Callable[[Cache, dict[str, bytes]], None], calls: FailingCalls, root: Path
) -> str:
    service = MemoryStore()
    cache, blocks = Cache(root, service), dict(IN_STORE)
    for key, block in blocks.items():
        _ = run_to_end(service.write(cache.ctx, WriteRequest(key, block)))
    if does is not cold:
        cache.check(blocks)
    with calls.made():
        does(cache, blocks)
    cache.check(blocks)
    cache.disk._off_until = -1.0
    cache.check(blocks)
    again = Cache(root, service)
    again.check(blocks)
    cache.store.close()
    again.store.close()
    return calls.failed


def test_what_can_not_be_read_in_the_stage_keeps_nothing_from_being_uploaded(
    one: Process, service: Service
) -> None:
    one.write("bad", b"1")
    one.write("good", b"2")
    restarted = Process(one.root, service)
    with FailingCalls(one.root, errno.EIO, path=one.path("bad")).made():
        assert restarted.store._upload_later(b"") is None
        assert [(each.key, each.error) for each in restarted.pending if each.key != "good"] == [
            ("", f"its key can't be read: [Errno {errno.EIO}] {os.strerror(errno.EIO)}")
        ]
        (left,) = restarted.drain()
        assert left.key == ""
        with pytest.raises(LocalStorageError):
            _ = run_to_end(restarted.store.list(restarted.ctx, ListRequest("")))
    assert service.sent == [("good", b"2")]
    assert restarted.drain() == []
    assert service.sent == [("good", b"2"), ("bad", b"1")]


def test_a_failure_to_look_for_what_others_left_is_forgotten_once_it_went_well(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", lambda _: 1 / 0)
        assert one.store._upload_later(b"") is not None
    assert one.store._upload_later(b"") is None
    assert one.store._failed == {}
