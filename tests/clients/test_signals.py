"""Signal handlers that raise while a call is under way: raised when the call has tidied up."""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

import blockyard
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.content.targets import NewFile, is_written_in_order
from blockyard.context import Context
from blockyard.transport.background import BackgroundLoop
from blockyard.transport.connections import Connections
from tests.small_s3 import SmallS3, small_s3
from tests.transport.runtimes import black_hole


class LateError(TimeoutError):
    """What handlers raise who bound the time of what they do not know."""


class StopError(Exception):
    """What another handler raises."""


@contextmanager
def handled(number: int, error: Exception) -> Generator[Callable[[], None]]:
    """A handler that raises `error`; gives what sends its signal to the main thread."""

    def handle(*_: object) -> None:
        raise error

    def send() -> None:
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    before = signal.signal(number, handle)
    try:
        yield send
    finally:
        _ = signal.signal(number, before)


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
    yield loop
    loop.close()


class Tidying:
    """Waits until it is cancelled, and then until it may end."""

    def __init__(self) -> None:
        self.begun, self.tidying, self.may_end = (threading.Event() for _ in range(3))
        self.tidied = False

    async def __call__(self, ctx: Context, seconds: float) -> None:
        self.begun.set()
        try:
            await ctx.runtime.sleep(seconds)
        finally:
            self.tidying.set()
            while not self.may_end.is_set():
                await ctx.runtime.sleep(0.001)
            self.tidied = True


def test_what_a_handler_raises_is_raised(background: BackgroundLoop) -> None:
    """A `TimeoutError` too, which waits of one's own raise."""
    operation = Tidying()
    operation.may_end.set()
    error = LateError()
    with handled(signal.SIGUSR1, error) as send:
        sender = threading.Thread(target=lambda: operation.begun.wait(30) and send())
        sender.start()
        with pytest.raises(LateError) as raised:
            background.run(operation, 60.0, None, 4)
    assert raised.value is error
    assert operation.tidied
    sender.join()


def test_what_is_raised_while_it_tidies_up_is_raised_at_its_end_too(
    background: BackgroundLoop,
) -> None:
    operation = Tidying()
    late, stop = LateError(), StopError()
    with handled(signal.SIGUSR1, late) as send, handled(signal.SIGUSR2, stop) as send_again:

        def interrupt() -> None:
            assert operation.begun.wait(30)
            send()
            assert operation.tidying.wait(30)
            send_again()
            operation.may_end.set()

        sender = threading.Thread(target=interrupt)
        sender.start()
        with pytest.raises(StopError) as raised:
            background.run(operation, 60.0, None, 4)
        sender.join()
    assert raised.value.__context__ is late
    assert operation.tidied


def test_a_handler_may_call_the_store_that_it_interrupts() -> None:
    written: list[str] = []

    with blockyard.open_store("memory://") as store:

        def handle(*_: object) -> None:
            written.extend(info.key for info in store.write_blocks(iter([("noted", b"")])))

        def blocks() -> Iterator[tuple[str, bytes]]:
            for number in range(20):
                signal.raise_signal(signal.SIGUSR1)
                yield f"{number}", b""

        before = signal.signal(signal.SIGUSR1, handle)
        try:
            assert len(store.write_blocks(blocks())) == 20
        finally:
            _ = signal.signal(signal.SIGUSR1, before)
    assert written == ["noted"] * 20


def storm(*arguments: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.clients.storm_of_signals", *arguments],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]


def test_interrupts_as_calls_begin() -> None:
    storm("interrupts")


@pytest.mark.thorough
@pytest.mark.parametrize("calls", ["exceptions", "singles"])
@pytest.mark.parametrize("stored", ["memory", "file", "s3"])
def test_exceptions_at_any_moment_leave_nothing_taken(
    calls: str, stored: str, tmp_path: Path
) -> None:
    """No permit, place in the pool or descriptor, and no content that can't be read."""
    if stored == "s3":
        with small_s3() as server:
            storm(calls, server.store_url(max_connections=8))
    else:
        storm(calls, "memory://" if stored == "memory" else tmp_path.as_uri())


FILE_CALLS: dict[str, Callable[[blockyard.BlockStore, Path], object]] = {
    "write": lambda store, _: store.write_block("a/b/c", b"block"),
    "read": lambda store, _: store.read_block("d/e/f"),
    "list": lambda store, _: store.list_by_prefix(),
    "a new file": lambda _, folder: _create(folder),
}


def _create(folder: Path) -> None:
    file = NewFile(str(folder / "new"), "get")
    with ExitStack() as ends:
        _ = ends.callback(file.close)
        _ = ends.callback(file.close)
        file.create()
        file.commit()


@pytest.mark.parametrize("call", FILE_CALLS)
def test_no_descriptor_is_closed_twice_whenever_a_handler_raises(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time it may be another thread's."""
    close, closed, raises_at = os.close, 0, 0

    def close_and_raise(descriptor: int) -> None:
        nonlocal closed
        close(descriptor)  # EBADF when it is closed already
        closed += 1
        if closed == raises_at:
            raise StopError

    with blockyard.open_store((tmp_path / "blocks").as_uri()) as store:
        for key in ("d/e/f", "d/g", "h/i/j"):
            _ = store.write_block(key, b"block")
        monkeypatch.setattr(os, "close", close_and_raise)
        ended = False
        while not ended:
            closed, raises_at = 0, raises_at + 1
            with suppress(StopError):
                _ = FILE_CALLS[call](store, tmp_path)
                ended = True
        monkeypatch.undo()
    assert raises_at > 1


SYSTEM_CALLS = (
    "close",
    "copy_file_range",
    "fchmod",
    "fdatasync",
    "fstat",
    "fsync",
    "link",
    "mkdir",
    "open",
    "pread",
    "pwrite",
    "read",
    "readlink",
    "rename",
    "rmdir",
    "scandir",
    "stat",
    "unlink",
    "utime",
    "write",
)
LOCAL_CALLS: dict[str, Callable[[blockyard.BlockStore, Path], object]] = {
    "write_block": lambda store, _: store.write_block("a/b/c", b"block"),
    "read_block": lambda store, _: store.read_block("d/e/f"),
    "stat_block": lambda store, _: store.stat_block("d/e/f"),
    "if_match": lambda store, _: store.write_block("d/e/f", b"b", if_match=etag_of(store)),
    "delete_block, if_match": lambda store, _: (
        store.write_block("d/e/f", b"block"),
        store.delete_block("d/e/f", if_match=etag_of(store)),
    ),
    "delete_block": lambda store, _: (
        store.write_block("d/x", b"block"),
        store.delete_block("d/x"),
    ),
    "a new file": lambda _, folder: _create(folder),
    "a target": lambda _, folder: is_written_in_order(str(folder / "link")),
}


def etag_of(store: blockyard.BlockStore) -> str:
    return store.stat_block("d/e/f").etag


@pytest.mark.parametrize("call", LOCAL_CALLS)
def test_what_a_handler_raises_as_a_system_call_returns_is_raised(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its `TimeoutError` is an `OSError`, and none of those that do not matter to the call.

    Nor does a lock stay behind when it comes just before that is given back: the next call would
    wait for it for ever.
    """
    made, raises_at, raised, error = 0, 0, False, LateError()

    def interrupted(
        system_call: Callable[..., object], *, before: bool = False
    ) -> Callable[..., object]:
        def make(*args: object, **named: object) -> object:
            nonlocal made, raised
            result = None if before else system_call(*args, **named)
            if threading.current_thread() is threading.main_thread():  # where handlers run
                made += 1
                if made == raises_at:
                    raised = True
                    raise error
            return system_call(*args, **named) if before else result

        return make

    (tmp_path / "link").symlink_to("/dev/null")
    with blockyard.open_store((tmp_path / "blocks").as_uri()) as store:
        _ = store.write_block("d/e/f", b"block")
        _ = gc.collect()  # or a descriptor that another test left is closed by an interrupted call
        for name in SYSTEM_CALLS:
            monkeypatch.setattr(os, name, interrupted(getattr(os, name)))
        monkeypatch.setattr(fcntl, "flock", interrupted(fcntl.flock, before=True))
        ended = False
        while not ended:
            made, raises_at, raised = 0, raises_at + 1, False
            with suppress(LateError):
                _ = LOCAL_CALLS[call](store, tmp_path)
                ended = True
            assert ended != raised, f"the exception at system call {raises_at} was lost"
        monkeypatch.undo()
    assert raises_at > 1


@pytest.mark.parametrize("what", ["connecting", "silent"])
def test_an_alarm_bounds_a_single_call(what: str) -> None:
    """Its `TimeoutError` is not taken for the system's, and tried again."""
    error = LateError()
    with handled(signal.SIGUSR1, error) as send, ExitStack() as servers:
        if what == "connecting":
            url = servers.enter_context(black_hole())
        else:
            url = servers.enter_context(small_s3()).url
        store = servers.enter_context(blockyard.open_store(SmallS3(url).store_url()))
        alarm = threading.Timer(0.5, send)
        alarm.start()
        with pytest.raises(LateError) as raised:
            _ = store.read_block("silent")
        alarm.join()
    assert raised.value is error
