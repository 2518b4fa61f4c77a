"""Blocking calls of fsspec's file systems: how they end, and what callbacks and signals raise."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError

import blockyard
from blockyard.fsspec import BlockyardContentFileSystem, BlockyardFileSystem, blocking
from blockyard.stores.memory import MemoryStore
from servers.endpoint import Endpoint, boto3_client
from tests.hooked_store import HookedStore
from tests.interrupting import at_line

DATA = bytes(range(256)) * 40
SYSTEMS = (BlockyardFileSystem, BlockyardContentFileSystem)


class Held(HookedStore):
    """A store whose operations never end by themselves while `holding`.

    It counts those that have begun, and those that were cancelled. The one that `interrupts` has
    the main thread get a Ctrl-C.
    """

    def __init__(self) -> None:
        super().__init__(MemoryStore(), self._hold)
        self.holding = False
        self.interrupts = 1
        self.begun = self.cancelled = 0

    async def _hold(self, operation: str, key: str) -> None:
        if not self.holding:
            return
        self.begun += 1
        if self.begun == self.interrupts:
            os.kill(os.getpid(), signal.SIGINT)
        try:
            _ = await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)  # it tidies up
            self.cancelled += 1
            raise


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(6):
        _ = (folder / f"{number}").write_bytes(DATA)
    return folder


@pytest.fixture(autouse=True)
def _no_kept_instances() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]
    yield
    BlockyardFileSystem.clear_instance_cache()
    BlockyardContentFileSystem.clear_instance_cache()


# Interrupts.


def _written(fs: Any) -> None:
    with fs.open("new", "wb") as file:
        _ = file.write(DATA)


_CALLS: dict[str, Callable[[Any, Path], object]] = {
    "pipe_file": lambda fs, _: fs.pipe_file("new", DATA),
    "open": lambda fs, _: _written(fs),
    "cat_file": lambda fs, _: fs.cat_file("a/0"),
    "walk": lambda fs, _: list(fs.walk("a")),
    "put_file": lambda fs, files: fs.put_file(str(files / "0"), "new"),
    "get_file": lambda fs, files: fs.get_file("a/0", str(files / "got")),
}
_OF_MANY: dict[str, Callable[[Any, Path], object]] = {
    "pipe": lambda fs, _: fs.pipe({f"new/{number}": DATA for number in range(3)}),
    "put": lambda fs, files: fs.put([str(files / "0"), str(files / "1")], ["x", "y"]),
    "get": lambda fs, files: fs.get(["a/0", "a/1"], [str(files / "x"), str(files / "y")]),
    "cat": lambda fs, _: fs.cat(["a/0", "a/1"]),
    "rm": lambda fs, _: fs.rm(["a", "b"], recursive=True),
    "cp": lambda fs, _: fs.cp(["a/0", "a/1"], ["x", "y"]),
    "sizes": lambda fs, _: fs.sizes(["b/0", "b/1"]),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", [*_CALLS, *_OF_MANY])
def test_a_call_that_is_interrupted_has_ended(
    system: type[BlockyardFileSystem], name: str, held: Held, files: Path
) -> None:
    """It stores nothing later, which would replace what is written then."""
    fs = system(store=held, listings_expiry_time=0)
    fs.pipe({"a/0": DATA, "a/1": DATA, "b/0": DATA, "b/1": DATA})
    before = fs.find("")
    held.holding, held.interrupts = True, 2 if name in _OF_MANY else 1
    with pytest.raises(KeyboardInterrupt):
        (_CALLS | _OF_MANY)[name](fs, files)
    assert held.begun == held.cancelled >= held.interrupts
    held.holding = False
    assert fs.find("") == before
    assert held.begun == held.cancelled


def test_a_call_that_is_interrupted_anywhere_has_ended() -> None:
    class InterruptedHereError(Exception):
        pass

    def ring() -> None:
        raise InterruptedHereError

    store, lines, interrupted = MemoryStore(), [0], 0
    fs: Any = BlockyardFileSystem(store=store)
    of_others = asyncio.all_tasks(fs.loop)
    while lines[0] >= interrupted:
        interrupted += 1
        try:
            with at_line(interrupted, {blocking.__file__}, ring) as lines:
                fs.pipe_file("a", b"old")
        except InterruptedHereError:
            fs.pipe_file("a", b"new")
            assert asyncio.all_tasks(fs.loop) <= of_others
            assert fs.cat_file("a") == b"new"
    assert interrupted > 20


def test_a_second_interrupt_ends_no_wait(held: Held) -> None:
    """The call is over when it is raised, however often that was asked for."""
    fs: Any = BlockyardFileSystem(store=held)
    rings = 0

    async def tidying(operation: str, key: str) -> None:
        nonlocal rings
        os.kill(os.getpid(), signal.SIGINT)
        try:
            _ = await asyncio.Event().wait()
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(0.2)  # a second cancellation would come here
            rings += 1

    held.hook = tidying
    with pytest.raises(KeyboardInterrupt):
        fs.pipe_file("a", b"1")
    assert rings == 1


def test_a_call_that_does_not_end_is_waited_for_so_long(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "_TIDYING", 0.0)
    fs: Any = BlockyardFileSystem(store=held)
    let_go = threading.Event()

    async def stubborn(operation: str, key: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        while not let_go.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue

    held.hook = stubborn
    with pytest.raises(KeyboardInterrupt) as raised:
        fs.pipe_file("a", b"1")
    assert raised.value.__notes__ == ["the call goes on: it did not end within 0 s"]
    let_go.set()


def test_a_coroutine_that_is_cancelled_leaves_no_task(held: Held, files: Path) -> None:
    async def main() -> None:
        fs: Any = BlockyardFileSystem(store=held, asynchronous=True)
        held.holding, held.interrupts = True, 0
        task = asyncio.create_task(fs._put(f"{files}/", "new", recursive=True))
        while held.begun < 1 + 6:  # a look whether there is such a folder, and the files
            held.holding = held.begun > 0
            await asyncio.sleep(0)
            if not held.begun:
                held.begun, held.holding = 1, True
        _ = task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert held.cancelled == 6
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_a_content_whose_read_was_interrupted_is_read_again(held: Held) -> None:
    fs: Any = BlockyardContentFileSystem(store=held)
    fs.pipe_file("a", bytes(9 * 2**20))
    with fs.open("a") as file:
        held.holding = True
        with pytest.raises(KeyboardInterrupt):
            file.read(1000)
        held.holding = False
        assert file.read(1000) == bytes(1000)


def test_an_interrupted_upload_is_aborted(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str, tmp_path: Path
) -> None:
    fs = _on_moto(moto_endpoint)
    _ = (tmp_path / "large").write_bytes(bytes(20 * 2**20))

    class Ringing(fsspec.Callback):
        def absolute_update(self, value: int) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fs.put_file(
            str(tmp_path / "large"),
            f"{bucket}/{key_prefix}a",
            callback=Ringing(),
            part_size=5 * 2**20,
        )
    assert _uploads(moto_endpoint, bucket, key_prefix) == []


def test_a_file_open_when_the_program_ends_leaves_no_upload(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    code = (
        "import sys; from blockyard.fsspec import BlockyardFileSystem\n"
        "_, url, key, secret, path = sys.argv\n"
        "fs = BlockyardFileSystem(endpoint=url, access_key=key, secret_key=secret,\n"
        "                         force_path_style=True)\n"
        "file = fs.open(path, 'wb', block_size=2**20, part_size=5 * 2**20)\n"
        "_ = file.write(bytes(20 * 2**20))\n"
    )
    given = (moto_endpoint.url, moto_endpoint.access_key, moto_endpoint.secret_key)
    command = [sys.executable, "-c", code, *given, f"{bucket}/{key_prefix}a"]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "was not stored: its file was never closed" in told.stderr
    assert _uploads(moto_endpoint, bucket, key_prefix) == []


def _on_moto(endpoint: Endpoint) -> Any:
    return BlockyardFileSystem(
        endpoint=endpoint.url,
        access_key=endpoint.access_key,
        secret_key=endpoint.secret_key,
        force_path_style=True,
    )


def _uploads(endpoint: Endpoint, bucket: str, prefix: str) -> list[str]:
    client = boto3_client(endpoint)
    listed = client.list_multipart_uploads(Bucket=bucket, Prefix=prefix)
    return [upload["Key"] for upload in listed.get("Uploads", [])]


# What is raised on the loop.


_RAISED = (SystemExit, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, ValueError)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("kind", _RAISED)
@pytest.mark.parametrize("method", ["set_size", "absolute_update", "relative_update", "branched"])
def test_what_a_callback_raises_ends_the_call_alone(
    system: type[BlockyardFileSystem], kind: type[BaseException], method: str, files: Path
) -> None:
    fs: Any = system(store="memory://")
    fs.pipe({"a/0": DATA, "a/1": DATA})

    def failing(*_: object, **__: object) -> None:
        raise kind("the callback's")

    class Child(fsspec.Callback):
        pass

    class Failing(fsspec.Callback):
        def branched(self, *_: object, **__: object) -> Any:
            return Child()

    setattr(Child if method == "absolute_update" else Failing, method, failing)
    got = files / "got"
    calls: list[Callable[[], object]] = [
        lambda: fs.put([str(files / "0"), str(files / "1")], ["x", "y"], callback=Failing()),
        lambda: fs.get(["a/0", "a/1"], [f"{got}/x", f"{got}/y"], callback=Failing()),
    ]
    if method in {"set_size", "absolute_update"}:
        calls += [
            lambda: fs.put_file(str(files / "0"), "z", callback=_of(failing, method)),
            lambda: fs.get_file("a/0", f"{got}/z", callback=_of(failing, method)),
        ]
    for number, call in enumerate(calls):
        if system is BlockyardContentFileSystem and (method, number) == ("set_size", 3):
            continue  # a read of a content tells no size
        with pytest.raises(kind, match="the callback's"):
            call()
        assert fs.cat_file("a/0") == DATA
    if method in {"absolute_update", "branched"}:  # the others are told first, or last
        assert not list(got.iterdir())


def _of(failing: Callable[..., None], method: str) -> Any:
    return type("Failing", (fsspec.Callback,), {method: failing})()


def test_callbacks_are_told_as_before(files: Path) -> None:
    fs: Any = BlockyardFileSystem(store="memory://")
    entered: list[str] = []

    class Child(fsspec.Callback):
        def __enter__(self) -> Child:
            entered.append("in")
            return self

        def __exit__(self, *error: object) -> None:
            entered.append("out")

    children: list[Child] = []

    class All(fsspec.Callback):
        def branched(self, path_1: str, path_2: str, **_: Any) -> Child:
            children.append(Child())
            return children[-1]

    told = All()
    fs.put(f"{files}/", "x", recursive=True, callback=told)
    assert told.size == told.value == len(children) == 6
    assert {(child.size, child.value) for child in children} == {(len(DATA), len(DATA))}
    assert sorted(entered) == ["in"] * 6 + ["out"] * 6


def test_errors_that_are_timeouts_say_what_they_say(held: Held) -> None:
    fs: Any = BlockyardFileSystem(store=held)

    async def late(operation: str, key: str) -> None:
        raise blockyard.DeadlineExceededError(f"{operation} {key!r}: the deadline has passed")

    held.hook = late
    for call in (lambda: fs.cat_file("a"), lambda: fs.exists("a"), lambda: fs.pipe({"a": b"1"})):
        with pytest.raises(blockyard.DeadlineExceededError, match="'a': the deadline has passed"):
            call()


def test_a_timeout_of_a_call(held: Held) -> None:
    fs: Any = BlockyardFileSystem(store=held)
    held.holding, held.interrupts = True, 0
    with pytest.raises(FSTimeoutError, match=r"not done within 0\.05 s"):
        fs.info("a", timeout=0.05)
    assert held.begun == held.cancelled == 1
    held.holding = False
    fs.pipe_file("a", b"1", timeout=100)


def test_where_no_blocking_call_is_possible() -> None:
    fs: Any = BlockyardFileSystem(store="memory://", asynchronous=True)
    with pytest.raises(RuntimeError, match="Loop is not running"):
        fs.ls("")
    fs = BlockyardFileSystem(store="memory://")

    async def nested() -> None:
        fs.ls("")

    with pytest.raises(NotImplementedError, match="the event loop that it needs"):
        blocking.run(fs.loop, nested)


def test_blocking_methods_are_described_as_fsspec_does() -> None:
    assert "Give details of entry at path" in str(BlockyardFileSystem.info.__doc__)

    class Own(BlockyardFileSystem):
        async def _ls(self, path: str, detail: bool = True, **_: Any) -> Any:
            return ["own"]

    assert Own(store="memory://").ls("") == ["own"]


# Threads.


@pytest.mark.parametrize("block_size", [500, 2**20])
def test_a_file_that_threads_write_keeps_all_of_each_write(block_size: int) -> None:
    fs: Any = BlockyardFileSystem(store="memory://")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        file = fs.open("a", "wb", block_size=block_size)

        def write(letter: bytes) -> None:
            for _ in range(200):
                assert file.write(letter * 30) == 30

        threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        file.close()
    finally:
        sys.setswitchinterval(interval)
    data = fs.cat_file("a")
    pieces = [data[start : start + 30] for start in range(0, len(data), 30)]
    assert sorted(pieces) == [letter * 30 for letter in (b"a", b"b", b"c") for _ in range(200)]
