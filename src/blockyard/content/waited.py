"""Pipes, sockets and terminals that contents are read from: what may have nothing yet.

What is taken out of one is gone for whoever reads it next. So it is waited for first, and taken
without waiting then: a read that waited by itself would go on when its call has ended, and take
what comes later.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Callable
from io import BufferedReader, FileIO
from typing import TypeAlias, cast

from blockyard import syscalls
from blockyard.buffer import Buffer
from blockyard.model import MIB

ReadSome: TypeAlias = Callable[[int], Buffer | None]
"""Reads at most so many bytes, in one system call; None when there are none yet."""


def opened(path: str) -> FileIO:
    """The file at `path`, open for reading; what is no regular file is so without waiting.

    A pipe that nobody writes to yet is open at once, and has neither bytes nor an end then.
    """
    waits = not stat.S_ISREG(os.stat(path).st_mode)
    flags = os.O_NONBLOCK | os.O_NOCTTY if waits else 0
    file = FileIO(path, opener=lambda name, given: os.open(name, given | flags))
    if waits:
        with syscalls.errors_ignored():  # not a pipe, or not allowed: it then fills up sooner
            _ = fcntl.fcntl(file.fileno(), fcntl.F_SETPIPE_SZ, MIB)
    return file


def is_prompt(file: FileIO, mode: int) -> bool:
    """Whether a read of what was `opened` never waits; drivers of some devices do as they like."""
    return stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and file.isatty())


def read_of(file: object) -> ReadSome | None:
    """How to read some of the caller's own file of the system's, which may block.

    None for all that need not be a plain pipe, socket or terminal: what a subclass or a wrapper
    (of gzip, of HTTP) holds back, and where it ends, is not seen in its descriptor.
    """
    if type(file) is FileIO:
        return cast("ReadSome", file.read)
    if type(file) is not BufferedReader or type(file.raw) is not FileIO:
        return None
    if not os.get_blocking(file.fileno()):  # which `read1` shows as an end where it has nothing
        return cast("ReadSome", file.read)
    return file.read1


class Waited:
    """A descriptor, for `Runtime.readable`."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number
