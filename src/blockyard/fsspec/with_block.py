"""Detects that an error ended the `with` block around a file, by inspecting frames.

fsspec's `OpenFile`, pandas and `contextlib` close a file after an error without telling it so. But
their `__exit__` has the error as an argument, and it is being handled meanwhile. An `__exit__` that
was under way when the file was opened belongs to another block: the file was opened by an error
handler.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple, cast


class WithBlockState(NamedTuple):
    """What was going on in this thread when a file was opened.

    exits: the calls of `__exit__` that had begun
    errors: the errors that other threads handled, one of which may have made this thread open the
        file; frames of other threads are left alone, since Python 3.11 crashes where they are read
    """

    exits: frozenset[FrameType] = frozenset()
    errors: tuple[BaseException, ...] = ()

    @classmethod
    def capture(cls) -> WithBlockState:
        """The state at the caller."""
        exits = _exits(sys._getframe())  # pyright: ignore[reportPrivateUsage]
        return cls(frozenset(exits), tuple(_errors_of_other_threads()))

    def ended_by_error(self) -> bool:
        """Whether an `__exit__` that was called since then is handling an error now."""
        error = sys.exception()
        if error is None or any(error is known for known in self.errors):
            return False
        exits = _exits(sys._getframe())  # pyright: ignore[reportPrivateUsage]
        return any(_holds(each, error) for each in exits if each not in self.exits)


def _exits(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of `__exit__` calls that have led to `frame`.

    Callers pass `sys._getframe()` and keep it in no local, which would be a reference cycle.
    """
    while frame is not None:
        if frame.f_code.co_name == "__exit__":
            yield frame
        frame = frame.f_back


def _errors_of_other_threads() -> Iterator[BaseException]:
    own = threading.get_ident()
    for thread, found in sys._current_exceptions().items():  # pyright: ignore[reportPrivateUsage]
        if thread == own:
            continue
        # Until Python 3.12, of three.
        error: object = cast("tuple[object, ...]", found)[1] if isinstance(found, tuple) else found
        while isinstance(error, BaseException):
            yield error
            error = error.__context__


def _holds(frame: FrameType, error: BaseException) -> bool:
    """Whether a frame has the error as an argument, alone or in a tuple."""
    for value in frame.f_locals.values():
        given = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
        if any(one is error for one in given):
            return True
    return False
