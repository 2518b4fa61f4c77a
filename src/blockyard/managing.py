"""`contextmanager` and `asynccontextmanager`, whose errors leave no cycle behind.

From Python 3.12 on the frame of a generator that ended by an error leads to the frame that threw
it in: `__exit__` of contextlib, which holds that error, whose traceback leads to the generator.
Where the generator ends it, or raises another one, contextlib leaves it so, and all that the frames
of the `with` block hold, a caller's buffers too, waits for the garbage collector.
"""

from __future__ import annotations

from contextlib import (
    _AsyncGeneratorContextManager,  # pyright: ignore[reportPrivateUsage]
    _GeneratorContextManager,  # pyright: ignore[reportPrivateUsage]
)
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from types import TracebackType

P = ParamSpec("P")
T = TypeVar("T")


def contextmanager(function: Callable[P, Generator[T]]) -> Callable[P, _Manager[T]]:
    """As contextlib's."""

    @wraps(function)
    def manager(*args: P.args, **options: P.kwargs) -> _Manager[T]:
        return _Manager(function, args, options)

    return manager


def asynccontextmanager(function: Callable[P, AsyncGenerator[T]]) -> Callable[P, _AsyncManager[T]]:
    """As contextlib's."""

    @wraps(function)
    def manager(*args: P.args, **options: P.kwargs) -> _AsyncManager[T]:
        return _AsyncManager(function, args, options)

    return manager


class _Manager(_GeneratorContextManager[T]):
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return super().__exit__(kind, error, trace)
        finally:
            _cut(error, trace)


class _AsyncManager(_AsyncGeneratorContextManager[T]):
    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        try:
            return await super().__aexit__(kind, error, trace)
        finally:
            _cut(error, trace)


def _cut(error: BaseException | None, trace: TracebackType | None) -> None:
    """Have an error's traceback end in the `with` block again."""
    if error is not None:
        error.__traceback__ = trace
