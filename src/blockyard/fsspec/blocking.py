"""Blocking calls: a coroutine on the event loop of a file system, for a thread that waits for it.

In place of fsspec's own `sync`, which lets the coroutine go on when a signal handler raises in the
thread that waits (`KeyboardInterrupt`), takes one that was cancelled for done, and replaces the
message of every `TimeoutError`. The loop is that of all file systems in the process: nothing that
is raised here ends it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from blockyard.fsspec.tasks import carried
from blockyard.fsspec.untyped import (
    AsyncFileSystem,
    BlockingFileSystem,
    TimedOutError,
    mirrored_names,
)
from blockyard.transport.clock import monotonic
from blockyard.transport.tasks import copy_notes
from blockyard.transport.threads import SIGNALS_SEEN_WITHIN
from blockyard.user_code import UserCodeError

Kind = TypeVar("Kind", bound=AsyncFileSystem)
Result = TypeVar("Result")

_TIDYING = 60.0
"""Seconds that a call which is interrupted may take to end: it deletes what it began to store."""


def run(
    loop: asyncio.AbstractEventLoop | None,
    function: Callable[..., Coroutine[Any, Any, Result]],
    *args: Any,
    timeout: float | None = None,
    **options: Any,
) -> Result:
    """What the coroutine of `function(*args, **options)` returns or raises, run on `loop`.

    Whatever is raised on this thread meanwhile cancels it, and is raised when it has ended. Raises
    `FSTimeoutError` after `timeout` seconds, `RuntimeError` if it was cancelled on the loop, or
    there is none, `NotImplementedError` on the loop's own thread.
    """
    if loop is None or loop.is_closed():
        raise RuntimeError("Loop is not running")
    if asyncio._get_running_loop() is loop:
        raise NotImplementedError("a blocking call on the thread of the event loop that it needs")
    call = _Call(functools.partial(function, *args, **options), timeout or None)
    try:
        _ = loop.call_soon_threadsafe(call.begin)
        _ = call.wait(None)
    except BaseException as error:
        call.cut_off(loop, error, monotonic() + _TIDYING)
        raise
    return call.result()


class _Call:
    """One call: `begin` and what it leads to run on the loop, the rest on the calling thread.

    A signal handler may raise at any bytecode there: it waits in C alone, and holds no lock.
    """

    def __init__(
        self, function: Callable[[], Coroutine[Any, Any, Any]], timeout: float | None
    ) -> None:
        self._function = function
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None
        self._cut_off = False
        self._over = False
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._outcome: tuple[Any] | BaseException = _cancelled()

    def begin(self) -> None:
        if not self._cut_off:
            self._task = asyncio.get_running_loop().create_task(self._run())
            self._task.add_done_callback(self._end)

    def wait(self, until: float | None) -> bool:
        """Wait for the end; False when it has not come at that time."""
        while not self._over:
            if until is not None and monotonic() >= until:
                return False
            with suppress(Empty):
                self._ended.get(timeout=SIGNALS_SEEN_WITHIN)
        return True

    def cut_off(self, loop: asyncio.AbstractEventLoop, error: BaseException, until: float) -> None:
        """Cancel the call, and wait for its end, whatever is raised here meanwhile.

        What it could not tidy up is noted on `error`.
        """
        try:
            try:
                _ = loop.call_soon_threadsafe(self._cancel)
            except RuntimeError:  # the loop is closed
                return
            if self.wait(until):
                copy_notes(self._outcome, error)
                del self._outcome  # whose traceback refers to this
            else:
                error.add_note(f"the call goes on: it did not end within {_TIDYING:.0f} s")
        except BaseException as again:
            self.cut_off(loop, again, until)
            raise

    def result(self) -> Any:
        outcome = self._outcome
        del self._outcome  # whose traceback refers to this
        if isinstance(outcome, BaseException):
            try:
                raise outcome
            finally:
                del outcome  # which its traceback refers to
        return outcome[0]

    async def _run(self) -> None:
        try:
            self._outcome = (await carried(self._in_time()),)
        except UserCodeError as error:
            self._outcome = error.error
        except asyncio.CancelledError as cancelled:
            self._outcome = _cancelled(cancelled)
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._outcome = error

    async def _in_time(self) -> Any:
        if self._timeout is None:
            return await self._function()
        limit = asyncio.timeout(self._timeout)
        try:
            async with limit:
                return await self._function()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise TimedOutError(f"not done within {self._timeout} s") from error

    def _cancel(self) -> None:
        if self._cut_off:  # what it tidies up is not cut off as well
            return
        self._cut_off = True
        if self._task is not None:
            _ = self._task.cancel()
        else:
            self._end()

    def _end(self, _: object = None) -> None:
        self._over = True
        self._ended.put(None)


def _cancelled(outcome: object = None) -> RuntimeError:
    """The error of a call that neither ended nor was cut off by its own thread."""
    error = RuntimeError("the call was cancelled on its event loop")
    copy_notes(outcome, error)
    return error


def mirrored(kind: type[Kind]) -> type[Kind]:
    """Give a class the blocking methods `ls`, `info`, ... of its coroutines `_ls`, `_info`, ..."""
    for name in mirrored_names():
        own, default = getattr(kind, name), getattr(BlockingFileSystem, name[1:], None)
        if default is None or getattr(kind, name[1:]) is not default:
            continue
        if inspect.isasyncgenfunction(own):
            setattr(kind, name[1:], _iterating(name, default))
        elif inspect.iscoroutinefunction(own):
            setattr(kind, name[1:], _blocking(name, default))
    return kind


def _blocking(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(default)
    def method(self: Any, *args: Any, **options: Any) -> Any:
        return run(self.loop, getattr(self, name), *args, **options)

    return method


def _iterating(name: str, default: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(default)
    def method(self: Any, *args: Any, **options: Any) -> Iterator[Any]:
        steps = getattr(self, name)(*args, **options)
        while True:
            try:
                yield run(self.loop, steps.__anext__)
            except StopAsyncIteration:
                return

    return method
