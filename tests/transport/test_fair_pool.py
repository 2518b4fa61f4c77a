"""Who waits for a connection gets one in turn, however often others ask for the next."""

from __future__ import annotations

import asyncio
import threading
import types
from collections.abc import Generator
from typing import Any, cast

import pytest

from blockyard import AsyncBlockStore, open_async_store, open_store
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Origin, Request
from blockyard.errors import StoreClosedError
from blockyard.transport import connections
from blockyard.transport.connecting import Dialing
from blockyard.transport.connections import ConnectionPool
from blockyard.transport.timeouts import Timeouts
from tests.small_s3 import SmallS3, small_s3

ENOUGH = 5000
"""Requests by those who never stop, within which the others have theirs."""
ORIGIN = Origin("http", "host", 80)


@pytest.fixture(scope="module")
def service() -> Generator[SmallS3]:
    with small_s3() as service:
        yield service


@pytest.mark.parametrize(("greedy", "most"), [(1, 1), (4, 2)])
def test_threads_that_never_stop_let_others_go(service: SmallS3, greedy: int, most: int) -> None:
    with open_store(service.store_url(), max_connections=most) as store:
        _ = store.write_block("k", b"data")
        done = threading.Event()
        begun = threading.Semaphore(0)
        counts: list[int] = []

        def read_on() -> None:
            for count in range(ENOUGH):
                _ = store.read_block("k")
                begun.release()
                if done.is_set():
                    counts.append(count)
                    return

        threads = [threading.Thread(target=read_on) for _ in range(greedy)]
        for thread in threads:
            thread.start()
        for _ in range(greedy):
            _ = begun.acquire()
        for _ in range(10):
            assert store.read_block("k") == b"data"
        done.set()
        for thread in threads:
            thread.join()
    assert len(counts) == greedy  # they were still at it


@pytest.mark.parametrize(("greedy", "most"), [(1, 1), (4, 2)])
def test_tasks_that_never_stop_let_others_go(service: SmallS3, greedy: int, most: int) -> None:
    async def read_on(store: AsyncBlockStore, begun: asyncio.Event, done: list[None]) -> bool:
        for _ in range(ENOUGH):
            _ = await store.read_block("k")
            begun.set()
            if done:
                return True
        return False

    async def main() -> None:
        async with open_async_store(service.store_url(), max_connections=most) as store:
            _ = await store.write_block("k", b"data")
            done: list[None] = []
            all_begun = [asyncio.Event() for _ in range(min(greedy, most))]
            tasks = [
                asyncio.create_task(read_on(store, all_begun[n % most], done))
                for n in range(greedy)
            ]
            for begun in all_begun:
                _ = await begun.wait()
            for _ in range(10):
                assert await store.read_block("k") == b"data"
            done.append(None)
            assert all(await asyncio.gather(*tasks))

    asyncio.run(main())


class CountedWaker:
    """Is compared by identity; what a queue compares it with is counted."""

    comparisons = 0
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        CountedWaker.comparisons += 1
        return self is other

    def wake(self) -> bool:
        return True

    async def wait(self, seconds: float) -> bool:
        return False


def test_many_that_wait_are_woken_without_a_look_at_the_others() -> None:
    pool = ConnectionPool(HttpConfig(), Dialing(HttpConfig(), TimeoutConfig()))
    queue = pool._queue_of(ORIGIN)
    wakers = [CountedWaker() for _ in range(3000)]
    for waker in wakers:
        queue.add(waker, waker, first=False)
    for waker in wakers[:1000]:
        pool._wake_one(ORIGIN)
        assert not queue.remove(waker)
    for waker in reversed(wakers[1000:]):
        assert queue.remove(waker)
    assert not queue.waiting
    assert CountedWaker.comparisons < 30_000


class Steps:
    """Calls that take a connection of two, each resumed when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        http = HttpConfig(max_connections=2)
        self.pool = ConnectionPool(http, Dialing(http, TimeoutConfig()))
        monkeypatch.setattr(connections, "connect", self._connect)
        self.waiting: dict[str, tuple[object, Any]] = {}
        self.taken: dict[str, tuple[object, Any]] = {}
        self.closed = False

    async def _connect(self, *_: object) -> Any:
        return Connection()

    def waker(self) -> SteppedWaker:
        return SteppedWaker()

    def check_open(self) -> None:
        if self.closed:
            raise StoreClosedError("closed")

    def may_wait(self) -> bool:
        return True

    def begin(self, name: str) -> None:
        holder = CountedWaker()
        request = Request(ORIGIN, "GET", "/", {})
        call = self.pool.take(request, holder, Timeouts(30, None), cast("Any", self))
        self.waiting[name] = holder, call
        self.go_on(name)

    def go_on(self, name: str) -> None:
        holder, call = self.waiting[name]
        try:
            call.send(None)
        except StopIteration as ended:
            del self.waiting[name]
            self.taken[name] = holder, ended.value

    def end(self, name: str) -> None:
        holder, connection = self.taken.pop(name)
        self.pool.release(ORIGIN, holder, connection, keep=True)


class Connection:
    used = False

    def usable(self) -> bool:
        return True


class SteppedWaker:
    def __init__(self) -> None:
        self.woken = False

    def wake(self) -> bool:
        self.woken = True
        return True

    async def wait(self, seconds: float) -> bool:
        while not self.woken:
            await _suspended()
        return True


@types.coroutine
def _suspended() -> Generator[None]:
    yield


def test_who_is_passed_over_goes_next_and_tells_of_what_else_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Steps(monkeypatch)
    for name in "abc":
        calls.begin(name)
    assert (set(calls.taken), set(calls.waiting)) == ({"a", "b"}, {"c"})
    calls.end("a")
    calls.begin("quick")
    calls.go_on("c")
    assert (set(calls.taken), set(calls.waiting)) == ({"b", "quick"}, {"c"})

    calls.end("b")
    calls.end("quick")
    calls.begin("late")
    assert (set(calls.taken), set(calls.waiting)) == (set(), {"c", "late"})
    calls.go_on("late")
    assert calls.taken == {}
    calls.go_on("c")
    calls.go_on("late")
    assert (set(calls.taken), set(calls.waiting)) == ({"c", "late"}, set())
    for name in ("c", "late"):
        calls.end(name)
    assert calls.pool.counts() == (0, 2)


def test_one_that_is_passed_over_and_closed_tells_who_let_it_go_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Connections may be shared by clients, of which one closes."""
    calls = Steps(monkeypatch)
    for name in "abc":
        calls.begin(name)
    calls.end("a")
    calls.begin("quick")
    calls.go_on("c")
    calls.end("b")
    calls.begin("late")
    assert (set(calls.taken), set(calls.waiting)) == ({"quick"}, {"c", "late"})

    calls.closed = True
    with pytest.raises(StoreClosedError):
        calls.go_on("c")
    calls.closed = False
    calls.go_on("late")
    assert set(calls.taken) == {"quick", "late"}


def test_one_that_is_passed_over_and_gives_up_holds_up_nobody(service: SmallS3) -> None:
    """Also where its error, whose traceback leads to it, is kept."""

    async def main() -> None:
        async with open_async_store(service.store_url(), max_connections=1) as store:
            _ = await store.write_block("k", b"data")
            kept: list[BaseException] = []

            async def read() -> None:
                try:
                    _ = await store.read_block("k")
                except asyncio.CancelledError as error:
                    kept.append(error)

            for _ in range(20):
                tasks = [asyncio.create_task(read()) for _ in range(10)]
                await asyncio.sleep(0)
                for task in tasks[1:]:
                    _ = task.cancel()
                _ = await asyncio.gather(*tasks)
            assert kept
            pool = store._runtime.connections.here()
            assert all(not queue.passed_over for queue in pool._waiting.values())
            assert await store.read_block("k") == b"data"

    asyncio.run(main())
