"""Tasks that end before what began them does, however often that is cancelled meanwhile.

A task can be cancelled again while it tidies up after its cancellation (twice by the caller, and
by the cancel scopes of anyio at every turn of the loop), which ends a bare `await` at once. What
has to end runs in a task of its own here, and is awaited until it has; the cancellation is raised
after that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

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
    ended. That holds for one that was cancelled from elsewhere, too: it is not done.
    """
    tasks = [asyncio.create_task(operation) for operation in operations]
    if not tasks:
        return
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
        failed = await decided
    finally:
        for task in tasks:
            _ = task.cancel()
        await until_done(tasks)
    if failed is not None:
        failed.result()


async def finished(operation: Coroutine[Any, Any, Result], seconds: float) -> Result:
    """Await an operation that is to end also when this is cancelled, `seconds` later at most."""
    task = asyncio.create_task(operation)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        at_last = asyncio.get_running_loop().call_later(seconds, task.cancel)
        try:
            await until_done([task])
        finally:
            at_last.cancel()
        if not task.cancelled():
            _ = task.exception()  # the cancellation is what is raised, and asyncio not to complain
        raise


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
