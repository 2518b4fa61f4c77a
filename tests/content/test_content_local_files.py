"""Contents from and into local files that change, refuse, answer wrongly or are no plain files."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import blockyard
from blockyard import (
    BlockExistsError,
    BlockNotFoundError,
    DeadlineExceededError,
    LocalStorageError,
    syscalls,
)
from blockyard.content import targets
from blockyard.stores.memory import MemoryStore
from blockyard.sync import BlockStore
from blockyard.testing.clients import CLIENTS, open_client
from blockyard.testing.samples import content
from tests.hooked_store import HookedStore, shrink_blocks

BLOCK = 1000
DATA = content(20 * BLOCK + 7)
OLD = content(3 * BLOCK, seed=1)


@pytest.fixture
def hooked() -> HookedStore:
    return HookedStore(MemoryStore())


@pytest.fixture(params=CLIENTS)
def store(request: pytest.FixtureRequest, hooked: HookedStore) -> Iterator[BlockStore]:
    with open_client(request.param, hooked) as client:
        shrink_blocks(client.store, BLOCK)
        yield client.store


def within(store: BlockStore, deadline: float) -> BlockStore:
    """A view of the store with a deadline of so many seconds."""
    view = store.with_options(deadline=deadline)
    shrink_blocks(view, BLOCK)
    return view


def at_first(operation: str, hooked: HookedStore, act: Callable[[], object]) -> None:
    """Have the store do something, once, when that operation is first called."""
    done: list[str] = []

    async def hook(called: str, key: str) -> None:
        if called == operation and not done:
            done.append(key)
            act()

    hooked.hook = hook


def overwrite(path: Path) -> None:
    """In place, as a database or an editor may: the same inode, the same size."""
    with path.open("r+b") as file:
        file.write(content(len(DATA), seed=2))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, BLOCK + 1)


class TestSourcesThatChange:
    @pytest.mark.parametrize("change", [overwrite, append, cut])
    @pytest.mark.parametrize("old", [None, OLD])
    def test_nothing_is_replaced_by_a_mixture(
        self,
        store: BlockStore,
        hooked: HookedStore,
        tmp_path: Path,
        change: Callable[[Path], None],
        old: bytes | None,
    ) -> None:
        path = tmp_path / "source"
        path.write_bytes(DATA)
        if old is not None:
            store.write_content("movie", old)
        before = store.list_by_prefix()
        at_first("write_block", hooked, lambda: change(path))

        with pytest.raises(LocalStorageError, match=r"source': the file changed while it was read"):
            store.write_content("movie", path)

        assert store.list_by_prefix() == before
        if old is not None:
            assert store.read_content("movie") == old

    def test_one_that_is_empty_and_grows(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "source"
        path.touch()

        class Growing(io.FileIO):
            def read(self, size: int | None = -1, /) -> bytes:
                data = super().read(size)
                append(path)
                return data

        monkeypatch.setattr("blockyard.content.pipes.FileIO", Growing)
        with pytest.raises(LocalStorageError, match="changed while it was read"):
            store.write_content("movie", path)
        assert store.list_by_prefix() == []

    def test_a_change_in_the_tick_of_the_last_one_shows(
        self, store: BlockStore, hooked: HookedStore, tmp_path: Path
    ) -> None:
        """Twenty files, each written, stored and overwritten as fast as can be."""
        for number in range(20):
            path = tmp_path / str(number)
            path.write_bytes(DATA)
            at_first("write_block", hooked, lambda path=path: overwrite(path))
            with pytest.raises(LocalStorageError, match="changed while it was read"):
                store.write_content("movie", path)

    def test_one_that_is_replaced_or_removed_is_stored_as_it_was_opened(
        self, store: BlockStore, hooked: HookedStore, tmp_path: Path
    ) -> None:
        path = tmp_path / "source"
        for change in (path.unlink, lambda: (tmp_path / "new").rename(path)):
            path.write_bytes(DATA)
            (tmp_path / "new").write_bytes(b"another file")
            at_first("write_block", hooked, change)
            store.write_content("movie", path)
            assert store.read_content("movie") == DATA

    @pytest.mark.parametrize("change", [overwrite, append, cut])
    def test_one_that_the_caller_has_open(
        self,
        store: BlockStore,
        hooked: HookedStore,
        tmp_path: Path,
        change: Callable[[Path], None],
    ) -> None:
        path = tmp_path / "source"
        path.write_bytes(DATA)
        store.write_content("movie", OLD)
        before = store.list_by_prefix()
        at_first("write_block", hooked, lambda: change(path))

        with (
            path.open("rb") as file,
            pytest.raises(LocalStorageError, match="source': the file ch"),
        ):
            store.write_content("movie", file)

        assert store.list_by_prefix() == before
        assert store.read_content("movie") == OLD
        with tempfile.TemporaryFile() as file:
            file.write(DATA)
            file.seek(BLOCK)
            store.write_content("movie", file)
        assert store.read_content("movie") == DATA[BLOCK:]


class TestOddSources:
    def test_a_pipe_that_nobody_writes_to(self, store: BlockStore, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        store.write_content("movie", OLD)
        with pytest.raises(DeadlineExceededError):
            within(store, 0.3).write_content("movie", pipe)
        writer = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # now it opens, and stays silent
        try:
            with pytest.raises(DeadlineExceededError):
                within(store, 0.3).write_content("movie", pipe)
        finally:
            os.close(writer)
        assert store.read_content("movie") == OLD

    @pytest.mark.parametrize("answer", [None, "text", 5])
    def test_a_read_that_returns_no_bytes(self, store: BlockStore, answer: Any) -> None:
        class Odd:
            def read(self, size: int) -> Any:
                return answer

        store.write_content("movie", OLD)
        with pytest.raises(TypeError, match="write_content: "):
            store.write_content("movie", Odd())
        assert store.read_content("movie") == OLD

    def test_a_read_that_returns_more_than_it_was_asked_for(self, store: BlockStore) -> None:
        parts = [DATA[:3500], DATA[3500:3501], DATA[3501:], b""]

        class Generous:
            def read(self, size: int) -> bytes:
                return parts.pop(0)

        store.write_content("movie", Generous())
        assert store.read_content("movie") == DATA

    def test_a_file_that_can_not_be_read(self, store: BlockStore) -> None:
        with pytest.raises(LocalStorageError, match="'/proc/self/mem': Input/output error"):
            store.write_content("movie", "/proc/self/mem")
        assert store.list_by_prefix() == []

    @pytest.mark.parametrize("path", ["/proc/self/status", "/proc/cpuinfo", "/proc/mounts"])
    def test_files_that_say_they_are_empty_are_read_to_the_end(
        self, store: BlockStore, path: str
    ) -> None:
        assert os.stat(path).st_size == 0
        with open(path, "rb") as file:
            expected = file.read()

        store.write_content("movie", path)

        stored = store.read_content("movie")
        assert len(stored.splitlines()) == len(expected.splitlines()) > 1
        assert stored[:20] == expected[:20]

    def test_a_file_that_holds_more_than_it_says_is_not_cut(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As some of FUSE do: the size is made up."""
        path = tmp_path / "source"
        path.write_bytes(DATA)
        fstat = os.fstat

        def short(file: int) -> os.stat_result:
            known = list(fstat(file))
            known[6] = min(known[6], 10 * BLOCK)
            return os.stat_result(known, {"st_mtime_ns": fstat(file).st_mtime_ns})

        monkeypatch.setattr("blockyard.content.sources.os.fstat", short)
        with pytest.raises(LocalStorageError, match="goes on after its 10000 bytes"):
            store.write_content("movie", path)
        assert store.list_by_prefix() == []

    def test_a_disk_that_reads_little_at_a_time(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "source"
        path.write_bytes(DATA)
        preadv = os.preadv
        monkeypatch.setattr(
            os, "preadv", lambda file, views, at: preadv(file, [views[0][:300]], at)
        )
        store.write_content("movie", path)
        assert store.read_content("movie") == DATA

    def test_a_disk_that_fails(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "source"
        path.write_bytes(DATA)

        def fail(*_: object) -> bytes:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(LocalStorageError, match=r"write_content: .*source': Stale file handle"):
            store.write_content("movie", path)
        assert store.list_by_prefix() == []

    @pytest.mark.parametrize("path", ["a\0b", "\udcff\ud800"])
    def test_a_path_that_no_file_can_have(
        self, store: BlockStore, hooked: HookedStore, path: str
    ) -> None:
        calls: list[str] = []

        async def note(operation: str, key: str) -> None:
            calls.append(operation)

        store.write_content("movie", DATA)
        hooked.hook = note
        with pytest.raises(ValueError, match="write_content: source: "):
            store.write_content("movie", path)
        with pytest.raises(ValueError, match="read_content_into: target: "):
            store.read_content_into("movie", path)
        assert calls == []

    def test_an_empty_path(self, store: BlockStore) -> None:
        """As it is where a variable is not set; it is not the working folder."""
        store.write_content("movie", DATA)
        with pytest.raises(LocalStorageError, match="read_content_into: '': No such file"):
            store.read_content_into("movie", "")

    def test_a_folder(self, store: BlockStore, tmp_path: Path) -> None:
        with pytest.raises(LocalStorageError, match="Is a directory"):
            store.write_content("movie", tmp_path)


class Answering(io.RawIOBase):
    """A file whose `write` returns what a test wants."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        super().__init__()
        self._answer = answer

    def write(self, data: Any) -> Any:
        return self._answer(len(data))


class Whole:
    """An integer of another kind, as numpy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value


class TestTargetsThatAnswerWrongly:
    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (lambda _: 0, LocalStorageError),
            (lambda _: None, LocalStorageError),
            (lambda size: size + 1, ValueError),
            (lambda _: -1, ValueError),
            (lambda _: True, ValueError),
            (lambda _: "all", TypeError),
            (float, TypeError),
        ],
        ids=["0", "None", "more", "less than none", "True", "text", "float"],
    )
    def test_it_is_an_error_not_a_loop_and_not_a_short_file(
        self, store: BlockStore, answer: Callable[[int], Any], error: type[Exception]
    ) -> None:
        store.write_content("movie", DATA)
        with pytest.raises(error, match=r"read_content_into: target: write of Answering"):
            store.read_content_into("movie", Answering(answer))

    def test_any_integer_will_do(self, store: BlockStore) -> None:
        store.write_content("movie", DATA)
        assert store.read_content_into("movie", Answering(Whole)) == len(DATA)

    @pytest.mark.parametrize("target", [5, None, b"bytes", object()])
    def test_what_is_no_target(self, store: BlockStore, target: Any) -> None:
        store.write_content("movie", DATA)
        with pytest.raises(TypeError, match="read_content_into: target: expected a path or a file"):
            store.read_content_into("movie", target)


@contextmanager
def small_disk(tmp_path: Path, size: int) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here: needs the superuser")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607


class TestNewFiles:
    """A file that appears under its path only when it is whole."""

    def test_a_working_folder_that_is_gone(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write_content("movie", DATA)
        (tmp_path / "gone").mkdir()
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        with pytest.raises(LocalStorageError, match="'file': No such file"):
            store.read_content_into("movie", "file")
        with pytest.raises(LocalStorageError, match="'file': No such file"):
            store.write_content("movie", "file")

    def test_a_full_disk(self, store: BlockStore, tmp_path: Path) -> None:
        large = content(3_000_000)
        store.write_content("movie", large)
        with small_disk(tmp_path, 1 << 20) as folder:
            (folder / "file").write_bytes(b"old")
            with pytest.raises(LocalStorageError, match=r"file': No space left"):
                store.read_content_into("movie", folder / "file")
            assert os.listdir(folder) == ["file"]
            assert (folder / "file").read_bytes() == b"old"
            assert os.statvfs(folder).f_bfree * 4096 > (1 << 20) - 20_000

    def test_a_limit_on_file_sizes(self, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie", DATA)
        folder = tmp_path / "out"
        folder.mkdir()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 * BLOCK, limits[1]))
        try:
            with pytest.raises(LocalStorageError, match="File too large"):
                store.read_content_into("movie", folder / "file")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert os.listdir(folder) == []

    @pytest.mark.parametrize("old", [None, b"old"])
    @pytest.mark.parametrize("without", [None, "O_TMPFILE"])
    def test_a_process_that_is_killed_leaves_nothing_for_ever(
        self, tmp_path: Path, old: bytes | None, without: str | None
    ) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        if old is not None:
            (folder / "file").write_bytes(old)
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_READER, str(folder / "file"), without or ""], check=False
        )
        assert killed.returncode == -signal.SIGKILL
        left = sorted(set(os.listdir(folder)) - {"file"})
        assert bool(left) == (without is not None)
        assert (folder / "file").exists() == (old is not None)
        if old is not None:
            assert (folder / "file").read_bytes() == old
        if not left:
            return

        [temporary] = left
        with blockyard.open_store("memory://") as store:
            store.write_content("movie", DATA)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "open", no_unnamed_files(os.open))
                store.read_content_into("movie", folder / "second")
                assert (folder / temporary).exists()  # for it may belong to a slow reader
                an_hour_ago = (folder / temporary).stat().st_mtime - targets._LEFT_BEHIND - 1
                os.utime(folder / temporary, (an_hour_ago, an_hour_ago))
                (folder / ".blockyard-of-another-kind.part").touch()
                os.utime(folder / ".blockyard-of-another-kind.part", (0, 0))
                store.read_content_into("movie", folder / "third")
        assert sorted(set(os.listdir(folder)) - {"file"}) == [
            ".blockyard-of-another-kind.part",
            "second",
            "third",
        ]

    @pytest.mark.parametrize("unnamed", [True, False])
    def test_both_ways_give_the_same_file(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unnamed: bool
    ) -> None:
        if not unnamed:
            monkeypatch.setattr(os, "open", no_unnamed_files(os.open))
        store.write_content("movie", DATA)
        for _ in range(2):  # new, then replaced
            assert store.read_content_into("movie", tmp_path / "file") == len(DATA)
            assert (tmp_path / "file").read_bytes() == DATA
            assert os.listdir(tmp_path) == ["file"]
        (tmp_path / "usual").touch()
        assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode

    def test_no_room_is_reserved_where_that_would_write_it_all_twice(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

        monkeypatch.setattr(os, "posix_fallocate", refuse)
        store.write_content("movie", DATA)
        assert store.read_content_into("movie", tmp_path / "file") == len(DATA)

    def test_permissions_that_are_the_file_system_s_own(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """FAT and SMB have the same for all files, and refuse to be told any."""

        def refuse(*_: object) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

        (tmp_path / "file").touch()
        monkeypatch.setattr(os, "fchmod", refuse)
        store.write_content("movie", DATA)
        assert store.read_content_into("movie", tmp_path / "file") == len(DATA)
        (tmp_path / "file").chmod(0o700)
        with pytest.raises(LocalStorageError, match="Operation not permitted"):
            store.read_content_into("movie", tmp_path / "file")

    @pytest.mark.parametrize(
        ("of_another", "mode", "taken_over"),
        [
            (False, 0o600, 0o600),
            (False, 0o777, 0o777),
            (False, 0o6755, 0o755),
            (True, 0o600, 0o600),
            (True, 0o666, 0o640),
            (True, 0o6777, 0o640),
        ],
    )
    def test_permissions_are_not_taken_over_to_the_gain_of_another_user(
        self, store: BlockStore, tmp_path: Path, *, of_another: bool, mode: int, taken_over: int
    ) -> None:
        (tmp_path / "file").touch()
        if of_another:
            give_away(tmp_path / "file")
        (tmp_path / "file").chmod(mode)
        store.write_content("movie", DATA)
        before = os.umask(0o027)
        try:
            _ = store.read_content_into("movie", tmp_path / "file")
        finally:
            _ = os.umask(before)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == taken_over

    def test_no_other_user_can_open_a_new_file_before_it_is_as_closed_as_the_old_one(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[int] = []

        def recorded(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            file = opened(path, flags, *args, **kwargs)
            if str(path).endswith(".part"):
                made.append(stat.S_IMODE(os.fstat(file).st_mode))
            return file

        opened = no_unnamed_files(os.open)
        monkeypatch.setattr(os, "open", recorded)
        (tmp_path / "file").touch(0o600)
        store.write_content("movie", DATA)
        assert store.read_content_into("movie", tmp_path / "file") == len(DATA)
        assert made == [0o600]

    @pytest.mark.parametrize("there", [True, False])
    @pytest.mark.parametrize("way", ["link", "way/link", "own", "others"])
    def test_no_link_of_another_user_is_followed_in_a_shared_folder(
        self, store: BlockStore, tmp_path: Path, way: str, *, there: bool
    ) -> None:
        """As /tmp is: whoever may write there could have any file of ours replaced."""
        shared, mine = tmp_path / "shared", tmp_path / "mine"
        shared.mkdir()
        shared.chmod(0o1777)
        if there:
            _ = mine.write_bytes(b"precious")
        for name, target in (("link", mine), ("way", shared), ("own", mine), ("others", "link")):
            (shared / name).symlink_to(target)
        give_away(shared / "link")
        store.write_content("movie", DATA)
        if way == "own":
            assert store.read_content_into("movie", shared / way) == len(DATA)
            assert mine.read_bytes() == DATA
            return
        with pytest.raises(LocalStorageError, match="another user's symbolic link"):
            _ = store.read_content_into("movie", shared / way)
        assert (mine.read_bytes() == b"precious") if there else not mine.exists()
        shared.chmod(0o777)  # where everybody may replace everything, no link is worth a look
        assert store.read_content_into("movie", shared / way) == len(DATA)
        assert mine.read_bytes() == DATA

    def test_links_that_lead_to_each_other(self, store: BlockStore, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        store.write_content("movie", DATA)
        with pytest.raises(LocalStorageError, match="symbolic links"):
            _ = store.read_content_into("movie", tmp_path / "a")


def give_away(path: Path) -> None:
    """Have another user own a file, or a link."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to another user")
    os.chown(path, 12345, 12345, follow_symlinks=False)


def no_unnamed_files(real: Callable[..., int]) -> Callable[..., int]:
    """`os.open` on a file system that has no O_TMPFILE."""

    def opened(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, *args, **kwargs)

    return opened


KILLED_READER = """
import errno, os, signal, sys
import blockyard

path, without = sys.argv[1:]
real_open, real_pwrite = os.open, os.pwrite

def no_unnamed_files(path, flags, *args, **kwargs):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(errno.EOPNOTSUPP, "not supported")
    return real_open(path, flags, *args, **kwargs)

def kill(*args):
    real_pwrite(*args)
    os.kill(os.getpid(), signal.SIGKILL)

if without:
    os.open = no_unnamed_files
os.pwrite = kill
store = blockyard.open_store("memory://")
store.write_content("movie", bytes(10_000_000))
store.read_content_into("movie", path)
"""


class TestTargetsInOrder:
    """Pipes, devices and descriptors: written to from where they stand, never replaced."""

    def test_a_full_device(self, store: BlockStore) -> None:
        store.write_content("movie", DATA)
        with pytest.raises(LocalStorageError, match=r"'/dev/full': No space left"):
            store.read_content_into("movie", "/dev/full")
        assert store.read_content_into("movie", "/dev/null") == len(DATA)

    def test_a_pipe_whose_reader_leaves(self, store: BlockStore, tmp_path: Path) -> None:
        store.write_content("movie", content(3_000_000))
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        def read_a_little() -> None:
            with pipe.open("rb", buffering=0) as file:
                file.read(10)

        reader = threading.Thread(target=read_a_little)
        reader.start()
        with pytest.raises(LocalStorageError, match=r"pipe': Broken pipe"):
            store.read_content_into("movie", pipe)
        reader.join()

    def test_a_pipe_without_a_reader(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write_content("movie", DATA)
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        with pytest.raises(DeadlineExceededError):
            within(store, 0.2).read_content_into("movie", pipe)
        monkeypatch.setattr(targets, "_READER_WAIT", 0.2)
        with pytest.raises(LocalStorageError, match=r"pipe': nobody reads this pipe"):
            store.read_content_into("movie", pipe)

    def test_a_reader_that_stalls_does_not_outlast_the_deadline(
        self, store: BlockStore, tmp_path: Path
    ) -> None:
        store.write_content("movie", content(3_000_000))
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        try:
            with pytest.raises(DeadlineExceededError):
                within(store, 0.5).read_content_into("movie", pipe)
        finally:
            os.close(reader)

    def test_a_task_that_waits_for_a_reader_can_be_cancelled(self, tmp_path: Path) -> None:
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)

        async def main() -> None:
            async with await blockyard.open_async_store("memory://") as store:
                await store.write_content("movie", DATA)
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.2):
                        await store.read_content_into("movie", pipe)

        asyncio.run(main())

    @pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}", "link"])
    def test_an_open_descriptor_is_written_to_where_it_stands(
        self, store: BlockStore, tmp_path: Path, name: str
    ) -> None:
        """`get movie /dev/stdout >> app` must not take the file away that a shell opened."""
        store.write_content("movie", DATA)
        app = tmp_path / "app"
        app.write_bytes(b"before, ")
        with app.open("ab") as file:
            path = tmp_path / "link" if name == "link" else Path(name.format(file.fileno()))
            if name == "link":
                path.symlink_to(f"/dev/fd/{file.fileno()}")
            inode = app.stat().st_ino
            assert store.read_content_into("movie", path) == len(DATA)
            file.write(b", after")
        assert app.stat().st_ino == inode
        assert app.read_bytes() == b"before, " + DATA + b", after"
        assert {path.name for path in tmp_path.iterdir()} <= {"app", "link"}

    def test_a_close_that_tells_of_a_full_disk(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As over NFS, which sends at that what was written."""
        store.write_content("movie", DATA)
        with (tmp_path / "app").open("wb") as file:
            monkeypatch.setattr(os, "close", fails_after_closing(tmp_path, errno.EDQUOT))
            with pytest.raises(LocalStorageError, match="Disk quota exceeded"):
                store.read_content_into("movie", f"/dev/fd/{file.fileno()}")

    def test_a_close_that_fails_says_nothing_in_the_place_of_another_error(
        self, store: BlockStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A cancellation, say, is to pass."""

        def stop(_: int) -> None:
            monkeypatch.setattr(os, "close", fails_after_closing(tmp_path, errno.EIO))
            raise KeyboardInterrupt

        store.write_content("movie", DATA)
        with (tmp_path / "app").open("wb") as file, pytest.raises(KeyboardInterrupt):
            store.read_content_into("movie", f"/dev/fd/{file.fileno()}", progress=stop)

    def test_a_descriptor_of_a_pipe_and_of_a_socket(self, store: BlockStore) -> None:
        store.write_content("movie", DATA)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            store.read_content_into("movie", f"/dev/fd/{ours.fileno()}")
            ours.shutdown(socket.SHUT_WR)
            with theirs.makefile("rb") as file:
                assert file.read() == DATA
        reader, writer = os.pipe()
        store.read_content_into("movie", f"/proc/self/fd/{writer}")
        os.close(writer)
        with open(reader, "rb") as file:
            assert file.read() == DATA

    def test_a_descriptor_that_is_closed(self, store: BlockStore) -> None:
        store.write_content("movie", DATA)
        reader, writer = os.pipe()
        os.close(reader)
        os.close(writer)
        with pytest.raises(LocalStorageError, match=f"'/dev/fd/{writer}': Bad file descriptor"):
            store.read_content_into("movie", f"/dev/fd/{writer}")


def fails_after_closing(folder: Path, error: int) -> Callable[[int], None]:
    """`os.close` as it may be over FUSE, for files in `folder`; those alone are asked at that."""
    close = os.close

    def closing(file: int) -> None:
        path, known = os.readlink(f"/proc/self/fd/{file}"), os.fstat(file)
        close(file)
        if path.startswith(str(folder)) and stat.S_ISREG(known.st_mode):
            raise OSError(error, os.strerror(error))

    return closing


def fails_after_effect(call: Callable[..., None], error: OSError) -> Callable[..., None]:
    """NFS, once: the call took effect and its reply was lost; it was sent again and refused."""
    done: list[object] = []

    def calling(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        if not done:
            done.append(args)
            raise error

    return calling


LOST_LINK = FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
LOST_RENAME = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))


def refuse_folders(number: int) -> Callable[[int], None]:
    """`os.fsync` of a file system that has none for folders."""
    fsync = os.fsync

    def refusing(file: int) -> None:
        if Path(f"/proc/self/fd/{file}").resolve().is_dir():
            raise OSError(number, os.strerror(number))
        fsync(file)

    return refusing


@pytest.mark.parametrize("client", CLIENTS)
class TestNetworkFileSystems:
    """What NFS, SMB and FUSE answer, of what has happened all the same; both for blocks and for
    files that contents are read into."""

    def test_a_link_whose_reply_was_lost(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        link = os.link
        with open_client(client, tmp_path.as_uri()) as opened:
            monkeypatch.setattr(os, "link", fails_after_effect(link, LOST_LINK))
            opened.store.write_block("a", b"mine", if_absent=True)
            monkeypatch.setattr(os, "link", link)
            with pytest.raises(BlockExistsError):
                opened.store.write_block("a", b"another's", if_absent=True)
            assert opened.store.read_block("a") == b"mine"
        assert all(name.startswith("lock-") for name in os.listdir(tmp_path / ".blockyard"))

    def test_a_link_that_was_another_s(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_client(client, tmp_path.as_uri()) as opened:
            store = opened.store

            def lose(*_: Any, **__: Any) -> None:
                if not (tmp_path / "a=").exists():
                    (tmp_path / "a=").write_bytes(b"another's")
                raise LOST_LINK

            monkeypatch.setattr(os, "link", lose)
            with pytest.raises(BlockExistsError):
                store.write_block("a", b"mine", if_absent=True)
            assert store.read_block("a") == b"another's"

    def test_a_rename_whose_reply_was_lost(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = os.rename
        with open_client(client, (tmp_path / "blocks").as_uri()) as opened:
            store = opened.store
            store.write_block("a", b"old")
            monkeypatch.setattr(os, "rename", fails_after_effect(rename, LOST_RENAME))
            store.write_block("a", b"new")
            assert store.read_block("a") == b"new"
            monkeypatch.setattr(os, "rename", fails_after_effect(rename, LOST_RENAME))
            assert store.copy_block("a", "b").etag == store.stat_block("b").etag
            assert store.read_block("b") == b"new"
            store.write_content("movie", DATA)
            monkeypatch.setattr(os, "rename", fails_after_effect(rename, LOST_RENAME))
            (tmp_path / "file").write_bytes(b"old")
            assert store.read_content_into("movie", tmp_path / "file") == len(DATA)
        assert (tmp_path / "file").read_bytes() == DATA
        assert sorted(os.listdir(tmp_path)) == ["blocks", "file"]

    @pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
    def test_folders_that_can_not_be_synced(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        monkeypatch.setattr(os, "fsync", refuse_folders(number))
        with open_client(client, (tmp_path / "new" / "blocks").as_uri()) as opened:
            store = opened.store
            store.write_block("a/b", b"block")
            store.write_block("a/c", b"block", if_absent=True)
            store.copy_block("a/b", "d/e")
            store.delete_block("a/b")
            store.write_content("movie", DATA)
            store.read_content_into("movie", tmp_path / "file")
            store.health_check()
            assert store.list_by_prefix() == ["a/c", "d/e", "movie.blockyard"]

    def test_a_folder_that_can_not_be_synced_now(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with open_client(client, tmp_path.as_uri()) as opened:
            opened.store.write_block("a", b"block")
            monkeypatch.setattr(os, "fsync", refuse_folders(errno.EIO))
            with pytest.raises(LocalStorageError, match="write_block 'a': Input/output error"):
                opened.store.write_block("a", b"block")

    def test_a_block_that_another_machine_replaces_while_it_is_read(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pread = os.pread
        tries: list[int] = []

        def stale(file: int, size: int, at: int) -> bytes:
            tries.append(file)
            if len(tries) < 3:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return pread(file, size, at)

        monkeypatch.setattr(syscalls, "reads_cached", lambda _: False)  # NFS has no RWF_NOWAIT
        with open_client(client, tmp_path.as_uri()) as opened:
            opened.store.write_block("a", b"block")
            monkeypatch.setattr(os, "pread", stale)
            assert opened.store.read_block("a") == b"block"
            assert len(tries) == 3
            tries.extend(range(-100, 0))
            monkeypatch.setattr(os, "pread", lambda *_: stale_always())
            with pytest.raises(LocalStorageError, match="read_block 'a': Stale file handle"):
                opened.store.read_block("a")
            with pytest.raises(BlockNotFoundError):
                opened.store.read_block("b")

    def test_what_a_close_answers_is_no_error_of_what_was_done(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read that had found the block, or a write that had put it there, would fail."""
        root = tmp_path / "blocks"
        with open_client(client, root.as_uri()) as opened:
            opened.store.write_block("b/b", b"block")
            before = os.listdir("/proc/self/fd")
            monkeypatch.setattr(os, "close", fails_after_closing(root, errno.EINTR))
            etag = opened.store.write_block("a/a", b"old").etag
            opened.store.write_block("a/a", b"block", if_match=etag)
            opened.store.write_block("c", b"block", if_absent=True)
            opened.store.copy_block("b/b", "d/d")
            assert opened.store.read_block("a/a") == b"block"
            assert opened.store.stat_block("d/d").size == 5
            opened.store.delete_block("b/b")
            opened.store.delete_block("c", if_match=opened.store.stat_block("c").etag)
            opened.store.health_check()
            assert sorted(block.key for block in opened.store.iter_blocks()) == ["a/a", "d/d"]
            assert len(os.listdir("/proc/self/fd")) == len(before)

    def test_nothing_is_asked_of_a_block_once_it_is_there(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Else its write would fail, and say that nothing was written."""
        rename, fstat = os.rename, os.fstat

        def rename_and_refuse(*args: Any, **options: Any) -> None:
            rename(*args, **options)
            monkeypatch.setattr(os, "fstat", refuse)

        def refuse(file: int) -> os.stat_result:
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

        with open_client(client, tmp_path.as_uri()) as opened:
            monkeypatch.setattr(os, "rename", rename_and_refuse)
            etag = opened.store.write_block("a", b"block").etag
            monkeypatch.setattr(os, "fstat", fstat)
            assert opened.store.stat_block("a").etag == etag

    def test_a_copy_that_is_made_again_does_not_forget_the_first(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rename = os.rename
        with open_client(client, tmp_path.as_uri()) as opened:
            opened.store.write_block("a", b"block")

            def rename_and_refuse(*args: Any, **options: Any) -> None:
                rename(*args, **options)
                monkeypatch.setattr(os, "fsync", lambda _: stale_always())

            monkeypatch.setattr(os, "rename", rename_and_refuse)
            with pytest.raises(LocalStorageError, match="Stale file handle") as failed:
                opened.store.copy_block("a", "b")
            assert failed.value.unknown_attempts == 1
            assert opened.store.read_block("b") == b"block"

    def test_a_kernel_that_copies_nothing_and_says_so_by_no_error(
        self, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        copy = os.copy_file_range
        for answer in (lambda *_: 0, lambda s, t, size, *at: copy(s, t, min(size, 3000), *at)):
            monkeypatch.setattr(os, "copy_file_range", answer)
            with open_client(client, tmp_path.as_uri()) as opened:
                opened.store.write_block("a", DATA)
                opened.store.copy_block("a", "b")
                assert opened.store.read_block("b") == DATA


def stale_always() -> bytes:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
