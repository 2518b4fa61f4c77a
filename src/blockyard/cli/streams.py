"""Standard input and output, as a content's source and target, and as they are at the start."""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO, cast

from blockyard.cli.signals import stopping

if TYPE_CHECKING:
    from blockyard.buffer import Buffer

_LOOK_AROUND = 0.2
"""Seconds of waiting for a stream until the next look whether the command is to end."""


def prepare() -> None:
    """Make the standard streams fit for any text and for what comes; called once, at the start.

    A descriptor below 3 that is closed would be given to the next file that is opened, and what
    is meant for the stream would go there. Text that the stream's encoding lacks is escaped.
    """
    for number in range(3):
        try:
            _ = os.fstat(number)
        except OSError:
            _ = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for stream, errors in (
        (sys.stdin, "replace"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def settle(stream: TextIO | None) -> None:
    """Write what a stream still holds; where that fails, let it go nowhere at the end too."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):  # not a file of the system's
            _ = os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())


class StandardInput:
    """What comes on standard input. A signal ends the wait for more."""

    def __init__(self) -> None:
        if sys.stdin is None:
            raise OSError(errno.EBADF, "standard input: it is closed")

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, b"" at the end."""
        with named("standard input"):
            file = sys.stdin.fileno()
            while not stopping.is_set():
                ready, _, _ = select.select([file], [], [], _LOOK_AROUND)
                if not ready:
                    continue
                try:
                    return os.read(file, size)
                except BlockingIOError:  # another process that reads it too was faster
                    continue
            raise InterruptedError(errno.EINTR, "no longer read")


class StandardOutput:
    """Standard output as a file of bytes, which may be one that does not block."""

    def __init__(self) -> None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output: it is closed")
        _ = sys.stdout.flush()
        buffer = sys.stdout.buffer
        self._raw = cast("io.RawIOBase", getattr(buffer, "raw", buffer))

    def write(self, data: Buffer, /) -> int:
        """Write some of `data` and return how much."""
        with named("standard output"):
            while True:
                count = self._raw.write(data)
                if count is not None:
                    return count
                _ = select.select([], [self._raw.fileno()], [], _LOOK_AROUND)


@contextmanager
def named(stream: str) -> Generator[None]:
    """Say in an `OSError` which stream it is of; that nobody reads any more needs no name."""
    try:
        yield
    except (BrokenPipeError, InterruptedError):
        raise
    except OSError as error:
        raise OSError(error.errno, f"{stream}: {error.strerror or error}") from error
