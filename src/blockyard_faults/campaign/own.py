"""The caller's own exceptions: what a source, a target, a callback or a signal's handler raised.

Whatever it is, it has to reach the caller: as the very exception, also where the call has failed
otherwise meanwhile, or as the cause of an error of ours, of the cancellation of the task, or, where
it is a StopIteration, of the RuntimeError that PEP 479 makes of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
from collections.abc import Callable
from typing import NoReturn

from blockyard.errors import BlockNotFoundError, BlockStoreError

KINDS: tuple[Callable[[], BaseException], ...] = (
    lambda: ValueError("own"),
    lambda: KeyError("own"),
    lambda: RuntimeError("own"),
    lambda: AssertionError("own"),
    lambda: TimeoutError("own"),
    lambda: ConnectionResetError("own"),
    lambda: OSError(errno.EIO, "own"),
    lambda: BlockNotFoundError("own"),
    lambda: MemoryError("own"),
    lambda: RecursionError("own"),
    lambda: StopIteration("own"),
    lambda: StopAsyncIteration("own"),
    lambda: GeneratorExit("own"),
    lambda: SystemExit("own"),
    lambda: KeyboardInterrupt("own"),
    lambda: asyncio.CancelledError("own"),
    lambda: concurrent.futures.CancelledError("own"),
    lambda: asyncio.InvalidStateError("own"),
)
"""Every kind of exception that machinery between the caller's code and the caller might eat."""


class Own:
    """What the caller's own code raised within one call.

    `interrupted` says whether some of it came from outside: a signal's handler, a cancellation.
    """

    def __init__(self) -> None:
        self.raised: list[BaseException] = []
        self.interrupted = False

    def throw(self, error: BaseException) -> NoReturn:
        """Raise `error`, and remember it."""
        self.raised.append(error)
        raise error

    def interrupt(self, error: BaseException) -> NoReturn:
        """Raise `error` as something from outside."""
        self.interrupted = True
        self.throw(error)

    def reached(self, error: BaseException | None) -> bool:
        """Whether `error` is, or carries, something that was raised here."""
        if any(error is raised for raised in self.raised):
            return True
        if not isinstance(error, BlockStoreError | RuntimeError | asyncio.CancelledError):
            return False
        return self.reached(error.__cause__)
