"""What a stage is made of: its files, the marks of doubt, the locks of keys, the upload threads."""

from __future__ import annotations

import ctypes
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest

from blockyard.cache import folder as folder_module
from blockyard.cache.entry import HEAD
from blockyard.cache.folder import Folder
from blockyard.cache.in_doubt import SETTLE_SECONDS, InDoubtMarks
from blockyard.cache.key_locks import KeyLocks
from blockyard.cache.open_entry import DamagedEntryError
from blockyard.cache.stage import NoRoomError, Stage, Waiting
from blockyard.cache.uploads import PARALLEL, Uploads
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.model import KIB, MIB
from blockyard.testing.samples import content
from blockyard.transport.blocking import BlockingRuntime
from blockyard.transport.connections import Connections
from blockyard_faults.killing import kill, started
from tests.cache.staging import NoThreads, files_in_stage, never

NOW = 1.8e9
_SMALL = 2 * MIB
NAME, OTHER = b"n" * 16, b"o" * 16


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "cache")
    made.prepare()
    return made


@pytest.fixture
def stage(folder: Folder) -> Stage:
    made = Stage(folder, 64 * MIB, "store")
    made.prepare()
    return made


def found(stage: Stage, key: str) -> bytes | None:
    staged = stage.find(stage.name(key))
    return None if staged is None else staged.read(0, staged.info.size).data


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 4 * MIB, 5 * MIB + 1])
def test_what_is_staged_is_found_as_it_was(stage: Stage, size: int) -> None:
    data = content(size)
    info = stage.put("k", memoryview(data), NOW)
    staged = stage.find(stage.name("k"))
    assert staged is not None
    assert staged.info == info
    assert (info.size, info.etag, staged.info.key) == (size, "", "k")
    assert info.last_modified is not None
    assert info.last_modified.timestamp() == NOW
    assert staged.read(0, size).data == data
    if size > 1:
        pages = staged.read(size - 1, size)
        assert pages.data == data[pages.first :]
    assert found(stage, "l") is None


def test_it_is_synced_before_it_gets_its_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    did: list[str] = []

    def noted(name: str) -> None:
        real = getattr(os, name)

        def call(*given: Any, **more: Any) -> Any:
            did.append(name)
            return real(*given, **more)

        monkeypatch.setattr(os, name, call)

    for name in ("writev", "fsync", "rename"):
        noted(name)
    stage.put("k", b"x", NOW)
    stage.sync()
    assert did == ["writev", "fsync", "rename", "fsync"]


def test_only_the_version_that_is_meant_is_removed(stage: Stage) -> None:
    name = stage.name("k")
    stage.put("k", b"1", NOW)
    first = stage.version(name)
    stage.put("k", b"2", NOW)
    second = stage.version(name)
    assert first is not None
    assert second is not None
    assert stage.remove(name, first) is False
    assert found(stage, "k") == b"2"
    assert stage.remove(name, second) is True
    assert stage.remove(name, second) is False
    assert stage.version(name) is None


def test_who_has_it_open_reads_a_version_that_was_replaced(stage: Stage) -> None:
    stage.put("k", content(50_000), NOW)
    staged = stage.find(stage.name("k"))
    assert staged is not None
    stage.put("k", b"new", NOW)
    assert staged.read(0, 50_000).data == content(50_000)


@pytest.mark.parametrize("damage", ["head", "data", "cut", "empty", "swapped"])
def test_damage_is_seen(stage: Stage, damage: str) -> None:
    stage.put("k", content(50_000), NOW)
    path = Path(stage._path(stage.name("k")))
    whole = bytearray(path.read_bytes())
    if damage in {"head", "data"}:
        whole[30 if damage == "head" else HEAD + 40_000] ^= 1
    elif damage == "swapped":
        stage.put("l", content(50_000), NOW)
        whole = bytearray(Path(stage._path(stage.name("l"))).read_bytes())
    path.write_bytes({"cut": whole[:20_000], "empty": b""}.get(damage, whole))
    with pytest.raises(DamagedEntryError):
        _ = found(stage, "k")


def test_the_oldest_come_first_and_those_of_other_stores_not_at_all(
    folder: Folder, stage: Stage
) -> None:
    other = Stage(folder, 64 * MIB, "another store")
    for number, key in enumerate("cab"):
        stage.put(key, b"x" * number, NOW)
        os.utime(stage._path(stage.name(key)), (NOW + number, NOW + number))
    other.put("a", b"others", NOW)
    assert found(stage, "a") == b"x"
    assert stage.waiting() == [
        Waiting(NOW + number, stage.name(key), number, HEAD + (number and HEAD))
        for number, key in enumerate("cab")
    ]
    assert [other.key(each.name) for each in other.waiting()] == ["a"]
    assert stage.used() == 7 * HEAD
    assert not stage.is_empty()


def test_what_killed_writers_left_goes_when_somebody_counts(folder: Folder, stage: Stage) -> None:
    killed = Path(stage._new) / "killed"
    killed.write_bytes(b"x" * 100)
    _ = (Path(stage._root) / "foreign").write_text("foreign")
    other = Stage(folder, stage.size, "another store")
    with stage._made(5000) as live:
        assert other._being_written() == 2 * HEAD
        assert [path.name for path in files_in_stage(folder.root)] == [
            os.path.basename(live.path),
            "foreign",
        ]
        os.unlink(live.path)
    assert stage.waiting() == []


def test_room_is_shared_by_all_processes_and_stores(folder: Folder) -> None:
    stages = [Stage(folder, 2 * MIB, f"store {number}") for number in range(4)]
    stages[0].prepare()
    put = 0
    for number in range(400):
        try:
            _ = stages[number % 4].put(f"k{number}", bytes(20_000), NOW)
            put += 1
        except NoRoomError:
            continue
    assert 0.9 * 2 * MIB < put * (20_000 + HEAD) <= 2 * MIB
    name = stages[0].name("k0")
    version = stages[0].version(name)
    assert version is not None
    assert stages[0].remove(name, version)
    _ = stages[1].put("one more", bytes(20_000), NOW)


def test_room_is_counted_in_bytes_of_the_disk_also_after_others_have_taken_it(
    folder: Folder,
) -> None:
    one, other = (Stage(folder, MIB, "store") for _ in range(2))
    one.prepare()
    _ = one.put("first", b"x", NOW)  # which leaves it an eighth of the room
    with suppress(NoRoomError):
        for number in range(400):
            _ = other.put(f"k{number}", b"x", NOW)
    allocated = sum(os.stat(each.path).st_blocks * 512 for each in os.scandir(one._root))
    assert 0.9 * MIB < allocated <= MIB
    with pytest.raises(NoRoomError):
        _ = one.put("much later", b"x", NOW + 60)


def test_what_is_renamed_while_somebody_counts_is_counted(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever he looks at first: what is being written, or what is staged."""
    writing, other = (Stage(folder, MIB, "store") for _ in range(2))
    writing.prepare()
    _ = writing.put("before", b"x", NOW)  # it has counted, and needs not do so again
    room = MIB - writing.used() - writing._overhead()
    with writing._made(room) as new:
        writing._take_room(room, new)
        looks = list[str]()

        def looked(look: Callable[..., Any], *given: Any) -> Any:
            found = look(*given)
            looks.append(look.__name__)
            if len(looks) == 1:
                os.rename(new.path, writing._path(writing.name("k")))
            return found

        for look in (other.files, other._being_written):
            monkeypatch.setattr(other, look.__name__, partial(looked, look))
        with pytest.raises(NoRoomError):
            _ = other.put("more", b"x", NOW)
    assert len(looks) == 2


def test_what_was_left_in_a_folder_that_was_removed_is_not_left_in_the_next(
    folder: Folder, stage: Stage
) -> None:
    other = Stage(folder, stage.size, "another store")
    for each in (stage, other):
        _ = each.put("k", b"x", NOW)
    shutil.rmtree(folder.root)
    _ = stage.put("k", b"x", NOW)
    assert not other._quota.take(HEAD)
    _ = other.put("l", b"x", NOW)
    assert stage.used() == 4 * HEAD


def _fill(folder: Folder, stores: int, seed: int) -> None:
    """Stage blocks from so many stores, each in a thread of its own, until there is no room."""

    def write(number: int) -> None:
        store = Stage(folder, _SMALL, f"store {number}")
        chance = random.Random(seed + number)  # noqa: S311 - sizes of blocks
        with suppress(NoRoomError):
            while True:
                size = chance.randrange(100 * KIB)
                _ = store.put(f"{seed} {number} {chance.random()}", bytes(size), NOW)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_stores_of_processes_that_are_killed_keep_to_the_size_together(
    folder: Folder, stage: Stage
) -> None:
    chance = random.Random(5)  # noqa: S311 - moments of kills
    most = 0
    for _ in range(12):
        children = [started(_fill, folder, 8, chance.randrange(1 << 30)) for _ in range(4)]
        for child in children[:3]:
            time.sleep(chance.uniform(0, 0.05))
            kill(child)
        _ = os.waitpid(children[3], 0)
        found = files_in_stage(folder.root)
        allocated = sum(path.stat().st_blocks * 512 for path in found)
        assert allocated <= _SMALL
        most = max(most, allocated)
        for path in chance.sample(found, len(found) // 2):
            path.unlink()
    assert most > 0.9 * _SMALL
    _fill(folder, 1, 0)
    assert stage.used() > 0.9 * _SMALL - 100 * KIB
    assert os.listdir(stage._new) == []


def test_versions_are_told_apart_that_are_written_in_one_tick_of_the_file_systems_clock(
    stage: Stage,
) -> None:
    """An inode number may come back, and then all of them would be one version."""
    name, times = stage.name("k"), list[int]()
    for number in range(20):
        _ = stage.put("k", b"%d" % number, NOW + number / 1e6)
        version = stage.version(name)
        assert version is not None
        times.append(version[0] - int(NOW) * 10**9)
    assert times == [pytest.approx(1000 * number, abs=500) for number in range(20)]


# Marks of doubt.


@pytest.fixture
def doubt(folder: Folder) -> InDoubtMarks:
    made = InDoubtMarks(folder)
    made.prepare()
    return made


def test_a_change_is_in_doubt_from_its_beginning_until_it_has_settled(doubt: InDoubtMarks) -> None:
    now = 1000.0
    assert not doubt.in_doubt(NAME, now)
    assert doubt.settles_at(NAME, "v", now) <= now
    doubt.begin(NAME, "v")
    assert doubt.in_doubt(NAME, now + 1e6)
    doubt.end(NAME, "v", now)
    assert doubt.in_doubt(NAME, now + SETTLE_SECONDS - 1)
    assert not doubt.in_doubt(NAME, now + SETTLE_SECONDS)
    assert doubt.settles_at(NAME, "w", now + 1) == now + SETTLE_SECONDS
    assert doubt.settles_at(NAME, None, now + 1) == now + SETTLE_SECONDS
    assert doubt.settles_at(NAME, "v", now + 1) == 0
    assert not doubt.in_doubt(OTHER, now)
    assert doubt.names() == [NAME]
    assert doubt.settles_at(NAME, "w", now + SETTLE_SECONDS) == 0
    assert doubt.names() == []


@pytest.mark.parametrize("record", [None, "short", "x" * 60, "0" * 20])
def test_a_mark_that_can_not_be_read_is_of_a_change_under_way(
    doubt: InDoubtMarks, record: str | None
) -> None:
    if record is None:
        Path(doubt._path(NAME)).touch()
    else:
        os.symlink(record, doubt._path(NAME))
    assert doubt.in_doubt(NAME, 1e9)
    assert doubt.settles_at(NAME, "v", 1000.0) == 1000.0 + SETTLE_SECONDS
    assert not doubt.in_doubt(NAME, 1000.0 + SETTLE_SECONDS)


def test_a_mark_of_another_boot_has_settled_a_minute_after_this_one(
    folder: Folder, doubt: InDoubtMarks, monkeypatch: pytest.MonkeyPatch
) -> None:
    doubt.end(NAME, "v", 5e6)
    doubt.begin(OTHER, "v")
    monkeypatch.setattr(folder_module, "_boot_id", lambda: b"next one")
    later = InDoubtMarks(Folder(folder.root))
    for name in (NAME, OTHER):
        assert later.in_doubt(name, SETTLE_SECONDS - 1)
        assert later.settles_at(name, "w", SETTLE_SECONDS - 1) == SETTLE_SECONDS
    assert not later.in_doubt(NAME, SETTLE_SECONDS)


# Locks of keys.


@pytest.fixture
def locks(tmp_path: Path) -> KeyLocks:
    return KeyLocks(str(tmp_path / "locks"), never)


def test_one_has_the_lock_of_a_key(tmp_path: Path, locks: KeyLocks) -> None:
    held = locks.take([NAME, OTHER])
    assert held is not None
    for each in (locks, KeyLocks(str(tmp_path / "locks"), never)):
        assert each.take([NAME]) is None
        assert each.take([b"third" + bytes(11), OTHER]) is None
        third = each.take([b"third" + bytes(11)])
        assert third is not None
        each.free(third)
    locks.free(held)
    again = locks.take([OTHER, NAME, OTHER])
    assert again is not None
    del again  # dropped, as when a signal handler raises
    assert locks.take([NAME]) is not None


def test_the_lock_of_a_process_that_was_killed_is_free(tmp_path: Path, locks: KeyLocks) -> None:
    program = f"""
import time
from blockyard.cache.key_locks import KeyLocks
held = KeyLocks({str(tmp_path / "locks")!r}, print).take([{NAME!r}])
print("held", flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        assert locks.take([NAME]) is None
        child.send_signal(signal.SIGKILL)
        _ = child.wait()
    assert locks.take([NAME]) is not None


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    program = f"""
import os, time
from blockyard.cache.key_locks import KeyLocks
locks = KeyLocks({str(tmp_path / "locks")!r}, print)
held = locks.take([{NAME!r}])
child = os.fork()
if not child:
    print(os.getpid(), flush=True)  # once it has let go of what it inherited
time.sleep(60)
"""
    locks = KeyLocks(str(tmp_path / "locks"), never)
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert locks.take([NAME]) is None
            parent.send_signal(signal.SIGKILL)
            _ = parent.wait()
            os.kill(child, 0)
            held = locks.take([NAME])
        finally:
            os.kill(child, signal.SIGKILL)
    assert held is not None


def test_a_lock_that_was_let_go_is_free_though_a_child_of_c_code_has_a_copy(
    locks: KeyLocks,
) -> None:
    held = locks.take([NAME, OTHER])
    assert held is not None
    libc = ctypes.PyDLL(None)
    child = libc.fork()  # which runs no hook of Python's
    if not child:
        _ = libc.sleep(60)
        libc._exit(0)
    try:
        assert locks.take([NAME]) is None
        locks.free(held)
        assert locks.take([NAME, OTHER]) is not None
    finally:
        os.kill(child, signal.SIGKILL)
        _ = os.waitpid(child, 0)


def test_who_looks_at_the_locks_of_a_process_may_do_so_while_threads_take_some(
    locks: KeyLocks,
) -> None:
    mine = locks.take([NAME])
    assert mine is not None
    ends = time.monotonic() + 1

    def take_many() -> None:
        while time.monotonic() < ends:
            taken = [locks.take([os.urandom(16)]) for _ in range(5)]
            for each in taken:
                assert each is not None
                locks.free(each)

    threads = [threading.Thread(target=take_many) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        while time.monotonic() < ends:
            assert not locks._interrupts(mine)
    finally:
        sys.setswitchinterval(interval)
        for thread in threads:
            thread.join()


# Threads that upload.


class Uploader:
    """Uploads that a test looks at; `again` is when a name is to be tried again."""

    def __init__(self) -> None:
        self.runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
        self.runtime.close()
        self.uploads = Uploads(self.runtime, self._upload)
        self.done: list[bytes] = []
        self.again: dict[bytes, list[float | None]] = {}
        self.hold = threading.Event()
        self.hold.set()
        self.most = 0
        self._busy: list[None] = []

    def _upload(self, name: bytes) -> float | None:
        self._busy.append(None)
        self.most = max(self.most, len(self._busy))
        assert self.hold.wait(60)
        self.done.append(name)
        _ = self._busy.pop()
        delays = self.again.get(name)
        delay = delays.pop(0) if delays else None
        return None if delay is None else self.runtime.now() + delay

    def until(self, condition: Callable[[], bool]) -> None:
        ends = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < ends
            time.sleep(0.005)


@pytest.fixture
def uploader() -> Iterator[Uploader]:
    made = Uploader()
    yield made
    made.hold.set()
    made.uploads.close()
    made.uploads.wait(60)


def names(count: int) -> list[bytes]:
    return [struct.pack(">16x")[:12] + struct.pack(">I", number + 1) for number in range(count)]


def test_a_few_are_uploaded_at_a_time_the_first_first(uploader: Uploader) -> None:
    uploader.hold.clear()
    for name in names(40):
        uploader.uploads.add(name)
        uploader.uploads.add(name)
    uploader.until(lambda: uploader.most == PARALLEL)
    assert not uploader.uploads.idle(0)
    uploader.hold.set()
    uploader.until(lambda: uploader.uploads.idle(0))
    assert sorted(uploader.done) == names(40)
    assert set(uploader.done[: 2 * PARALLEL]) <= set(names(4 * PARALLEL))
    assert uploader.most == PARALLEL


def test_what_fails_is_tried_again_when_it_is_due(uploader: Uploader) -> None:
    (name,) = names(1)
    uploader.again[name] = [0.05, 0.05]
    uploader.uploads.add(name)
    now = uploader.runtime.now
    uploader.until(lambda: len(uploader.done) == 3)
    uploader.until(lambda: uploader.uploads.idle(now() + 100))
    uploader.again[name] = [50.0]
    uploader.uploads.add(name)
    uploader.until(lambda: len(uploader.done) == 4)
    uploader.until(lambda: uploader.uploads.idle(now() + 40))
    assert not uploader.uploads.idle(now() + 51)


def test_its_threads_end_and_come_back(uploader: Uploader) -> None:
    first, second = names(2)
    uploader.uploads.add(first)
    work = uploader.uploads._here.here()
    uploader.until(lambda: not work.threads)
    uploader.uploads.add(second)
    uploader.until(lambda: uploader.done == [first, second])


def test_closed_it_begins_nothing_more(uploader: Uploader) -> None:
    uploader.hold.clear()
    for name in names(20):
        uploader.uploads.add(name)
    uploader.until(lambda: uploader.most == PARALLEL)
    uploader.uploads.close()
    uploader.hold.set()
    uploader.uploads.wait(60)
    assert len(uploader.done) == PARALLEL
    uploader.uploads.add(b"x" * 16)
    assert len(uploader.done) == PARALLEL


class Interrupted(BaseException):
    """Raised by a signal handler."""


def test_a_signal_handler_that_raises_keeps_nothing_from_being_uploaded() -> None:
    """Wherever that is in `add`: the next one has both of them uploaded."""
    codes = {Uploads.add.__code__, Uploads._enqueue.__code__, Uploads._wake.__code__}
    left = 0

    def trace_call(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code not in codes:
            return None
        frame.f_trace_opcodes = True
        return trace_code

    def trace_code(_: FrameType, event: str, __: object) -> Any:
        nonlocal left
        if event == "opcode":
            left -= 1
            if left == 0:
                raise Interrupted
        return trace_code

    tracing = sys.gettrace()
    for at in range(1, 1000):
        uploader = Uploader()
        first, second = names(2)
        left = at
        try:
            sys.settrace(trace_call)
            uploader.uploads.add(first)
        except Interrupted:
            sys.settrace(tracing)
        else:
            sys.settrace(tracing)
            break
        uploader.uploads.add(second)
        uploader.until(lambda uploader=uploader: uploader.uploads.idle(0))
        assert second in uploader.done, at
        assert not uploader.uploads._here.here().waiting, at
        uploader.uploads.add(first)
        uploader.until(lambda uploader=uploader: uploader.uploads.idle(0))
        assert first in uploader.done, at
        uploader.uploads.close()
        uploader.uploads.wait(60)
    else:
        raise AssertionError("it was always interrupted")
    uploader.uploads.close()
    uploader.uploads.wait(60)


def test_without_a_thread_the_next_name_tries_again() -> None:
    runtime = NoThreads()
    done: list[bytes] = []

    def upload(name: bytes) -> None:
        done.append(name)

    uploads = Uploads(cast("Any", runtime), upload)
    first, second = names(2)
    uploads.add(first)
    assert not uploads.idle(0)
    real = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    real.close()
    runtime.start = real.start
    uploads.add(second)
    ends = time.monotonic() + 60
    while len(done) < 2 and time.monotonic() < ends:
        time.sleep(0.005)
    assert done == [first, second]
    uploads.close()
    uploads.wait(60)
