"""Client-side rate control: throttling, the AIMD concurrency limit, retry tokens."""

from __future__ import annotations

import asyncio
import heapq
import math
import os
import random
import threading
import time
import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from functools import partial

import pytest

from blockyard import S3Config, StoreConfig, open_store
from blockyard.context import Context, Request, Response
from blockyard.errors import (
    BlockNotFoundError,
    BlockStoreError,
    DeadlineExceededError,
    ServerError,
    ThrottledError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.s3.retry import RateLimiter
from blockyard.stores.base import ReadRequest
from blockyard.transport.blocking import run_to_end
from blockyard_faults import FaultProxy, Script, Status
from servers.endpoint import Endpoint
from tests.s3.pretend import Pretended, PretendRuntime, PretendS3, s3_error

THROTTLED = ThrottledError("slow down", status=503)
RESET = TransportConnectionError("reset")
TIMEOUT = TransportTimeoutError("timeout")


def context(concurrency: int = 32) -> Context:
    return Context(PretendRuntime(PretendS3()), concurrency=concurrency)


# The limit on requests under way.


@pytest.mark.parametrize(
    ("limit", "after"),
    [(None, 16.0), (32.0, 16.0), (5.0, 2.5), (1.5, 1.0), (1.0, 1.0)],
)
def test_a_bout_of_throttling_halves_the_limit(limit: float | None, after: float) -> None:
    limiter = RateLimiter()
    limiter.limit = limit
    limiter.throttled(context())
    assert limiter.limit == after


def test_the_first_bout_halves_the_concurrency_of_the_call() -> None:
    limiter = RateLimiter()
    limiter.throttled(context(concurrency=7))
    assert limiter.limit == 3.5


def test_throttled_replies_that_come_together_are_one_bout() -> None:
    limiter, ctx = RateLimiter(), context()
    for _ in range(20):
        limiter.throttled(ctx)
    assert limiter.limit == 16.0
    run_to_end(ctx.runtime.sleep(0.49))
    limiter.throttled(ctx)
    assert limiter.limit == 16.0
    run_to_end(ctx.runtime.sleep(0.02))
    limiter.throttled(ctx)
    assert limiter.limit == 8.0


@pytest.mark.parametrize(
    ("limit", "after"),
    [(1.0, 2.0), (2.0, 2.5), (10.0, 10.1), (100.0, 100.01), (255.9999, None), (None, None)],
)
def test_a_success_raises_the_limit_by_its_share(limit: float | None, after: float | None) -> None:
    limiter = RateLimiter()
    limiter.limit = limit
    limiter.succeeded(0)
    assert limiter.limit == after


def test_a_limit_is_lifted_in_the_end() -> None:
    limiter = RateLimiter()
    limiter.limit = 1.0
    for successes in range(40_000):
        limiter.succeeded(0)
        if limiter.limit is None:
            assert 30_000 < successes < 35_000  # the square of 256, halved
            return
    pytest.fail(f"still limited to {limiter.limit}")


def test_nothing_is_counted_while_the_service_keeps_up() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    limiter = limiter_of(s3)
    limiter.acquire = limiter.release = pytest.fail  # pyright: ignore[reportAttributeAccessIssue]
    assert s3.read("k") == b"data"
    assert s3.runtime.pauses == []


def limiter_of(s3: Pretended) -> RateLimiter:
    return s3.store._caller._limiter


class CountingRuntime(PretendRuntime):
    """Under asyncio: each exchange lasts a turn of the loop, and the clock goes with the pauses."""

    def __init__(self, service: PretendS3) -> None:
        super().__init__(service)
        self.under_way = 0
        self.most: Counter[float | None] = Counter()
        self.limit: Callable[[], float | None] = lambda: None

    async def exchange(self, request: Request, **options: object) -> Response:
        self.under_way += 1
        limit = self.limit()
        self.most[limit] = max(self.most[limit], self.under_way)
        try:
            await asyncio.sleep(0)
            return await super().exchange(request, **options)  # pyright: ignore[reportArgumentType]
        finally:
            self.under_way -= 1

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        await asyncio.sleep(0)

    def jitter(self) -> float:
        return random.random()  # noqa: S311 - no secret


def test_all_calls_of_a_store_share_the_limit() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    runtime = CountingRuntime(s3.service)
    ctx = Context(runtime)
    limiter = limiter_of(s3)
    limiter.limit = 4.0
    runtime.limit = lambda: math.ceil(limiter.limit or 0)

    async def main() -> None:
        readers = [s3.store.read(ctx, ReadRequest("k")) for _ in range(60)]
        rangers = [s3.store.read(ctx, ReadRequest("k", 1, 2)) for _ in range(60)]
        lookers = [s3.store.stat_block(ctx, "k") for _ in range(60)]
        _ = await asyncio.gather(*readers, *rangers, *lookers)

    asyncio.run(main())
    assert runtime.most
    assert all(limit is not None and most <= limit for limit, most in runtime.most.items())
    assert max(runtime.most.values()) > 4  # it grew with the successes


def test_a_throttled_burst_gets_done_with_fewer_at_a_time() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    runtime = CountingRuntime(s3.service)
    limiter = limiter_of(s3)
    runtime.limit = lambda: limiter.limit

    def overloaded(_: Request, sent: Response) -> Response:
        return s3_error(503, "SlowDown") if runtime.under_way > 6 else sent

    s3.service.always = overloaded

    async def main() -> None:
        ctx = Context(runtime)
        reads = [s3.store.read(ctx, ReadRequest("k")) for _ in range(400)]
        assert [block.data for block in await asyncio.gather(*reads)] == [b"data"] * 400

    asyncio.run(main())
    assert limiter.limit is not None
    assert limiter.limit < 20


@pytest.mark.parametrize("ends", ["cancelled", "refused", "broken"])
def test_a_place_is_given_back_however_the_call_ends(ends: str) -> None:
    s3 = Pretended(max_attempts=1)
    s3.write("k", b"data")
    limiter = limiter_of(s3)
    limiter.limit = 1.0

    class Hanging(PretendRuntime):
        async def exchange(self, request: Request, **options: object) -> Response:
            if ends == "cancelled":
                _ = await asyncio.Event().wait()
            if ends == "broken":
                raise RESET
            return s3_error(404, "NoSuchKey")

    async def main() -> None:
        call = asyncio.ensure_future(s3.store.read(Context(Hanging(s3.service)), ReadRequest("k")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ends != "cancelled" or len(limiter._permits.here()) == 1
        _ = call.cancel()
        with pytest.raises((asyncio.CancelledError, BlockStoreError)):
            _ = await call

    asyncio.run(main())
    assert limiter._permits.here() == set()
    assert s3.read("k") == b"data"


@types.coroutine
def _given(seconds: float) -> Generator[float]:
    yield seconds


class Ticks(PretendRuntime):
    """Tasks that sleep, on a clock of their own: the one that is to wake next goes on."""

    def __init__(self) -> None:
        super().__init__(PretendS3())
        self.ticks = 0.0
        self.done = 0
        self._chance = random.Random(1)  # noqa: S311 - the same waits each time

    def now(self) -> float:
        return self.ticks

    def jitter(self) -> float:
        return self._chance.random()

    async def sleep(self, seconds: float) -> None:
        await _given(seconds)

    def run(self, tasks: Sequence[Coroutine[float, None, None]]) -> None:
        due = [(0.0, number) for number in range(len(tasks))]
        while due:
            self.ticks, number = heapq.heappop(due)
            with suppress(StopIteration):  # the task is done
                heapq.heappush(due, (self.ticks + tasks[number].send(None), number))


def test_who_asks_again_at_once_waits_beside_those_who_wait() -> None:
    """Else one that gives back its permit and takes the next would always be before them."""
    limiter = RateLimiter()
    limiter.limit = 1.0

    class Runtime(PretendRuntime):
        async def sleep(self, seconds: float) -> None:
            self.pauses.append(seconds)
            await asyncio.sleep(0)

    ctx = Context(Runtime(PretendS3()))

    async def main() -> None:
        others = 0

        async def greedy() -> None:
            for _ in range(200):
                permit = await limiter.acquire(ctx)
                await asyncio.sleep(0)
                limiter.release(permit)
            assert others == 10

        async def other() -> None:
            nonlocal others
            for _ in range(10):
                permit = await limiter.acquire(ctx)
                await asyncio.sleep(0)
                limiter.release(permit)
                others += 1

        _ = await asyncio.gather(greedy(), other())

    asyncio.run(main())
    assert not limiter._for_permits.here()


def test_no_permit_lies_idle_while_those_who_may_have_it_sleep() -> None:
    """Waits are far longer than requests: who always waited, once one did, would do little else."""
    limiter = RateLimiter()
    clock = Ticks()
    ctx = Context(clock)

    async def work() -> None:
        while clock.ticks < 10.0:
            limiter.limit = 24.0
            permit = await limiter.acquire(ctx)
            await clock.sleep(0.005)
            limiter.release(permit)
            clock.done += 1

    clock.run([work() for _ in range(32)])
    assert clock.done > 0.7 * 24 * 10 / 0.005
    assert not limiter._for_permits.here() | limiter._in_vain.here()


@pytest.mark.parametrize("waits_for", ["permits", "tokens"])
def test_however_many_wait_they_look_no_more_often_together(waits_for: str) -> None:
    """Each of 10,000 that looked every 20 ms would leave an event loop no time for anything else.

    Who has a deadline looks again before that.
    """

    class Runtime(PretendRuntime):
        async def sleep(self, seconds: float) -> None:
            self.pauses.append(seconds)
            await forever.wait()

        def jitter(self) -> float:
            return 0.5

    async def looks_a_second(waiting: int, deadline: float | None = None) -> float:
        limiter, runtime = RateLimiter(), Runtime(PretendS3())
        limiter.limit, limiter.tokens = 1.0, -1e9
        ctx = Context(runtime, deadline)
        wait = limiter.acquire if waits_for == "permits" else partial(take, limiter)
        held = await limiter.acquire(ctx)
        tasks = [asyncio.create_task(wait(ctx)) for _ in range(waiting)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in tasks:
            _ = task.cancel()
        _ = await asyncio.wait(tasks)
        del held
        assert len(runtime.pauses) == waiting
        return 1 / runtime.pauses[-1] * waiting

    async def take(limiter: RateLimiter, ctx: Context) -> int:
        return await limiter.take_tokens(ctx, RESET)

    async def main() -> None:
        few, many = await looks_a_second(50), await looks_a_second(1000)
        assert many <= max(few, 1000.0) * 1.01
        assert await looks_a_second(1000, deadline=0.5) >= 1000 / 0.5

    forever = asyncio.Event()
    asyncio.run(main())


def test_the_deadline_ends_the_wait_for_a_place() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    limiter = limiter_of(s3)
    limiter.limit = 1.0
    permit = run_to_end(limiter.acquire(s3.ctx))
    s3.ctx.deadline = s3.runtime.clock + 5.0
    requests = len(s3.requests)
    with pytest.raises(DeadlineExceededError, match="read_block 'k'"):
        _ = s3.read("k")
    assert 4.9 < s3.runtime.clock < 5.0
    assert len(s3.requests) == requests
    del permit  # as when an exception ends a call before it gives that back
    s3.ctx.deadline = None
    assert s3.read("k") == b"data"


def test_a_forked_child_does_not_wait_for_what_is_under_way_in_its_parent() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    limiter = limiter_of(s3)
    limiter.limit = 1.0
    permit = run_to_end(limiter.acquire(s3.ctx))
    s3.ctx.deadline = s3.runtime.clock + 5.0
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if s3.read("k") == b"data" else 1)
        except BaseException:  # noqa: BLE001 - the exit code tells
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    del permit


# Tokens.


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (THROTTLED, 1),
        (RESET, 5),
        (ServerError("failed", status=500), 5),
        (TIMEOUT, 10),
        (TransportTimeoutError("connecting", established=False), 1),
        (TransportConnectionError("refused", established=False), 1),
    ],
)
def test_what_a_retry_costs(error: BlockStoreError, cost: int) -> None:
    limiter, ctx = RateLimiter(), context()
    assert run_to_end(limiter.take_tokens(ctx, error)) == cost
    assert limiter.tokens == 500 - cost
    limiter.tokens = cost
    assert run_to_end(limiter.take_tokens(ctx, error)) == cost
    assert limiter.tokens == 0
    assert ctx.runtime.now() == context().runtime.now()  # nothing was waited for


@pytest.mark.parametrize(("tokens", "paid", "after"), [(0, 0, 1), (10, 5, 15), (499, 10, 500)])
def test_what_a_success_brings_back(tokens: int, paid: int, after: int) -> None:
    limiter = RateLimiter()
    limiter.tokens = tokens
    limiter.succeeded(paid)
    assert limiter.tokens == after


def test_a_dead_service_gets_ten_retries_a_second() -> None:
    limiter, ctx = RateLimiter(), context()
    begun = ctx.runtime.now()
    for _ in range(100):
        assert run_to_end(limiter.take_tokens(ctx, RESET)) == 5
    assert ctx.runtime.now() == begun
    for _ in range(50):
        assert run_to_end(limiter.take_tokens(ctx, RESET)) == 5
    assert ctx.runtime.now() - begun == pytest.approx(5.0, abs=0.2)


def test_a_success_ends_the_wait_for_tokens() -> None:
    limiter, ctx = RateLimiter(), context()
    _ = run_to_end(limiter.take_tokens(ctx, RESET))
    limiter.tokens = 0
    limiter.succeeded(5)
    begun = ctx.runtime.now()
    assert run_to_end(limiter.take_tokens(ctx, RESET)) == 5
    assert ctx.runtime.now() == begun


class CrowdedRuntime(PretendRuntime):
    """Whatever time gives back, others take."""

    limiter: RateLimiter

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds)
        self.limiter.tokens = -100


def test_a_call_that_gets_no_tokens_gives_up_in_the_end() -> None:
    s3 = Pretended()
    runtime = CrowdedRuntime(s3.service)
    runtime.limiter = limiter = RateLimiter()
    ctx = Context(runtime)
    _ = run_to_end(limiter.take_tokens(ctx, RESET))
    limiter.tokens = 0
    begun = runtime.now()
    assert run_to_end(limiter.take_tokens(ctx, RESET)) == 0
    assert runtime.now() - begun == pytest.approx(60.0, abs=0.2)


def test_a_call_that_gets_no_tokens_fails_with_its_error() -> None:
    s3 = Pretended()
    s3.service.always = lambda *_: s3_error(500, "InternalError")
    limiter_of(s3).take_tokens = _nothing  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ServerError):
        _ = s3.read("k")
    assert len(s3.requests) == 1


async def _nothing(*_: object) -> int:
    return 0


def test_the_deadline_ends_the_wait_for_tokens() -> None:
    limiter, ctx = RateLimiter(), context()
    _ = run_to_end(limiter.take_tokens(ctx, RESET))
    limiter.tokens = 0
    ctx.deadline = ctx.runtime.now() + 0.05
    with pytest.raises(DeadlineExceededError):
        _ = run_to_end(limiter.take_tokens(ctx, RESET))


def test_time_never_overfills_the_bucket() -> None:
    limiter, ctx = RateLimiter(), context()
    run_to_end(ctx.runtime.sleep(1_000_000))
    assert run_to_end(limiter.take_tokens(ctx, RESET)) == 5
    assert limiter.tokens == 495


def test_a_service_that_comes_back_gets_its_retries_back() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    limiter_of(s3).tokens = 0
    s3.service.twists = [lambda *_: s3_error(500, "InternalError")]
    assert s3.read("k") == b"data"  # tried again
    for _ in range(600):
        assert s3.read("k") == b"data"
    assert limiter_of(s3).tokens == 500


def test_the_tokens_last_in_fault_schedule() -> None:
    """The rates of the campaign that the whole store is tested under: a third of all requests."""
    s3 = Pretended()
    s3.write("k", b"data")
    chance = random.Random(7)  # noqa: S311 - to be repeatable

    def twist(_: Request, sent: Response) -> Response | TransportConnectionError:
        drawn = chance.random()
        if drawn < 0.18:
            return TransportConnectionError("reset")
        return s3_error(503, "SlowDown") if drawn < 0.33 else sent

    s3.service.always = twist
    for _ in range(5000):
        assert s3.read("k") == b"data"
    assert limiter_of(s3).tokens > 400


# Throttling has a budget of its own.


def test_throttling_does_not_use_up_the_tries_for_errors() -> None:
    s3 = Pretended(max_attempts=3)
    s3.write("k", b"data")
    slow, broken = s3_error(503, "SlowDown"), s3_error(500, "InternalError")
    s3.service.twists = [lambda *_, sent=sent: sent for sent in (slow, broken, slow, broken)]
    assert s3.read("k") == b"data"
    s3.service.twists = [lambda *_, sent=sent: sent for sent in (slow, slow, slow)]
    with pytest.raises(ThrottledError) as raised:
        _ = s3.read("k")
    assert raised.value.attempts == 3
    s3.service.twists = [
        lambda *_, sent=sent: sent for sent in (broken, slow, slow, broken, broken)
    ]
    with pytest.raises(ServerError) as failed:
        _ = s3.read("k")
    assert failed.value.attempts == 5
    assert len(failed.value.__notes__) == 4


@pytest.mark.parametrize(
    ("told", "waited"), [("7", 7.0), ("0", 0.05), ("3600", 30.0), ("soon", 0.05), ("", 0.05)]
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured_up_to_the_cap(status: int, told: str, waited: float) -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    s3.service.twists = [lambda *_: s3_error(status, "", retry_after=told)]
    assert s3.read("k") == b"data"
    assert s3.runtime.pauses[0] == waited


def test_a_date_to_retry_after_is_honoured() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(s3.runtime.wall_time() + 9))
    s3.service.twists = [lambda *_: s3_error(503, "SlowDown", retry_after=date)]
    assert s3.read("k") == b"data"
    assert 8 <= s3.runtime.pauses[0] <= 9


def test_the_deadline_wins_over_retry_after() -> None:
    s3 = Pretended()
    s3.write("k", b"data")
    s3.service.always = lambda *_: s3_error(503, "SlowDown", retry_after="20")
    s3.ctx.deadline = 10.0
    with pytest.raises(DeadlineExceededError, match="read_block 'k'") as raised:
        _ = s3.read("k")
    assert s3.runtime.clock == 0  # it is not waited for what can't be
    assert "slow down" in raised.value.__notes__[0]


def test_the_deadline_wins_over_the_budgets() -> None:
    s3 = Pretended()
    s3.service.always = lambda *_: s3_error(503, "SlowDown")
    s3.ctx.deadline = 2.0
    with pytest.raises(DeadlineExceededError):
        _ = s3.read("k")
    assert 1.0 < s3.runtime.clock < 2.0


@pytest.mark.parametrize("status", [400, 403, 404])
def test_other_error_responses_leave_the_limit_alone(status: int) -> None:
    s3 = Pretended()
    s3.service.always = lambda *_: s3_error(status, "")
    for _ in range(5):
        with pytest.raises((BlockNotFoundError, BlockStoreError)):
            _ = s3.read("k")
    assert limiter_of(s3).limit is None
    assert limiter_of(s3).tokens == 500


# Over sockets, and from many threads.


def test_both_clients_slow_down_together(
    moto_endpoint: Endpoint, bucket: str, key_prefix: str
) -> None:
    plan = Script([Status(503, headers=(("Retry-After", "0"),))] * 3)
    with FaultProxy(moto_endpoint.url, plan) as proxy:
        settings = moto_endpoint.s3_settings(bucket, key_prefix) | {"endpoint": proxy.url}
        with open_store(StoreConfig(s3=S3Config(**settings))) as store:
            _ = store.write_block("k", b"data")
            limiter = store._operations.store._caller._limiter
            limited = limiter.limit
            assert limited is not None
            threads = [threading.Thread(target=store.read_block, args=("k",)) for _ in range(12)]
            for thread in threads:
                thread.start()
            assert store.read_blocks(["k"] * 30) == [b"data"] * 30
            for thread in threads:
                thread.join()
            assert limiter.limit > limited
            assert limiter._permits.here() == set()
    assert proxy.counts["status_503"] == 3
