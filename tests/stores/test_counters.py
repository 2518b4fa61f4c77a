"""A counter that many add to by `if_match`: no addition is lost, and none counts twice."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import blockyard
from blockyard import BlockStore, S3Config, StoreConfig
from blockyard.errors import BlockNotFoundError, LocalStorageError, PreconditionFailedError
from blockyard.stores import disk, file_io, locks
from blockyard.stores import memory as memory_module
from blockyard.stores.locks import FolderLock, ReplacedError
from blockyard.stores.memory import MemoryStore
from blockyard.stores.paths import path_of
from servers.endpoint import Endpoint

KEY = "folder/counter"
HUNG = 120.0
"""Seconds after which a test that hangs says where."""


def opened(root: Path) -> BlockStore:
    return blockyard.open_store(f"file://{root}")


def add(store: BlockStore, key: str = KEY) -> None:
    while True:
        data, info = store.read_block_with_info(key)
        try:
            _ = store.write_block(key, str(int(data) + 1).encode(), if_match=info.etag)
        except PreconditionFailedError:
            continue
        return


def add_at_once(store: BlockStore, threads: int, each: int) -> int:
    _ = store.write_block(KEY, b"0")
    with ThreadPoolExecutor(threads) as pool:
        _ = list(pool.map(lambda _: add(store), range(threads * each)))
    return int(store.read_block(KEY))


@pytest.fixture
def eager_switches() -> Generator[None]:
    """Threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_switches")
def test_threads_add_in_memory() -> None:
    with blockyard.open_store(MemoryStore()) as store:
        assert add_at_once(store, 8, 100) == 800


@pytest.mark.usefixtures("eager_switches")
def test_a_plain_write_or_a_delete_beside_it_in_memory_is_not_undone() -> None:
    """What is there after one of them is theirs, or was written by one who had read it."""
    with blockyard.open_store(MemoryStore()) as store:
        ended = threading.Event()

        def adding() -> None:
            while not ended.is_set():
                try:
                    add(store)
                except BlockNotFoundError:
                    continue

        with ThreadPoolExecutor(3) as pool:
            adders = [pool.submit(adding) for _ in range(3)]
            try:
                for number in range(300):
                    base = number * 1_000_000
                    _ = store.write_block(KEY, str(base).encode())
                    assert base <= int(store.read_block(KEY)) < base + 1_000_000
                    store.delete_block(KEY)
                    assert not store.block_exists(KEY)
            finally:
                ended.set()
            assert [adder.result() for adder in adders] == [None] * 3


@pytest.mark.parametrize(
    "change",
    [
        lambda store, etag: store.write_block(KEY, b"2", if_match=etag),
        lambda store, etag: store.delete_block(KEY, if_match=etag),
    ],
)
def test_a_write_between_the_look_and_the_change_is_not_undone(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[BlockStore, str], object]
) -> None:
    """As one of a signal handler's, between any two steps."""
    memory = MemoryStore()
    with blockyard.open_store(memory) as store:
        info = store.write_block(KEY, b"0")
        check = memory_module.check_match

        def interrupted(*args: str) -> None:
            check(*args)
            monkeypatch.undo()
            _ = store.write_block(KEY, b"1")

        monkeypatch.setattr(memory_module, "check_match", interrupted)
        with pytest.raises(PreconditionFailedError):
            _ = change(store, info.etag)
        assert store.read_block(KEY) == b"1"


def test_threads_add_on_s3(moto_endpoint: Endpoint, bucket: str, key_prefix: str) -> None:
    config = S3Config(**moto_endpoint.s3_settings(bucket, key_prefix))
    with blockyard.open_store(StoreConfig(s3=config)) as store:
        assert add_at_once(store, 4, 15) == 60


class TestFolder:
    """Among threads and processes, by locks."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Generator[BlockStore]:
        faulthandler.dump_traceback_later(HUNG, exit=True)
        with opened(tmp_path) as store:
            yield store
        faulthandler.cancel_dump_traceback_later()

    def test_processes_add(self, store: BlockStore, tmp_path: Path) -> None:
        _ = store.write_block(KEY, b"0")
        code = (
            "import sys, blockyard\n"
            "from tests.stores.test_counters import add_some\n"
            "add_some(sys.argv[1])\n"
        )
        adders = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(4)]
        assert [adder.wait() for adder in adders] == [0] * 4
        assert store.read_block(KEY) == b"400"

    def test_threads_add(self, store: BlockStore) -> None:
        assert add_at_once(store, 8, 25) == 200

    def test_a_lock_keeps_every_other_change_out(self, store: BlockStore, tmp_path: Path) -> None:
        changes: list[Callable[[], object]] = [
            lambda: store.write_block(KEY, b"plain"),
            lambda: store.write_block("folder/new", b"plain", if_absent=True),
            lambda: store.write_block(KEY, b"1", if_match=store.stat_block(KEY).etag),
            lambda: store.copy_block("other", KEY),
            lambda: store.delete_block(KEY),
            lambda: store.delete_block(KEY, if_match=store.stat_block(KEY).etag),
            lambda: store.delete_blocks([KEY]),
        ]
        _ = store.write_block(KEY, b"0")
        [name] = (tmp_path / ".blockyard").iterdir()
        for change in changes:
            _ = store.write_blocks([(KEY, b"0"), ("other", b"1")])
            store.delete_block("folder/new")
            before = store.stat_block(KEY)
            changing = threading.Thread(target=change)
            with name.open("r+") as lock:  # as another process has it
                fcntl.flock(lock, fcntl.LOCK_EX)
                changing.start()
                changing.join(0.1)
                assert changing.is_alive()
                assert store.stat_block(KEY) == before
                assert not store.block_exists("folder/new")
            changing.join()
        assert not locks._held

    def test_a_call_in_the_middle_of_one_does_not_wait_for_it(self, tmp_path: Path) -> None:
        """As one of a finalizer's, which may run in an allocation of C."""
        area = os.open(tmp_path, os.O_RDONLY)
        calls: list[str] = []
        try:
            with FolderLock(area, ["folder"]) as outer, FolderLock(area, ["folder"]) as inner:
                outer.run(lambda: inner.run(lambda: calls.append("inner")))
        finally:
            os.close(area)
        assert calls == ["inner"]
        assert not locks._held

    def test_a_call_that_fails_leaves_nothing_locked(self, tmp_path: Path) -> None:
        area = os.open(tmp_path, os.O_RDONLY)
        absent = partial(os.unlink, "absent", dir_fd=area)
        calls: list[str] = []
        try:
            with FolderLock(area, ["folder"]) as first, FolderLock(area, ["folder"]) as second:
                with pytest.raises(FileNotFoundError):
                    first.run(absent)
                [name] = os.listdir(tmp_path)
                with pytest.raises(ReplacedError):
                    first.replace(area, name, (0, 0, 0), absent)
                second.run(lambda: calls.append("second"))
        finally:
            os.close(area)
        assert calls == ["second"]
        assert not locks._held

    def test_a_forked_child_keeps_no_lock(self, store: BlockStore, tmp_path: Path) -> None:
        """Though it has the descriptor that its parent locked."""
        _ = store.write_block(KEY, b"0")
        waiting, done = os.pipe()
        children: list[int] = []

        def fork() -> None:
            child = os.fork()
            if not child:
                os.close(done)
                _ = os.read(waiting, 1)
                os._exit(0)
            children.append(child)

        with (
            disk.own_area(tmp_path) as area,
            FolderLock(area, path_of(KEY).folders) as lock,
        ):
            lock.run(fork)
        add(store)
        assert store.read_block(KEY) == b"1"
        for end in (waiting, done):
            os.close(end)
        assert os.waitpid(children[0], 0)[1] == 0

    def test_a_failed_one_leaves_no_folder(self, store: BlockStore, tmp_path: Path) -> None:
        for key in ("absent", "a/b/absent"):
            with pytest.raises(BlockNotFoundError):
                _ = store.write_block(key, b"", if_match="etag")
        assert {path.name for path in tmp_path.iterdir()} == {".blockyard"}

    def test_a_block_that_goes_after_the_first_look(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        info = store.write_block(KEY, b"0")
        write_all = file_io.write_all

        def losing(*args: object) -> None:
            store.delete_block(KEY)
            write_all(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(file_io, "write_all", losing)
        with pytest.raises(BlockNotFoundError):
            _ = store.write_block(KEY, b"1", if_match=info.etag)
        assert {path.name for path in tmp_path.iterdir()} == {".blockyard"}

    @pytest.mark.parametrize("deleted", [False, True])
    def test_a_block_that_changes_after_the_first_look_is_not_deleted(
        self,
        store: BlockStore,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        deleted: bool,
    ) -> None:
        info = store.write_block(KEY, b"0")
        remove_version = disk.remove_version

        def losing(*args: object) -> None:
            monkeypatch.undo()
            if deleted:
                store.delete_block(KEY)
            else:
                _ = store.write_block(KEY, b"1")
            remove_version(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(disk, "remove_version", losing)
        kind = BlockNotFoundError if deleted else PreconditionFailedError
        with pytest.raises(kind, match=f"delete_block '{KEY}'"):
            store.delete_block(KEY, if_match=info.etag)
        assert store.block_exists(KEY) != deleted
        if deleted:
            assert {path.name for path in tmp_path.iterdir()} == {".blockyard"}

    def test_a_delete_of_a_version_leaves_no_folder(
        self, store: BlockStore, tmp_path: Path
    ) -> None:
        info = store.write_block("a/b/c", b"0")
        store.delete_block("a/b/c", if_match=info.etag)
        assert {path.name for path in tmp_path.iterdir()} == {".blockyard"}

    def test_where_there_are_no_locks_only_conditions_fail(
        self, store: BlockStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As over NFS without its lock service."""
        info = store.write_block(KEY, b"0")

        def flock(_: int, __: int) -> None:
            raise OSError(37, "No locks available")

        monkeypatch.setattr("fcntl.flock", flock)
        with pytest.raises(LocalStorageError, match=r"write_block .*No locks available"):
            _ = store.write_block(KEY, b"1", if_match=info.etag)
        with pytest.raises(LocalStorageError, match=r"delete_block .*No locks available"):
            store.delete_block(KEY, if_match=info.etag)
        assert store.read_block(KEY) == b"0"
        _ = store.write_block(KEY, b"1")
        _ = store.copy_block(KEY, "copy")
        store.delete_block(KEY)
        _ = store.write_block(KEY, b"2", if_absent=True)

    def test_locks_are_not_taken_for_leftovers(self, tmp_path: Path, store: BlockStore) -> None:
        _ = store.write_block(KEY, b"0")
        area = tmp_path / ".blockyard"
        locks = list(area.iterdir())
        assert locks
        for lock in locks:
            os.utime(lock, (0, 0))
        with opened(tmp_path) as again:
            _ = again.write_block(KEY, b"1")
        assert [lock.stat().st_mtime for lock in locks] == [0] * len(locks)


def add_some(root: str) -> None:
    """What each of the processes does."""
    with opened(Path(root)) as store:
        for _ in range(100):
            add(store)
