"""SIGINT and SIGTERM: at the first one, what is under way leaves things in order.

A second one ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

stopping = threading.Event()
"""Set when the command is to end. What waits outside of the event loop looks here."""

_nothing_to_tidy = threading.Event()


class Stopped(KeyboardInterrupt):
    """A signal asked the command to end."""

    def __init__(self, number: int) -> None:
        super().__init__("interrupted" if number == signal.SIGINT else "terminated")
        self.exit_code = 128 + number


def install() -> None:
    """Handle the signals; called once, on the main thread.

    One that is ignored stays so: a shell that starts a command in the background says so.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:
            _ = signal.signal(number, _stop)


@contextmanager
def nothing_to_tidy() -> Generator[None]:
    """While bytes go to standard output, whose reader may have stopped reading: exit at once."""
    _nothing_to_tidy.set()
    try:
        yield
    finally:
        _nothing_to_tidy.clear()


def _stop(number: int, frame: FrameType | None) -> None:
    if stopping.is_set() or _nothing_to_tidy.is_set():
        os._exit(128 + number)
    stopping.set()
    raise Stopped(number)
