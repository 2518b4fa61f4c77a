"""Tasks that end before what began them does, however often that is cancelled meanwhile.

A task can be cancelled again while it tidies up after its cancellation (twice by the caller, and
by the cancel scopes of anyio at every turn of the loop), which ends a bare `await` at once. What
has to end runs in a task of its own here, and is awaited until it has; the cancellation is raised
after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from blockyard.errors import StoreClosedError
from blockyard.user_code import UserCodeError

if TYPE_CHECKING:
    from concurrent.futures import Future


Result = TypeVar("Result")


class _Steadfast(asyncio.Future[None]):
    """A future that can't be cancelled: a task that awaits it is cancelled when it is done."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


async def until_done(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all futures are done; a cancellation meanwhile is raised after that."""
    pending = {future for future in futures if not future.done()}
    if not pending:
        return
    done = _Steadfast(loop=asyncio.get_running_loop())

    def one_done(future: asyncio.Future[Any]) -> None:
        pending.discard(future)
        if not pending and not done.done():
            done.set_result(None)

    for future in list(pending):
        future.add_done_callback(one_done)
    await done


async def all_done(operations: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Run the operations side by side until all are done.

    The first that does not end well cancels the others, and its error is raised when they have
    ended. That holds for one that was cancelled from elsewhere, too: it is not done. What the
    caller's own code raised meanwhile goes before it, and is the cause of a cancellation.
    """
    error = await _first_error([asyncio.create_task(operation) for operation in operations])
    if error is not None:
        try:
            raise error
        finally:
            del error  # which its traceback refers to, by way of this frame


async def _first_error(tasks: list[asyncio.Task[None]]) -> BaseException | None:
    """Wait until the tasks have ended, and say what is to be raised."""
    if not tasks:
        return None
    decided: asyncio.Future[asyncio.Task[None] | None] = asyncio.get_running_loop().create_future()
    left = len(tasks)

    def one_ended(task: asyncio.Task[None]) -> None:
        nonlocal left
        left -= 1
        failed = task.cancelled() or task.exception() is not None
        if (failed or not left) and not decided.done():
            decided.set_result(task if failed else None)

    for task in tasks:
        task.add_done_callback(one_ended)
    try:
        try:
            failed = await decided
        finally:
            for task in tasks:
                _ = task.cancel()
            await until_done(tasks)
    except asyncio.CancelledError as cancelled:
        raise cancelled from _user_error(tasks) or cancelled.__cause__
    return None if failed is None else _failure(failed, tasks)


def _failure(failed: asyncio.Task[None], tasks: list[asyncio.Task[None]]) -> BaseException:
    """What is raised when `failed` was the first of the tasks that did not end well."""
    try:
        error = failed.exception()
    except asyncio.CancelledError as cancelled:
        error = cancelled
    assert error is not None  # noqa: S101 - it failed
    users = _user_error(task for task in tasks if task is not failed)
    if users is None or isinstance(error, UserCodeError):
        return error
    users.note_meanwhile(error)
    return users


def _user_error(tasks: Iterable[asyncio.Task[Any]]) -> UserCodeError | None:
    """What the caller's own code raised in one of the tasks, which have ended."""
    for task in tasks:
        try:
            error = task.exception()
        except asyncio.CancelledError as cancelled:
            error = cancelled.__cause__
        if isinstance(error, UserCodeError):
            return error
    return None


async def finished(operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """Await an operation to its end, also when cancelled; then for `seconds` at most."""
    task = asyncio.create_task(operation)
    try:
        await _end_of(task)
        return task.result()
    except asyncio.CancelledError:
        task.add_done_callback(look_at_error)  # since the cancellation is what is raised
        at_last = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            await until_done([task])
        finally:
            at_last.cancel()
        raise
    finally:
        del task  # which holds the error, whose traceback refers to this frame


async def _end_of(task: asyncio.Task[Any]) -> None:
    """Wait as `asyncio.shield` does, which also logs errors after a cancellation."""
    _ = await asyncio.wait({task})


def look_at_error(task: asyncio.Task[Any]) -> None:
    """Retrieve the error of a task, so that asyncio does not complain that nobody did."""
    if not task.cancelled():
        _ = task.exception()


async def in_time(operation: Awaitable[object], seconds: float | None) -> bool:
    """Await an operation that raises no `TimeoutError`; False if it did not end within `seconds`.

    The result is a flag, since an error raised from that of `asyncio.timeout` would have it as its
    context, whose traceback refers to this task: a reference cycle.
    """
    try:
        async with asyncio.timeout(seconds):
            _ = await operation
    except TimeoutError:
        return False
    return True


def told_when_done(call: Future[Any]) -> asyncio.Future[None]:
    """A future of this loop that is done when a call on another thread is."""
    loop = asyncio.get_running_loop()
    told: asyncio.Future[None] = loop.create_future()

    def tell(call: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            _ = loop.call_soon_threadsafe(set_done, told)

    call.add_done_callback(tell)
    return told


async def until_done_or(call: Future[Any], seconds: float) -> None:
    """Wait for a call on another thread for `seconds` at most, despite cancellations."""
    enough = told_when_done(call)
    timer = asyncio.get_running_loop().call_later(seconds, set_done, enough)
    try:
        await until_done([enough])
    finally:
        timer.cancel()


def set_done(future: asyncio.Future[None]) -> None:
    """Set a future's result, unless it is done already."""
    if not future.done():
        future.set_result(None)


class CallsUnderWay:
    """The calls under way on an event loop that are to end before its connections are closed.

    A call that is cut off may have to put in order what it changed: a content whose blocks are
    being replaced can't be read before that is finished.
    """

    def __init__(self) -> None:
        self._calls: set[_Call] = set()
        self._all_ended = asyncio.Event()

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return bool(self._calls)

    def is_one(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether it is in that task that one is under way."""
        return any(call.task is task for call in self._calls)

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Await an operation, which `end` may cut off: it raises `StoreClosedError` then."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that asyncio runs
        call = _Call(task)
        self._calls.add(call)
        try:
            return await operation
        except asyncio.CancelledError as cancelled:
            cut_off, users = call.end(), cancelled.__cause__
            if not cut_off:
                raise cancelled from users.error if isinstance(users, UserCodeError) else users
            error = closed_meanwhile(cancelled)
        finally:
            _ = call.end()
            self._calls.discard(call)
            del call, task  # which may be given the error
            if not self._calls:
                self._all_ended.set()
        try:  # out here, so that it gets no context
            raise error
        finally:
            del error  # which its traceback refers to

    async def end(self, seconds: float) -> None:
        """Cut them all off, and wait until they have ended: so many `seconds` at most."""
        self._all_ended.clear()
        for call in list(self._calls):
            call.cut_off()
        if not self._calls:
            return
        _ = await in_time(self._all_ended.wait(), seconds)


class _Call:
    """One call, in the task that awaits it. Cancels it as `asyncio.timeout` does."""

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self._cancelled_before = task.cancelling()
        self._cut_off = False

    def cut_off(self) -> None:
        """Cancel it, once."""
        if not self._cut_off:
            self._cut_off = True
            _ = self.task.cancel()

    def end(self) -> bool:
        """It has ended: whether the task was cancelled from here alone."""
        if not self._cut_off:
            return False
        self._cut_off = False
        return self.task.uncancel() <= self._cancelled_before


def closed_meanwhile(cancelled: asyncio.CancelledError) -> StoreClosedError | UserCodeError:
    """The error of a call that `close` has cancelled; it says what the call could not tidy up.

    What the caller's own code raised meanwhile goes before it.
    """
    error = StoreClosedError("the store was closed while the call was under way")
    copy_notes(cancelled, error)
    users = cancelled.__cause__
    if not isinstance(users, UserCodeError):
        return error
    users.note_meanwhile(error)
    return users


def copy_notes(outcome: object, error: BaseException) -> None:
    """Copy the notes of an `outcome` to the `error` that is raised in its place."""
    for note in getattr(outcome, "__notes__", ()):
        error.add_note(note)
