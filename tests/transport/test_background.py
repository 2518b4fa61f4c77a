"""The background loop: started when needed, cut off when closed, and gone afterwards."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.errors import DeadlineExceededError, StoreClosedError
from blockyard.transport.background import BackgroundLoop
from blockyard.transport.calling_thread import CallingThread
from blockyard.transport.connections import Connections
from tests.transport.runtimes import (
    LIMIT,
    EchoServer,
    ask,
    echo,
    eventually,
    no_new_descriptors,
    no_new_threads,
)


@contextmanager
def background(http: HttpConfig | None = None) -> Generator[BackgroundLoop, None, None]:
    """A background loop that leaves no thread and no socket behind."""
    with no_new_threads(), no_new_descriptors():
        loop = BackgroundLoop(Connections(http or HttpConfig(), TimeoutConfig()))
        try:
            yield loop
        finally:
            loop.close()


class Fetch:
    """Fetches targets from `server`, several at once."""

    def __init__(self, server: EchoServer) -> None:
        self._url = server.url

    async def one(self, ctx: Context, target: str) -> bytes:
        request = ask(self._url, target=target)
        return (await ctx.runtime.exchange(request, limit=LIMIT, deadline=ctx.deadline)).body

    async def several(self, ctx: Context, targets: list[str]) -> list[bytes]:
        return await ctx.gather(lambda target: self.one(ctx, target), targets)


def test_a_call_on_the_loops_own_thread_runs_beside_it() -> None:
    """Only a finalizer makes one there: the garbage collector runs on any thread."""
    with background() as loop, EchoServer() as server:

        async def nested(ctx: Context, call: Callable[[], object]) -> object:
            return call()

        def fetch() -> object:
            return loop.run(Fetch(server).several, ["/a", "/b"], None, 2)

        assert loop.run(nested, fetch, None, 1) == [echo("/a"), echo("/b")]


def test_a_close_on_the_loops_own_thread_returns_and_the_thread_ends() -> None:
    with no_new_threads() as threads, background() as loop:

        async def nested(ctx: Context, call: Callable[[], object]) -> None:
            _ = call()

        with suppress(StoreClosedError):  # it may end before the loop does
            loop.run(nested, loop.close, None, 1)
        assert eventually(lambda: not threads.alive())


def test_nothing_is_started_before_it_is_needed() -> None:
    with EchoServer() as server, no_new_threads() as threads, background() as loop:
        assert threads.alive() == []
        for target in ("/x", "/y"):
            assert loop.run(Fetch(server).one, target, None, 4) == echo(target)
            assert [thread.name for thread in threads.alive()] == ["blockyard"]


def test_many_threads_share_the_loop_and_get_each_their_own() -> None:
    def work(number: int) -> None:
        targets = [f"/{number}/{step}" for step in range(20)]
        assert loop.run(fetch.several, targets, None, 4) == [echo(target) for target in targets]

    with EchoServer() as server, background(HttpConfig(max_connections=16)) as loop:
        fetch = Fetch(server)
        with ThreadPoolExecutor(16) as threads:
            _ = list(threads.map(work, range(32)))
        assert server.connections <= 16


def test_an_error_comes_back_as_it_was() -> None:
    class OddError(Exception):
        pass

    async def fail(ctx: Context, what: str) -> None:
        raise OddError(what)

    with background() as loop, pytest.raises(OddError, match="odd"):
        loop.run(fail, "odd", None, 4)


def test_the_deadline_counts_from_the_call() -> None:
    with background() as loop, EchoServer(delay=30) as server:
        begun = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            _ = loop.run(Fetch(server).several, ["/a", "/b"], 0.1, 4)
        assert time.monotonic() - begun < 10


def test_an_interrupt_cancels_all_of_a_call() -> None:
    with background() as loop, EchoServer(delay=30) as server:
        targets = [f"/{number}" for number in range(100)]

        def interrupt() -> None:
            assert eventually(lambda: server.most_at_once == 8)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            _ = loop.run(Fetch(server).several, targets, None, 8)
        interrupter.join()
        assert server.wait_until_drained()
        assert server.most_at_once == 8
    with background() as loop, EchoServer() as server:
        assert loop.run(Fetch(server).one, "/next", None, 4) == echo("/next")


def test_an_interrupt_before_the_first_step_of_a_call_leaves_no_coroutine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is dropped without being closed is complained of: "was never awaited"."""
    busy, go_on = threading.Event(), threading.Event()

    async def keep_busy(ctx: Context, argument: None) -> None:
        busy.set()
        assert go_on.wait(10)

    async def never(ctx: Context, argument: None) -> None:
        raise AssertionError("it was cancelled before it began")

    serve, here = CallingThread.serve, threading.get_ident()

    def interrupted(caller: CallingThread) -> None:
        if threading.get_ident() != here:  # of the other call, which may come to it this late
            return serve(caller)
        threading.Timer(0.1, go_on.set).start()  # when the cancellation is on its way, too
        raise KeyboardInterrupt

    with background() as loop, ThreadPoolExecutor(1) as threads:
        other = threads.submit(loop.run, keep_busy, None, None, 1)
        assert busy.wait(10)
        monkeypatch.setattr(CallingThread, "serve", interrupted)
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            with pytest.raises(KeyboardInterrupt):
                loop.run(never, None, None, 1)
            other.result(10)
            _ = gc.collect()
        assert complaints == []


def test_closing_cuts_off_calls_of_other_threads() -> None:
    def attempt(number: int) -> type[Exception] | list[bytes]:
        try:
            return loop.run(Fetch(server).several, [f"/{number}"] * 3, None, 4)
        except StoreClosedError as error:
            return type(error)

    with EchoServer(delay=30) as server, background() as loop, ThreadPoolExecutor(8) as threads:
        outcomes = [threads.submit(attempt, number) for number in range(8)]
        assert eventually(lambda: server.most_at_once == 24)
        loop.close()
        assert [outcome.result(10) for outcome in outcomes] == [StoreClosedError] * 8
        assert server.wait_until_drained()


def test_a_closed_loop_starts_no_other() -> None:
    with EchoServer() as server, no_new_threads() as threads, background() as loop:
        _ = loop.run(Fetch(server).one, "/x", None, 4)
        loop.close()
        with pytest.raises(StoreClosedError):
            _ = loop.run(Fetch(server).one, "/x", None, 4)
        assert eventually(lambda: not threads.alive())
        loop.close()


def test_closing_one_that_never_ran() -> None:
    loop = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
    loop.close()
    loop.close()


def test_calls_that_race_with_closing_end_with_a_result_or_a_typed_error() -> None:
    """None is left waiting for a loop that has stopped."""

    async def quick(ctx: Context, number: int) -> int:
        await ctx.runtime.sleep(0)
        return number

    def keep_calling(loop: BackgroundLoop, number: int) -> bool:
        for _ in range(1000):
            try:
                assert loop.run(quick, number, None, 1) == number
            except StoreClosedError:
                return True
        return False

    chance = random.Random(7)  # noqa: S311 - to be repeatable
    for _ in range(30):
        loop = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
        with ThreadPoolExecutor(4) as threads:
            outcomes = [threads.submit(keep_calling, loop, number) for number in range(4)]
            time.sleep(chance.random() * 0.005)
            loop.close()
            assert all(outcome.result(10) for outcome in outcomes)


def test_closing_twice_at_once_waits_for_the_same_end() -> None:
    with EchoServer() as server:
        loop = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
        _ = loop.run(Fetch(server).one, "/x", None, 4)
        with ThreadPoolExecutor(4) as threads:
            _ = list(threads.map(lambda _: loop.close(), range(4)))


def in_child(work: Callable[[], None]) -> None:
    """Run `work` in a forked child, which has to end well within ten seconds."""
    child = os.fork()
    if child == 0:
        signal.alarm(10)
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == 0


def test_a_child_starts_a_loop_of_its_own() -> None:
    with EchoServer() as server, background() as loop:
        fetch = Fetch(server)
        _ = loop.run(fetch.one, "/parent", None, 4)

        def work() -> None:
            assert loop.run(fetch.one, "/child", None, 4) == echo("/child")
            loop.close()

        in_child(work)
        assert loop.run(fetch.one, "/parent", None, 4) == echo("/parent")
        assert server.connections == 2


def test_a_child_can_close_what_its_parent_uses() -> None:
    with EchoServer() as server, background() as loop:
        fetch = Fetch(server)
        _ = loop.run(fetch.one, "/before", None, 4)
        in_child(loop.close)
        assert loop.run(fetch.one, "/after", None, 4) == echo("/after")
        assert server.connections == 1


def test_a_child_forked_on_the_loops_own_thread_waits_for_nobody() -> None:
    with background() as loop:

        async def forking(ctx: Context, work: Callable[[], object]) -> None:
            in_child(work)

        loop.run(forking, loop.close, None, 1)


def test_a_child_forked_while_the_parent_holds_the_lock() -> None:
    """Another thread may be starting or closing the loop at the moment of the fork."""
    with EchoServer() as server, background() as loop:
        fetch = Fetch(server)

        def use_and_close() -> None:
            assert loop.run(fetch.one, "/child", None, 4) == echo("/child")
            loop.close()

        with loop._threads.here().beginning:
            in_child(use_and_close)
            in_child(loop.close)


def test_operations_run_on_no_loop_of_the_caller() -> None:
    async def which(ctx: Context, _: None) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def main() -> None:
        with background() as loop:
            assert loop.run(which, None, None, 1) is not asyncio.get_running_loop()

    asyncio.run(main())
