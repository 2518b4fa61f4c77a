"""`contextmanager` and `asynccontextmanager` that leave no reference cycle after an error.

Since Python 3.12 the frame of a generator that was ended by an error refers to the frame that threw
it in: `__exit__` of contextlib, which holds the error, whose traceback refers to the generator.
Where the generator swallows the error or raises another one, contextlib leaves that cycle, and
everything that the frames of the `with` block hold, callers' buffers too, waits for the garbage
collector.
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
    """`contextlib.contextmanager`, without the cycle."""

    @wraps(function)
    def manager(*args: P.args, **options: P.kwargs) -> _Manager[T]:
        return _Manager(function, args, options)

    return manager


def asynccontextmanager(function: Callable[P, AsyncGenerator[T]]) -> Callable[P, _AsyncManager[T]]:
    """`contextlib.asynccontextmanager`, without the cycle."""

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
    """Reset the traceback of an error to what it was in the `with` block."""
    if error is not None:
        error.__traceback__ = trace
