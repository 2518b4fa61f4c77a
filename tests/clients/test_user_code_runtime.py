"""`Runtime.user_code`, `start`, `wait` and `gather`, on every way that operations are run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.errors import DeadlineExceededError, TransportError
from blockyard.transport import threads
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.background import BackgroundLoop
from blockyard.transport.blocking import BlockingRuntime, run_to_end
from blockyard.transport.connections import Connections
from blockyard.transport.tasks import all_done, finished
from blockyard.transport.threads import Call, Threads
from blockyard.user_code import UserCodeError, deliver
from tests.transport.runtimes import NewThreads, no_new_threads

Run = Callable[[Callable[[Context], Coroutine[Any, Any, Any]]], Any]
WAYS: tuple[Literal["blocking", "background", "asyncio"], ...] = (
    "blocking",
    "background",
    "asyncio",
)

EXCEPTIONS: list[BaseException] = [
    asyncio.CancelledError("own"),
    concurrent.futures.CancelledError("own"),
    StopAsyncIteration("own"),
    GeneratorExit("own"),
    SystemExit(3),
    KeyboardInterrupt("own"),
    TimeoutError("own"),
    MemoryError("own"),
    OSError("own"),
]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def run(way: str) -> Iterator[Run]:
    """Runs an operation the way that a client does."""
    settings = HttpConfig(), TimeoutConfig()
    if way == "blocking":
        blocking = BlockingRuntime(Connections(*settings))
        yield lambda operation: run_to_end(operation(Context(blocking)))
        blocking.close()
    elif way == "background":
        background = BackgroundLoop(Connections(*settings))
        yield lambda operation: background.run(lambda ctx, _: operation(ctx), None, None, 4)
        background.close()
    else:
        runtime = AsyncioRuntime(Connections(*settings))
        with asyncio.Runner() as runner:
            yield lambda operation: runner.run(deliver(operation(Context(runtime))))
            runner.run(runtime.close())


async def user(
    ctx: Context,
    call: Callable[[], Any],
    *,
    deadline: float | None = None,
    quick: bool = False,
) -> Any:
    async with ctx.runtime.user_code(deadline, quick=quick) as code:
        return await code.run(call)


def raising(error: BaseException) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("quick", [False, True])
def test_whatever_the_callers_code_raises_reaches_the_caller(
    run: Run, error: BaseException, quick: bool
) -> None:
    cause, context = ValueError("cause"), ValueError("context")
    error.__cause__, error.__context__ = cause, context
    tidied = False

    async def operation(ctx: Context) -> None:
        nonlocal tidied

        async def one(_: int) -> None:
            await user(ctx, raising(error), quick=quick)

        try:
            _ = await ctx.gather(one, range(3))
        finally:
            await ctx.runtime.sleep(0)
            tidied = True

    with pytest.raises(type(error)) as raised:
        run(operation)
    assert raised.value is error
    assert (error.__cause__, error.__context__) == (cause, context)
    assert tidied
    assert run(answer) == 42  # what was raised has ended nothing but its own call


async def answer(ctx: Context) -> int:
    return await user(ctx, lambda: 42)


def test_a_stop_iteration_is_a_runtime_error(run: Run) -> None:
    stop = StopIteration("own")
    with pytest.raises(RuntimeError, match="StopIteration") as raised:
        run(lambda ctx: user(ctx, raising(stop)))
    assert raised.value.__cause__ is stop


def test_where_the_callers_code_runs(run: Run, way: str) -> None:
    here = threading.get_ident()
    ran = run(lambda ctx: user(ctx, threading.get_ident))
    quick = run(lambda ctx: user(ctx, threading.get_ident, quick=True))
    assert (ran == here) is (way != "asyncio")
    assert quick == here


def test_the_deadline_is_raised_when_the_callers_code_is_too_slow(run: Run, way: str) -> None:
    let_go = threading.Event()

    async def operation(ctx: Context) -> None:
        deadline = ctx.runtime.now() + 0.05
        seconds = 30 if way == "asyncio" else 1
        _ = await user(ctx, lambda: let_go.wait(seconds), deadline=deadline)

    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        run(operation)
    assert time.monotonic() - begun < 20
    let_go.set()


def test_a_started_call_is_waited_for_by_many(run: Run) -> None:
    calls = 0
    go_on = threading.Event()

    def call() -> int:
        nonlocal calls
        assert go_on.wait(30)
        calls += 1
        return calls

    async def operation(ctx: Context) -> list[int]:
        begun = ctx.runtime.start(call)
        with pytest.raises(DeadlineExceededError):
            _ = await ctx.runtime.wait(begun, ctx.runtime.now() + 0.02)
        go_on.set()
        return [
            await ctx.runtime.wait(begun, deadline) for deadline in (None, ctx.runtime.now() + 30)
        ]

    assert run(operation) == [1, 1]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_what_a_started_call_raises(run: Run, error: BaseException) -> None:
    async def operation(ctx: Context) -> None:
        await ctx.runtime.wait(ctx.runtime.start(raising(error)), None)

    plain = isinstance(error, Exception) and not isinstance(error, StopAsyncIteration)
    with pytest.raises(type(error) if plain else RuntimeError) as raised:
        run(operation)
    assert error in {raised.value, raised.value.__cause__}


@pytest.mark.parametrize("concurrency", [0, -1])
def test_nothing_at_once_is_refused(run: Run, concurrency: int) -> None:
    async def one(item: int) -> int:
        return item

    with pytest.raises(ValueError, match="concurrency"):
        run(lambda ctx: ctx.runtime.gather(one, [1, 2], concurrency))


def test_a_worker_cancelled_from_elsewhere_is_not_taken_for_one_that_is_done() -> None:
    async def main() -> None:
        async def one(item: int) -> None:
            if item == 3:
                raise asyncio.CancelledError
            await asyncio.sleep(0)

        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
        with pytest.raises(asyncio.CancelledError):
            _ = await runtime.gather(one, range(10), 2)

    asyncio.run(main())


def test_what_must_end_has_ended_however_often_it_is_cancelled() -> None:
    ended: list[str] = []

    async def stubborn(name: str) -> None:
        try:
            await asyncio.sleep(30)
        finally:
            for _ in range(20):
                await asyncio.sleep(0.001)
            ended.append(name)

    async def slow(name: str) -> None:
        for _ in range(20):
            await asyncio.sleep(0.001)
        ended.append(name)

    async def main() -> None:
        calls = {
            "many": all_done([stubborn("a"), stubborn("b")]),
            "one": finished(slow("c"), 30),
        }
        for call in calls.values():
            task = asyncio.create_task(call)
            await asyncio.sleep(0.002)
            while not task.done():
                task.cancel()
                await asyncio.sleep(0)
            assert task.cancelled()
        assert sorted(ended) == ["a", "b", "c"]

    asyncio.run(main())


def test_what_fails_while_its_caller_is_cancelled_fails_without_a_complaint() -> None:
    complaints: list[object] = []

    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        task = asyncio.create_task(finished(fail(), 30))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del task
        gc.collect()

    asyncio.run(main())
    assert complaints == []


def complaints_of(main: Callable[[], Coroutine[Any, Any, None]]) -> list[object]:
    """What asyncio complains of while `main` runs."""
    complaints: list[object] = []

    async def listening() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, told: complaints.append(told))
        await main()
        gc.collect()

    asyncio.run(listening())
    return complaints


def test_what_fails_while_its_caller_is_cancelled_twice_fails_without_a_complaint() -> None:
    async def fail() -> None:
        await asyncio.sleep(0.01)
        raise LookupError

    async def main() -> None:
        task = asyncio.create_task(finished(fail(), 30))
        for _ in range(5):
            await asyncio.sleep(0)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert complaints_of(main) == []


def failing_while_the_callers_code_raises(error: Exception, own: BaseException) -> Any:
    """A bulk call of which one item fails while the caller's own code is about to raise."""
    begun, failing = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        assert failing.wait(30)
        time.sleep(0.05)  # until the error of the other has been seen
        raise own

    async def one(ctx: Context, own_code: bool) -> None:
        if own_code:
            _ = await user(ctx, call)
        while not begun.is_set():
            await ctx.runtime.sleep(0.001)
        failing.set()
        raise error

    async def operation(ctx: Context) -> None:
        _ = await ctx.gather(lambda own_code: one(ctx, own_code), [True, False])

    return operation


@pytest.mark.parametrize("way", ["background", "asyncio"])  # the third has no two at once
@pytest.mark.parametrize("own", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_what_the_callers_code_raises_goes_before_an_error_of_the_call(
    run: Run, own: BaseException
) -> None:
    late = DeadlineExceededError("late")
    with pytest.raises(type(own)) as raised:
        run(failing_while_the_callers_code_raises(late, own))
    assert raised.value is own
    assert "meanwhile DeadlineExceededError: late" in own.__notes__


def test_what_the_callers_code_raises_goes_before_the_deadline(run: Run) -> None:
    own = ValueError("own")

    async def operation(ctx: Context) -> None:
        deadline = ctx.runtime.now() + 0.5  # by which `call` has begun, on a busy machine too

        def call() -> None:
            while ctx.runtime.now() < deadline + 0.1:
                time.sleep(0.05)
            raise own

        _ = await user(ctx, call, deadline=deadline)

    with pytest.raises(ValueError, match="own") as raised:
        run(operation)
    assert raised.value is own


@pytest.mark.parametrize("times", [1, 2])
def test_what_the_callers_code_raises_is_the_cause_of_a_cancellation(times: int) -> None:
    own = ValueError("own")
    begun, let_go = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        assert let_go.wait(30)
        raise own

    async def main() -> None:
        runtime = AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))

        async def one(_: int) -> None:
            _ = await user(Context(runtime), call)

        operation = runtime.gather(one, range(1), 1) if times == 1 else one(0)
        task = asyncio.create_task(deliver(runtime.run(operation)))
        while not begun.is_set():  # noqa: ASYNC110 - set by a thread
            await asyncio.sleep(0.001)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        let_go.set()
        with pytest.raises(asyncio.CancelledError) as raised:
            await task
        assert raised.value.__cause__ is own
        await runtime.close()

    asyncio.run(main())


def test_what_takes_too_long_to_end_is_cancelled_at_last() -> None:
    async def main() -> None:
        task = asyncio.create_task(finished(asyncio.sleep(30), 0.01))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_calls_on_threads_do_not_hold_each_other_up() -> None:
    pool = Threads()
    together = threading.Barrier(100)
    with no_new_threads():
        calls = [pool.start(lambda: together.wait(30)) for _ in range(100)]
        assert sorted(call.result(30) for call in calls) == list(range(100))
        pool.close()


def test_a_call_that_is_over_holds_nothing_when_its_caller_is_told() -> None:
    """Else blocks that are written stay in memory beside those that are fetched next."""
    held: list[object] = []

    def data() -> None: ...

    call, kept = Call(partial(data)), weakref.ref(data)
    del data
    call.add_done_callback(lambda _: held.append(kept()))
    call.run()
    assert held == [None]


def test_no_more_threads_than_allowed() -> None:
    started = NewThreads()
    pool = Threads(3)
    lock, at_once, most = threading.Lock(), 0, 0

    def call() -> None:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.002)
        with lock:
            at_once -= 1

    for _ in range(3):
        calls = [pool.start(call) for _ in range(20)]
        for each in calls:
            each.result(30)
    assert most == 3
    assert len(started.alive("blockyard-call")) == 3
    pool.close()


@pytest.mark.parametrize("idle", [0, 0.01])
def test_idle_threads_end(idle: float) -> None:
    pool = Threads(idle=idle)
    with no_new_threads():
        assert pool.start(lambda: 1).result(30) == 1
    assert pool.start(lambda: 2).result(30) == 2


def begin_together(pool: Threads, count: int) -> list[Future[int]]:
    """Calls that are all at work at once, each on a thread of its own."""
    together = threading.Barrier(count)
    return [pool.start(lambda: together.wait(30)) for _ in range(count)]


@no_new_threads()
def test_all_idle_threads_end_when_they_are_closed() -> None:
    pools = [Threads(idle=3600) for _ in range(10)]
    for pool in pools:
        for call in begin_together(pool, 20):
            _ = call.result(30)
    for pool in pools:
        pool.close()


@no_new_threads()
def test_threads_at_work_when_they_are_closed_end_after_their_calls() -> None:
    pool = Threads(3, idle=3600)
    go_on = threading.Event()
    calls = [pool.start(lambda: go_on.wait(30)) for _ in range(20)]  # all but three are queued
    pool.close()
    late = pool.start(lambda: go_on.wait(30))
    go_on.set()
    assert all(call.result(30) for call in [*calls, late])


@no_new_threads()
def test_calls_begun_after_threads_are_closed_are_made() -> None:
    pool = Threads(3, idle=3600)
    for _ in range(50):
        for call in begin_together(pool, 3):
            _ = call.result(30)
        pool.close()


def test_a_thread_that_can_not_be_had_is_a_typed_error_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> int:
        raise RuntimeError("can't start new thread")

    async def operation(ctx: Context) -> int:
        return await ctx.runtime.wait(ctx.runtime.start(lambda: 7), None)

    with monkeypatch.context() as patch:
        patch.setattr(threads._thread, "start_new_thread", none_left)
        for name in ("_start_new_thread", "_start_joinable_thread"):  # as Python 3.13 has it
            patch.setattr(threading, name, none_left, raising=False)
        with pytest.raises(TransportError, match="thread"):
            run(operation)
    assert run(operation) == 7


def test_threads_stay_with_the_parent_in_a_fork() -> None:
    pool = Threads()
    go_on = threading.Event()
    begun = pool.start(lambda: go_on.wait(30))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            with pytest.raises(TransportError, match="fork"):
                begun.result()
            assert pool.start(lambda: 5).result(10) == 5
            os._exit(0)
        finally:
            os._exit(1)
    go_on.set()
    assert os.waitpid(child, 0)[1] == 0
    assert begun.result(30)
    pool.close()


def test_a_note_on_what_is_carried_is_on_the_error_itself() -> None:
    error = ValueError("own")
    UserCodeError(error).add_note("a note")
    assert error.__notes__ == ["a note"]


def test_the_deadline_is_checked() -> None:
    runtime = BlockingRuntime(Connections(HttpConfig(), TimeoutConfig()))
    Context(runtime).check_deadline()
    Context(runtime, runtime.now() + 1000).check_deadline()
    with pytest.raises(DeadlineExceededError):
        Context(runtime, runtime.now()).check_deadline()
