"""Waiting on an event loop: ready sockets, one timer for many waits, nothing left watched."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.errors import StoreClosedError
from blockyard.transport import loop_poller
from blockyard.transport.clock import monotonic
from blockyard.transport.connections import Connections
from blockyard.transport.loop_poller import LoopPoller
from blockyard.transport.threads import Threads


class Polled:
    """One end of a pair of sockets; `other` is what makes it readable."""

    def __init__(self) -> None:
        self.sock, self.other = socket.socketpair()
        self.sock.setblocking(False)
        self.fileno = self.sock.fileno
        self.arrivals = select.poll()

    def close(self) -> None:
        self.sock.close()
        self.other.close()


@asynccontextmanager
async def polling(count: int) -> AsyncGenerator[tuple[LoopPoller, list[Polled]], None]:
    """A poller, and so many sockets on which nothing comes."""
    connections = Connections(HttpConfig(), TimeoutConfig())
    poller = LoopPoller(asyncio.get_running_loop(), connections, Threads(0))
    socks = [Polled() for _ in range(count)]
    try:
        yield poller, socks
        assert not poller._waiting
    finally:
        poller.close()
        for each in socks:
            each.close()


@pytest.fixture(params=["epoll", "the loop's own"])
def run(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Coroutine[Any, Any, None]], None]:
    """Runs a coroutine where there is an epoll, and where there is none."""

    async def without_epoll(main: Coroutine[Any, Any, None]) -> None:
        monkeypatch.delattr(select, "epoll")  # the loop has its own by now
        try:
            async with asyncio.timeout(20):
                await main
        finally:
            monkeypatch.undo()

    def run_main(main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(main if request.param == "epoll" else without_epoll(main))

    return run_main


Run = Callable[[Coroutine[Any, Any, None]], None]


def test_what_comes_ends_the_wait_and_no_other(run: Run) -> None:
    async def main() -> None:
        async with polling(3) as (poller, socks):
            waits = [asyncio.create_task(poller.ready(s, select.POLLIN, 10)) for s in socks]
            await asyncio.sleep(0)
            _ = socks[1].other.send(b"x")
            assert await waits[1] & select.POLLIN
            assert not waits[0].done()
            assert not waits[2].done()
            for each in (socks[0], socks[2]):
                _ = each.other.send(b"x")
            _ = await asyncio.gather(*waits)

    run(main())


def test_a_socket_is_told_ready_once_for_each_wait(run: Run) -> None:
    async def main() -> None:
        async with polling(1) as (poller, (sock,)):
            _ = sock.other.send(b"x")
            for _ in range(3):
                assert await poller.ready(sock, select.POLLIN, 10) & select.POLLIN
            assert await poller.ready(sock, select.POLLIN | select.POLLOUT, 10)
            _ = sock.sock.recv(1)
            assert await poller.ready(sock, select.POLLIN | select.POLLOUT, 10) == select.POLLOUT

    run(main())


def test_the_first_of_several_that_is_ready(run: Run) -> None:
    async def main() -> None:
        async with polling(3) as (poller, socks):
            _ = socks[2].other.send(b"x")
            assert await poller.any_ready(socks, select.POLLIN, 10) == (socks[2].fileno(),)
            assert await poller.any_ready(socks[:2], select.POLLIN, 0.01) == ()

    run(main())


def test_a_wait_that_is_cancelled_is_watched_no_more(run: Run) -> None:
    async def main() -> None:
        async with polling(1) as (poller, (sock,)):
            wait = asyncio.create_task(poller.ready(sock, select.POLLIN, 10))
            await asyncio.sleep(0)
            _ = wait.cancel()
            with pytest.raises(asyncio.CancelledError):
                await wait
            _ = sock.other.send(b"x")
            assert await poller.ready(sock, select.POLLIN, 10)

    run(main())


def test_a_descriptor_that_was_closed_may_come_again(run: Run) -> None:
    async def main() -> None:
        async with polling(1) as (poller, (sock,)):
            _ = sock.other.send(b"x")
            assert await poller.ready(sock, select.POLLIN, 10)
            sock.close()
            again = Polled()
            assert again.fileno() >= 0
            _ = again.other.send(b"x")
            assert await poller.ready(again, select.POLLIN, 10)
            again.close()

    run(main())


def test_each_ends_in_its_time_whatever_the_order(run: Run) -> None:
    async def main() -> None:
        seconds = (0.06, 0.01, 0.11, 0.01, 0.03)

        async def wait(poller: LoopPoller, sock: Polled, seconds: float) -> None:
            ends = time.monotonic() + seconds
            assert await poller.ready(sock, select.POLLIN, seconds) == 0
            assert time.monotonic() >= ends

        async with polling(len(seconds)) as (poller, socks):
            _ = await asyncio.gather(*map(wait, [poller] * len(seconds), socks, seconds))

    run(main())


def test_one_that_comes_after_all_others_are_over_ends_in_its_time(run: Run) -> None:
    async def main() -> None:
        async with polling(1) as (poller, (sock,)):
            for _ in range(3):
                assert await poller.ready(sock, select.POLLIN, 0.01) == 0
                await asyncio.sleep(0.02)

    run(main())


def test_a_thousand_waits_need_one_timer(run: Run) -> None:
    async def main() -> None:
        async with polling(200) as (poller, socks):
            waits = [
                asyncio.create_task(poller.ready(each, select.POLLIN, 0.05 + number / 100_000))
                for number, each in enumerate(socks)
            ]
            before = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
            await asyncio.sleep(0)
            after = len(asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]
            assert after == before + 1
            assert not any(await asyncio.gather(*waits))

    run(main())


def test_a_wait_that_begins_after_the_system_was_suspended(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Our clock went on meanwhile; that of the loop, and with it the timer, stood still."""

    async def main() -> None:
        async with polling(2) as (poller, socks):
            before = asyncio.create_task(poller.ready(socks[0], select.POLLIN, 60))
            await asyncio.sleep(0)
            with monkeypatch.context() as patch:
                patch.setattr(loop_poller, "monotonic", lambda: monotonic() + 3600)
                async with asyncio.timeout(10):
                    assert await poller.ready(socks[1], select.POLLIN, 0.05) == 0
            _ = socks[0].other.send(b"x")
            _ = await before

    run(main())


def test_closed_it_fails_what_waits_and_lets_nothing_begin(run: Run) -> None:
    async def main() -> None:
        async with polling(1) as (poller, (sock,)):
            wait = asyncio.create_task(poller.ready(sock, select.POLLIN, 60))
            slot = asyncio.create_task(poller.waker().wait(60))
            await asyncio.sleep(0)
            poller.close()
            with pytest.raises(StoreClosedError, match="while the call was under way"):
                _ = await wait
            await slot
            with pytest.raises(StoreClosedError):
                poller.check_open()
            with pytest.raises(StoreClosedError):
                _ = await poller.ready(sock, select.POLLIN, 60)

    run(main())


def test_a_waker_is_woken_from_another_thread(run: Run) -> None:
    async def main() -> None:
        async with polling(0) as (poller, _):
            waker = poller.waker()
            thread = threading.Thread(target=waker.wake)
            thread.start()
            async with asyncio.timeout(10):
                await waker.wait(None)
            thread.join()
            assert not poller._wakers

    run(main())
