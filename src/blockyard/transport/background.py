"""One event loop on one thread, for the blocking face's many-at-once calls.

Many operations at once run better on one loop than on many threads that fight for the
interpreter lock. The thread starts with the first such call and ends with the store.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.context import Context
from blockyard.errors import StoreClosedError
from blockyard.transport.aio import AsyncioRuntime

if TYPE_CHECKING:
    from blockyard.config import HttpConfig, TimeoutConfig

_SIGNALS_SEEN_WITHIN = 0.5
"""Seconds."""

Argument = TypeVar("Argument")
Result = TypeVar("Result")


class BackgroundLoop:
    """Runs operations on its own event loop while the calling thread waits."""

    def __init__(self, http: HttpConfig, timeouts: TimeoutConfig) -> None:
        self._runtime = AsyncioRuntime(http, timeouts)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._owner = os.getpid()
        self._inherited: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._lock = threading.Lock()

    def run(
        self,
        operation: Callable[[Context, Argument], Coroutine[Any, Any, Result]],
        argument: Argument,
        deadline: float | None,
        concurrency: int,
    ) -> Result:
        """`operation(context, argument)` on the loop.

        An interrupt here cancels it there, and is raised when it has ended: what an operation
        does on its way out is done by then. Raises `StoreClosedError` when `close` cuts it off,
        and `RuntimeError` on the loop's own thread, where it would wait for itself.
        """
        runtime = self._runtime
        ends = None if deadline is None else runtime.now() + deadline
        call = operation(Context(runtime, ends, concurrency), argument)
        outcome: Future[Result] = Future()
        task: asyncio.Task[Result] | None = None

        def start() -> None:
            nonlocal task
            task = asyncio.get_running_loop().create_task(call)
            task.add_done_callback(partial(_pass_on, outcome))

        def cancel() -> None:
            if task is not None:
                _ = task.cancel()

        try:
            loop = self._schedule(start)
        except BaseException:
            call.close()
            raise
        try:
            _wait_for(outcome)
            return outcome.result()
        except BaseException:
            if not outcome.done():
                _ = loop.call_soon_threadsafe(cancel)
                _wait_for(outcome)
            raise

    def close(self) -> None:
        """Cut off what is under way, close the connections, stop the loop and its thread.

        Raises `RuntimeError` on that thread.
        """
        self._leave_to_parent()
        self._refuse_own_thread()
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._wind_up(), loop).result()
        _ = loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    async def _wind_up(self) -> None:
        under_way = asyncio.all_tasks() - {asyncio.current_task()}
        for task in under_way:
            _ = task.cancel()
        _ = await asyncio.gather(*under_way, return_exceptions=True)
        await self._runtime.close()

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this call would wait for itself: it came from a progress callback, "
                "and needs the thread that the callback runs on"
            )

    def _leave_to_parent(self) -> None:
        """In a forked child: it has the object, but not the thread, nor the lock's holder."""
        if self._owner == os.getpid():
            return
        self._owner = os.getpid()
        self._inherited = self._loop  # kept: a loop that never ran here can't be closed here
        self._loop = self._thread = None
        self._lock = threading.Lock()

    def _schedule(self, start: Callable[[], None]) -> asyncio.AbstractEventLoop:
        """Have the loop call `start`, before what `close` has it do."""
        self._leave_to_parent()
        self._refuse_own_thread()
        with self._lock:
            if self._closed:
                raise StoreClosedError("the store is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="blockyard", daemon=True
                )
                self._thread.start()
            _ = self._loop.call_soon_threadsafe(start)
            return self._loop


def _wait_for(outcome: Future[Any]) -> None:
    """Wait until the outcome is there.

    A signal that comes when the wait is just about to begin does not end it, so it is begun
    again now and then.
    """
    while not outcome.done():
        with suppress(TimeoutError, CancelledError):
            _ = outcome.exception(_SIGNALS_SEEN_WITHIN)


def _pass_on(outcome: Future[Result], task: asyncio.Task[Result]) -> None:
    if task.cancelled():
        outcome.set_exception(StoreClosedError("the store was closed while the call was under way"))
    elif (error := task.exception()) is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(task.result())
