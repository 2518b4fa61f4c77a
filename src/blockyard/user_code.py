"""Exceptions of the caller's own code, carried through coroutines and event loops.

Sources, targets, iterables and `progress` are the caller's own code, and may raise anything.
Raised bare on an event loop, `CancelledError` reads as a cancellation, `StopIteration` as an end
and `SystemExit` stops the loop. So whatever they raise is wrapped where it leaves their code, and
unwrapped where the call returns to the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, Generic, TypeVar, cast

from blockyard.errors import BlockStoreError

Item = TypeVar("Item")
Result = TypeVar("Result")

_RAISE_WITHOUT_NUMBER = {"asyncio", "blockyard", "encodings", "socket", "ssl"}
"""Modules whose own `OSError`s have none."""


class UserCodeError(Exception):
    """Carries `error`, which the caller's own code raised. Never seen outside of blockyard."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error

    def add_note(self, note: str) -> None:
        """Note it on the error that the caller will see."""
        self.error.add_note(note)

    def note_meanwhile(self, other: BaseException) -> None:
        """Note that a call in which `error` was raised had failed otherwise, too."""
        self.add_note(f"meanwhile {type(other).__name__}: {other}")
        for note in getattr(other, "__notes__", ()):
            self.add_note(note)


def run_user_code(call: Callable[[], Result]) -> Result:
    """The result of the caller's own code; whatever it raises is carried by `UserCodeError`.

    A `StopIteration` becomes a `RuntimeError`, as PEP 479 has it: it would end an iteration that
    has more to come.
    """
    try:
        return call()
    except StopIteration as stop:
        error = RuntimeError(f"the caller's code raised StopIteration: {stop!r}")
        error.__cause__ = stop
        raise UserCodeError(error) from None
    except BaseException as error:  # noqa: BLE001 - whatever it is, and it is carried on
        raise UserCodeError(error) from None


def pass_on_foreign(error: OSError) -> None:
    """Raise `error` as it is if a signal handler raised it, and not the system or blockyard.

    A handler that bounds the time of a call raises a `TimeoutError` in the middle of a system call,
    where an `OSError` of the system is expected. Those have a number.
    """
    if not _is_foreign(error):
        return
    try:
        raise error
    finally:
        del error  # which its traceback refers to, by way of this frame


def _is_foreign(error: OSError) -> bool:
    trace = error.__traceback__
    if error.errno is not None or trace is None or isinstance(error, BlockStoreError):
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module: object = trace.tb_frame.f_globals.get("__name__")
    return not isinstance(module, str) or module.partition(".")[0] not in _RAISE_WITHOUT_NUMBER


class UserIterator(Generic[Item]):
    """An iterable of the caller's own: begun, stepped and, when left early, closed by these calls.

    They are for `UserCode.run`. Only a generator is closed, as it holds what its `finally` frees.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self._iterator: Iterator[Item] | None = None

    def next(self, end: Item) -> Item:
        """The next item; `end` when there is none."""
        if self._iterator is None:
            self._iterator = iter(self._items)
        return next(self._iterator, end)

    def close(self) -> None:
        if isinstance(self._iterator, Generator):
            cast("Generator[Any]", self._iterator).close()


def leave(error: BaseException | None, close: Callable[[], object]) -> None:
    """Close what the caller's code left open because of `error`, on which what fails is noted."""
    try:
        _ = close()
    except Exception as raised:
        if error is None:
            raise
        cause = raised.error if isinstance(raised, UserCodeError) else raised
        error.add_note(f"and closing what was given to this call raised {cause!r}")


async def deliver(operation: Coroutine[Any, Any, Result]) -> Result:
    """Await an operation; what the caller's own code raised in it is raised as it was."""
    try:
        return await operation
    except UserCodeError as carried:
        error = carried.error
    try:  # out here, so that it gets no context that it did not have
        raise error
    finally:
        del error  # which its traceback refers to
