"""Who waits for a connection gets one in turn, however often others ask for the next."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator

import pytest

from blockyard import AsyncBlockStore, open_async_store, open_store
from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Origin
from blockyard.transport.connecting import Dialing
from blockyard.transport.connections import ConnectionPool
from tests.small_s3 import SmallS3, small_s3

ENOUGH = 5000
"""Requests by those who never stop, within which the others have theirs."""
ORIGIN = Origin("http", "host", 80)


@pytest.fixture(scope="module")
def service() -> Generator[SmallS3]:
    with small_s3() as service:
        yield service


@pytest.mark.parametrize(("greedy", "connections"), [(1, 1), (4, 2)])
def test_threads_that_never_stop_let_others_go(
    service: SmallS3, greedy: int, connections: int
) -> None:
    with open_store(service.store_url(), max_connections=connections) as store:
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


@pytest.mark.parametrize(("greedy", "connections"), [(1, 1), (4, 2)])
def test_tasks_that_never_stop_let_others_go(
    service: SmallS3, greedy: int, connections: int
) -> None:
    async def read_on(store: AsyncBlockStore, begun: asyncio.Event, done: list[None]) -> bool:
        for _ in range(ENOUGH):
            _ = await store.read_block("k")
            begun.set()
            if done:
                return True
        return False

    async def main() -> None:
        async with open_async_store(service.store_url(), max_connections=connections) as store:
            _ = await store.write_block("k", b"data")
            done: list[None] = []
            all_begun = [asyncio.Event() for _ in range(min(greedy, connections))]
            tasks = [
                asyncio.create_task(read_on(store, all_begun[n % connections], done))
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
