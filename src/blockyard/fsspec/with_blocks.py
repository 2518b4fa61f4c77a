"""Whether an error has ended the `with` block that a file is used in, as far as frames tell.

fsspec's `OpenFile`, pandas and `contextlib` close a file because of an error, and tell it nothing
of that. Their `__exit__` holds the error, which is being handled meanwhile. One that was under way
when the file was opened is another block's: the file was opened by what handles the error.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NamedTuple, cast


class Surroundings(NamedTuple):
    """What was going on when a file was opened.

    The calls of `__exit__` that had begun in this thread, and the errors that other threads
    handled, one of which may have had this one open the file. Frames of other threads are theirs:
    Python 3.11 crashes where they are looked at meanwhile.
    """

    exits: frozenset[FrameType] = frozenset()
    errors: tuple[BaseException, ...] = ()

    @classmethod
    def now(cls) -> Surroundings:
        """Those of the caller."""
        exits = _exits(sys._getframe())  # pyright: ignore[reportPrivateUsage]
        return cls(frozenset(exits), tuple(_errors_of_other_threads()))

    def were_left_by_an_error(self) -> bool:
        """Whether a call of `__exit__` that began later than that handles an error here."""
        error = sys.exception()
        if error is None or any(error is known for known in self.errors):
            return False
        exits = _exits(sys._getframe())  # pyright: ignore[reportPrivateUsage]
        return any(_holds(each, error) for each in exits if each not in self.exits)


def _exits(frame: FrameType | None) -> Iterator[FrameType]:
    """The calls of `__exit__` among those that have led to `frame`.

    No caller keeps that, its own, in a local: what it holds would wait for the garbage collector.
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
    """Whether it was given the error: as its own argument, or among them."""
    for value in frame.f_locals.values():
        given = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
        if any(one is error for one in given):
            return True
    return False
