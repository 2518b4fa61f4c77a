"""The thread that fills the cache's folder: it ends, whatever happens to it or to who shares the
folder, and what it could not do is no error of those who read, or close.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partialmethod
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from blockyard import open_store, syscalls
from blockyard.cache import budget as budget_module
from blockyard.cache import disk as disk_module
from blockyard.cache import maintenance as upkeep_module
from blockyard.cache import work_queue as filling_module
from blockyard.cache.disk import DiskCache
from blockyard.cache.maintenance import CacheFolder
from blockyard.cache.uploads import Uploads
from blockyard.cache.work_queue import WorkQueue
from blockyard.errors import LocalStorageError
from blockyard.testing.samples import content
from blockyard.transport.blocking import run_to_end
from tests.cache.disk_tier import SIZE, Tier, later, pages_of, runtime, tier
from tests.cache.failing_calls import open_files

BLOCK = content(50_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Tier]:
    with tier(tmp_path / "cache") as opened:
        yield opened


def once(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> None:
    """Have it done in the middle of the next fill, under the folder's lock."""
    real = syscalls.write_all_at

    def write_all_at(file: int, data: Any, position: int) -> None:
        monkeypatch.setattr(syscalls, "write_all_at", real)
        _ = does()
        real(file, data, position)

    monkeypatch.setattr(syscalls, "write_all_at", write_all_at)


def test_a_child_that_is_forked_in_the_middle_of_a_fill_keeps_no_lock(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = list[int]()

    def fork() -> None:
        child = os.fork()
        if child == 0:
            _ = signal.pause()
            os._exit(0)
        children.append(child)

    once(monkeypatch, fork)
    try:
        for key in ("a", "b"):
            disk.fill(pages_of(key, BLOCK))
            assert disk.read(key) == BLOCK
        with tier(disk.cache._folder.root) as other:
            other.fill(pages_of("c", BLOCK))
            assert other.read("c") == BLOCK
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            _ = os.waitpid(child, 0)
    assert len(children) == 1


def test_a_lock_that_another_process_keeps_is_not_waited_for_for_good(
    disk: Tier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one does that was stopped in the middle of a write."""
    disk.cache._budget.patience = 0.01
    disk.fill(pages_of("before", BLOCK))
    with (disk.cache._folder.root / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for key in ("k", "j"):
            disk.fill(pages_of(key, BLOCK))
            assert disk.read(key) is None
        assert disk.read("before") == BLOCK
        assert "another process has held its lock" in caplog.text
        monkeypatch.setattr(upkeep_module, "_PATIENCE", 0.01)
        with pytest.raises(LocalStorageError, match="another process has held its lock"):
            _ = CacheFolder(disk.cache._folder.root).use()
    assert disk.stats["dropped"] == 2
    later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
    disk.fill(pages_of("k", BLOCK))
    assert disk.read("k") == BLOCK


def test_memory_that_is_short_is_a_disk_that_fails(
    disk: Tier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise MemoryError

    once(monkeypatch, fail)
    disk.fill(pages_of("k", BLOCK))
    assert disk.read("k") is None
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    disk.cache.close()


def test_after_a_defect_the_next_fills_are_made_and_close_lets_everything_go(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised wherever it may be: by a logging filter of the caller's, too."""

    def fail() -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(filling_module, "LIMIT", len(BLOCK))
    for _ in range(3):
        once(monkeypatch, fail)
        with pytest.raises(RuntimeError, match="a defect"):
            disk.fill(pages_of("k", BLOCK))
        disk.cache._queue._here.here().threads.clear()
    disk.fill(pages_of("k", BLOCK))  # what failed holds no bytes of the queue's
    assert disk.read("k") == BLOCK

    once(monkeypatch, fail)
    _ = disk.cache.fill(disk.runtime, pages_of("j", BLOCK), disk.cache.epoch("j"))
    with pytest.raises(RuntimeError, match="a defect"):
        disk.cache.close()
    assert not disk.cache._kept
    disk.cache._queue._here.here().threads.clear()


def test_closing_drops_what_waits_behind_a_writer_that_does_not_go_on(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice, too; and the thread ends once it can."""
    monkeypatch.setattr(filling_module, "LIMIT", 3 * len(BLOCK))
    monkeypatch.setattr(WorkQueue, "wait", partialmethod(WorkQueue.wait, seconds=0.02))
    with disk.cache._budget.locked():
        taken = [
            disk.cache.fill(disk.runtime, pages_of(f"{number}", BLOCK), 0) for number in range(5)
        ]
        assert taken == [True, True, True, False, False]
        disk.cache.close()
        disk.cache.close()
        assert not disk.cache.fill(disk.runtime, pages_of("late", BLOCK), 0)
    (thread,) = disk.cache._queue._here.here().threads
    thread.result(20)
    assert not disk.cache._queue._here.here().work


def test_closing_waits_for_every_thread_of_the_uploads() -> None:
    """Two that add a name at once start a thread each: neither is forgotten."""
    go_on = threading.Event()
    uploads = Uploads(runtime(), lambda _: go_on.wait(20) and None)
    work = uploads._here.here()

    class AnotherComes(Future[None]):
        def done(self) -> bool:
            if len(work.waiting) + len(work.busy) < 2:
                uploads.add(b"second")
            return True

    work.started.append(AnotherComes())
    uploads.add(b"first")
    threads = [each for each in work.started if not isinstance(each, AnotherComes)]
    assert len(threads) == 2
    go_on.set()
    uploads.close()
    uploads.wait(20)
    assert all(thread.done() for thread in threads)


def test_a_name_whose_upload_raises_is_tried_again() -> None:
    """By a logging filter of the caller's, which raises."""
    tries = list[bytes]()

    def upload(name: bytes) -> None:
        tries.append(name)
        if len(tries) == 1:
            raise RuntimeError("a defect")

    own = runtime()
    uploads = Uploads(own, upload)
    uploads.add(b"name")
    (thread,) = uploads._here.here().started
    assert isinstance(thread.exception(20), RuntimeError)
    uploads._here.here().later[b"name"] = own.now()  # so long has passed
    for _ in range(4000):
        if uploads.idle(own.now() + 10):
            break
        run_to_end(own.sleep(0.005))
    assert tries == [b"name"] * 2
    uploads.close()
    uploads._here.here().started.clear()


def test_changes_that_can_not_be_noted_take_bounded_memory(
    disk: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than are remembered none is served; once it can be, all entries go."""
    monkeypatch.setattr(disk_module, "_UNDROPPED", 10)
    for key in ("k", "j", "other"):
        disk.fill(pages_of(key, BLOCK))

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    old = disk.cache.epoch("j")
    assert old is not None
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", fail)
        disk.cache.change([*(f"{number}" for number in range(2000)), "k"])
        assert len(disk.cache._undropped) == 10
        later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
        disk.fill(pages_of("other", BLOCK))
        assert [disk.read(key) for key in ("k", "j", "other")] == [None] * 3
    later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
    disk.fill(pages_of("j", BLOCK), old)
    assert not disk.cache._undropped
    assert [disk.read(key) for key in ("k", "j", "other")] == [None] * 3
    disk.fill(pages_of("k", BLOCK))
    assert disk.read("k") == BLOCK


def unchangeable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither epochs nor entries can be changed, as on a file system that is read-only by now."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("pwrite", "unlink", "truncate"):
        monkeypatch.setattr(os, call, fail)


@pytest.mark.parametrize("changed", [1, 10])
def test_what_is_not_remembered_is_not_served_when_others_could_be_changed_again(
    disk: Tier, monkeypatch: pytest.MonkeyPatch, changed: int
) -> None:
    monkeypatch.setattr(disk_module, "_UNDROPPED", 10)
    disk.fill(pages_of("k", BLOCK))
    others = [f"{number}" for number in range(10)]
    with monkeypatch.context() as broken:
        unchangeable(broken)
        disk.cache.change([*others, "k"])
    disk.cache.change(others[:changed])
    assert disk.read("k") is None
    later(disk, monkeypatch, disk_module.RETRY_AFTER + 1)
    disk.fill(pages_of("other", BLOCK))
    assert disk.read("k") is None
    disk.fill(pages_of("k", BLOCK))
    assert disk.read("k") == BLOCK


@pytest.mark.parametrize("others", [0, 20])
def test_what_fails_while_earlier_failures_are_made_good_is_remembered(
    disk: Tier, monkeypatch: pytest.MonkeyPatch, others: int
) -> None:
    """Also of a key that had failed before."""
    monkeypatch.setattr(disk_module, "_UNDROPPED", 10)
    with monkeypatch.context() as broken:
        unchangeable(broken)
        disk.cache.change(["k", *(f"{number}" for number in range(others))])
    made_good = disk.cache._folder.change_all if others else disk.cache._folder.change
    times = [0]

    def then_fails(*name: bytes) -> None:
        made_good(*name)
        times[0] += 1
        if times[0] == 2:  # the last step
            with monkeypatch.context() as broken:
                unchangeable(broken)
                disk.cache.change(["k"])

    monkeypatch.setattr(disk.cache._folder, made_good.__name__, then_fails)
    disk.fill(pages_of("other", BLOCK))
    assert times[0] >= 2
    assert disk.cache._may_be_old("k")
    disk.fill(pages_of("other", BLOCK))
    assert not disk.cache._may_be_old("k")


def test_the_caches_of_a_process_share_its_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_module, "_in_use", WeakSet[DiskCache]())
    monkeypatch.setattr(disk_module, "_most_kept", lambda _: 8)
    disks = [Tier(tmp_path / f"{number}") for number in range(4)]
    for disk in disks:
        for number in range(5):
            disk.fill(pages_of(f"{number}", BLOCK))
        for number in range(5):
            assert disk.read(f"{number}") == BLOCK
    assert [len(disk.cache._kept) for disk in disks] == [2] * 4
    for disk in disks[1:]:
        disk.cache.close()
    for number in range(5):
        assert disks[0].read(f"{number}") == BLOCK
    assert len(disks[0].cache._kept) == 5
    disks[0].cache.close()


def test_a_file_system_that_tells_no_size_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tmpfs without a limit, and some in user space."""
    real = os.statvfs

    def statvfs(path: str) -> Any:
        known = real(path)
        return os.statvfs_result((*known[:2], 0, 0, 0, 0, 0, 0, *known[8:]))

    monkeypatch.setattr(budget_module.os, "statvfs", statvfs)
    with tier(tmp_path / "cache", SIZE) as disk:
        disk.fill(pages_of("k", BLOCK))
        assert disk.read("k") == BLOCK


@pytest.mark.parametrize("mode", ["write_through", "write_back"])
def test_a_store_that_was_closed_holds_no_descriptor(tmp_path: Path, mode: str) -> None:
    """Though it is referred to."""
    disk = {"path": str(tmp_path / "cache"), "size": "16MiB"}
    store = open_store((tmp_path / "data").as_uri(), cache={"mode": mode, "disk": disk})
    _ = store.write_block("k", BLOCK)
    assert store.read_block("k") == store.read_block("k") == BLOCK
    store.close()
    store.close()
    assert open_files(tmp_path) == []
    assert store.stats().cache is not None
