"""Retry tokens: an outage empties the bucket, calls wait for it to fill, and none waits forever."""

from __future__ import annotations

from typing import Any, cast

import pytest

from blockyard.context import Context, Runtime
from blockyard.errors import (
    BlockStoreError,
    DeadlineExceededError,
    ThrottledError,
    TransportConnectionError,
    TransportTimeoutError,
)
from blockyard.s3.pacing import Pace
from blockyard.transport.blocking import run_to_end

RESET = TransportConnectionError("reset")


class Clock:
    """A runtime that only keeps time, which passes when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def jitter(self) -> float:
        return 0.5

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


def context(clock: Clock, deadline: float | None = None) -> Context:
    return Context(cast("Runtime", cast("Any", clock)), deadline)


def pay(pace: Pace, clock: Clock, error: BlockStoreError = RESET) -> int:
    return run_to_end(pace.pay(context(clock), error))


def emptied(clock: Clock) -> Pace:
    pace = Pace()
    for _ in range(100):
        assert pay(pace, clock) == 5
    return pace


@pytest.mark.parametrize(
    ("error", "cost"),
    [
        (RESET, 5),
        (TransportTimeoutError("nothing came"), 10),
        (ThrottledError("slow down", status=503), 1),
    ],
)
def test_what_a_retry_costs(error: BlockStoreError, cost: int) -> None:
    pace, clock = Pace(), Clock()
    assert pay(pace, clock, error) == cost
    assert pace.tokens == 500 - cost


def test_a_hundred_retries_are_there_at_once() -> None:
    clock = Clock()
    _ = emptied(clock)
    assert clock.time == 1000.0


def test_when_tokens_have_run_out_there_are_ten_retries_a_second() -> None:
    clock = Clock()
    pace = emptied(clock)
    for _ in range(50):
        assert pay(pace, clock) == 5
    assert clock.time - 1000.0 == pytest.approx(5.0, abs=0.2)


def test_a_success_ends_the_wait() -> None:
    clock = Clock()
    pace = emptied(clock)
    pace.succeeded(5)
    before = clock.time
    assert pay(pace, clock) == 5
    assert clock.time == before


def test_a_call_gives_up_when_others_take_all_the_tokens() -> None:
    class Crowded(Clock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            pace.tokens = -100.0  # as if others had

    clock = Crowded()
    pace = emptied(clock)
    assert pay(pace, clock) == 0
    assert clock.time - 1000.0 == pytest.approx(10.0, abs=0.2)


def test_a_deadline_ends_the_wait() -> None:
    clock = Clock()
    pace = emptied(clock)
    with pytest.raises(DeadlineExceededError):
        run_to_end(pace.pay(context(clock, deadline=1000.05), RESET))


def test_tokens_never_exceed_what_the_bucket_holds() -> None:
    pace, clock = Pace(), Clock()
    clock.time += 1_000_000
    _ = pay(pace, clock)
    pace.succeeded(400)
    assert pace.tokens == 500
