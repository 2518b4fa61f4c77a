"""Pipes, sockets and terminals as sources: files whose reads may block.

Bytes that are read from one are gone for its next reader. So the call waits for readiness first,
and reads without blocking then: a blocked read would outlive its call, and take bytes that come
later.
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
    """Open the file at `path` for reading; anything but a regular file is opened non-blocking.

    A pipe without a writer opens at once, and has neither bytes nor an end yet.
    """
    waits = not stat.S_ISREG(os.stat(path).st_mode)
    flags = os.O_NONBLOCK | os.O_NOCTTY if waits else 0
    file = FileIO(path, opener=lambda name, given: os.open(name, given | flags))
    if waits:
        with syscalls.errors_ignored():  # not a pipe, or not allowed: it then fills up sooner
            _ = fcntl.fcntl(file.fileno(), fcntl.F_SETPIPE_SZ, MIB)
    return file


def is_prompt(file: FileIO, mode: int) -> bool:
    """Whether a read of a file that was `opened` never blocks, as for pipes and terminals."""
    return stat.S_ISFIFO(mode) or (stat.S_ISCHR(mode) and file.isatty())


def read_of(file: object) -> ReadSome | None:
    """The function that reads from a file object of the caller's which may block.

    None for anything but a plain pipe, socket or terminal: a subclass or wrapper (gzip, HTTP) may
    hold bytes back, and where it ends can't be seen from its descriptor.
    """
    if type(file) is FileIO:
        return cast("ReadSome", file.read)
    if type(file) is not BufferedReader or type(file.raw) is not FileIO:
        return None
    if not os.get_blocking(file.fileno()):  # which `read1` shows as an end where it has nothing
        return cast("ReadSome", file.read)
    return file.read1


class PipeDescriptor:
    """A descriptor to wait for with `Runtime.readable`."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        return self._number
