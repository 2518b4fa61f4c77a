"""The calls under way on an event loop that are to end before its connections are closed.

A call that is cut off may have to put in order what it changed: a content whose blocks are being
replaced can't be read before that is finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from blockyard.errors import StoreClosedError
from blockyard.transport.tasks import in_time
from blockyard.user_code import UserCodeError

Result = TypeVar("Result")


class CallsUnderWay:
    """Those of one loop."""

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
    """Have `error`, which is raised in place of the `outcome` of a call, say what that says."""
    for note in getattr(outcome, "__notes__", ()):
        error.add_note(note)
