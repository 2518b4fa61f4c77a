"""What the filesystem store does beyond the conformance suite: durability, safety, failures."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard.aio import AsyncBlockStore
from blockyard.errors import (
    BlockExistsError,
    BlockNotFoundError,
    BlockTooLargeError,
    LocalStorageError,
)
from blockyard.model import MAX_BLOCK_SIZE
from blockyard.stores import block_files, disk
from blockyard.stores.base import ListRequest
from blockyard.stores.filesystem import FilesystemStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import open_client
from blockyard.testing.samples import ODD_KEYS, content
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.exchanging import NetworkRuntime
from tests.transport.runtimes import open_descriptors

BLOCK = content(200_000)
KEY = "share/content/block-0"


@contextmanager
def opened(root: Path) -> Generator[BlockStore, None, None]:
    with open_client("blocking", FilesystemStore(root)) as client:
        yield client.store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outside" / "root"


@pytest.fixture
def store(root: Path) -> Generator[BlockStore, None, None]:
    with opened(root) as opened_store:
        yield opened_store


def temporary_files(root: Path) -> list[Path]:
    return [path for path in (root / ".blockyard").iterdir() if not path.match("lock-*")]


def tree(root: Path) -> set[str]:
    """All that is in the root but for the store's own area."""
    found = {str(path.relative_to(root)) for path in root.rglob("*")}
    return {path for path in found if not path.startswith(".blockyard")}


class TestFolder:
    """The root, and what is in it."""

    def test_blocks_are_plain_files_under_readable_names(
        self, store: BlockStore, root: Path
    ) -> None:
        _ = store.write_block(KEY, BLOCK)

        assert (root / "share/content/block-0=").read_bytes() == BLOCK

    def test_a_root_that_is_not_there_is_an_empty_store(
        self, store: BlockStore, root: Path
    ) -> None:
        assert store.list_by_prefix() == []
        assert not store.block_exists(KEY)
        assert store.delete_blocks(["a", "b/c"]).deleted == ["a", "b/c"]
        with pytest.raises(BlockNotFoundError):
            _ = store.copy_block("a", "b")
        assert not root.parent.exists()

        _ = store.write_block(KEY, b"")
        assert store.list_by_prefix() == [KEY]

    def test_a_relative_root_stays_where_it_was(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with opened(Path("blocks")) as store:
            _ = store.write_block("a", b"block")
            monkeypatch.chdir("/")
            assert store.read_block("a") == b"block"

    def test_a_root_removed_meanwhile_is_made_again(self, store: BlockStore, root: Path) -> None:
        _ = store.write_block("a", b"")
        _ = root.rename(root.parent / "elsewhere")

        _ = store.write_block("b", b"")

        assert store.list_by_prefix() == ["b"]

    def test_files_of_others_are_no_blocks(self, store: BlockStore, root: Path) -> None:
        _ = store.write_blocks([("a/b", b""), ("c", b"")])
        for name in ("notes.txt", "a/README", "c%41=", "%ff=", "%0a=", "caf\u00e9=", ".hidden="):
            _ = (root / name).write_bytes(b"not a block")
        (root / "folder=").mkdir()
        (root / "empty").mkdir()
        os.mkfifo(root / "pipe=")

        assert store.list_by_prefix() == ["a/b", "c"]
        assert store.list_by_prefix("a/") == ["a/b"]
        assert store.delete_by_prefix("", literal=True).deleted == ["a/b", "c"]

    def test_deleting_removes_folders_left_empty(self, store: BlockStore, root: Path) -> None:
        _ = store.write_blocks([("a/b/c/d", b""), ("a/e", b""), ("f//g", b"")])

        store.delete_block("a/b/c/d")
        assert tree(root) == {"a", "a/e=", "f", "f/%", "f/%/g="}
        _ = store.delete_blocks(["a/e", "f//g"])
        assert tree(root) == set()

    def test_descriptors_are_closed(self, store: BlockStore, root: Path) -> None:
        _ = store.write_blocks([(key, b"") for key in ODD_KEYS.values()])
        store.close()
        before = open_descriptors()

        with opened(root) as again:
            _ = again.delete_blocks([])  # starts the background loop, which has some for itself
            started = open_descriptors()
            _ = again.list_by_prefix()
            _ = next(again.iter_blocks())
            for call in (
                lambda: again.write_block("a", b"", if_absent=True),
                lambda: again.write_block("a", b"", if_absent=True),
                lambda: again.read_block("a/b/missing"),
                lambda: again.read_block_into("a", bytearray()),
                lambda: again.read_block_range("a", 5),
                lambda: again.copy_block("a", "b"),
                lambda: again.delete_blocks(["a", "b", "missing"]),
                again.health_check,
            ):
                for _ in range(3):
                    try:
                        call()
                    except (BlockNotFoundError, BlockExistsError, ValueError):
                        continue
            assert open_descriptors() <= started
        assert open_descriptors() <= before

    def test_a_file_system_that_ignores_case_is_refused(self, root: Path) -> None:
        (root / ".blockyard").mkdir(parents=True)
        (root / ".BLOCKYARD").symlink_to(".blockyard")  # as such a file system would have it

        with opened(root) as store:
            for call in (lambda: store.write_block("a", b""), store.health_check):
                with pytest.raises(LocalStorageError, match="ignores case"):
                    call()


class TestListing:
    """Pages, whether the walk that they come from is still there or not."""

    KEYS = sorted(
        [f"a/{n}/{m}" for n in range(5) for m in range(7)] + ["a", "a!", "a/", "b", "long" * 200]
    )

    @pytest.mark.parametrize("size", [1, 2, 10, 39, 40, 41])
    @pytest.mark.parametrize("forgetful", [False, True])
    def test_pages_of_any_size(self, root: Path, size: int, forgetful: bool) -> None:
        with open_client("blocking", FilesystemStore(root)) as client:
            _ = client.store.write_blocks([(key, b"") for key in self.KEYS])
        local = FilesystemStore(root)
        keys: list[str] = []
        token: str | None = None
        pages = 0
        while pages == 0 or token is not None:
            page = listed(local, "", token, size)
            keys += page[0]
            token = page[1]
            pages += 1
            if forgetful:
                local = FilesystemStore(root)

        assert keys == self.KEYS
        assert pages == -(-len(self.KEYS) // size)

    def test_a_folder_is_read_once_for_all_its_pages(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        local = FilesystemStore(root)
        with open_client("blocking", local) as client:
            _ = client.store.write_blocks([(key, b"") for key in self.KEYS])
        reads = counted(monkeypatch, "listdir")

        for prefix, folders in (("", 10), ("lo", 4), ("a/3/", 1), ("a/3/2", 1), ("a/", 6)):
            reads.clear()
            token: str | None = None
            for _ in range(50):
                token = listed(local, prefix, token, 1)[1]
                if token is None:
                    break
            assert len(reads) == folders, prefix

    def test_walks_left_half_way_are_forgotten_in_the_end(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(block_files, "_WALKS_KEPT", 8)
        local = FilesystemStore(root)
        with open_client("blocking", local) as client:
            _ = client.store.write_blocks([(key, b"") for key in self.KEYS])
        tokens = [listed(local, f"a/{n % 5}", None, 1 + n // 5)[1] for n in range(30)]

        assert len(local._files._walks) == 8
        for n, token in enumerate(tokens):
            rest = [key for key in self.KEYS if key.startswith(f"a/{n % 5}")][1 + n // 5 :]
            assert listed(local, f"a/{n % 5}", token, 50)[0] == rest

    def test_walks_left_half_way_hold_so_many_places_together(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """But for the latest: it would read its folder again for each page."""
        monkeypatch.setattr(block_files, "_PLACES_KEPT", 100)
        local = FilesystemStore(root)
        with open_client("blocking", local) as client:
            _ = client.store.write_blocks([(f"{n:03}", b"") for n in range(200)])
        for size in range(1, 12):
            _ = listed(local, "0", None, 10 * size - 5)
        assert [walk.left for walk in local._files._walks.values()] == [35, 25, 15, 5]
        _ = listed(local, "", None, 1)
        assert [walk.left for walk in local._files._walks.values()] == [199]

    def test_what_is_deleted_between_pages_is_not_shown(self, root: Path) -> None:
        local = FilesystemStore(root)
        with open_client("blocking", local) as client:
            store = client.store
            _ = store.write_blocks([(key, b"") for key in self.KEYS])
            blocks = listed(local, "a/", None, 3)
            _ = store.delete_by_prefix("a/1")
            store.delete_block("a/0/3")

            rest = listed(local, "a/", blocks[1], 1000)[0]

        assert blocks[0] == ["a/", "a/0/0", "a/0/1"]
        left = [key for key in self.KEYS if key.startswith("a/") and key > "a/0/1"]
        assert rest == [key for key in left if key != "a/0/3" and not key.startswith("a/1/")]

    def test_a_root_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        for name in ("file", "file/below"):
            with opened(tmp_path / name) as store:
                for call in (
                    lambda: store.write_block("a", b""),
                    lambda: store.read_block("a"),
                    lambda: store.list_by_prefix("a/b"),
                    store.list_by_prefix,
                    store.health_check,
                ):
                    with pytest.raises(LocalStorageError, match="Not a directory"):
                        call()


def listed(
    local: FilesystemStore, prefix: str, token: str | None, size: int
) -> tuple[list[str], str | None]:
    page = local._files.list(ListRequest(prefix, token, size), lambda: None)
    return [block.key for block in page.blocks], page.next_token


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """The first argument of every call of `os.NAME` from now on."""
    calls: list[Any] = []
    real = getattr(os, name)

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[0])
        return real(*args, **kwargs)

    monkeypatch.setattr(os, name, counting)
    return calls


class TestConfinement:
    """Nothing leads out of the root."""

    @pytest.fixture(autouse=True)
    def surroundings(self, root: Path) -> Generator[None, None, None]:
        root.mkdir(parents=True)
        secret = root.parent / "folder"
        secret.mkdir()
        for name in ("secret", "secret=", "folder="):
            _ = (secret / name).write_bytes(b"secret")
        before = sorted(root.parent.rglob("*"))
        yield
        after = sorted(path for path in root.parent.rglob("*") if root not in path.parents)
        assert after == before
        assert (secret / "secret=").read_bytes() == b"secret"

    @pytest.mark.parametrize(
        "key", ["../secret", "..", "../..", "/etc/passwd", "a/../../secret", "./../folder/secret"]
    )
    def test_no_key_does(self, store: BlockStore, root: Path, key: str) -> None:
        _ = store.write_block(key, b"inside")

        assert store.read_block(key) == b"inside"
        assert len(tree(root)) >= 1
        assert sum((root / path).is_file() for path in tree(root)) == 1
        store.delete_block(key)

    def test_no_link_to_a_folder_does(self, store: BlockStore, root: Path) -> None:
        (root / "a").symlink_to(root.parent / "folder")
        _ = store.write_block("b", b"")

        for call in (
            lambda: store.read_block("a/secret"),
            lambda: store.stat_block("a/secret"),
            lambda: store.write_block("a/secret", b"changed"),
            lambda: store.write_block("a/new", b"new", if_absent=True),
            lambda: store.copy_block("a/secret", "c"),
            lambda: store.copy_block("b", "a/secret"),
            lambda: store.delete_block("a/secret"),
        ):
            with pytest.raises(LocalStorageError, match="Not a directory"):
                call()
        assert list(store.delete_blocks(["a/secret"], raise_on_failure=False).failed) == [
            "a/secret"
        ]
        assert store.list_by_prefix() == ["b"]
        assert store.list_by_prefix("a/") == []

    def test_no_link_to_a_file_does(self, store: BlockStore, root: Path) -> None:
        (root / "a=").symlink_to(root.parent / "folder" / "secret=")

        for call in (
            lambda: store.read_block("a"),
            lambda: store.read_block_range("a", 0, 1),
            lambda: store.stat_block("a"),
            lambda: store.copy_block("a", "b"),
            lambda: store.write_block("a", b"new", if_absent=True),
        ):
            with pytest.raises(LocalStorageError):
                call()
        assert store.list_by_prefix() == []

        _ = store.write_block("a", b"new")  # replaces the link, not what it leads to
        assert store.read_block("a") == b"new"

    def test_no_link_in_place_of_the_store_s_own_area_does(
        self, store: BlockStore, root: Path
    ) -> None:
        (root / ".blockyard").symlink_to(root.parent / "folder")

        with pytest.raises(LocalStorageError):
            _ = store.write_block("a", b"")

    def test_a_pipe_does_not_stop_a_reader(self, store: BlockStore, root: Path) -> None:
        os.mkfifo(root / "a=")

        with pytest.raises(LocalStorageError, match="in the block's place"):
            _ = store.read_block("a")

    def test_the_root_itself_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(root)

        with opened(tmp_path / "link") as store:
            _ = store.write_block("a", b"block")

        assert (root / "a=").read_bytes() == b"block"


class TestDurability:
    """What is on the disk when a write returns, and what is left when it never does."""

    def test_a_file_is_on_the_disk_before_it_has_its_name(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = traced(monkeypatch, root)
        _ = store.write_block("a/b", b"block")

        assert steps == [
            "mkdir .blockyard",
            "fsync .",
            "fsync .blockyard/TEMPORARY",
            "mkdir a",
            "fsync .",
            "rename a/b=",
            "fsync a",
        ]

    def test_with_if_absent_too(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_block("a/c", b"")
        steps = traced(monkeypatch, root)
        _ = store.write_block("a/b", b"block", if_absent=True)

        assert steps == ["fsync .blockyard/TEMPORARY", "link a/b=", "fsync a"]

    def test_a_copy_too(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_block("a", b"block")
        steps = traced(monkeypatch, root)
        _ = store.copy_block("a", "b")

        assert steps == ["fsync .blockyard/TEMPORARY", "rename b=", "fsync ."]

    def test_a_delete_too(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_blocks([("a/b/c", b""), ("a/d", b"")])
        steps = traced(monkeypatch, root)
        store.delete_block("a/b/c")

        assert steps == ["fsync a/b"]

    def test_a_new_root_is_on_the_disk_with_what_leads_to_it(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[str] = []
        fsync = os.fsync

        def tracing(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", tracing)
        _ = store.write_block("a", b"")

        assert synced[:2] == [str(root.parent.parent), str(root.parent)]

    @pytest.mark.parametrize("if_absent", [False, True])
    @pytest.mark.parametrize("at", ["write", "utime", "fsync", "rename", "link"])
    def test_a_writer_that_is_killed(self, root: Path, at: str, if_absent: bool) -> None:
        """At that call of its third write, the replacement of a block or a new one."""
        with opened(root) as store:
            _ = store.write_blocks([("old", b"old block"), ("other", b"")])
        target = "new" if if_absent else "old"
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_WRITER, str(root), target, at, str(int(if_absent))],
            check=False,
        )
        survived = at == ("rename" if if_absent else "link")  # which that writer does not call
        assert killed.returncode == (0 if survived else -signal.SIGKILL)

        with opened(root) as store:
            if survived:
                assert store.read_block(target) == bytes(1_000_000)
                return
            assert store.list_by_prefix() == ["old", "other"]
            assert store.read_block("old") == b"old block"
            [leftover] = temporary_files(root)
            _ = store.write_block("other", b"1")
            assert temporary_files(root) == [leftover]  # for it may belong to a slow writer

        an_hour_ago = leftover.stat().st_mtime - disk.LEFT_BEHIND - 1
        os.utime(leftover, (an_hour_ago, an_hour_ago))
        with opened(root) as store:
            _ = store.write_block("other", b"2")
            assert temporary_files(root) == []
            assert store.list_by_prefix() == ["old", "other"]

    def test_a_store_that_lives_long_purges_once_an_hour(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        purged: list[str] = []
        purge = disk.purge
        monkeypatch.setattr(
            disk, "purge", lambda temporary: (purged.append(temporary.name), purge(temporary))
        )
        passed = 0.0
        monkeypatch.setattr(BlockingRuntime, "now", staticmethod(lambda: time.monotonic() + passed))
        for _ in range(3):
            _ = store.write_block("a", b"")
        assert len(purged) == 1  # at the first write

        leftover = root / ".blockyard" / "left by a writer that was killed"
        leftover.touch()
        os.utime(leftover, (0, 0))
        _ = store.write_block("a", b"")
        assert leftover.exists()
        passed = disk.LEFT_BEHIND + 1
        _ = store.write_block("a", b"")
        assert not leftover.exists()
        assert len(purged) == 2

    def test_what_can_not_be_purged_does_not_stop_a_writer(self, root: Path) -> None:
        (root / ".blockyard" / "folder").mkdir(parents=True)
        os.utime(root / ".blockyard" / "folder", (0, 0))

        with opened(root) as store:
            _ = store.write_block("a", b"")

        assert (root / ".blockyard" / "folder").is_dir()

    def test_blocks_written_in_one_tick_have_their_own_etags(self, store: BlockStore) -> None:
        etags = [store.write_block("a", bytes([n])).etag for n in range(100)]

        assert len(set(etags)) == 100
        assert store.stat_block("a").etag == etags[-1]


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
from blockyard.stores.filesystem import FilesystemStore
from blockyard.testing.clients import open_client

root, key, at, if_absent = sys.argv[1:]
with open_client("blocking", FilesystemStore(Path(root))) as client:
    client.store.health_check()
    real = getattr(os, at)

    def kill(*args, **kwargs):
        if at == "write":
            real(args[0], args[1][:1000])
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(os, at, kill)
    client.store.write_block(key, bytes(1_000_000), if_absent=if_absent == "1")
"""


def traced(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """The steps that matter to a crash, with their paths below the root."""
    steps: list[str] = []

    def path_of(descriptor: int, name: str = "") -> str:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}")) / name
        if not path.is_relative_to(root):
            return "outside"
        return str(path.relative_to(root))

    def trace(name: str, path: Callable[..., str]) -> None:
        real = getattr(os, name)

        def tracing(*args: Any, **kwargs: Any) -> Any:
            step = f"{name} {path(*args, **kwargs)}"
            parts = step.split(".blockyard/")
            if "outside" not in step:
                steps.append(step if len(parts) == 1 else f"{parts[0]}.blockyard/TEMPORARY")
            return real(*args, **kwargs)

        monkeypatch.setattr(os, name, tracing)

    trace("fsync", path_of)
    trace("mkdir", lambda name, *_, dir_fd=None: path_of(dir_fd, name) if dir_fd else "outside")
    trace("rename", lambda _, name, *, src_dir_fd, dst_dir_fd: path_of(dst_dir_fd, name))
    trace("link", lambda _, name, *, src_dir_fd, dst_dir_fd: path_of(dst_dir_fd, name))
    return steps


@pytest.fixture
def public_folder() -> Generator[Path, None, None]:
    """Unlike `tmp_path`, one that others may pass through."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class TestFailures:
    """A disk that refuses, fills up or cheats."""

    def test_a_full_disk_leaves_the_old_block(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_block(KEY, b"old")
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: filling_up(write, file, data))

        for call in (
            lambda: store.write_block(KEY, BLOCK),
            lambda: store.write_block("new", BLOCK, if_absent=True),
        ):
            with pytest.raises(LocalStorageError, match=r"write_block '.*': No space left") as full:
                call()
            assert isinstance(full.value.__cause__, OSError)
            assert str(root) in str(full.value)

        assert store.read_block(KEY) == b"old"
        assert store.list_by_prefix() == [KEY]
        assert temporary_files(root) == []

    def test_a_limit_of_the_system_leaves_the_old_block(
        self, store: BlockStore, root: Path
    ) -> None:
        _ = store.write_block(KEY, b"old")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        try:
            with pytest.raises(LocalStorageError, match="File too large"):
                _ = store.write_block(KEY, BLOCK)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert store.read_block(KEY) == b"old"
        assert temporary_files(root) == []

    @pytest.mark.parametrize("step", ["fsync", "rename", "utime"])
    def test_a_step_that_fails_leaves_the_old_block(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        _ = store.write_block(KEY, b"old")
        monkeypatch.setattr(os, step, failing(errno.EIO))

        with pytest.raises(LocalStorageError, match=rf"write_block '{KEY}': Input/output error"):
            _ = store.write_block(KEY, BLOCK)

        assert store.read_block(KEY) == b"old"
        assert temporary_files(root) == []

    def test_a_disk_that_writes_and_reads_little_at_a_time(
        self, store: BlockStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write, pread, preadv = os.write, os.pread, os.preadv
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:70_000]))
        monkeypatch.setattr(os, "pread", lambda file, n, at: pread(file, min(n, 70_000), at))
        monkeypatch.setattr(
            os,
            "preadv",
            lambda file, views, *at: preadv(file, [memoryview(views[0])[:70_000]], *at),
        )
        _ = store.write_block(KEY, BLOCK)
        buffer = bytearray(len(BLOCK))

        assert store.read_block(KEY) == BLOCK
        assert store.read_block_into(KEY, buffer) == len(BLOCK)
        assert buffer == BLOCK
        assert store.read_block_range(KEY, 1000) == BLOCK[1000:]

    @pytest.mark.parametrize("error", [errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP])
    def test_a_kernel_that_can_not_copy(
        self, store: BlockStore, monkeypatch: pytest.MonkeyPatch, error: int
    ) -> None:
        _ = store.write_block(KEY, BLOCK)
        monkeypatch.setattr(os, "copy_file_range", failing(error))

        _ = store.copy_block(KEY, "copy")

        assert store.read_block("copy") == BLOCK

    def test_a_copy_that_fails_names_its_source(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_blocks([(KEY, BLOCK), ("copy", b"old")])
        monkeypatch.setattr(os, "copy_file_range", failing(errno.ENOSPC))

        with pytest.raises(LocalStorageError, match=rf"copy_block '{KEY}': No space left"):
            _ = store.copy_block(KEY, "copy")

        assert store.read_block("copy") == b"old"
        assert temporary_files(root) == []

    def test_a_file_cut_short_is_never_read_as_a_whole_block(
        self, store: BlockStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_block = disk.open_block

        def open_and_cut(root: Path, path: Any) -> tuple[int, int]:
            opened_file = open_block(root, path)
            os.truncate(root.joinpath(*path.folders, path.name), 150_000)
            return opened_file

        monkeypatch.setattr(disk, "open_block", open_and_cut)
        for call in (
            lambda: store.read_block(KEY),
            lambda: store.read_block_into(KEY, bytearray(len(BLOCK))),
            lambda: store.read_block_range(KEY, 100_000),
            lambda: store.copy_block(KEY, "copy"),
        ):
            _ = store.write_block(KEY, BLOCK)
            with pytest.raises(LocalStorageError, match=r"ends at byte 150000 of 200000"):
                call()
        assert not store.block_exists("copy")

    def test_a_block_that_is_too_large_to_read_whole(self, store: BlockStore, root: Path) -> None:
        _ = store.write_block("a", b"")
        os.truncate(root / "a=", MAX_BLOCK_SIZE + 1)

        with pytest.raises(BlockTooLargeError, match="read_block 'a': 1073741825 bytes"):
            _ = store.read_block("a")
        assert store.read_block_range("a", MAX_BLOCK_SIZE) == b"\0"

    def test_a_delete_says_which_keys_are_left(self, store: BlockStore, root: Path) -> None:
        _ = store.write_blocks([("a/1", b""), ("a/3", b""), ("b", b"")])
        (root / "a" / "2=" / "in the way").mkdir(parents=True)

        result = store.delete_blocks(["a/1", "a/2", "b", "a/3"], raise_on_failure=False)

        assert result.deleted == ["a/1", "b", "a/3"]
        assert list(result.failed) == ["a/2"]
        assert isinstance(result.failed["a/2"], LocalStorageError)
        assert "delete_block 'a/2'" in str(result.failed["a/2"])
        with pytest.raises(LocalStorageError, match="delete_block 'a/2'"):
            store.delete_block("a/2")

    def test_a_folder_that_only_can_be_read(self, public_folder: Path) -> None:
        """In a process that is not the superuser, whom no permission holds back."""
        root = public_folder / "root"
        with opened(root) as store:
            _ = store.write_blocks([("a", b"block"), ("b/c", b"")])
        answers = subprocess.run(
            [sys.executable, "-c", READER, str(root)],
            check=True,
            capture_output=True,
            text=True,
        )

        assert answers.stdout.splitlines() == [
            "block",
            "['a', 'b/c']",
            *[f"LocalStorageError {call}: Permission denied (in {root})" for call in DENIED],
        ]
        assert tree(root) == {"a=", "b", "b/c="}
        assert temporary_files(root) == []

    def test_a_health_check_leaves_nothing(self, store: BlockStore, root: Path) -> None:
        report = store.health_check()

        assert report.store == str(root)
        assert tree(root) == set()
        assert temporary_files(root) == []


DENIED = [
    "write_block 'a'",
    "write_block 'new'",
    "copy_block 'a'",
    "delete_block 'b/c'",
    "health_check",
]

READER = """
import os, sys
from pathlib import Path
from blockyard.errors import LocalStorageError
from blockyard.stores.filesystem import FilesystemStore
from blockyard.testing.clients import open_client

root = Path(sys.argv[1])
with open_client("blocking", FilesystemStore(root)) as client:
    store = client.store
    root.chmod(0o555)
    (root / "b").chmod(0o555)
    (root / ".blockyard").chmod(0o777)  # the worst case: only the last step is refused
    if os.geteuid() == 0:
        os.seteuid(65534)
    print(store.read_block("a").decode())
    print(store.list_by_prefix())
    for call in (
        lambda: store.write_block("a", b""),
        lambda: store.write_block("new", b"", if_absent=True),
        lambda: store.copy_block("a", "new"),
        lambda: store.delete_block("b/c"),
        store.health_check,
    ):
        try:
            call()
        except LocalStorageError as error:
            print("LocalStorageError", error)
"""


def filling_up(write: Callable[[int, memoryview], int], file: int, data: memoryview) -> int:
    """A disk with room for the first 100,000 bytes of each file."""
    room = 100_000 - os.fstat(file).st_size
    if room <= 0:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return write(file, data[:room])


def failing(error: int) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise OSError(error, os.strerror(error))

    return fail


class TestCancellation:
    """A task that is cancelled while a thread is at work for it."""

    def test_the_buffer_is_the_caller_s_again_when_a_write_has_ended(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, go_on = threading.Event(), threading.Event()
        write = os.write

        def wait_and_write(file: int, data: memoryview) -> int:
            begun.set()
            assert go_on.wait(timeout=60)
            return write(file, data[:50_000])

        async def cancel_and_reuse(store: AsyncBlockStore) -> None:
            buffer = bytearray(BLOCK)
            writing = asyncio.create_task(store.write_block(KEY, buffer))
            _ = await asyncio.to_thread(begun.wait, 60)
            _ = writing.cancel()
            _ = asyncio.get_running_loop().call_later(0.01, go_on.set)
            with pytest.raises(asyncio.CancelledError):
                _ = await writing
            buffer[:] = bytes(len(buffer))

        monkeypatch.setattr(os, "write", wait_and_write)
        with open_client("asyncio", FilesystemStore(root)) as client:
            [outcome] = client.at_once(lambda store, _: cancel_and_reuse(store), [0])
            assert outcome is None
            assert client.store.read_block(KEY) == BLOCK
        assert temporary_files(root) == []


class TestSharing:
    """Several threads and processes in one folder."""

    def test_one_of_several_processes_wins(self, root: Path) -> None:
        processes = multiprocessing.get_context("spawn")
        with processes.Pool(3) as pool:
            for key in ("a", "b/c", "d"):
                racers = [(root, key, number) for number in range(9)]
                winners = [n for n in pool.map(race, racers, chunksize=1) if n is not None]
                assert len(winners) == 1
                with opened(root) as store:
                    assert store.read_block(key) == content(1000, seed=winners[0])
        assert temporary_files(root) == []

    def test_writers_do_not_mind_that_folders_go(self, store: BlockStore, root: Path) -> None:
        """Each thread's last delete empties the folder that the others are writing to."""
        together = threading.Barrier(4)

        def work(worker: int) -> None:
            for turn in range(30):
                _ = together.wait()
                key = f"a/b/c/{worker}"
                _ = store.write_block(key, content(100, seed=turn))
                assert store.read_block(key) == content(100, seed=turn)
                store.delete_block(key)

        with ThreadPoolExecutor(4) as threads:
            _ = list(threads.map(work, range(4)))

        assert tree(root) == set()

    def test_a_folder_that_always_goes_is_an_error_in_the_end(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _ = store.write_block("a", b"")
        rename = failing(errno.ENOENT)
        monkeypatch.setattr(os, "rename", rename)

        with pytest.raises(LocalStorageError, match="write_block 'b/c': No such file"):
            _ = store.write_block("b/c", b"")

        assert temporary_files(root) == []

    def test_a_folder_that_goes_while_it_is_made(
        self, store: BlockStore, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        mkdir = os.mkdir
        gone: list[str] = []

        def make_and_lose(name: str, *args: Any, dir_fd: int | None = None) -> None:
            mkdir(name, *args, dir_fd=dir_fd)
            if name == "b" and not gone:
                gone.append(name)
                os.rmdir(name, dir_fd=dir_fd)

        monkeypatch.setattr(os, "mkdir", make_and_lose)
        _ = store.write_block("b/c", b"block")

        assert gone == ["b"]
        assert store.read_block("b/c") == b"block"


def race(racer: tuple[Path, str, int]) -> int | None:
    root, key, number = racer
    with opened(root) as store:
        try:
            _ = store.write_block(key, content(1000, seed=number), if_absent=True)
        except BlockExistsError:
            return None
    return number


@pytest.mark.parametrize("seconds", [-62135596801, -10, 253402300800, 10**13])
def test_files_of_any_time_are_listed_and_read(tmp_path: Path, seconds: int) -> None:
    """Other programs, and damaged file systems, set years that no datetime holds."""
    memory = Path("/dev/shm")  # noqa: S108 - holds any time, as XFS and ZFS do, and ext4 not
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        root = Path(folder)
        with opened(root) as store:
            for key in ("a", "b", "c"):
                store.write_block(key, BLOCK)
            os.utime(root / "b=", (0, seconds))
            if os.stat(root / "b=").st_mtime != seconds:
                pytest.skip("the file system holds no such time")
            assert store.list_by_prefix("") == ["a", "b", "c"]
            data, info = store.read_block_with_info("b")
            assert (data, info) == (BLOCK, store.stat_block("b"))
            assert info.last_modified is not None
            assert (info.last_modified.year < 1971) == (seconds < 0)
            assert info.last_modified.astimezone().timestamp() == info.last_modified.timestamp()
            assert store.verify_by_prefix("").unverifiable == 3
            assert store.clean_contents().removed == []


def test_cleaning_goes_by_the_clock_of_the_file_system(store: BlockStore, root: Path) -> None:
    """On a shared folder that of the cleaner may be a day ahead, or behind."""
    key = "c/20200101T000000Z-0123456789abcdef/chunk-000000/block-0000"
    store.write_block(key, b"of a write under way")
    store.write_content("d", b"old")
    store.write_content("d", BLOCK)
    store.write_content("d", BLOCK)
    store.write_content("e", b"gone")
    store.write_block("e.blockyard", store.read_block("e.blockyard"))  # nobody here made it
    store.delete_content("e")

    def at(seconds: float) -> blockyard.CleanReport:
        with pytest.MonkeyPatch.context() as patch:
            ahead = time.time() + seconds
            patch.setattr(NetworkRuntime, "wall_time", staticmethod(lambda: ahead))
            return store.clean_contents(dry_run=False)

    report = at(48 * 3600)
    assert report.removed == []
    assert {each.what for each in report.kept} == {"orphan", "replaced", "tombstone"}
    for path in (root / key).parent.glob("*"):
        os.utime(path, (0, time.time() - 25 * 3600))
    assert [each.what for each in at(-48 * 3600).removed] == ["orphan"]


def test_cleaning_makes_no_folder(store: BlockStore, root: Path) -> None:
    assert store.clean_contents().removed == []
    assert not root.exists()
