"""The tasks that fsspec makes for many files at once, and what is raised in them.

It leaves them running when the call that made them is cancelled: here they end with it. A
`SystemExit` raised in a task would end the event loop, and a `CancelledError` reads as a
cancellation: what the caller's own code raises is carried through tasks, and raised bare where the
call returns.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

from blockyard.fsspec.untyped import NO_CALLBACK, Callback
from blockyard.transport.tasks import until_done
from blockyard.user_code import UserCodeError, deliver, run_user_code

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


class _Group:
    """The tasks of one call."""

    def __init__(self) -> None:
        self._tasks = set[asyncio.Task[Any]]()
        self._over = False

    async def run(self, operation: Coroutine[Any, Any, Result]) -> Result:
        """Await an operation in a task that ends with the call."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that asyncio runs
        if self._over:  # the task was made before the end, and begins after it
            operation.close()
            raise asyncio.CancelledError
        self._tasks.add(task)
        try:
            return await operation
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, and it is carried on
            raise UserCodeError(error) from None
        finally:
            self._tasks.discard(task)

    async def end(self) -> None:
        """Cancel the tasks that go on, and wait until they have ended."""
        self._over = True
        left = self._tasks - {asyncio.current_task()}
        for task in left:
            _ = task.cancel()
        await until_done(left)


_group: ContextVar[_Group | None] = ContextVar("_group", default=None)
"""That of the call which a task belongs to: errors of the caller's code are carried to its end."""


async def carried(operation: Coroutine[Any, Any, Result]) -> Result:
    """Await an operation; what the caller's code raises in it may be raised as `UserCodeError`."""
    token = _group.set(_Group())
    try:
        return await operation
    finally:
        _group.reset(token)


async def together(operation: Coroutine[Any, Any, Result]) -> Result:
    """Await an operation that has others awaited `as_task`: those end before it does."""
    outer = _group.get()
    group = _Group()
    token = _group.set(group)
    try:
        return await (operation if outer is not None else deliver(operation))
    finally:
        _group.reset(token)
        await group.end()


async def as_task(operation: Coroutine[Any, Any, Result]) -> Result:
    """Await an operation in one of the tasks of a call, or as the call."""
    group = _group.get()
    return await (deliver(operation) if group is None else group.run(operation))


def in_task(
    function: Callable[Parameters, Coroutine[Any, Any, Result]],
) -> Callable[Parameters, Coroutine[Any, Any, Result]]:
    """Decorate a coroutine function: `as_task` awaits it."""

    @functools.wraps(function)
    async def run(*args: Parameters.args, **options: Parameters.kwargs) -> Result:
        return await as_task(function(*args, **options))

    return run


class Carrying(Callback):
    """A callback of fsspec's, of the caller's own code: what that raises is carried."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner = inner

    @classmethod
    def of(cls, callback: Any) -> Any:
        """A callback that is given: the one that does nothing, and these, as they are."""
        return callback if callback is NO_CALLBACK or isinstance(callback, cls) else cls(callback)

    def set_size(self, size: int) -> None:
        run_user_code(lambda: self._inner.set_size(size))

    def absolute_update(self, value: int) -> None:
        run_user_code(lambda: self._inner.absolute_update(value))

    def relative_update(self, inc: int = 1) -> None:
        run_user_code(lambda: self._inner.relative_update(inc))

    def branched(self, path_1: str, path_2: str, **options: Any) -> Any:
        return self.of(run_user_code(lambda: self._inner.branched(path_1, path_2, **options)))

    def __enter__(self) -> Any:
        return self.of(run_user_code(self._inner.__enter__))

    def __exit__(self, *error: object) -> Any:
        return run_user_code(lambda: self._inner.__exit__(*error))
