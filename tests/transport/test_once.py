"""`Runtime.once`: callers of one thing share one result, whatever becomes of the first of them."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.errors import BlockNotFoundError, DeadlineExceededError
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.clock import monotonic
from blockyard.transport.connections import Connections
from blockyard.transport.shared_calls import SharedCall

_PATIENCE = 60


@pytest.fixture
def blocking() -> Iterator[BlockingRuntime]:
    runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    yield runtime
    runtime.close()


@pytest.fixture
def aio() -> Iterator[AsyncioRuntime]:
    runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
    yield runtime
    runtime.abandon()


class Watched(dict[Hashable, SharedCall]):
    """A table that knows how many wait: each of them has looked who is first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = threading.Semaphore(0)

    def setdefault(self, key: Hashable, default: Any = None) -> SharedCall:
        first = super().setdefault(key, default)
        self.asked.release()
        return first

    def wait_for(self, callers: int) -> None:
        for _ in range(callers):
            assert self.asked.acquire(timeout=_PATIENCE)


def test_threads_share_one_call(blocking: BlockingRuntime) -> None:
    under_way, made = Watched(), list[object]()

    async def operation() -> object:
        under_way.wait_for(8)
        made.append(object())
        return made[-1]

    def ask(_: int) -> tuple[object, bool]:
        return run_to_end(blocking.once(under_way, "k", operation))

    with ThreadPoolExecutor(8) as threads:
        outcomes = list(threads.map(ask, range(8)))

    assert [result for result, _ in outcomes] == made * 8
    assert sorted(of_another for _, of_another in outcomes) == [False] + [True] * 7
    assert under_way == {}


def test_other_keys_and_later_callers_are_on_their_own(blocking: BlockingRuntime) -> None:
    under_way = Watched()

    async def inner() -> str:
        return "inner"

    async def outer() -> tuple[str, tuple[str, bool]]:
        return "outer", await blocking.once(under_way, "other", inner)

    for _ in range(2):
        result = run_to_end(blocking.once(under_way, "k", outer))
        assert result == (("outer", ("inner", False)), False)
    assert under_way == {}


def test_tasks_share_one_call(aio: AsyncioRuntime) -> None:
    async def main() -> None:
        under_way, made, go_on = Watched(), list[int](), asyncio.Event()

        async def operation() -> int:
            _ = await go_on.wait()
            made.append(1)
            return 7

        tasks = [asyncio.create_task(aio.once(under_way, "k", operation)) for _ in range(100)]
        await asyncio.sleep(0)
        go_on.set()
        outcomes = await asyncio.gather(*tasks)

        assert {result for result, _ in outcomes} == {7}
        assert sum(of_another for _, of_another in outcomes) == 99
        assert made == [1]
        assert under_way == {}

    asyncio.run(main())


def test_a_cancelled_first_one_leaves_it_to_the_others(aio: AsyncioRuntime) -> None:
    async def main() -> None:
        under_way, begun, go_on = Watched(), list[int](), asyncio.Event()
        again = asyncio.Event()

        async def operation() -> int:
            begun.append(1)
            if len(begun) == 2:
                again.set()
            _ = await go_on.wait()
            return 7

        tasks = [asyncio.create_task(aio.once(under_way, "k", operation)) for _ in range(100)]
        await asyncio.sleep(0)
        assert begun == [1]
        _ = tasks[0].cancel()
        _ = tasks[50].cancel()
        _ = await again.wait()
        go_on.set()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)

        cancelled = [at for at, one in enumerate(outcomes) if isinstance(one, BaseException)]
        assert cancelled == [0, 50]
        assert begun == [1, 1]

    asyncio.run(main())


def test_a_thread_and_two_loops_share_one_call(
    blocking: BlockingRuntime, aio: AsyncioRuntime
) -> None:
    under_way = Watched()

    async def operation() -> int:
        under_way.wait_for(3)
        return 7

    async def never() -> int:
        raise AssertionError("a second call")

    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(lambda: run_to_end(blocking.once(under_way, "k", operation)))
        while "k" not in under_way:
            pass
        others = [
            threads.submit(lambda: asyncio.run(aio.once(under_way, "k", never))) for _ in range(2)
        ]
        assert first.result(_PATIENCE) == (7, False)
        assert [each.result(_PATIENCE) for each in others] == [(7, True)] * 2


def test_when_it_fails_each_one_makes_the_call_for_itself(blocking: BlockingRuntime) -> None:
    under_way, raised = Watched(), list[BlockNotFoundError]()
    first = threading.Event()

    async def operation() -> object:
        if not first.is_set():
            first.set()
            under_way.wait_for(4)
        raised.append(BlockNotFoundError("absent"))
        raise raised[-1]

    def ask(_: int) -> object:
        try:
            return run_to_end(blocking.once(under_way, "k", operation))
        except BlockNotFoundError as error:
            return error

    with ThreadPoolExecutor(4) as threads:
        outcomes = list(threads.map(ask, range(4)))

    assert {id(each) for each in outcomes} == {id(each) for each in raised}
    assert len(raised) == 4


def test_the_deadline_of_one_that_waits(blocking: BlockingRuntime, aio: AsyncioRuntime) -> None:
    under_way, go_on = Watched(), threading.Event()

    async def operation() -> int:
        assert go_on.wait(_PATIENCE)
        return 7

    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(lambda: run_to_end(blocking.once(under_way, "k", operation)))
        while "k" not in under_way:
            pass
        soon = monotonic() + 0.05
        with pytest.raises(DeadlineExceededError):
            _ = run_to_end(blocking.once(under_way, "k", operation, soon))
        with pytest.raises(DeadlineExceededError):
            _ = asyncio.run(aio.once(under_way, "k", operation, soon))
        go_on.set()
        assert first.result(_PATIENCE) == (7, False)


class _RangError(Exception):
    """Raised by a signal handler."""


def test_an_interrupted_first_one_leaves_it_to_the_others(blocking: BlockingRuntime) -> None:
    under_way, calls = Watched(), list[str]()

    def ring(_: int, __: FrameType | None) -> None:
        raise _RangError

    async def operation() -> int:
        calls.append(threading.current_thread().name)
        if threading.current_thread() is threading.main_thread():
            under_way.wait_for(2)
            signal.raise_signal(signal.SIGUSR1)
        return 7

    def ask() -> tuple[int, bool]:
        while "k" not in under_way:
            pass
        return run_to_end(blocking.once(under_way, "k", operation))

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with ThreadPoolExecutor(1) as threads:
            other = threads.submit(ask)
            with pytest.raises(_RangError):
                _ = run_to_end(blocking.once(under_way, "k", operation))
            assert other.result(_PATIENCE) == (7, False)
    finally:
        _ = signal.signal(signal.SIGUSR1, before)
    assert len(calls) == 2
    assert under_way == {}


@pytest.mark.parametrize("first", ["this thread", "another thread"])
def test_a_signal_handler_waits_for_nobody(blocking: BlockingRuntime, first: str) -> None:
    """In the middle of a call of its thread: what it would wait for may wait for that."""
    under_way, seen, go_on = Watched(), list[tuple[int, bool]](), threading.Event()

    async def quick() -> int:
        return 1

    async def slow() -> int:
        assert go_on.wait(_PATIENCE)
        return 2

    async def interrupted() -> int:
        signal.raise_signal(signal.SIGUSR1)
        return 3

    def ring(_: int, __: FrameType | None) -> None:
        seen.append(run_to_end(blocking.once(under_way, "k", quick)))

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        with ThreadPoolExecutor(1) as threads:
            if first == "another thread":
                _ = threads.submit(lambda: run_to_end(blocking.once(under_way, "k", slow)))
                while "k" not in under_way:
                    pass
            key = "k" if first == "this thread" else "mine"
            assert run_to_end(blocking.once(under_way, key, interrupted)) == (3, False)
            go_on.set()
    finally:
        _ = signal.signal(signal.SIGUSR1, before)
    assert seen == [(1, False)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # in `__del__`
def test_nobody_waits_for_a_first_one_whose_end_was_cut_off(
    blocking: BlockingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler raises just as the first one is to tell the others."""
    under_way, end = Watched(), SharedCall.end
    cut_short: list[SharedCall] = []

    def interrupted(call: SharedCall) -> None:
        if not cut_short and threading.current_thread() is not threading.main_thread():
            cut_short.append(call)
            raise _RangError
        end(call)

    async def operation() -> int:
        under_way.wait_for(2)
        return 7

    async def again() -> int:
        return 8

    def ask() -> None:
        with suppress(_RangError):
            _ = run_to_end(blocking.once(under_way, "k", operation))

    monkeypatch.setattr(SharedCall, "end", interrupted)
    with ThreadPoolExecutor(1) as threads:
        cut_off = threads.submit(ask)
        while "k" not in under_way:
            pass
        assert run_to_end(blocking.once(under_way, "k", again)) in {(7, True), (8, False)}
        cut_off.result(_PATIENCE)
    assert under_way == {}
