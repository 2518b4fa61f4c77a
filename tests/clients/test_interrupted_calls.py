"""What is true when a call that was interrupted, cancelled or cut off has ended."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

import pytest

from blockyard.config import HttpConfig, TimeoutConfig
from blockyard.context import Context
from blockyard.errors import StoreClosedError
from blockyard.transport.aio import AsyncioRuntime
from blockyard.transport.background import BackgroundLoop
from blockyard.transport.connections import Connections


@pytest.fixture
def background() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(Connections(HttpConfig(), TimeoutConfig()))
    yield loop
    loop.close()


class _Stubborn:
    """An operation that waits until it is cancelled, and has something to do then."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.tidied = False

    async def __call__(self, ctx: Context, seconds: float) -> None:
        self.begun.set()
        try:
            await ctx.runtime.sleep(seconds)
        finally:
            await ctx.runtime.sleep(0.05)
            self.tidied = True


def test_an_interrupt_is_raised_when_the_operation_has_tidied_up(
    background: BackgroundLoop,
) -> None:
    operation = _Stubborn()

    def interrupt() -> None:
        assert operation.begun.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        background.run(operation, 60.0, None, 4)
    assert operation.tidied
    interrupter.join()


def test_an_interrupt_tells_what_is_left(background: BackgroundLoop) -> None:
    begun = threading.Event()

    async def operation(ctx: Context, seconds: float) -> None:
        begun.set()
        try:
            await ctx.runtime.sleep(seconds)
        except BaseException as error:
            error.add_note("something is left")
            raise

    def interrupt() -> None:
        assert begun.wait(30)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt) as raised:
        background.run(operation, 60.0, None, 4)
    assert raised.value.__notes__ == ["something is left"]
    interrupter.join()


def test_closing_cuts_off_a_call_of_another_thread_with_a_typed_error(
    background: BackgroundLoop,
) -> None:
    operation = _Stubborn()
    errors: list[BaseException] = []

    def call() -> None:
        try:
            background.run(operation, 60.0, None, 4)
        except StoreClosedError as error:
            errors.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    assert operation.begun.wait(30)
    background.close()
    caller.join()
    assert operation.tidied
    assert [type(error) for error in errors] == [StoreClosedError]


def test_a_blocking_call_that_has_begun_is_waited_for_when_cancelled() -> None:
    ended = False
    begun, go_on = threading.Event(), threading.Event()

    def change_a_file() -> None:
        nonlocal ended
        begun.set()
        assert go_on.wait(30)
        ended = True

    async def main() -> None:
        call = asyncio.create_task(_runtime().blocking(change_a_file))
        await asyncio.to_thread(begun.wait, 30)
        call.cancel()
        await asyncio.sleep(0)
        assert not call.done()
        go_on.set()
        with suppress(asyncio.CancelledError):
            await call
        assert call.cancelled()

    asyncio.run(main())
    assert ended


def test_a_blocking_call_that_has_not_begun_never_does_when_cancelled() -> None:
    called = False

    def call_it() -> None:
        nonlocal called
        called = True

    async def main() -> None:
        blocker = threading.Event()
        runtime = _runtime()
        # it has no more than 32 threads for these: they take all of them
        taken = [
            asyncio.create_task(runtime.blocking(partial(blocker.wait, 30))) for _ in range(40)
        ]
        call = asyncio.create_task(runtime.blocking(call_it))
        await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.sleep(0)
        blocker.set()
        with suppress(asyncio.CancelledError):
            await call
        await asyncio.gather(*taken)

    asyncio.run(main())
    assert not called


def _runtime() -> AsyncioRuntime:
    return AsyncioRuntime(Connections(HttpConfig(), TimeoutConfig()))
