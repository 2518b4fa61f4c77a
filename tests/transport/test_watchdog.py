"""One timer for many exchanges: each ends in its time, none before."""

from __future__ import annotations

import asyncio
import math
import time

from blockyard.transport.watchdog import Watchdog


class Exchange:
    """One that may wait until `ends`; `ended` is when it was ended."""

    def __init__(self, seconds: float) -> None:
        self.ends = time.monotonic() + seconds
        self.ended: float | None = None

    def expire(self, now: float) -> float:
        if now < self.ends:
            return self.ends
        self.ended = now
        return math.inf

    def fail(self, error: BaseException) -> None:
        raise error


class Raising(Exchange):
    """One that has no memory left when its time has come."""

    failed: BaseException | None = None

    def expire(self, now: float) -> float:
        if now < self.ends:
            return self.ends
        raise MemoryError

    def fail(self, error: BaseException) -> None:
        self.failed = error


async def end_of(*exchanges: Exchange) -> None:
    async with asyncio.timeout(10):
        while any(exchange.ended is None for exchange in exchanges):  # noqa: ASYNC110 - is watched
            await asyncio.sleep(0.002)


def test_each_ends_in_its_time_whatever_the_order() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        exchanges = [Exchange(seconds) for seconds in (0.06, 0.01, 0.11, 0.01, 0.03)]
        for exchange in exchanges:
            watchdog.watch(exchange, exchange.ends)
        await end_of(*exchanges)
        for exchange in exchanges:
            assert exchange.ended is not None
            assert exchange.ended >= exchange.ends

    asyncio.run(main())


def test_one_that_moved_is_given_more_time() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        exchange = Exchange(0.02)
        watchdog.watch(exchange, exchange.ends)
        exchange.ends += 0.05
        await end_of(exchange)
        assert exchange.ended is not None
        assert exchange.ended >= exchange.ends

    asyncio.run(main())


def test_one_that_is_over_is_left_alone() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        over, other = Exchange(0.01), Exchange(0.03)
        for exchange in (over, other):
            watchdog.watch(exchange, exchange.ends)
        watchdog.unwatch(over)
        watchdog.unwatch(over)
        await end_of(other)
        assert over.ended is None

    asyncio.run(main())


def test_one_that_comes_after_all_others_are_over_is_watched() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        for _ in range(3):
            exchange = Exchange(0.01)
            watchdog.watch(exchange, exchange.ends)
            await end_of(exchange)
            watchdog.unwatch(exchange)
            await asyncio.sleep(0.02)

    asyncio.run(main())


def test_a_time_that_is_past_ends_it_at_once() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        exchange = Exchange(-1)
        watchdog.watch(exchange, exchange.ends)
        await end_of(exchange)

    asyncio.run(main())


def test_stopped_it_leaves_no_timer_and_can_be_used_again() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        stopped = Exchange(0.01)
        watchdog.watch(stopped, stopped.ends)
        watchdog.stop()
        watchdog.stop()
        await asyncio.sleep(0.03)
        assert stopped.ended is None
        later = Exchange(0.02)
        watchdog.watch(later, later.ends)
        await end_of(later)

    asyncio.run(main())


def test_a_thousand_need_one_timer() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        watchdog = Watchdog(loop)
        exchanges = [Exchange(0.02 + number / 100_000) for number in range(1000)]
        for exchange in exchanges:
            watchdog.watch(exchange, exchange.ends)
        assert len(loop._scheduled) == 1  # type: ignore[attr-defined]
        await end_of(*exchanges)

    asyncio.run(main())


def test_one_that_raises_is_ended_and_the_others_are_looked_after() -> None:
    async def main() -> None:
        watchdog = Watchdog(asyncio.get_running_loop())
        raising, others = Raising(0.01), [Exchange(0.01), Exchange(0.05)]
        for exchange in (raising, *others):
            watchdog.watch(exchange, exchange.ends)
        await end_of(*others)
        assert isinstance(raising.failed, MemoryError)

    asyncio.run(main())
