from __future__ import annotations

from dataclasses import replace

import pytest

from blockyard.context import Context
from blockyard.tidying import tidy_up
from blockyard.transport.blocking import run_to_end
from tests.s3.pretend import PretendRuntime, PretendS3


def tidied(ctx: Context, *, taking: float) -> str:
    """What may be left by a call that failed, when it takes so long to remove it."""

    async def undo(own: Context) -> None:
        own.check_deadline()
        await own.sleep(taking)

    return run_to_end(tidy_up(ctx, ValueError("why"), undo, "something may be left"))


@pytest.fixture
def runtime() -> PretendRuntime:
    return PretendRuntime(PretendS3())


def test_what_a_call_left_is_removed_past_its_deadline(runtime: PretendRuntime) -> None:
    runtime.clock = 10.1
    assert tidied(Context(runtime, 10.0), taking=0.5) == ""
    assert runtime.clock == pytest.approx(10.6)


def test_all_that_is_removed_takes_less_than_a_second_past_the_deadline(
    runtime: PretendRuntime,
) -> None:
    ctx = Context(runtime, 10.0)
    runtime.clock = 10.0
    left = [tidied(ctx, taking=0.3) for _ in range(4)]
    assert left[:2] == ["", ""]
    assert all("something may be left: " in each for each in left[2:])
    assert runtime.clock < 11.0


def test_a_call_that_learns_late_of_its_deadline_has_as_long_from_then_on(
    runtime: PretendRuntime,
) -> None:
    """Where something held up the event loop, say; all of its contexts together."""
    ctx = Context(runtime, 10.0)
    runtime.clock = 15.0
    left = [tidied(each, taking=0.3) for each in (ctx, replace(ctx, probing=True), ctx)]
    assert left[:2] == ["", ""]
    assert "something may be left: " in left[2]
    assert runtime.clock < 16.0


def test_the_deadline_of_one_step_says_nothing_of_that_of_the_call(
    runtime: PretendRuntime,
) -> None:
    ctx = Context(runtime, 20.0)
    runtime.clock = 15.0
    assert tidied(replace(ctx, deadline=10.0), taking=0.5) == ""
    runtime.clock = 25.0
    assert tidied(ctx, taking=0.5) == ""


def test_what_is_removed_in_the_middle_of_removing_gets_no_more_time(
    runtime: PretendRuntime,
) -> None:
    async def undo(own: Context) -> None:
        assert own.deadline == pytest.approx(10.8)
        left = await tidy_up(own, None, lambda inner: inner.sleep(1.0), "more may be left")
        assert "more may be left: " in left

    runtime.clock = 10.0
    assert run_to_end(tidy_up(Context(runtime, 10.0), None, undo, "something")) == ""


def test_without_a_deadline_it_takes_its_time(runtime: PretendRuntime) -> None:
    assert tidied(Context(runtime, None), taking=20.0) == ""
    assert "left" in tidied(Context(runtime, None), taking=31.0)
