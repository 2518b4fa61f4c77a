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

from blockyard.user_code import UserCodeError

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")


class _Steadfast(asyncio.Future[None]):
    """Can't be cancelled: the task that awaits it learns of its cancellation when it is done."""

    def cancel(self, msg: Any | None = None) -> bool:
        return False


async def until_done(futures: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all are done. A cancellation meanwhile is raised then, and not before."""
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
    """Await an operation that is to end also when this is cancelled, `seconds` later at most."""
    task = asyncio.create_task(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(_look_at_error)  # since the cancellation is what is raised
        at_last = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            await until_done([task])
        finally:
            at_last.cancel()
        raise
    finally:
        del task  # which holds the error, whose traceback refers to this frame


def _look_at_error(task: asyncio.Task[Any]) -> None:
    """For a task whose error nobody asks for: asyncio is not to complain of it."""
    if not task.cancelled():
        _ = task.exception()


async def in_time(operation: Awaitable[object], seconds: float | None) -> bool:
    """Await what raises no `TimeoutError`, and say whether it ended within so many `seconds`.

    An error that is raised on that of `asyncio.timeout` has it as its context, whose traceback
    refers to this task, which would hold the error.
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
    """Wait for a call on another thread, `seconds` at most, whatever cancels this meanwhile."""
    enough = told_when_done(call)
    timer = asyncio.get_running_loop().call_later(seconds, set_done, enough)
    try:
        await until_done([enough])
    finally:
        timer.cancel()


def set_done(future: asyncio.Future[None]) -> None:
    """Let what awaits `future` go on, unless it has been cancelled or told already."""
    if not future.done():
        future.set_result(None)
